"""Differences of tensors inside regions: those that a result hides, and the first of those that it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from maskc.verification import recheck
from maskc.verification.recheck import CONDITION, MOST, UNIT, Array, Boundary, Judgement, Region, Slices, session
from maskc.verification.regions.checker import Checker
from maskc.verification.regions.dependence import is_elementwise
from maskc.verification.regions.search import Failure, Proof

# Turns in which values are random, sparse and tiny.
_TURNS = 3
# A difference is made so many times as large, to see whether the result depends on it at all.
_TIMES = (1e2, -1e2, 1e4, -1e4, 1e8, -1e8, 1e12, -1e12)
# Nearest slices are looked for at so many of their places, twice as many at most, if there are few comparisons.
_PLACES, _MOST_COMPARED = 64, 1 << 24
# Elements that are no farther apart, relative to the largest, are the same.
_SAME = 1e-2
# Numbers beyond are as far: a border may be infinite.
_FAR = 1e300
# What rounding at that size does so many times over is no dependence.
_ROUNDING = 64.0
# No number is made larger: its square is finite.
_LARGEST = {2: 2e2, 4: 1e18, 8: 1e150}


def first_failure(proof: Proof) -> Failure | None:
    """The first tensor that is not what it should be: of the regions that fail, or inside those that agree."""
    if proof.complete:
        return _hidden(proof)
    failure = proof.first()
    return failure if failure is None or not failure.ran else _narrowed(proof.checker, failure)


def _hidden(proof: Proof) -> Failure | None:
    """The first tensor inside a region that is not what the source has by its name, though the region agrees.

    That is right where the result says so: with the source's values in its place the result would be another, as where
    a scale has moved, or however large the difference were it would be the same, as where a mask follows.
    """
    checker = proof.checker
    for region in proof.regions.values():
        if is_elementwise(checker, region):
            continue
        shown = set[str]()  # of which sparse values may then show nothing
        for pair in _pairs(checker, region):
            if pair.is_shown():
                shown.add(pair.name)
            elif pair.name not in shown and pair.is_hidden(proof.regions.values()):
                return pair.failure()
    return None


def _narrowed(checker: Checker, failure: Failure) -> Failure:
    """The failure, or one of the first tensor before it with which, as the source has it, the result is right.

    That is one inside the region, or one that it reads and that holds another tensor of the source than that of its
    name. With one that rightly holds something else, as heads do that share a weight, the result would be wrong still.
    """
    read = [name for name in failure.region.compiled_reads if checker.boundaries[name].source != name]
    return next((p.failure() for p in _pairs(checker, failure.region, read) if p.is_cause()), failure)


def _inner(checker: Checker, region: Region, read: Collection[str]) -> Iterator[str]:
    """Tensors that both sides compute on the way, in order, and those of what is read that the source computes."""
    compiled, twins = checker.compiled, {n for index in region.source for n in checker.source.nodes[index].output}
    made = [*read, *(name for index in region.compiled for name in compiled.nodes[index].output)]
    for name in sorted(made, key=lambda name: compiled.maker.get(name, -1)):
        if name in twins and name in checker.seen and name not in (region.target, region.boundary.source):
            yield name


def _pairs(checker: Checker, region: Region, read: Collection[str] = ()) -> Iterator[_Pair]:
    """What both sides have inside a region, or of what it reads, where that is not the same, in order."""
    after = {
        name: checker.compiled.closure(region.target, {*region.compiled_reads, name})
        for name in _inner(checker, region, read)
        if checker.types[name].kind in "fiu"
    }
    names = [name for name, (_, leaves) in after.items() if name in leaves]
    if not names:
        return
    held, types = _read_by(checker, region)
    sources = {n: checker.types[n] for n in region.source_reads}
    source, compiled = checker.source, checker.compiled
    ends = [*names, region.boundary.source]
    wanted = session(source.part(region.source, sources, ends), source.folder, checker.packs)
    here = [region.target, *(name for name in names if name not in held)]
    made = session(compiled.part(region.compiled, types, here), compiled.folder, checker.packs)

    def run(
        drawing: recheck.Checker, turn: int
    ) -> Iterator[tuple[int, list[Array], dict[str, Array], dict[str, Array]]]:
        values = {n: drawing.fresh(n, turn) for n in {*sources, *(b.source for b in held.values())}}
        fed = _fed(held, values.__getitem__)
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has: a branch may need other sizes
            results = {leaf: fed[f"{leaf}·"] for leaf in held} | dict(zip(here, made.run(here, fed), strict=True))
            yield turn, wanted.run(ends, {f"{n}·": values[n] for n in sources}), results, fed

    for drawing in (checker.of(checker.sizes(region)), checker):  # some run at the sizes alone that were seen
        runs = [found for turn in (*range(_TURNS), *checker.chosen(region)) for found in run(drawing, turn)]
        if runs:
            break
    for k, name in enumerate(names):
        nodes, leaves = after[name]
        allowed = checker.allowed(region)
        reader: Any | None = None
        for turn, before, results, fed in runs:
            found: list[tuple[int, Array, Array, Array, Slices]] = []
            for want, slices in _aligned(checker, before[k], got := results[name]):
                off, relative = _beyond_rounding(want, got, drawing, _region(checker, region, name, slices), turn)
                found.append((int(np.count_nonzero(off)), off, relative, want, slices))
                if not off.any():
                    break
            if not found:
                break
            count, off, relative, want, slices = min(found, key=lambda item: item[0])
            if count:
                rest = {n: types.get(n, checker.types[name]) for n in leaves}
                reader = reader or session(compiled.part(nodes, rest, [region.target]), compiled.folder, checker.packs)
                given = {key: array for key, array in fed.items() if key[:-1] in leaves}
                right = region.boundary.cut(before[-1])
                yield _Pair(
                    checker, region, name, slices, want, got, off, relative, allowed, reader, given, right, drawing
                )


def _read_by(checker: recheck.Checker, region: Region) -> tuple[dict[str, Boundary], dict[str, np.dtype[Any]]]:
    """The boundaries that a region of the compiled model reads, and their types."""
    held = {leaf: checker.boundaries[leaf] for leaf in region.compiled_reads}
    return held, {leaf: checker.types[boundary.source] for leaf, boundary in held.items()}


def _fed(held: Mapping[str, Boundary], values: Callable[[str], Array]) -> dict[str, Array]:
    """What a region is given at boundaries, of tensors of the source."""
    return {f"{leaf}·": np.array(boundary.cut(values(boundary.source))) for leaf, boundary in held.items()}


@dataclass
class _Pair:
    """A tensor inside a region as the source has it and as it is, what of that is no rounding, and what reads it.

    relative: the difference as a region is judged by it. right: the source's result of the region. drawing: the checker
    whose random values these are.
    """

    checker: Checker
    region: Region
    name: str
    slices: Slices
    want: Array
    got: Array
    off: Array
    relative: Array
    allowed: float
    after: Any
    fed: Mapping[str, Array]
    right: Array
    drawing: recheck.Checker

    def __post_init__(self) -> None:
        self.base = self._run(self.got)

    def _run(self, array: Array) -> Array:
        return np.asarray(self.after.run([self.region.target], {**self.fed, f"{self.name}·": array})[0])

    def result(self, array: Array) -> Array:
        """What the compiled model makes of other values of the tensor; no numbers of sizes that do not fit."""
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
            made = self._run(array)
            if made.shape == self.base.shape:
                return made
        return np.full(self.base.shape, np.nan)

    def is_shown(self) -> bool:
        """Whether the result is another with what the source has."""
        return _apart(self.base, self.result(self.want), self.allowed) > 1

    def is_cause(self) -> bool:
        """Whether the result is another with what the source has, and then right."""
        moved = self.result(self.want)
        near = moved.shape == self.right.shape and _apart(self.right, moved, self.allowed) <= 1
        return near and self.is_shown()

    def is_hidden(self, regions: Collection[Region]) -> bool:
        """Whether a result that these regions read would be another if what the source has were farther away."""
        if self.got.dtype == np.int64:  # sizes and indices are no larger than they may be
            return False
        pairs = ((np.sort(self.want, axis), np.sort(self.got, axis)) for axis in range(self.got.ndim))
        if any(one.shape == two.shape and _apart(one, two, self.allowed) <= 1 for one, two in pairs):
            return False  # elements in another order, of which a norm is the same
        rng = np.random.default_rng(0)
        kind = self.got.dtype
        for times in _TIMES:
            with np.errstate(all="ignore"):
                far = _cast(self.got + times * self.off, kind)
                near = _cast(far * (1 + 4 * UNIT.get(kind, 0.0) * rng.choice((-1, 1), far.shape)), kind)
            moved = self.result(far)
            if not np.isfinite(moved.astype(np.float64)).all():
                continue
            rounding = _apart(moved, self.result(near), self.allowed)
            if _apart(self.base, moved, self.allowed) > 1 + _ROUNDING * rounding:
                return self._is_read(moved != self.base, regions)
        return False

    def _is_read(self, moved: Array, regions: Collection[Region]) -> bool:
        """Whether what moves in the result is read at all: a mask may follow behind the region."""
        checker, compiled, target = self.drawing, self.checker.compiled, self.region.target
        if target in compiled.outputs or self.base.dtype.kind != "f" or not moved.ndim:
            return True
        rng = np.random.default_rng(0)
        for region in (each for each in regions if target in each.compiled_reads):
            held, types = _read_by(checker, region)
            part = session(compiled.part(region.compiled, types, [region.target]), compiled.folder, self.checker.packs)
            for turn in range(_TURNS):
                fed = _fed(held, partial(checker.fresh, turn=turn))
                one = fed[f"{target}·"]
                if one.shape[1:] != moved.shape[1:]:  # sizes are others than those of the result
                    return True
                by = rng.choice((-1, 1), one.shape) * (np.abs(one).max(initial=0) or 1) * moved.any(axis=0)
                other = fed | {f"{target}·": (one + by).astype(one.dtype)}
                if not np.array_equal(part.run(None, fed)[0], part.run(None, other)[0], equal_nan=True):
                    return True
        return False

    def failure(self) -> Failure:
        """The tensor and its worst channel."""
        size, error = self.relative, float(self.relative.max())
        axis = next(iter(self.slices), min(1, size.ndim - 1))
        others = tuple(a for a in range(size.ndim) if a != axis)
        at = (axis, int(size.max(axis=others).argmax())) if size.ndim else None
        place = _region(self.checker, self.region, self.name, self.slices)
        return Failure(place, Judgement(self.checker.allowed(place), error, at))


def _region(checker: recheck.Checker, region: Region, name: str, slices: Slices) -> Region:
    """What of a region computes a tensor inside it; of a tensor that it reads, what of the region of that does."""
    ends: Collection[str] = checker.boundaries if name in region.compiled_reads else region.compiled_reads
    nodes, reads = checker.compiled.closure(name, ends)
    twins, needed = checker.source.closure(name, region.source_reads | {checker.boundaries[n].source for n in reads})
    return Region(name, Boundary(name, slices), tuple(nodes), frozenset(reads), tuple(twins), frozenset(needed))


def _beyond_rounding(
    want: Array, got: Array, checker: recheck.Checker, region: Region, turn: int
) -> tuple[Array, Array]:
    """The difference of what a region makes, where it is more than rounding, and how large a region judges it."""
    one, two = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.where(np.isfinite(one) & np.isfinite(two), two - one, 0)
    if want.dtype.kind == "f":
        size, allowed = np.where(np.isfinite(one), np.abs(one), 0), checker.allowed(region)
        error = np.maximum(np.abs(off) - checker.near_zero(region, np.where(np.isfinite(one), one, 0)), 0)
        largest = max(float(size.max(initial=0)), 1e-30)
        at = turn, next(iter(region.boundary.slices), None), size, error, np.asarray(largest), allowed
        relative = checker.relative(region, *at, None)
        off[relative <= 2 * allowed] = 0
        if 0 < np.abs(off).max(initial=0) <= MOST * largest:  # as of a sine of large numbers
            with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
                relative = checker.relative(region, *at, CONDITION * largest)
                off[relative <= 2 * allowed] = 0
        return off, np.where(off == 0, 0, relative)
    if np.abs(off).max(initial=0) <= 1 and (off != 0).mean() <= 0.02:
        off[...] = 0
    return off, np.abs(off) / (np.abs(one).max(initial=0) or 1.0)


@np.errstate(invalid="ignore")  # of infinities nothing is known
def _apart(one: Array, other: Array, allowed: float) -> float:
    """How far two results are apart, in units of what rounding may do."""
    if not one.size:
        return 0.0
    a, b = one.astype(np.float64), other.astype(np.float64)
    if one.dtype.kind != "f":
        return max(float((a != b).mean()) / 0.02, float(np.abs(a - b).max()) / 1.5)
    return float(np.abs(a - b).max() / (allowed * (float(np.abs(a).max()) or 1.0)))


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers in a type, clipped to what it can hold."""
    if dtype.kind == "f":
        most = _LARGEST[dtype.itemsize]
        return np.clip(array, -most, most).astype(dtype)
    info = np.iinfo(dtype)
    return (
        np.clip(np.rint(array), float(info.min), float(info.max))
        .astype(np.int64)
        .clip(info.min, info.max)
        .astype(dtype)
    )


def _aligned(checker: Checker, whole: Array, part: Array) -> Iterator[tuple[Array, Slices]]:
    """A tensor cut to the shape of another: in slices that boundaries of these sizes hold, and in the nearest."""
    if whole.dtype != part.dtype:
        return
    if whole.shape == part.shape:
        yield whole, {}
        return
    axes = [axis for axis, (n, m) in enumerate(zip(whole.shape, part.shape, strict=False)) if n != m]
    if whole.ndim != part.ndim or len(axes) != 1 or not whole.size or not part.size:
        return
    (axis,) = axes
    size, left = whole.shape[axis], part.shape[axis]
    known = {index.tobytes(): index for b in checker.boundaries.values() for index in b.slices.values()}
    for index in known.values():
        if len(index) == left and index.max(initial=0) < size:
            yield np.take(whole, index, axis), {axis: index}
    rows, wanted = (np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (whole, part))
    some = slice(None, None, max(1, rows.shape[1] // _PLACES))
    rows, wanted = (np.clip(np.nan_to_num(a[:, some].astype(np.float64)), -_FAR, _FAR) for a in (rows, wanted))
    if size * left * rows.shape[1] <= _MOST_COMPARED:
        index = np.array([_likest(rows, row) for row in wanted])
        yield np.take(whole, index, axis), {axis: index}


def _likest(rows: Array, row: Array) -> int:
    """The row that is the same at most places, and of these the nearest: a mask may have changed others."""
    apart = np.abs(rows - row)
    same = (apart <= _SAME * np.abs(row).max(initial=0)).sum(axis=1)
    return int(np.lexsort((apart.sum(axis=1), -same))[0])
