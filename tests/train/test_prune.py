"""The choice of the next mask entry, on numbers small enough to check by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskc.train.prune import weakest


def choose(masks: Any, signals: Any, savings: Any, weight: Any = "auto", least: int = 1) -> Any:
    arrays = [[np.asarray(values, np.float32) for values in group] for group in (masks, signals)]
    return weakest(*arrays, [np.asarray(values, np.int64) for values in savings], weight, least)


def test_auto_takes_the_smallest_signal_per_flop() -> None:
    assert choose([[1, 1], [1, 1]], [[4, 3], [2, 5]], [[10, 10], [2, 20]]) == (1, 1)


def test_a_number_weighs_flops_against_the_signal() -> None:
    signals, savings = [[4, 3], [2, 5]], [[10, 10], [2, 20]]
    assert choose([[1, 1], [1, 1]], signals, savings, 0.0) == (1, 0)
    assert choose([[1, 1], [1, 1]], signals, savings, 1.0) == (1, 1)


def test_pruned_entries_are_left_out() -> None:
    assert choose([[0, 1, 1], [1, 0, 1]], [[0, 3, 2], [9, 0, 9]], [[0, 1, 1], [1, 0, 1]]) == (0, 2)


def test_small_masks_are_left_alone() -> None:
    masks, signals, savings = [[0, 1], [1, 1]], [[0, 1], [5, 6]], [[0, 9], [1, 1]]
    assert choose(masks, signals, savings, least=1) == (1, 0)
    assert choose(masks, signals, savings, least=0) == (0, 1)
    assert choose(masks, signals, savings, least=2) is None


def test_entries_that_save_nothing_come_last() -> None:
    assert choose([[1, 1], [1, 1]], [[1, 2], [30, 40]], [[0, 0], [1, 1]]) == (1, 0)
    assert choose([[1, 1], [0, 1]], [[2, 1], [0, 40]], [[0, 0], [0, 0]]) == (0, 1)


def test_dead_channels_go_by_what_they_save() -> None:
    assert choose([[1, 1, 1]], [[0, 0, 0]], [[5, 7, 7]]) == (0, 1)


@pytest.mark.parametrize("weight", ["auto", 0.5])
def test_all_masks_pruned(weight: Any) -> None:
    assert choose([[0, 0]], [[1, 1]], [[0, 0]], weight, least=0) is None
