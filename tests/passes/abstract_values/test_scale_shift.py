"""Scales and shifts as values."""

import numpy as np
import pytest

from passes.abstract_values.scale_shift import limits, rounds


@pytest.mark.parametrize("dtype", [np.int32, np.dtype(np.uint8), np.bool_, None, 17])
def test_types_without_steps_count_as_single_precision(dtype: object) -> None:
    """A product of integers may be typed as such where nobody infers that it is not."""
    assert limits(dtype) == limits(np.float32)
    assert rounds(2.0**24, dtype) and not rounds(1.0, dtype)
