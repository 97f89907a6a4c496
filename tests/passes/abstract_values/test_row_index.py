"""Rows along an axis of run-time size, against the same windows over axes of every static size."""

from random import Random

import numpy as np
import pytest

from passes.abstract_values.polynomial import shifted_quotient
from passes.abstract_values.row_index import SIZES, Rows, together, windowed
from passes.abstract_values.windows import Window
from passes.graph.tensors import Index
from tests.marks import before_releases


def drawn(rng: Random) -> Window:
    """A window of any size, stride, dilation and padding."""
    size, dilation = rng.randint(1, 5), rng.choice((1, 1, 2, 3))
    auto = rng.choice(("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    pads = [rng.randint(0, size * dilation) if auto == "NOTSET" else 0 for _ in range(2)]
    return Window(size, rng.choice((1, 1, 2, 3)), dilation, *pads, auto)


def looked_up(rows: Rows, size: int) -> Index:
    """The row at each position, when the axis that the first window slid over has this size."""
    assert rows.course is not None
    course, table = rows.course, rows.table()
    position = np.arange(max((size + course.shift) // course.stride, 0))
    left = np.minimum(position, table.shape[1] - 1)
    right = np.minimum(size - position * course.stride - min(course.low, 0), table.shape[2] - 1)
    return table[size % course.stride % table.shape[0], left, right]


@pytest.mark.parametrize("seed", [*range(30), *before_releases(*range(30, 120))])
def test_rows_are_right_at_every_size(seed: int) -> None:
    rng = Random(seed)
    chain = [drawn(rng) for _ in range(rng.randint(1, 3))]
    tuples: list[Index] = []
    rows: Rows | None = None
    for window in chain:
        found = windowed(window, rows, "H" if rows is None else rows.size)
        if found is None:
            assert rows is not None or window.reach + window.before + window.after > SIZES // 8
            return
        if rows is None and found[0] is None:
            return  # nothing is padded: the same everywhere
        rows = found[0]
        tuples.append(found[1])
    assert rows is not None
    for size in (*range(1, 2 * SIZES), 500, 501, 502, 503, 504, 505):
        static: Rows | None = None
        same = np.zeros(size, np.int64)
        for window, kinds in zip(chain, tuples, strict=True):
            found = windowed(window, Rows(same), size)
            if found is None:
                break
            static = found[0]
            assert static is not None
            # the number that the tuple has among those of all sizes
            numbers = {tuple(kind): number for number, kind in enumerate(kinds.tolist())}
            same = np.asarray([numbers[tuple(t)] for t in found[1].tolist()])[static.places]
        else:
            np.testing.assert_array_equal(looked_up(rows, size), same)


def test_rows_of_two_operands_are_joined_only_along_axes_of_one_size() -> None:
    first = windowed(Window(3, before=1, after=1), None, "H")
    second = windowed(Window(5, before=2, after=2), None, "H")
    other = windowed(Window(3, before=1, after=1), None, "W")
    shorter = windowed(Window(3, before=1), None, "H")
    assert first is not None and second is not None and other is not None and shorter is not None
    joint = together([first[0], None, second[0]])
    assert joint is not None and joint[1].shape == (9, 3)
    assert together([first[0], other[0]]) is None
    assert together([first[0], shorter[0]]) is None


def test_sizes_behind_windows_compare_equal_whatever_led_to_them() -> None:
    once = shifted_quotient("H", Window(4, 4).shift, 4)
    pooled = shifted_quotient("H", Window(2, 2).shift, 2)
    assert isinstance(pooled, str)
    assert shifted_quotient(pooled, Window(2, 2).shift, 2) == once
    same = Window(3, before=1, after=1)
    assert shifted_quotient("H", same.shift, same.stride) == "H"
