"""A ranking model around MaskNet, from a feature specification."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import pydantic
from keras import layers, ops

from maskc.frontend.graph_queries import claimed
from maskc.train.arguments import refusing
from maskc.train.data.features import Categorical, FeatureSpec, Sequence, Sparse
from maskc.train.data.parsing import model_inputs
from maskc.train.models.masknet import MaskNet, MaskNetConfig


class RankerConfig(MaskNetConfig):
    """A `MaskNetConfig`, and what is around the network.

    Attributes:
        embedding_size: channels of the embedding of each feature that is not dense.
        outputs: how many logits.
    """

    embedding_size: pydantic.PositiveInt = 16
    outputs: pydantic.PositiveInt = 1


@refusing
def ranker(config: RankerConfig, spec: FeatureSpec) -> Any:
    """Returns a Keras model from the features of a specification, by name, to logits of shape `(batch, outputs)`.

    Categorical features are embedded; of the values of a sequence the embeddings are averaged, padding left out; a
    sparse feature is multiplied by a matrix. They are concatenated with the dense ones and go through `MaskNet`. Where
    its output has another size than `outputs`, a Dense layer follows.

    Example:
        >>> spec = FeatureSpec(features={"user": {"kind": "categorical", "size": 943}}, label="liked")
        >>> block = {"output_size": 32, "reduction_factor": 2.0, "input_layer_norm": True}
        >>> ranker(RankerConfig(mask_blocks=[block], mlp={"layer_sizes": [16, 1]}), spec).output_shape
        (None, 1)
    """
    inputs = model_inputs(spec)
    named = partial(claimed, taken=set(inputs))
    parts = []
    for name, feature in zip(inputs, spec.features.values(), strict=True):
        tensor = inputs[name]
        match feature:
            case Categorical(depth=depth):
                tensor = layers.Embedding(depth, config.embedding_size, name=named(f"{name}_embedding"))(tensor)
            case Sequence(depth=depth):
                tensor = MeanEmbedding(depth, config.embedding_size, name=named(f"{name}_embedding"))(tensor)
            case Sparse():
                tensor = layers.Dense(config.embedding_size, use_bias=False, name=named(f"{name}_embedding"))(tensor)
            case _ if len(feature.shape) > 1:
                tensor = layers.Flatten(name=named(f"{name}_flat"))(tensor)
        parts.append(tensor)
    x = layers.Concatenate(name=named("features"))(parts) if len(parts) > 1 else parts[0]
    fields = MaskNetConfig.model_fields
    net = MaskNet(MaskNetConfig(**{name: getattr(config, name) for name in fields}), name=named("masknet"))
    scores = net(x)["output"]
    if scores.shape[-1] != config.outputs:
        scores = layers.Dense(config.outputs, name=named("scores"))(scores)
    return keras.Model(inputs, scores, name="ranker")


@keras.saving.register_keras_serializable(package="maskc")
class MeanEmbedding(layers.Layer):  # type: ignore[misc]
    """The mean of the embeddings of a padded sequence: int `(batch, length)` to `(batch, size)`; index 0 is padding.

    A sequence of padding alone gives zeros. `depth` is the number of indices, padding among them.
    """

    def __init__(self, depth: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth, self.size = depth, size
        self.embedding = layers.Embedding(depth, size, dtype=self.dtype_policy, name="embedding")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the embeddings."""
        self.embedding.build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns the means."""
        vectors = self.embedding(inputs)
        given = ops.expand_dims(ops.cast(ops.not_equal(inputs, 0), vectors.dtype), -1)
        return ops.sum(vectors * given, axis=1) / ops.maximum(ops.sum(given, axis=1), 1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns `(batch, size)`."""
        return (input_shape[0], self.size)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "depth": self.depth, "size": self.size}
