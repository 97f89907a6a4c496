"""Correspondence of tensors: slices of which source tensor a compiled one may hold, by name and by values in a run."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, numpy_helper

from maskc.verification import recheck
from maskc.verification.recheck import Array, Boundary, Graph, Judgement, Region, Slices
from maskc.verification.regions.observation import Observed, Tensor, print_of
from passes.rewriting.origins import Origin, Origins

# How far two prints of one slice may be apart, relative to the largest element: whole models round more than regions.
_ALIKE = 1e-3
# Of slices that are so near, as a share of that, the nearest do not count as nearer than the others.
_SAME = 1e-2


def stored_slices(compiled: Graph, origins: Origins) -> dict[str, dict[int, Array]]:
    """The slices of tensors of the source that the compiler says are stored, along axes where some are not.

    And none along those where it knows of constants, but stores all.
    """
    holding: dict[str, list[Slices]] = defaultdict(list)
    for origin in (origins.get(name) or Origin(name) for name in compiled.maker):
        holding[origin.source].append(origin.slices)
    whole = {name: {axis: np.empty(0, np.int64) for axis in axes} for name, axes in origins.constant.items()}
    parts = {
        source: {
            axis: np.unique(np.concatenate([slices[axis] for slices in each if axis in slices]))
            for axis in {axis for slices in each for axis in slices}
            if all(axis in slices for slices in each)
        }
        for source, each in holding.items()
        if any(each)
    }
    return {name: {**whole.get(name, {}), **parts.get(name, {})} for name in {**whole, **parts}}


def by_name(
    source: Graph, compiled: Graph, before: Observed, origins: Mapping[str, Origin | None]
) -> dict[str, Boundary]:
    """The tensors of which the compiler says what they hold of the source, and those that have one name in both.

    All outputs are among them: one that stays out proves nothing, and no region that fails says why.
    """
    said = {**origins, **{name: origins.get(name) or Origin(name) for name in compiled.outputs}}
    return {
        name: Boundary(origin.source, _narrowed(before.tensors[origin.source], origin.slices))
        for name in dict.fromkeys((*compiled.maker, *compiled.outputs))
        if (origin := said.get(name, Origin(name))) is not None
        and origin.source in source.maker
        and origin.source in before.tensors
        and (name in compiled.outputs or not (name in compiled.fixed or origin.source in source.fixed))
    }


def _narrowed(tensor: Tensor, slices: Slices) -> dict[int, Array]:
    """Slices along those axes on which they are not all, in order."""
    sizes = dict(enumerate(tensor.shape))
    return {a: index for a, index in slices.items() if a in sizes and not np.array_equal(index, np.arange(sizes[a]))}


def by_value(
    source: Graph,
    compiled: Graph,
    before: Observed,
    after: Observed,
    origins: Mapping[str, Origin | None],
) -> tuple[dict[str, Boundary], set[str]]:
    """What each tensor of the compiled model holds of the source, as far as runs of both show.

    And which tensors do not hold in the run what the source's tensor of their name does. origins: what the compiler
    says that they hold. Of slices that are alike, as of units that are dead in the run, the first are taken.
    """
    own = {name: t for name, t in before.tensors.items() if name in source.maker and name not in source.fixed}
    index, found, unlike = _Index(own), dict[str, Boundary](), set[str]()
    for name in compiled.outputs:
        if name in source.maker and name in before.tensors and name in compiled.constants:
            found[name] = Boundary(name)
    for node, read in zip(compiled.nodes, compiled.reads, strict=True):
        likely = [slices for name in read if name in found for slices in found[name].slices.values()]
        for name in node.output:
            origin = origins.get(name) or Origin(name)
            twin = before.tensors.get(origin.source) if origin.source in source.maker else None
            boundary = None
            if name in compiled.outputs and twin is not None:
                boundary = Boundary(name)
            elif name in after.tensors and name not in compiled.fixed:
                tensor = after.tensors[name]
                if twin is None:
                    boundary = _gathered(compiled, node, before, found)
                elif (slices := _of_twin(twin, tensor, origin.slices, likely)) is not None:
                    boundary = Boundary(origin.source, slices)
                elif twin.dtype == tensor.dtype:
                    unlike.add(name)
                    boundary = Boundary(origin.source) if twin.shape == tensor.shape else None
                boundary = boundary or _alike(index, before, tensor, likely)
            if boundary is not None:
                found[name] = boundary
    return found, unlike


class _Values(recheck.Checker):
    """Both sides' values of boundaries, in place of a judgement."""

    axis: int
    prints: list[tuple[Array, Array]]

    def judge(self, region: Region, want: Array, got: Array, turn: int, result: Judgement) -> None:
        """Keep the prints."""
        if want.ndim == got.ndim == len(self.seen[region.boundary.source].shapes[0]):
            self.prints.append((print_of(want, self.axis), print_of(got, self.axis)))

    @classmethod
    def of(cls, checker: recheck.Checker, region: Region, axis: int) -> list[tuple[Array, Array]]:
        """Prints along the axis of the source's slices and of those that the compiled model has."""
        each = cls(checker.source, checker.compiled, checker.boundaries, checker.claims, checker.seen, checker.seed)
        each.axis, each.prints = axis, []
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
            each.run([region], {region.target: Judgement()})
        return each.prints


def by_random_values(checker: recheck.Checker, region: Region, tensor: Tensor | None) -> dict[int, Array] | None:
    """The slices of its boundary that a region makes of random values, if they look like those it is said to hold.

    Of units that are dead in a run, and look alike there, these tell one from another. tensor: the source's, in the
    run. None if it holds no others.
    """
    if tensor is None or len(region.boundary.slices) != 1:
        return None
    ((axis, held),) = region.boundary.slices.items()
    found = _Values.of(checker, region, axis) if axis in tensor.prints else []
    sizes = tensor.shape[axis], len(held)
    prints = [(one, two) for one, two in found if (len(one), len(two)) == sizes and one[0].size == two[0].size]
    if not prints:
        return None
    one, two = (np.concatenate(side, axis=1) for side in zip(*prints, strict=True))
    index = _nearest(one, two) if np.isfinite(two).all() else np.full(1, -1)
    if index.min() < 0 or np.array_equal(index, held):
        return None
    return {axis: index} if _near(tensor.prints[axis][index], tensor.prints[axis][held]) else None


def factors_of(checker: recheck.Checker, region: Region) -> dict[int, Array] | None:
    """What slices of a boundary are multiplied with, in one region, to be those of the source; None where they are not.

    As where an equalisation moved a scale from one layer into the next.
    """
    boundary, shape = region.boundary, checker.seen[region.boundary.source].shapes[0]
    if checker.types[boundary.source].kind != "f" or len(shape) < 2 or boundary.factors:
        return None
    for axis in boundary.slices or dict.fromkeys((1, len(shape) - 1)):
        held = boundary.slices.get(axis, np.arange(shape[axis]))
        found = [(one, two) for one, two in _Values.of(checker, region, axis) if len(one) == shape[axis]]
        prints = [(one[held], two) for one, two in found if one[held].shape == two.shape]
        if not prints:
            continue
        one, two = (np.concatenate(side, axis=1) for side in zip(*prints, strict=True))
        with np.errstate(all="ignore"):
            factors = (one * two).sum(axis=1) / (one**2).sum(axis=1)
            factors = np.where(one.any(axis=1), factors, 1.0)
            off = np.abs(two - factors[:, None] * one).max(axis=1)
        near = off <= _SAME * _ALIKE * np.abs(two).max(axis=1)
        if near.all() and not np.allclose(factors, 1, rtol=_ALIKE, atol=0):
            return {axis: factors}
    return None


def _gathered(graph: Graph, node: NodeProto, before: Observed, found: Mapping[str, Boundary]) -> Boundary | None:
    """The slices that a Gather by constants takes of a boundary, which may look like others in a run."""
    held = found.get(node.input[0]) if node.op_type == "Gather" else None
    index = graph.constants.get(node.input[1]) if held is not None else None
    if held is None or index is None or len(index.dims) != 1:
        return None
    shape, taken = before.tensors[held.source].shape, numpy_helper.to_array(graph.embedded(index.name))
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % max(len(shape), 1)
    own = held.slices.get(axis, np.arange([*shape, 0][axis]))
    if np.abs(taken).max(initial=0) >= len(own):
        return None
    return Boundary(held.source, {**held.slices, axis: own[taken]})


def _of_twin(twin: Tensor, tensor: Tensor, slices: Slices, likely: Sequence[Array]) -> Slices | None:
    """The slices of the tensor that it is made of: those that the compiler says, or by values."""
    said = _narrowed(twin, slices)
    sizes = tuple(len(said[a]) if a in said else size for a, size in enumerate(twin.shape))
    if said and sizes == tensor.shape and all(index.max(initial=0) < twin.shape[a] for a, index in said.items()):
        return said
    return _slices(twin, tensor, likely)


def _alike(index: _Index, before: Observed, tensor: Tensor, likely: Sequence[Array]) -> Boundary | None:
    """The tensor of the source of which it holds slices: the first, or the nearest where none is quite the same."""
    nearest, least = None, np.inf
    for name in index.like(tensor):
        slices = _slices(before.tensors[name], tensor, likely)
        if slices is None:
            continue
        apart = _apart(before.tensors[name], tensor, slices)
        if apart < least:
            nearest, least = Boundary(name, slices), apart
        if apart <= _SAME * _ALIKE:
            break
    return nearest


def _apart(source: Tensor, tensor: Tensor, slices: Slices) -> float:
    """How far prints of a tensor are from those of slices of another, relative to the largest element."""
    axis = next(iter(slices), max(tensor.prints, key=lambda a: tensor.shape[a], default=0))
    one, two = _rows(source, axis), _rows(tensor, axis)
    if one is None or two is None:
        return 0.0
    return _distance(one[slices[axis]] if axis in slices else one, two)


class _Index:
    """Tensors by their sizes beside one axis, with the prints of all of them together."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._names: dict[tuple[object, ...], list[str]] = defaultdict(list)
        self._tensors = tensors
        self._stacks: dict[tuple[object, ...], tuple[Array, Array]] = {}
        self._whole: dict[tuple[object, ...], list[str]] = defaultdict(list)
        for name, tensor in tensors.items():
            if tensor.whole is not None:
                self._whole[_key_of(tensor.whole)].append(name)
            for axis in tensor.prints:
                self._names[_key(tensor, axis)].append(name)

    def like(self, tensor: Tensor) -> Iterator[str]:
        """Names of tensors that have a slice of this one, as far as prints tell, or hold the same whole numbers."""
        if tensor.whole is not None and tensor.whole.dtype.kind in "biu":
            yield from self._whole.get(_key_of(tensor.whole), [])
        for axis in sorted(tensor.prints, key=lambda a: -tensor.shape[a]):
            key, own = _key(tensor, axis), tensor.prints[axis]
            names = self._names.get(key, [])
            if not names or not np.isfinite(own).all() or np.ptp(own) == 0:
                continue
            if key not in self._stacks:
                rows = [self._tensors[name].prints[axis] for name in names]
                self._stacks[key] = np.concatenate(rows), np.repeat(np.arange(len(names)), [len(r) for r in rows])
            prints, owners = self._stacks[key]
            row = own[np.argmax(np.ptp(own, axis=1)) if own.shape[1] > 1 else 0]
            near = np.abs(prints - row).max(axis=1) <= _ALIKE * (np.abs(own).max() or 1)
            yield from (names[i] for i in dict.fromkeys(owners[near]))


def _key_of(whole: Array) -> tuple[object, ...]:
    return whole.shape, whole.dtype, whole.tobytes()


def _key(tensor: Tensor, axis: int) -> tuple[object, ...]:
    return (
        len(tensor.shape),
        axis,
        tensor.dtype,
        tensor.prints[axis].shape[1],
        tuple(n for a, n in enumerate(tensor.shape) if a != axis),
    )


def _slices(source: Tensor, tensor: Tensor, likely: Sequence[Array]) -> dict[int, Array] | None:
    """The slices of a source tensor that a tensor holds, by values; None if it does not.

    likely: slices to be preferred, those of the tensors that it is made of: many slices may hold the same few values.
    """
    if source.dtype != tensor.dtype or len(source.shape) != len(tensor.shape):
        return None
    other = [a for a, (n, m) in enumerate(zip(source.shape, tensor.shape, strict=True)) if n != m]
    if not other and _same_values(source, tensor):
        return {}
    if len(other) > 1 or (source.whole is not None and not other):
        return None
    if not other:
        other = [1, len(source.shape) - 1] if len(source.shape) > 1 else []
    for axis in other:
        index = _slices_along(axis, source, tensor, likely)
        if index is not None:
            return {axis: index}
    return None


def _slices_along(axis: int, source: Tensor, tensor: Tensor, likely: Sequence[Array]) -> Array | None:
    """The slices along one axis that a tensor holds; None if it does not."""
    one, two = _rows(source, axis), _rows(tensor, axis)
    if one is None or two is None or len(one) < len(two) or one.shape[1] != two.shape[1]:
        return None
    for index in likely:
        if len(index) == len(two) and index.max(initial=0) < len(one) and _near(one[index], two):
            return index
    if not np.isfinite(two).all():
        return None
    nearest = _nearest(one, two)
    return None if (nearest < 0).any() else nearest


def _same_values(source: Tensor, tensor: Tensor) -> bool:
    """Whether tensors of one shape hold the same, as far as prints along an axis tell: a wrong slice need not show."""
    if source.whole is not None and tensor.whole is not None:
        return np.array_equal(source.whole, tensor.whole)
    axes = source.prints.keys() & tensor.prints.keys()
    return not source.prints or any(_near(source.prints[axis], tensor.prints[axis]) for axis in axes)


def _rows(tensor: Tensor, axis: int) -> Array | None:
    """The prints of slices along an axis, or all their elements; None where there are none."""
    if tensor.whole is None or tensor.whole.dtype.kind == "O":
        return tensor.prints.get(axis)
    whole = np.atleast_1d(tensor.whole)
    return np.moveaxis(whole, axis, 0).reshape(whole.shape[axis], -1).astype(np.float64) if whole.size else None


def _near(one: Array, two: Array) -> bool:
    return _distance(one, two) <= _ALIKE


def _distance(one: Array, two: Array) -> float:
    """The largest difference, relative to the largest element; infinite where shapes or what is finite differ."""
    if one.shape != two.shape:
        return np.inf
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(two)):
        return np.inf
    with np.errstate(all="ignore"):
        off = float(np.where(finite, np.abs(one - two), 0).max(initial=0))
        largest = float(np.where(finite, np.abs(one), 0).max(initial=0))
    return off / largest if largest else np.inf if off else 0.0


@np.errstate(invalid="ignore")
def _nearest(source: Array, rows: Array) -> Array:
    """For each row the first of the nearest of the source after the one before, or of all; -1 where none is near."""
    weights = np.random.default_rng(3).standard_normal(rows.shape[1])
    keys, wanted = np.nan_to_num(source @ weights), rows @ weights
    slack = _ALIKE * (float(np.abs(rows).max(initial=0)) or 1.0)
    order = np.argsort(keys, kind="stable")
    low = np.searchsorted(keys[order], wanted - 16 * slack)
    high = np.searchsorted(keys[order], wanted + 16 * slack)
    found, last = np.full(len(rows), -1), -1
    for row, (a, b) in enumerate(zip(low, high, strict=True)):
        near = np.sort(order[a:b])
        apart = np.abs(source[near] - rows[row]).max(axis=1, initial=0)
        near = near[apart <= min(slack, max(_SAME * slack, 2 * apart.min(initial=slack)))]
        if near.size:
            later = near[near > last]
            last = int(later[0] if later.size else near[0])
            found[row] = last
    return found
