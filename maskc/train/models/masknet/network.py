"""MaskNet itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from maskc.train.models.masknet.block import MaskBlock
from maskc.train.models.masknet.config import MaskNetConfig
from maskc.train.models.masknet.layer import Configured, Shape
from maskc.train.models.masknet.mlp import Mlp


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
        pydantic.ValidationError: if the configuration is not valid.
        ValueError: when built, if a reduction factor leaves no aggregation layer.
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
