"""The decay of importance scores, which are exponential moving averages over batches."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from maskc.errors import InputError


def moving_average(score: Any, statistic: Any, decay: Any) -> Any:
    """Returns `decay · score + (1 - decay) · statistic`: the scores after a batch, of shape `(channels,)`."""
    return decay * score + (1 - decay) * statistic


def check_decay(decay: Any) -> None:
    """Raises InputError if `decay` is not one of a moving average."""
    if not is_number(decay) or not 0 <= decay < 1:
        raise InputError(f"decay must be at least 0 and less than 1, not {decay!r}.")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python's or numpy's, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
