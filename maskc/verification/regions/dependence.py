"""Dependence of a region's boundary on slices that it reads, and on what is wrong inside it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from maskc.verification import recheck
from maskc.verification.recheck import (
    BEYOND,
    COMPARING,
    LOOKUP,
    NEAR,
    SWEEP,
    TABLES,
    Array,
    Boundary,
    Graph,
    Region,
    session,
)
from maskc.verification.regions.checker import Checker

#: A tensor of the source, and an index into it.
Place = tuple[str, Any]

_MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_HANDS_ON = _MOVES | {"Range", "Shape", "Slice", "Split"}  # a size may be any
_MAKES_WHOLE = frozenset({"Cast", "Ceil", "Floor", "Round"})
# Sums and extremes of what may be any number may be any number.
_LINEAR = frozenset("GlobalAveragePool GlobalMaxPool Neg ReduceMax ReduceMean ReduceMin ReduceSum".split())
_WEIGHED = frozenset("Add Conv ConvTranspose Div Gemm MatMul Mul Sub".split())
_EACH_ALIKE = LOOKUP - {"Constant", "Gather"} | {"DequantizeLinear", "QuantizeLinear"}
# Turns in which slices are changed.
_TURNS = 4
# Differences are those of so many times what rounding may do.
_ROUNDING = 8.0


def is_elementwise(checker: Checker, region: Region) -> bool:
    """Whether a region moves elements, and rounds or maps all of them alike, so that none is dead by chance."""
    nodes = [(graph, graph.nodes[i]) for graph, made in checker.sides(region) for i in made]
    numbers = ((g, name) for g, node in nodes if node.op_type not in _MOVES for name in node.input)
    alike = all(math.prod(g.constants[name].dims) == 1 for g, name in numbers if name in g.constants)
    return alike and all(node.op_type in _EACH_ALIKE | _MOVES for _, node in nodes)


def compares(checker: Checker, region: Region) -> bool:
    """Whether a region compares one tensor of floating point with a number, on its side of 0 if runs show one.

    It then takes in nothing that would limit the tensor: that both sides compare it otherwise counts.
    """
    if len(region.source_reads) != 1 or any(node.op_type not in COMPARING for node in checker.nodes(region)):
        return False
    (name,) = region.source_reads
    if checker.types[name].kind != "f":
        return False
    runs = [checker.seen[name].fresh(name, turn, checker.seed) for turn in range(0, 2 * _TURNS, 2)]
    least = 0.0 if all((run >= 0).all() for run in runs) else -math.inf
    return bool((checker.compared(name) >= least).any())


def limits_nothing(checker: Checker, grown: Region, region: Region) -> bool:
    """Whether a region took in nodes that only hand on values or weigh them, of whole numbers moved by a constant.

    It then reads any values as before, and agrees only where these are not drawn.
    """
    taken = set(grown.source) - set(region.source)
    others = set(grown.compiled) - set(region.compiled)
    if not taken or len(grown.source_reads) < len(region.source_reads):
        return False
    whole = all(checker.types[name].kind in "iu" for name in region.source_reads)
    sides = ((checker.source, taken), (checker.compiled, others))
    nodes = [(graph, graph.nodes[index]) for graph, made in sides for index in made]
    return all(_hands_on(graph, node, whole) for graph, node in nodes)


def agrees_within(checker: Checker, region: Region, grown: Region) -> bool:
    """Whether a region agrees where it reads whole numbers between the least and the most that a larger one makes.

    That hardly ever makes a certain one, as the index of an entry that is wrong, and agrees for that reason alone.
    """
    names = [name for name in region.source_reads - grown.source_reads if checker.types[name].kind in "iu"]
    ranges = _ranges(checker, names, grown)
    if not ranges:
        return True
    within = _Within(checker, ranges)
    found = within.unjudged(region)
    try:
        within.run([region], {region.target: found})
    except Exception:  # of any kind that ONNX Runtime has: nothing is known
        return True
    return found.agrees


def _ranges(checker: Checker, names: Sequence[str], grown: Region) -> dict[str, tuple[int, int]]:
    """The least and the most that the source makes of whole numbers in a region, in its turns and as in no run."""
    graph, ranges = checker.source, dict[str, tuple[int, int]]()
    nodes = sorted({index for name in names for index in graph.closure(name, grown.source_reads)[0]})
    if not nodes:
        return ranges
    types = {name: checker.types[name] for name in grown.source_reads}
    runs = session(graph.part(nodes, types, names), graph.folder, checker.packs)
    for turn in (*checker.turns(grown), BEYOND, BEYOND + 2, *NEAR):
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has, of sizes that do not fit
            made = runs.run(names, {f"{name}·": np.asarray(checker.fresh(name, turn)) for name in types})
            for name, array in zip(names, made, strict=True):
                low, high = ranges.get(name, (array.flat[0], array.flat[0]))
                ranges[name] = min(low, array.min()), max(high, array.max())
    return ranges


class _Within(recheck.Checker):
    """A checker that draws whole numbers of some tensors within ranges."""

    def __init__(self, of: Checker, ranges: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(of.source, of.compiled, of.boundaries, of.claims, of.seen, of.seed)
        self._ranges = ranges

    def fresh(self, name: str, turn: int) -> Array:
        """As there, but within its range."""
        values = super().fresh(name, turn)
        return values.clip(*self._ranges[name]) if name in self._ranges else values


def _hands_on(graph: Graph, node: NodeProto, whole: bool) -> bool:
    """Whether a node's result may be as any that it reads; whole: of whole numbers."""
    fixed = [name in graph.fixed for name in node.input if name]
    if not node.domain and (node.op_type in _LINEAR or (not whole and node.op_type in _WEIGHED and any(fixed))):
        return True
    picks = node.op_type == "Gather" and fixed == [False, True]
    shifts = whole and (node.op_type in _MAKES_WHOLE or (node.op_type in ("Add", "Sub") and any(fixed)))
    return node.op_type in _HANDS_ON or picks or shifts


def depends(checker: Checker, region: Region, places: Collection[Place], *, compiled: bool = False) -> bool:
    """Whether one side of a region changes with what it reads at some places of the source's tensors."""
    graph, nodes, target = checker.source, region.source, region.boundary.source
    held = {name: Boundary(name) for name in region.source_reads}
    if compiled:
        graph, nodes, target = checker.compiled, region.compiled, region.target
        held = {name: checker.boundaries[name] for name in region.compiled_reads}
    if not places or not nodes:
        return False
    types = {name: checker.types[boundary.source] for name, boundary in held.items()}
    try:
        runs = session(graph.part(nodes, types, [target]), graph.folder, checker.packs)
    except Exception:  # of any kind that ONNX Runtime has: it is not seen
        return True
    for turn in checker.turns(region)[:_TURNS]:
        results = []
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has, of sizes that do not fit
            for other in (turn, turn + len(checker.seen[region.boundary.source].shapes)):  # of the same sizes
                values = {b.source: np.array(checker.fresh(b.source, turn)) for b in held.values()}
                for name, place in places:
                    values[name][place] = checker.fresh(name, other)[place]
                (result,) = runs.run(None, {f"{n}·": np.array(b.cut(values[b.source])) for n, b in held.items()})
                results.append(result if compiled else region.boundary.cut(result))
            one, two = results
            if not np.array_equal(one, two, equal_nan=one.dtype.kind == "f"):
                return True
    return False


@np.errstate(invalid="ignore", over="ignore")  # of infinities nothing is known
def shows(checker: Checker, region: Region, wrong: Region) -> bool:
    """Whether the boundary of a region shows what is wrong with a tensor on its way, for any values of that.

    In a run it need not: units may be dead there. It shows none of what a mask leaves nothing of.
    """
    name, target, compiled = wrong.target, region.target, checker.compiled
    if compiled.maker.get(name) not in region.compiled or name == target:
        return False
    reads = {n: checker.types[n] for n in wrong.source_reads}
    held = {n: checker.boundaries[n] for n in {*wrong.compiled_reads, *region.compiled_reads}}
    types = {n: checker.types[boundary.source] for n, boundary in held.items()}
    before, after = ({n: types[n] for n in each.compiled_reads} for each in (wrong, region))
    after |= {name: checker.types[wrong.boundary.source]}
    source = checker.source.part(wrong.source, reads, [wrong.boundary.source])
    try:
        right = session(source, checker.source.folder, checker.packs)
        other = session(compiled.part(wrong.compiled, before, [name]), compiled.folder, checker.packs)
        behind = session(compiled.part(region.compiled, after, [target]), compiled.folder, checker.packs)
    except Exception:  # of any kind that ONNX Runtime has, of types that are no inputs
        return False
    twin = wrong.boundary
    step = float(checker.unjudged(wrong).steps and checker.types[twin.source].kind != "b")
    allowed = _ROUNDING * checker.allowed(region, stored=False, approximate=False)  # both results are of one side

    def fed(names: Collection[str], turn: int) -> dict[str, Array]:
        return {f"{n}·": np.array(held[n].cut(checker.fresh(held[n].source, turn))) for n in names}

    for turn in checker.turns(wrong):
        with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has, of sizes that do not fit
            (want,) = right.run(None, {f"{n}·": checker.fresh(n, turn) for n in reads})
            (got,) = other.run(None, fed(before, turn))
            want, run = twin.cut(want), turn
            if turn <= TABLES // 2 or turn >= SWEEP:  # all entries of a table, of which a run has some
                shape = twin.cut(checker.fresh(twin.source, 0)).shape
                if turn >= SWEEP:
                    axes = [axis for axis, size in enumerate(shape) if want.shape[axis] != size]
                else:
                    (index,) = reads
                    ((_, axis), *_), rank = checker.source.tables[index], len(checker.seen[index].shapes[0])
                    axes = [axis % len(shape) + rank - 1]
                if axes:
                    run, (want, got) = 0, _worst_entry(want, got, axes, shape)
            floats, wide = want.dtype.kind == "f", want.dtype if want.dtype.kind == "f" else np.float64
            off = np.array(want.astype(wide) - got.astype(wide))
            rounding = _ROUNDING * checker.allowed(wrong) * np.abs(want).max(initial=0) if floats else step
            off[np.abs(off) <= rounding] = 0
            feeds = fed(region.compiled_reads, run)
            for random in (False, True)[: 1 + floats]:
                base = twin.cut(checker.fresh(twin.source, run)) if random else got
                moved = np.asarray((base.astype(wide) + off).astype(want.dtype))
                one, two = (behind.run(None, {**feeds, f"{name}·": array})[0] for array in (base, moved))
                if _apart(one, two, allowed):
                    return True
    return False


def _worst_entry(want: Array, got: Array, axes: Sequence[int], shape: Sequence[int]) -> tuple[Array, Array]:
    """Both with one entry of a table everywhere, that which differs most, in the shape that they have in a run."""
    apart = np.abs(want.astype(np.float64) - got.astype(np.float64))
    at = np.unravel_index(apart.argmax(), apart.shape)
    index = tuple(slice(at[a], at[a] + 1) if a in axes else slice(None) for a in range(apart.ndim))
    return np.broadcast_to(want[index], shape), np.broadcast_to(got[index], shape)


def _apart(one: Array, two: Array, allowed: float) -> bool:
    """Whether results are apart by more than is allowed, relative to the largest."""
    if one.dtype.kind != "f":
        return not np.array_equal(one, two)
    finite = np.isfinite(one)
    largest = np.abs(one[finite]).max(initial=0)
    return bool((np.isfinite(two) != finite).any() or (np.abs(one - two)[finite] > allowed * largest).any())
