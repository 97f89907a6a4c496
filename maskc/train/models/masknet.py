"""MaskNet (Wang, She, Zhang 2021, arXiv 2102.07619): a ranking network of instance-guided masks, ready to be pruned.

Field names of the configurations are those of the network's best known implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import keras
import pydantic
from keras import layers

from maskc.errors import InputError
from maskc.train.arguments import Refusing, channels_of
from maskc.train.data.config import Checked
from maskc.train.mask_layer import MaskLayer

# That of the published implementation; Keras's own default is 1e-3.
EPSILON = 1e-5

Shape = tuple[int | None, ...]


class BatchNormConfig(Checked):
    """Batch normalisation of a hidden layer.

    Attributes:
        affine: whether to learn a scale and an offset.
        momentum: how much of the moving average a batch replaces (Keras's `momentum` is 1 minus this).
    """

    affine: bool = True
    momentum: float = pydantic.Field(0.1, gt=0, le=1)


class DropoutConfig(Checked):
    """Dropout after a hidden layer: `rate` is the share of channels that it drops."""

    rate: float = pydantic.Field(0.1, gt=0, lt=1)


class MlpConfig(Checked):
    """A chain of Dense layers with ReLU between them.

    Attributes:
        layer_sizes: channels of each layer, the last one being the output.
        batch_norm: normalise each hidden layer before its ReLU.
        dropout: drop channels after each hidden ReLU.
        final_layer_activation: put a ReLU on the output as well.
    """

    layer_sizes: tuple[pydantic.PositiveInt, ...] = pydantic.Field(min_length=1)
    batch_norm: BatchNormConfig | None = None
    dropout: DropoutConfig | None = None
    final_layer_activation: bool = False


class MaskBlockConfig(Checked):
    """One MaskBlock.

    Attributes:
        output_size: channels of the block's output.
        reduction_factor: channels of the aggregation layer, as a multiple of those that make the mask.
        aggregation_size: the same as a number; exactly one of the two must be given.
        input_layer_norm: normalise the block's input (the paper does so where it is the embeddings).
        activation: "relu" puts a ReLU on the output, as the paper does; by default there is none.
    """

    output_size: pydantic.PositiveInt
    reduction_factor: pydantic.PositiveFloat | None = None
    aggregation_size: pydantic.PositiveInt | None = None
    input_layer_norm: bool
    activation: Literal["relu"] | None = None

    @pydantic.model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.reduction_factor is None) == (self.aggregation_size is None):
            raise ValueError("give either reduction_factor or aggregation_size")
        return self

    def aggregation_for(self, channels: int) -> int:
        """Returns the size of the aggregation layer of a mask that is made from so many channels.

        Raises:
            InputError: if the reduction factor leaves none.
        """
        size = self.aggregation_size or int(channels * (self.reduction_factor or 0))
        if size < 1:
            raise InputError(
                f"A reduction_factor of {self.reduction_factor} leaves no aggregation of {channels} channels."
            )
        return size


class MaskNetConfig(Checked):
    """A MaskNet.

    Attributes:
        mask_blocks: the blocks, side by side or one after the other.
        mlp: Dense layers after them.
        use_parallel: side by side, all on the input and then concatenated; otherwise each on the output of the one
            before, and all guided by the input.
    """

    mask_blocks: tuple[MaskBlockConfig, ...] = pydantic.Field(min_length=1)
    mlp: MlpConfig | None = None
    use_parallel: bool = False


class Configured(Refusing, layers.Layer):  # type: ignore[misc]
    """A layer that is made from a configuration of the class `kind`, or the dictionary of one."""

    kind: ClassVar[type[Checked]]
    config: Any

    def __init__(self, config: Checked | Mapping[str, Any], prunable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = self.kind.parse(config, self.name)
        self.prunable = prunable

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "config": self.config.model_dump(mode="json"), "prunable": self.prunable}


@keras.saving.register_keras_serializable(package="maskc")
class MaskBlock(Configured):
    """A Dense layer on an input that an instance-guided mask multiplies, followed by layer normalisation.

    Wang, She, Zhang 2021 (arXiv 2102.07619), equations 4 to 9. The instance-guided mask is two Dense layers, the first
    of them the aggregation, on `mask_input`; it is a tensor of any values, unlike a pruning mask, which is a constant
    of ones and zeros.

    Inputs: `net` of shape `(batch, ..., channels)` and `mask_input` of shape `(batch, ..., mask_channels)`, floating
    point. Output: `(batch, ..., output_size)` in the compute dtype.

    Args:
        config: a `MaskBlockConfig`, or the dictionary of one.
        prunable: put a `MaskLayer` on the aggregation layer, on the hidden layer (before its normalisation) and on
            the output. The last two are pruned together (they have the same `groups`): after the normalisation a
            hidden channel that is zero still gives something, which only the mask on the output takes away.

    Example:
        >>> import keras
        >>> from maskc.train.models.masknet import MaskBlock, MaskBlockConfig
        >>> config = MaskBlockConfig(output_size=32, reduction_factor=2.0, input_layer_norm=True)
        >>> MaskBlock(config)(keras.ops.ones((4, 16)), keras.ops.ones((4, 16))).shape
        TensorShape([4, 32])

    Raises:
        InputError: if the configuration is not valid, or, when built, a reduction factor leaves no aggregation layer.
    """

    kind = MaskBlockConfig

    def build(self, net_shape: Shape | None = None, mask_input_shape: Shape | None = None) -> None:
        """Creates the layers for inputs of these shapes."""
        config, channels = self.config, channels_of("MaskBlock", net_shape)
        aggregation = config.aggregation_for(channels_of("MaskBlock", mask_input_shape))
        assert net_shape is not None and mask_input_shape is not None

        def made(layer: Any, shape: Shape) -> Any:
            layer.build(shape)
            return layer

        inner, output = (*mask_input_shape[:-1], aggregation), (*net_shape[:-1], config.output_size)
        dtype = self.dtype_policy
        norm = layers.LayerNormalization(epsilon=EPSILON, dtype=dtype, name="input_norm")
        self.input_norm = made(norm, net_shape) if config.input_layer_norm else None
        guide = layers.Dense(aggregation, activation="relu", dtype=dtype, name="aggregation")
        self.aggregation = made(guide, mask_input_shape)
        self.projection = made(layers.Dense(channels, dtype=dtype, name="projection"), inner)
        self.hidden = made(layers.Dense(config.output_size, dtype=dtype, name="hidden"), net_shape)
        self.output_norm = made(layers.LayerNormalization(epsilon=EPSILON, dtype=dtype, name="output_norm"), output)
        places = (("aggregation", inner, None), ("hidden", output, self.path), ("output", output, self.path))
        self.masks = {
            name: made(MaskLayer(groups, dtype=dtype, name=f"{name}_mask"), shape)
            for name, shape, groups in places
            if self.prunable
        }

    def call(self, net: Any, mask_input: Any, training: bool | None = None) -> Any:
        """Returns the block's output."""
        if self.input_norm is not None:
            net = self.input_norm(net)
        guide = self.projection(self._masked("aggregation", self.aggregation(mask_input), training))
        hidden = self._masked("hidden", self.hidden(net * guide), training)
        output = self.output_norm(hidden)
        if self.config.activation == "relu":
            output = keras.ops.relu(output)
        return self._masked("output", output, training)

    def _masked(self, name: str, tensor: Any, training: bool | None) -> Any:
        return self.masks[name](tensor, training=training) if self.prunable else tensor

    def compute_output_shape(self, net_shape: Shape, mask_input_shape: Shape) -> Shape:
        """Returns `(batch, ..., output_size)`."""
        return (*net_shape[:-1], self.config.output_size)


@keras.saving.register_keras_serializable(package="maskc")
class Mlp(Configured):
    """Dense layers, each but the last with batch normalisation (if asked for), ReLU, mask and dropout (if asked for).

    Input: `(batch, ..., channels)`, floating point. Output: `(batch, ..., layer_sizes[-1])`. The last layer has no
    mask, since a channel of the output that is zero is of no use to a caller.

    Args:
        config: an `MlpConfig`, or the dictionary of one.
        prunable: put a `MaskLayer` on each hidden layer.

    Raises:
        InputError: if the configuration is not valid.
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
                learned = {"center": norm.affine, "scale": norm.affine, "dtype": dtype, "name": f"norm_{index}"}
                self.steps.append(layers.BatchNormalization(momentum=1 - norm.momentum, epsilon=EPSILON, **learned))
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


@keras.saving.register_keras_serializable(package="maskc")
class MaskNet(Configured):
    """MaskBlocks side by side or one after the other, and Dense layers after them.

    Wang, She, Zhang 2021 (arXiv 2102.07619), section 3.3.

    Input: the embeddings and other features of an example, flat: `(batch, ..., channels)`, floating point. Output: a
    dictionary of

        shared_layer: what the blocks give, `(batch, ..., total)`, where `total` is the sum of the blocks' output sizes
            if they are parallel, and the last one's if they are not.
        output: what the MLP makes of it, `(batch, ..., layer_sizes[-1])`; the same tensor if there is no MLP.

    Args:
        config: a `MaskNetConfig`, or the dictionary of one.
        prunable: put masks on the aggregation layer, hidden layer and output of each block and on the hidden layers
            of the MLP.

    Example:
        >>> import keras
        >>> from maskc.train.models.masknet import MaskNet, MaskNetConfig
        >>> block = {"output_size": 32, "reduction_factor": 2.0, "input_layer_norm": True}
        >>> config = MaskNetConfig(mask_blocks=[block, block], mlp={"layer_sizes": [16, 1]}, use_parallel=True)
        >>> inputs = keras.Input((24,))
        >>> model = keras.Model(inputs, MaskNet(config)(inputs)["output"])
        >>> model.output_shape
        (None, 1)

    Raises:
        InputError: if the configuration is not valid, or, when built, a reduction factor leaves no aggregation layer.
    """

    kind = MaskNetConfig

    def __init__(self, config: MaskNetConfig | Mapping[str, Any], prunable: bool = True, **kwargs: Any) -> None:
        super().__init__(config, prunable, **kwargs)
        dtype = self.dtype_policy
        self.blocks = [
            MaskBlock(block, prunable, dtype=dtype, name=f"block_{index}")
            for index, block in enumerate(self.config.mask_blocks)
        ]
        self.mlp = None if self.config.mlp is None else Mlp(self.config.mlp, prunable, dtype=dtype, name="mlp")

    @property
    def shared_size(self) -> int:
        """Channels of `shared_layer`."""
        sizes = [block.output_size for block in self.config.mask_blocks]
        return sum(sizes) if self.config.use_parallel else sizes[-1]

    def build(self, input_shape: Shape) -> None:
        """Creates the weights for an input of this shape."""
        net = input_shape
        for block in self.blocks:
            block.build(net, input_shape)
            if not self.config.use_parallel:
                net = block.compute_output_shape(net, input_shape)
        if self.mlp is not None:
            self.mlp.build((*input_shape[:-1], self.shared_size))

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Returns the dictionary of `output` and `shared_layer`."""
        if self.config.use_parallel:
            shared = keras.ops.concatenate([block(inputs, inputs, training=training) for block in self.blocks], axis=-1)
        else:
            shared = inputs
            for block in self.blocks:
                shared = block(shared, inputs, training=training)
        output = shared if self.mlp is None else self.mlp(shared, training=training)
        return {"output": output, "shared_layer": shared}

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        """Returns the shapes of `output` and `shared_layer`."""
        shared = (*input_shape[:-1], self.shared_size)
        output = shared if self.mlp is None else self.mlp.compute_output_shape(shared)
        return {"output": output, "shared_layer": shared}
