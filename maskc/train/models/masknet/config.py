"""The configuration of a MaskNet. Field names are those of the network's best known implementation."""

from __future__ import annotations

from typing import Literal, Self

import pydantic

from maskc.train.data.config import Checked


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
            ValueError: if the reduction factor leaves none.
        """
        size = self.aggregation_size or int(channels * (self.reduction_factor or 0))
        if size < 1:
            raise ValueError(
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
