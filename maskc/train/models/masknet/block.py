"""The building block of MaskNet."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from maskc.train.mask_layer import MaskLayer
from maskc.train.models.masknet.config import MaskBlockConfig
from maskc.train.models.masknet.layer import EPSILON, Configured, Shape


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
        pydantic.ValidationError: if the configuration is not valid.
        ValueError: when built, if a reduction factor leaves no aggregation layer.
    """

    kind = MaskBlockConfig

    def build(self, net_shape: Shape, mask_input_shape: Shape) -> None:
        """Creates the layers for inputs of these shapes."""
        config = self.config

        def made(layer: Any, shape: Shape) -> Any:
            layer.build(shape)
            return layer

        aggregation = config.aggregation_for(mask_input_shape[-1] or 0)
        inner, output = (*mask_input_shape[:-1], aggregation), (*net_shape[:-1], config.output_size)
        dtype = self.dtype_policy
        self.input_norm = (
            made(layers.LayerNormalization(epsilon=EPSILON, dtype=dtype, name="input_norm"), net_shape)
            if config.input_layer_norm
            else None
        )
        self.aggregation = made(
            layers.Dense(aggregation, activation="relu", dtype=dtype, name="aggregation"), mask_input_shape
        )
        self.projection = made(layers.Dense(net_shape[-1], dtype=dtype, name="projection"), inner)
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
