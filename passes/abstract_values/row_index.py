"""Index of the distinct row at each position along an axis, of static or of any size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from passes.abstract_values.polynomial import shifted_quotient
from passes.abstract_values.windows import Window
from passes.graph.tensors import MOST_SLICES, Dim, Index

#: an axis whose size is not static is represented by all of its sizes up to this one, after which nothing new may come
SIZES = 64
# Elements that windows over an axis cover in all, each as often as it is covered.
_MOST_TAPS = 2**25


@dataclass(frozen=True)
class Course:
    """What an axis of run-time size has been through since its first window, over an axis of `start` = n positions.

    It has `(n + shift) // stride` positions p. Which row lies at p depends on no more than `min(p, left)`,
    `min(n - p * stride, right)` and `n mod stride`. For which row it is depends on which positions of the
    windows before it are inside their axes. Such a position is `p * s + d`, for s the product of the strides in
    between; it is inside at the left if `p >= -d / s`, and at the right, where that axis has `(n + b) // t` positions,
    if `(p * s + d + 1) * t <= n + b`, which compares `n - p * s * t` with a number; `s * t` is `stride`. (Padding that
    is chosen by the size adds a number that depends on `n mod stride`.) `left` and `right` lie beyond all these.
    """

    start: str
    stride: int = 1
    shift: int = 0
    left: int = 0
    right: int = 1

    @property
    def size(self) -> int | str:
        """The size of the axis."""
        return shifted_quotient(self.start, self.shift, self.stride)

    @property
    def low(self) -> int:
        """The least `n - p * stride`."""
        return self.stride - self.shift

    @property
    def sizes(self) -> Index:
        """Numbers of positions for n = 1, 2, ..., SIZES; 0 or less where a window is too large."""
        return (np.arange(1, SIZES + 1) + self.shift) // self.stride

    def through(self, window: Window) -> Course | None:
        """After one more window; None where that reaches too far for the sizes that are tried.

        Whatever occurs at some size occurs at one of at most `left * stride + right + stride - 1`: take `min(p, left)`
        for p, and for `n - p * stride` the least number that is the same up to `right` and the same modulo `stride`.
        """
        stride, shift = self.stride * window.stride, self.shift + window.shift * self.stride
        least, most = window.before_range
        left = max(-(-(self.left + most) // window.stride), -(-(shift - stride + 1) // stride))
        right = max(self.right, self.low) + (window.reach - least) * self.stride
        course = Course(self.start, stride, shift, left, max(right, stride - shift))
        return course if course.left * stride + course.right + stride <= SIZES else None


@dataclass(frozen=True, eq=False)
class Rows:
    """`places[p]` is the row at position p; with a `course`, for the sizes 1, 2, ..., SIZES one after the other."""

    places: Index
    course: Course | None = None

    @property
    def sizes(self) -> Index:
        """How many of `places` belong to each size."""
        return np.asarray([self.places.size]) if self.course is None else self.course.sizes

    @functools.cached_property
    def size(self) -> int | str:
        """The size of the axis."""
        return self.places.size if self.course is None else self.course.size

    @functools.cached_property
    def count(self) -> int:
        """How many rows there are, if the last of them lies somewhere; one where the axis is empty."""
        return int(self.places.max(initial=0)) + 1

    @functools.cached_property
    def lie_somewhere(self) -> bool:
        """Whether so many rows do, all of them."""
        return bool(np.bincount(self.places, minlength=1).all())

    def is_each(self, rows: int) -> bool:
        """Whether there are so many rows at as many positions, one after the other."""
        return self.course is None and np.array_equal(self.places, np.arange(rows))

    def table(self) -> Index:
        """For a course: the row by `n mod stride` (size 1 where it does not matter), `min(p, left)` and
        `min(n - p * stride, right)`, counted from `min(low, 0)`; as small as possible.
        """
        assert self.course is not None
        stride, floor = self.course.stride, min(self.course.low, 0)
        size, p = _positions(self.sizes)
        n = size + 1
        table = np.full((stride, self.course.left + 1, self.course.right - floor + 1), -1)
        cells = n % stride, np.minimum(p, self.course.left), np.minimum(n - p * stride, self.course.right) - floor
        table[cells] = self.places
        assert (table[cells] == self.places).all()
        whole = _merged(table, 0)
        table = table if whole is None else whole
        for axis in (1, 2):
            while table.shape[axis] > 1:
                before, last_two = np.split(table, [table.shape[axis] - 2], axis=axis)
                both = _merged(last_two, axis)
                if both is None:
                    break
                table = np.concatenate([before, both], axis=axis)
        return np.maximum(table, 0)


def windowed(window: Window, rows: Rows | None, size: Dim) -> tuple[Rows | None, Index] | None:
    """What a window covers along an axis of this size (rows None: it is the same throughout).

    Returns which tuple each position of the output has, and the rows of each tuple: [tuples, window.size], -1 for
    padding. None where the size is not known or more than are told apart, or the window reaches too far.
    """
    if rows is None:
        if not window.pads:
            return None, np.zeros((1, window.size), np.int64)
        if size is None or (isinstance(size, int) and size > MOST_SLICES):
            return None
        course = Course(size) if isinstance(size, str) else None
        rows = Rows(np.zeros(SIZES * (SIZES + 1) // 2 if isinstance(size, str) else size, np.int64), course)
    if window == Window(1):
        return rows, np.arange(rows.count)[:, None]
    course = None if rows.course is None else rows.course.through(window)
    if rows.course is not None and course is None:
        return None
    sizes = rows.sizes
    outs = window.outs(sizes)
    if np.maximum(outs, 0).sum() * window.size > _MOST_TAPS:
        return None
    owner, position = _positions(outs)
    if not owner.size or not rows.places.size:  # of an axis of size zero nothing can be said
        return None
    before, counts = window.befores(sizes), np.maximum(sizes, 0)
    begin = np.cumsum(counts) - counts
    taps = (position * window.stride - before[owner])[:, None] + np.arange(window.size) * window.dilation
    inside = (taps >= 0) & (taps < sizes[owner][:, None])
    numbers, tuples = distinct(np.where(inside, rows.places[np.where(inside, taps + begin[owner][:, None], 0)], -1))
    return Rows(numbers, course), tuples


def _joint_course(courses: Sequence[Course]) -> Course | None:
    """The course with the widest borders of all; None where they do not run alike."""
    if len({(course.start, course.stride, course.shift) for course in courses}) > 1:
        return None
    return replace(courses[0], left=max(c.left for c in courses), right=max(c.right for c in courses))


def together(several: Sequence[Rows | None]) -> tuple[Rows | None, Index] | None:
    """Rows fine enough for all: which combination each position has, and the combinations: [combinations, several].

    None where they are not along axes of one size.
    """
    uneven = [r for r in several if r is not None]
    if not uneven:
        return None, np.zeros((1, len(several)), np.int64)
    first = uneven[0]
    courses = [r.course for r in uneven if r.course is not None]
    if len(courses) not in (0, len(uneven)) or any(r.places.size != first.places.size for r in uneven):
        return None
    course = _joint_course(courses) if courses else None
    if courses and course is None:
        return None
    if all(r is first or np.array_equal(r.places, first.places) for r in uneven):
        numbers = np.arange(first.count)
        tuples = np.stack([np.zeros_like(numbers) if r is None else numbers for r in several], axis=1)
        return (first if course == first.course else Rows(first.places, course)), tuples
    none = np.zeros(first.places.size, np.int64)
    numbers, tuples = distinct(np.stack([none if r is None else r.places for r in several], axis=1))
    return Rows(numbers, course), tuples


def _positions(sizes: Index) -> tuple[Index, Index]:
    """For each position of axes of these sizes, one after the other: the number of its axis, and its place there."""
    counts = np.maximum(sizes, 0)
    owner = np.repeat(np.arange(sizes.size), counts)
    return owner, np.arange(owner.size) - np.repeat(np.cumsum(counts) - counts, counts)


def distinct(table: Index) -> tuple[Index, Index]:
    """For each row of [n, k] the number of its kind, and the kinds: [kinds, k]. Entries are -1 or more."""
    numbers = np.zeros(len(table), np.int64)
    for column in table.T:
        numbers = np.unique(numbers * (column.max() + 2) + column, return_inverse=True)[1].reshape(-1)
    return numbers.astype(np.int64), table[np.unique(numbers, return_index=True)[1]]


def _merged(table: Index, axis: int) -> Index | None:
    """What the slices along the axis say (-1: nothing) as one of them, None where they differ."""
    merged = table.max(axis=axis, keepdims=True)
    return merged if ((table < 0) | (table == merged)).all() else None
