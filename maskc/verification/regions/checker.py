"""Region-wise equivalence of two models: both sides of each region run on the same random values, and induction.

A *boundary* pairs a tensor c of the compiled model with slices of a tensor x of the source: c = x[slices]. A *claim*
says that a slice of x holds one constant, whatever the inputs are. What lies between boundaries is a *region*. Both of
its sides are run on the same random values at the boundaries that it reads, in which the claims hold.

Nothing is believed. A claim holds if the claims that its region reads hold and the source makes that constant of random
values; c is x[slices] if both sides of its region agree and all that it reads is proved. Regions read what comes before
them, so by induction the outputs agree for all inputs: as far as random values show that a region agrees for all, and
with each operator as ONNX Runtime has it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from maskc.verification.regions.boundaries import SPARSE, Boundary, Claims, Region, Seen, fresh, signs
from maskc.verification.regions.graph import CHUNK, RANDOM, Array, Graph, bodies, same_constants, same_node, session
from maskc.verification.regions.judgement import Judgement, others, scales, worst

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ROUNDINGS = 4.0  # of each node, beside those of its sum
CLAIMED = 4.0  # times as many where constants are claimed, which were rounded themselves, and alike
STEPS = 512.0  # share of the results of rounding operators that may be one step off, in roundings
STEP = 1 / 8  # largest step, relative to the scale
MOST = 1e-2  # no error of that size is one of rounding
MOVE = 4096.0  # roundings by which tensors are moved to measure a condition
CONDITION = 16.0  # largest condition that is believed of a region that took boundaries in

UNIT = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators with steps, at which a rounding before them is no rounding after them.
STEPPING = frozenset(
    "ArgMax ArgMin BitShift Ceil DynamicQuantizeLinear Equal Floor Greater GreaterOrEqual Hardmax Less LessOrEqual Mod "
    "NonMaxSuppression NonZero QuantizeLinear Round Sign TopK Unique".split()
)
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
# Operators that ONNX Runtime computes by approximations, which are off by so many roundings.
APPROXIMATED = frozenset({"BiasGelu", "FastGelu", "GRU", "LSTM", "QuickGelu"})
APPROXIMATION = 1024.0


class Checker:
    """Runs regions of two models on random values of boundaries; tensors of the source are as `seen`."""

    def __init__(
        self,
        source: Graph,
        compiled: Graph,
        boundaries: dict[str, Boundary],
        claims: dict[str, Claims],
        seen: Mapping[str, Seen],
        seed: int = 0,
    ) -> None:
        self.source, self.compiled, self.boundaries, self.claims = source, compiled, boundaries, claims
        self.seen, self.seed = seen, seed
        self.types = {name: tensor.dtype for name, tensor in seen.items()}
        self._moving: dict[str, InferenceSession] = {}

    def region(self, target: str) -> Region:
        """The region of a boundary."""
        boundary, held = self.boundaries[target], self.boundaries
        nodes, reads = self.compiled.closure(target, held if boundary.reads is None else boundary.reads)
        ends = {held[name].source for name in (held if boundary.reads is None else reads) if name in held}
        twins, needed = self.source.closure(boundary.source, ends)
        if any(held[name].source == boundary.source for name in reads if name in held):
            twins, needed = [], {boundary.source}  # slices of what is read
        return Region(target, boundary, tuple(nodes), frozenset(reads), tuple(twins), frozenset(needed))

    def fresh(self, name: str, turn: int) -> Array:
        """Random values of a tensor of the source, in which its claims hold."""
        return fresh(name, self.seen[name], self.claims.get(name, {}), turn, self.seed)

    def turns(self, region: Region) -> range:
        """The turns in which a region is run: more often where there are few places at which it computes the same."""
        shape = self.seen[region.boundary.source].shapes[0]
        places = math.prod(shape) / max(shape, default=1) if math.prod(shape) else 64
        times = next(times for least, times in ((64, 2), (16, 8), (0, 24)) if places >= least)
        return range(-times // 2 if self._took_in(region) else 0, times)

    def _took_in(self, region: Region) -> bool:
        """Whether there are tensors inside that could be boundaries."""
        maker = self.compiled.maker.get(region.target)
        inner = {name for i in region.compiled if i != maker for name in self.compiled.nodes[i].output}
        return region.boundary.reads is not None or bool(inner & self.source.maker.keys())

    def check(self, regions: Sequence[Region], *, briefly: bool = False) -> dict[str, Judgement]:
        """Run regions that end at the same boundaries. Raises what ONNX Runtime does.

        briefly: twice and without conditions, which tells what is far off.
        """
        found = {region.target: Judgement(allowed=self.allowed(region)) for region in regions}
        same = {r.target for r in regions if r.boundary.source not in self.claims and self._same_nodes(r)}
        for region in regions:
            if region.target not in same and any(node.op_type in RANDOM for node in self._nodes(region)):
                found[region.target].fail("it is random, and not made by the same node")
        run = [r for r in regions if r.target not in same and not found[r.target].why]
        for turns, chunk in self._chunks(run):
            for turn, region, want, got in self._results(chunk, range(2) if briefly else turns):
                self._judge(region, want, got, turn, found[region.target], briefly)
            self._moving.clear()
        return found

    def _results(self, chunk: Sequence[Region], turns: range) -> Iterator[tuple[int, Region, Array, Array]]:
        """What both sides of regions make of the values of each turn, the whole tensor on that of the source."""
        reads = {name for region in chunk for name in region.source_reads}
        held = {name: self.boundaries[name] for region in chunk for name in region.compiled_reads}
        twins = list(dict.fromkeys(region.boundary.source for region in chunk if region.source))
        targets = [region.target for region in chunk]
        one, two = self._sessions(chunk, sorted(reads), held, twins)
        for turn in turns:
            values = {name: self.fresh(name, turn) for name in reads | {b.source for b in held.values()}}
            feeds = {f"{name}·": values[name] for name in reads}
            wanted = dict(zip(twins, one.run(twins, feeds), strict=True)) if one else {}
            feeds = {f"{n}·": np.asarray(b.cut(values[b.source]), order="C") for n, b in held.items()}
            for region, got in zip(chunk, two.run(targets, feeds), strict=True):
                name = region.boundary.source
                yield turn, region, wanted[name] if region.source else self.fresh(name, turn), got

    def _sessions(
        self, chunk: Sequence[Region], reads: Sequence[str], held: Mapping[str, Boundary], twins: Sequence[str]
    ) -> tuple[InferenceSession | None, InferenceSession]:
        """Both sides of regions in ONNX Runtime; None for one that has nothing to compute."""
        nodes = sorted({index for region in chunk for index in region.source})
        most = max((self._size(name) for name in reads), default=0)
        one = session(self.source.part(nodes, {n: self.types[n] for n in reads}, twins), most) if twins else None
        nodes = sorted({index for region in chunk for index in region.compiled})
        types = {name: self.types[boundary.source] for name, boundary in held.items()}
        return one, session(self.compiled.part(nodes, types, [region.target for region in chunk]), most)

    def _chunks(self, regions: Sequence[Region]) -> Iterator[tuple[range, list[Region]]]:
        """Regions with their turns, so many at a time that tensors and weights do not take much memory."""
        for turns in sorted({self.turns(region) for region in regions}, key=len):
            chunk, size = list[Region](), 0
            for region in [region for region in regions if self.turns(region) == turns]:
                names = {*region.source_reads, *(n for i in region.source for n in self.source.nodes[i].output)}
                weights = {n for i in region.source for n in self.source.reads[i]} & self.source.constants.keys()
                size += sum(8 * self._size(name) for name in names | weights)
                chunk.append(region)
                if size > CHUNK:
                    yield turns, chunk
                    chunk, size = [], 0
            if chunk:
                yield turns, chunk

    def allowed(self, region: Region, sparse: bool = False) -> float:
        """Roundings of a region in units of its coarsest type, relative to the scale of a slice.

        Each node rounds a few times, and a sum of n terms √n times as often: errors of rounding add up like the steps
        of a random walk (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). With two operands of a and b elements and a
        result of c a sum has at most √(ab/c) terms, or a/c; of sparse values most are 0. Half precision is summed in
        single. Recurrent layers sum at each step; what was rounded when it was claimed to be constant counts more.
        """
        constants = [c for n in region.source_reads for _, c in self.claims.get(n, {}).values()]
        nodes = [self.source.nodes[index] for index in region.source]
        nodes = [node for node in nodes if not self.source.fixed.issuperset(node.output)]
        names = {region.boundary.source, *region.source_reads, *(name for node in nodes for name in node.output)}
        unit = max(UNIT.get(self.types[name], 0.0) for name in names if name in self.types)
        drawn = region.source_reads if sparse and not constants else ()
        sums = sum(self._sum_roundings(node, drawn) for node in nodes)
        steps = (1 + len(nodes) + len(region.compiled)) * unit + sums * min(unit, UNIT[np.dtype(np.float32)])
        return ROUNDINGS * steps * (CLAIMED if any(c.any() for c in constants) else 1.0)

    def _sum_roundings(self, node: NodeProto, sparse: Collection[str]) -> float:
        """Roundings of the sums of a node, some of whose operands may be sparse."""
        sizes = [self._size(name) for name in node.input[:2] if name]
        result = max([1, *(self._size(name) for name in node.output if name in self.seen)])
        terms = max([1.0, *(size / result for size in sizes[:1])])
        if len(sizes) > 1:
            terms = max(terms, math.sqrt(sizes[0] * sizes[1] / result))
        first = self.seen.get(node.input[0]) if node.input else None
        if first is not None and first.low <= 0 and node.input[0] in sparse:
            terms = max(1.0, terms / SPARSE)
        times = first.shapes[0][0] if first is not None and node.op_type in RECURRENT and first.shapes[0] else 1
        return times * math.sqrt(terms) + (APPROXIMATION if node.op_type in APPROXIMATED else 0.0)

    def _size(self, name: str) -> int:
        dims = self.source.constants[name].dims if name in self.source.constants else None
        return math.prod(self.seen[name].shapes[0] if name in self.seen else ()) if dims is None else math.prod(dims)

    def _judge(self, region: Region, want: Array, got: Array, turn: int, result: Judgement, briefly: bool) -> None:
        """Take one turn of a region into account."""
        allowed = self.allowed(region, sparse=True) if turn % 2 and turn > 0 else result.allowed
        if not isinstance(want, np.ndarray) or not isinstance(got, np.ndarray):
            return result.fail("it cannot be compared")
        if region.source:
            self._judge_claims(region, want, allowed, result)
        want = region.boundary.cut(want)
        if want.shape != got.shape or want.dtype != got.dtype:
            return result.fail(f"it is {got.dtype} {list(got.shape)} and should be {want.dtype} {list(want.shape)}")
        if not want.size or np.array_equal(want, got):
            return None
        axis = next(iter(region.boundary.slices), None if want.ndim < 2 else 2 if want.ndim == 3 else 1)
        steps = any(_steps(node) for node in self._nodes(region))
        if want.dtype.kind != "f":
            return _judge_exact(want, got, axis, min(0.02, STEPS * allowed) if steps else 0.0, result)
        return self._judge_floats(region, want, got, turn, result, briefly, allowed, axis, steps)

    def _judge_floats(
        self,
        region: Region,
        want: Array,
        got: Array,
        turn: int,
        result: Judgement,
        briefly: bool,
        allowed: float,
        axis: int | None,
        steps: bool,
    ) -> None:
        """Judge numbers of floating point. axis: whose slices have scales; steps: rounding operators are inside."""
        one, two = want.astype(np.float64), got.astype(np.float64)
        if not np.array_equal(one[np.isinf(one)], two[np.isinf(one)]) or not np.isfinite(two[np.isfinite(one)]).all():
            return result.fail("its NaNs or infinities are in other places")
        finite = np.isfinite(one)  # where the source has no number, any will do
        one, two = np.where(finite, one, 0), np.where(finite, two, 0)
        error, scale = np.abs(one - two), scales(np.abs(one), axis)
        relative = error / scale
        share = result.allowed / (allowed or 1.0)  # as if all turns were allowed as much
        result.plain = max(result.plain, float(relative.max()) * share)
        if steps and relative.max() > allowed:
            if (relative > allowed).mean() <= min(0.02, STEPS * allowed) and not (relative > STEP).any():
                return None
        elif allowed < relative.max() < max(MOST, 16 * allowed) and not briefly:
            largest = scale.max(axis=others(scale, axis), keepdims=True)
            most = CONDITION if region.boundary.reads is not None else np.inf
            for known in (result.condition, None):  # that of another turn often does
                if known is None:
                    known = result.condition = self._condition(region, one, turn, axis) / largest
                relative = error / np.maximum(scale, largest * np.minimum(known, most))
                if relative.max() <= allowed:
                    break
        result.take(relative * share, axis)
        return None

    def _judge_claims(self, region: Region, want: Array, allowed: float, result: Judgement) -> None:
        """Note slices that are not the constants that they are claimed to be."""
        for axis, (slices, constants) in self.claims.get(region.boundary.source, {}).items():
            rows = np.moveaxis(want.take(slices, axis), axis, 0).reshape(len(slices), want.size // want.shape[axis])
            off = np.abs(rows.astype(np.float64) - constants[:, None]).max(axis=1, initial=0)
            top = float(np.abs(want[np.isfinite(want)]).max(initial=0)) if want.dtype.kind == "f" else 0.0
            wrong = slices[~(off <= allowed * np.maximum(np.abs(constants), top))]
            if len(wrong):
                result.refuted[axis] = np.union1d(result.refuted.get(axis, wrong), wrong)

    def _condition(self, region: Region, want: Array, turn: int, axis: int | None) -> Array:
        """How far each slice of the source's result moves with relative movements of what its region reads and makes.

        To first order a rounding of a tensor moves the result so far, in units of that rounding (Higham, Accuracy and
        Stability of Numerical Algorithms, 2002, chapter 3): farther than its size where terms cancel.
        """
        name = region.boundary.source
        inner = {n for i in region.source for n in self.source.nodes[i].output if n != name}
        floats = sorted(n for n in inner | region.source_reads if self.types.get(n) in UNIT)
        moved, types = np.zeros(1), {n: self.types[n] for n in region.source_reads}
        if not region.source or not floats:
            return moved
        if region.target not in self._moving:
            part = self.source.part(region.source, types, [name], {n: self.types[n] for n in floats})
            self._moving[region.target] = session(part, max(map(self._size, types), default=0))
        unit = MOVE * max(UNIT[self.types[n]] for n in floats)
        for pattern in range(2):
            rng = np.random.default_rng([pattern, self.seed])
            feeds = {f"{n}·by": self._factor(n, turn, rng) for n in floats}
            feeds |= {f"{n}·": self.fresh(n, turn) for n in types}
            (array,) = self._moving[region.target].run([name], feeds)
            step = np.nan_to_num(np.abs(region.boundary.cut(array).astype(np.float64) - want), posinf=0.0)
            moved = np.maximum(moved, step.max(axis=others(step, axis), initial=0, keepdims=True) / unit)
        return moved

    def _factor(self, name: str, turn: int, rng: np.random.Generator) -> Array:
        """Numbers by which the elements of a tensor move by `MOVE` roundings up or down."""
        seen = self.seen[name]
        shape = seen.shapes[turn % len(seen.shapes)]
        moves = signs(math.prod(shape), rng).reshape(shape)
        return np.asarray((1 + MOVE * UNIT[seen.dtype] * moves).astype(seen.dtype))

    def _nodes(self, region: Region) -> Iterator[NodeProto]:
        yield from (self.source.nodes[i] for i in region.source)
        yield from (self.compiled.nodes[i] for i in region.compiled)

    def _same_nodes(self, region: Region) -> bool:
        """Whether both sides are one node with the same attributes and weights that reads the same."""
        if len(region.compiled) != 1 or len(region.source) != 1 or region.boundary.slices:
            return False
        held = {n: self.boundaries[n].source for n in region.compiled_reads if not self.boundaries[n].slices}
        outputs = region.boundary.source, region.target
        return same_node(self.source, region.source[0], self.compiled, region.compiled[0], held, outputs)


def _judge_exact(want: Array, got: Array, axis: int | None, share: float, result: Judgement) -> None:
    """Judge what is not of floating point: at most this share of the elements may be one step off."""
    apart = np.not_equal(want, got)
    few = want.dtype.kind != "O" and apart.mean() <= share
    if not few or (np.abs(want.astype(np.float64) - got.astype(np.float64)) > 1).any():
        result.fail(f"{apart.sum()} of {want.size} elements differ")
        result.at = worst(apart, axis)


def _steps(node: NodeProto) -> bool:
    if node.op_type == "Cast":
        return next((a.i for a in node.attribute if a.name == "to"), 0) not in FLOATS
    return node.op_type in STEPPING or any(_steps(inner) for body in bodies(node) for inner in body.node)


def proved(checker: Checker, judged: Mapping[str, Judgement]) -> set[str]:
    """The boundaries that hold by induction over the nodes of both models, in order."""
    regions = {target: checker.region(target) for target in judged}
    holding = {name for name in checker.seen if name not in checker.claims}
    for target in sorted(regions, key=lambda t: checker.source.maker.get(regions[t].boundary.source, -1)):
        region = regions[target]
        if region.source and not judged[target].refuted and region.source_reads <= holding:
            holding.add(region.boundary.source)
    done = set(checker.compiled.inputs)
    for target in sorted(regions, key=lambda t: checker.compiled.maker.get(t, -1)):
        region = regions[target]
        ends = {checker.boundaries[name].source for name in region.compiled_reads if name in checker.boundaries}
        if judged[target].agrees and region.compiled_reads <= done and region.source_reads | ends <= holding:
            done.add(target)
    return done


def whole(checker: Checker, done: Collection[str]) -> list[str]:
    """The outputs that are proved to be those of the source, whole."""
    held = checker.boundaries
    return [
        name
        for name in checker.compiled.outputs
        if (name in done and held[name].source == name and not held[name].slices)
        or same_constants(checker.source, checker.compiled, name)
    ]
