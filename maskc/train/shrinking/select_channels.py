"""The Keras layer `SelectChannels`: a gather of channels with constants between them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from maskc.errors import InputError
from maskc.train.arguments import Refusing, channels_of, refusing

_NEEDED = "SelectChannels needs a list of channels, -1 for constants, and None or a list of as many constants."


@keras.saving.register_keras_serializable(package="maskc")
class SelectChannels(Refusing, keras.layers.Layer):  # type: ignore[misc]
    """Picks channels (the last axis) of its input and puts constants between them.

    Input: any tensor of shape `(batch, ..., channels)`. Output: `(batch, ..., len(sources))`, of the input's dtype.

    Args:
        sources: for each channel of the output that of the input which it is, or -1 for a constant.
        constants: for each channel of the output the number that is added to it where it is a constant; None: zeros.

    Example:
        >>> import numpy as np
        >>> from maskc.train import SelectChannels
        >>> SelectChannels([1, -1, 0], [0.0, 7.0, 0.0])(np.array([[1.0, 2.0]], "float32")).numpy()
        array([[2., 7., 1.]], dtype=float32)
    """

    def __init__(self, sources: Sequence[int], constants: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self.sources = [operator.index(source) for source in sources]
            self.constants = None if constants is None else [float(constant) for constant in constants]
        except Exception as error:  # of whatever the numbers are given as
            raise InputError(_NEEDED) from error
        given = self.sources if self.constants is None else self.constants
        if min(self.sources, default=0) < -1 or len(given) != len(self.sources):
            raise InputError(_NEEDED)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...] | None) -> None:
        """Refuses an input without the channels that are picked."""
        channels, last = channels_of("SelectChannels", input_shape), max(self.sources, default=-1)
        if last >= channels:
            raise InputError(f"SelectChannels is to pick channel {last} of an input that has {channels}.")

    def call(self, inputs: Any) -> Any:
        """Returns the channels."""
        sources = np.array(self.sources, np.int64)
        places = np.arange(inputs.shape[-1])
        if len(sources) == len(places) and ((sources < 0) | (sources == places)).all():
            inputs *= keras.ops.cast(sources >= 0, inputs.dtype)  # which is faster than a gather
            sources = places
        elif (sources < 0).any():  # a channel of zeros is put after the others
            width = inputs.shape[-1]
            inputs = keras.ops.pad(inputs, [[0, 0]] * (len(inputs.shape) - 1) + [[0, 1]])
            sources = np.where(sources < 0, width, sources)
        if not np.array_equal(sources, places):
            inputs = keras.ops.take(inputs, sources, axis=-1)
        if self.constants is not None:
            inputs += keras.ops.cast(np.array(self.constants), inputs.dtype)
        return inputs

    @refusing
    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns `(batch, ..., len(sources))`."""
        return (*input_shape[:-1], len(self.sources))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "sources": self.sources, "constants": self.constants}
