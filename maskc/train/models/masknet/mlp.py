"""Dense layers as a MaskNet ends with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from maskc.train.mask_layer import MaskLayer
from maskc.train.models.masknet.config import MlpConfig
from maskc.train.models.masknet.layer import EPSILON, Configured, Shape


@keras.saving.register_keras_serializable(package="maskc")
class Mlp(Configured):
    """Dense layers, each but the last with batch normalisation (if asked for), ReLU, mask and dropout (if asked for).

    Input: `(batch, ..., channels)`, floating point. Output: `(batch, ..., layer_sizes[-1])`. The last layer has no
    mask, since a channel of the output that is zero is of no use to a caller.

    Args:
        config: an `MlpConfig`, or the dictionary of one.
        prunable: put a `MaskLayer` on each hidden layer.

    Example:
        >>> import keras
        >>> from maskc.train.models.masknet import Mlp, MlpConfig
        >>> Mlp(MlpConfig(layer_sizes=[32, 1]))(keras.ops.ones((4, 16))).shape
        TensorShape([4, 1])

    Raises:
        pydantic.ValidationError: if the configuration is not valid.
    """

    kind = MlpConfig

    def __init__(self, config: MlpConfig | Mapping[str, Any], prunable: bool = True, **kwargs: Any) -> None:
        super().__init__(config, prunable, **kwargs)
        dtype = self.dtype_policy
        self.steps: list[Any] = []
        *hidden, last = self.config.layer_sizes
        for index, size in enumerate(hidden):
            self.steps.append(layers.Dense(size, dtype=dtype, name=f"dense_{index}"))
            if norm := self.config.batch_norm:
                self.steps.append(
                    layers.BatchNormalization(
                        momentum=1 - norm.momentum,
                        epsilon=EPSILON,
                        center=norm.affine,
                        scale=norm.affine,
                        dtype=dtype,
                        name=f"norm_{index}",
                    )
                )
            self.steps.append(layers.ReLU(dtype=dtype, name=f"relu_{index}"))
            if prunable:
                self.steps.append(MaskLayer(dtype=dtype, name=f"hidden_{index}_mask"))
            if dropout := self.config.dropout:
                self.steps.append(layers.Dropout(dropout.rate, dtype=dtype, name=f"dropout_{index}"))
        self.steps.append(layers.Dense(last, dtype=dtype, name=f"dense_{len(hidden)}"))
        if self.config.final_layer_activation:
            self.steps.append(layers.ReLU(dtype=dtype, name=f"relu_{len(hidden)}"))

    def build(self, input_shape: Shape) -> None:
        """Creates the weights for an input of this shape."""
        shape = input_shape
        for step in self.steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the last layer's output."""
        tensor = inputs
        for step in self.steps:
            takes_training = isinstance(step, (MaskLayer, layers.BatchNormalization, layers.Dropout))
            tensor = step(tensor, training=training) if takes_training else step(tensor)
        return tensor

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns `(batch, ..., layer_sizes[-1])`."""
        return (*input_shape[:-1], self.config.layer_sizes[-1])
