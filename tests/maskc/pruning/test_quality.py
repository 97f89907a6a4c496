"""Quality of a pruned model, measured against its source."""

from typing import Any

import numpy as np
import pytest

from maskc.pruning.quality.comparison import compared
from maskc.pruning.quality.spread import Spread
from maskc.results.measurements import Agreement

Array = np.ndarray[Any, Any]


def agreement(expected: list[Array], found: list[Array]) -> Agreement:
    (output,) = compared(({"y": a}, {"y": b}) for a, b in zip(expected, found, strict=True))
    return output


SHAPES = [(2,), (), (5, 2), (2, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_constant_has_an_error_of_one(shape: tuple[int, ...]) -> None:
    """Whatever the means of entries are."""
    rng = np.random.default_rng(0)
    means = np.resize([40, 1700], shape)
    expected = [(means + rng.normal(size=(n, *shape))).astype(np.float32) for n in (8, 8, 3)]
    constant = np.concatenate(expected).mean(axis=0)
    found = [np.broadcast_to(constant, each.shape) for each in expected]
    assert agreement(expected, found).error == pytest.approx(1, rel=1e-3)
    assert agreement(expected, expected).error == 0


def test_entries_share_a_mean_where_lengths_differ() -> None:
    rng = np.random.default_rng(0)
    means = np.array([40, 1700])
    expected = [means + rng.normal(size=(4, length, 2)) for length in (5, 9, 5)]
    constant = np.concatenate([each.reshape(-1, 2) for each in expected]).mean(axis=0)
    found = [np.broadcast_to(constant, each.shape) for each in expected]
    assert agreement(expected, found).error == pytest.approx(1)


def test_the_spread_of_little() -> None:
    """Of one sample it is that of its entries; of what is the same but for rounding, and of nothing, it is not 0."""
    spread = Spread()
    assert spread.variance > 0
    spread.add(np.array([[1.0, 3.0, np.nan]]))
    assert spread.variance == pytest.approx(1)
    constant = Spread()
    constant.add(np.full((4, 2), 1e3))
    assert constant.variance == pytest.approx(1e-4)
