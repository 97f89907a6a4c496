"""Region-wise equivalence of two ONNX models, checked by a certificate: `python recheck.py SOURCE COMPILED CERTIFICATE`.

It needs onnx, numpy and onnxruntime, and nothing of the compiler that wrote the files.

A *boundary* pairs a tensor c of the compiled model with slices of a tensor x of the source, c = x[slices]. A *claim* says
that slices of x hold one constant each, whatever the inputs are. What lies between boundaries is a *region*. Both its sides
are run on the same random values at the boundaries that it reads, in which the claims hold, and the results are compared.

Nothing is believed: a claim on x holds if every claim that its region reads holds and the source makes these constants of
random values; c is x[slices] if all that its region reads is proved and both sides agree. Regions read what comes before
them, so by induction the outputs agree for all inputs, as far as random values show that a region agrees for all values, and
operators that both sides have are the same in ONNX Runtime.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper

Array = np.ndarray[Any, np.dtype[Any]]
Slices = Mapping[int, Array]
Claims = Mapping[int, tuple[Array, Array]]  # by axis: slices, and the constant of each

VERSION = 1
# Of the values of a boundary, in the rounds in which they are sparse, one of so many is not zero: an error in one weight
# then stands out of a sum of many.
SPARSE = 8
# Of three kinds of values the third are so small that what is added to them shows.
KINDS, TINY = 3, 2.0**-10
# An error of one rounding for each node, and so many for a sum of one term.
ROUNDINGS = 4.0
# Of elements that a rounding operator makes, one step may be another, in at most so many roundings' share.
STEPS = 512.0
# Relative movement of tensors, in units in the last place, by which the condition of a region is measured.
MOVE = 4096.0
# A region of several compiled nodes is believed a condition of at most so many times its result.
MOST_CONDITION = 1.0
# The scale of a slice is its largest element, but at most so many times one than which a quarter is smaller: an attention
# mask of -1e9 is no scale.
TYPICAL = 64.0
# One step of a rounding operator is no larger than this share of the scale.
STEP = 1 / 8
# No smaller scale of a slice is believed than this share of the largest.
LEAST_SCALE = 1e-3
# An error beyond this share of the scale is never one of rounding.
MOST = 1e-2
CHUNK = 64 << 20

NUMPY = {
    np.dtype(t): helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ? O".split()
}
UNIT = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
# Operators at whose steps a rounding error is not small, by the output.
STEPPING = frozenset(
    "ArgMax ArgMin BitShift Cast Ceil DynamicQuantizeLinear Equal Floor Greater GreaterOrEqual Hardmax Less LessOrEqual "
    "Mod NonMaxSuppression NonZero QuantizeLinear Round Sign TopK Unique".split()
)
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())


class Graph:
    """The nodes of a model without local functions, what makes each tensor, and what each node reads, bodies included.

    folder: where external data are.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None) -> None:
        self.model = onnx.inliner.inline_local_functions(model) if model.functions else model
        self.folder = folder
        graph = self.model.graph
        self.nodes: Sequence[NodeProto] = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [list(dict.fromkeys(reads(node))) for node in self.nodes]
        #: tensors that are computed of constants alone
        self.fixed: set[str] = set(self.constants) | sparse
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in RANDOM and all(name in self.fixed for name in names):
                self.fixed.update(name for name in node.output if name)

    def closure(self, target: str, cut: Collection[str]) -> tuple[list[int], set[str]]:
        """The nodes that make a tensor of what is cut and of inputs, in order, and these."""
        seen: set[int] = set()
        leaves: set[str] = set()
        todo = [self.maker[target]] if target in self.maker else []
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            for name in self.reads[index]:
                if name in cut:
                    leaves.add(name)
                elif name in self.maker:
                    todo.append(self.maker[name])
                elif name not in self.fixed:
                    leaves.add(name)
        return sorted(seen), leaves

    def part(
        self,
        nodes: Iterable[int],
        leaves: Mapping[str, np.dtype[Any]],
        outputs: Sequence[str],
        moves: Mapping[str, Array] | None = None,
    ) -> ModelProto:
        """A model of these nodes in which leaves are inputs, named `leaf·`; they may be computed here as well.

        moves: tensors that are multiplied by a number before they are read.
        """
        renamed = {leaf: f"{leaf}·" for leaf in leaves}
        graph = onnx.GraphProto(name="part")
        for name, factor in (moves or {}).items():
            graph.initializer.append(onnx.numpy_helper.from_array(factor, f"{name}·by"))
            if name in leaves:
                graph.node.add(op_type="Mul", input=[f"{name}·", f"{name}·by"], output=[f"{name}·moved"])
                renamed[name] = f"{name}·moved"
        read: set[str] = set()
        for index in nodes:
            node = graph.node.add()
            node.CopyFrom(self.nodes[index])
            rename(node, renamed)
            read.update(name for name in self.reads[index] if name not in leaves)
            for name in [name for name in node.output if name in (moves or {}) and name not in leaves]:
                graph.node.add(op_type="Mul", input=[name, f"{name}·by"], output=[f"{name}·moved"])
                renamed[name] = f"{name}·moved"
        graph.initializer.extend(self.embedded(name) for name in sorted(read) if name in self.constants)
        graph.sparse_initializer.extend(t for t in self.model.graph.sparse_initializer if t.values.name in read)
        for leaf, dtype in leaves.items():
            graph.input.append(helper.make_tensor_value_info(f"{leaf}·", NUMPY[dtype], None))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = min(self.model.ir_version, 11)
        return model

    def embedded(self, name: str) -> TensorProto:
        """An initializer that is whole in the message."""
        tensor = self.constants[name]
        if tensor.data_location == TensorProto.EXTERNAL:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            external_data_helper.load_external_data_for_tensor(copy, str(self.folder or Path()))
            copy.data_location = TensorProto.DEFAULT
            del copy.external_data[:]
            return copy
        return tensor

    def same_as(self, other: Graph, node: int, twin: int, pairs: Mapping[str, str]) -> bool:
        """Whether a node is one of the other graph that reads the same: `pairs` are tensors that are equal, by name."""
        one, two = self.nodes[node], other.nodes[twin]
        if (one.op_type, one.domain, len(one.input)) != (two.op_type, two.domain, len(two.input)):
            return False
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in (*one.attribute, *two.attribute)):
            return False
        if sorted(a.SerializeToString() for a in one.attribute) != sorted(a.SerializeToString() for a in two.attribute):
            return False
        for a, b in zip(one.input, two.input, strict=True):
            if a in self.constants and b in other.constants:
                if not np.array_equal(self.value(a), other.value(b), equal_nan=False):
                    return False
            elif pairs.get(a) != b:
                return False
        return True

    def value(self, name: str) -> Array:
        """What an initializer holds."""
        return onnx.numpy_helper.to_array(self.embedded(name))


def reads(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, those that its bodies take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            own.update(name for inner in body.node for name in inner.output)
            yield from (name for inner in body.node for name in reads(inner) if name not in own)
            yield from (value.name for value in body.output if value.name not in own)


def rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read tensors by other names, in its bodies as well."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            own.update(name for inner in body.node for name in inner.output)
            outer = {old: new for old, new in names.items() if old not in own}
            for inner in body.node:
                rename(inner, outer)
            for value in body.output:
                if value.name in outer:
                    body.node.add(op_type="Identity", input=[outer[value.name]], output=[value.name])


def session(model: ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime on the CPU, each operator as it is written and 8-bit products exact."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def stream(graph: Graph, feeds: Sequence[Mapping[str, Array]], visit: Callable[[str, list[Array]], None]) -> None:
    """Run a model on each of these inputs, some nodes at a time, and show every tensor, of all inputs together.

    Sequences and what numpy has no type for are not shown. Raises what ONNX Runtime does.
    """
    last = {name: i for i, names in enumerate(graph.reads) for name in names}
    live = {name: [feed[name] for feed in feeds] for name in feeds[0]}
    for name, arrays in live.items():
        visit(name, arrays)
    at, step = 0, 128
    while at < len(graph.nodes):
        nodes = range(at, min(at + step, len(graph.nodes)))
        made = [name for i in nodes for name in graph.nodes[i].output if name]
        own = {*made, *graph.constants}
        leaves = {name for i in nodes for name in graph.reads[i] if name not in own and name in live}
        runs = session(graph.part(nodes, {name: live[name][0].dtype for name in leaves}, made))
        values = [runs.run(made, {f"{name}·": live[name][k] for name in leaves}) for k in range(len(feeds))]
        size = 0
        for name, arrays in zip(made, map(list, zip(*values, strict=True)), strict=True):
            if all(isinstance(array, np.ndarray) and array.dtype in NUMPY for array in arrays):
                visit(name, arrays)
                live[name] = arrays
                size += sum(array.nbytes for array in arrays)
            elif last.get(name, -1) >= at + len(nodes):  # a sequence that is read later
                size = -1
                break
        if size < 0:
            step *= 2
            continue
        at += len(nodes)
        step = max(8, min(2 * step, int(step * CHUNK / max(size, 1))))
        live = {name: arrays for name, arrays in live.items() if last.get(name, -1) >= at}


@dataclass
class Seen:
    """A tensor of the source in runs: its shape in each, its spread, and values where only these are sensible: integers."""

    shapes: list[tuple[int, ...]]
    dtype: np.dtype[Any]
    mean: float = 0.0
    spread: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    values: list[Array] | None = None

    @classmethod
    def of(cls, arrays: list[Array]) -> Seen:
        """What runs show of a tensor."""
        first, shapes = arrays[0], [array.shape for array in arrays]
        if first.dtype.kind != "f" or (first.ndim < 2 and first.size <= 8):
            return cls(shapes, first.dtype, values=arrays)
        few = first.reshape(-1)[:: max(1, first.size // 65536)].astype(np.float64)
        few = few[np.isfinite(few)]
        if not few.size:
            return cls(shapes, first.dtype)
        low, high = (
            min(float(np.nanmin(a, initial=np.inf)) for a in arrays),
            max(float(np.nanmax(a, initial=-np.inf)) for a in arrays),
        )
        spread = float(few.std()) or abs(float(few.mean())) or 1.0
        return cls(shapes, first.dtype, float(few.mean()), spread, low, high)


_POOL = 1 << 20
_NORMAL = np.tile(np.random.default_rng(7).standard_normal(_POOL, np.float32), 2)
_ABSENT = np.tile(np.random.default_rng(8).integers(0, SPARSE, _POOL + 7, np.int8) != 0, 2)


def _drawn(pool: Array, rng: np.random.Generator, size: int) -> Array:
    """So many elements of a pool from a random place on."""
    start = int(rng.integers(_POOL))
    return np.resize(pool[start:], size) if size > _POOL else pool[start : start + size].copy()


@dataclass
class Boundary:
    """A tensor of the compiled model that holds slices of one of the source: all along axes that are not named.

    reads: the tensors of the compiled model at which its region ends, None for all boundaries.
    """

    source: str
    slices: Slices = field(default_factory=dict)
    reads: frozenset[str] | None = None

    def cut(self, array: Array) -> Array:
        """These slices of the source's tensor."""
        for axis, index in self.slices.items():
            array = np.take(array, index, axis)
        return array


@dataclass(frozen=True)
class Region:
    """What lies between a boundary and those that it reads, on both sides: indices of nodes, and tensors that are read."""

    target: str
    boundary: Boundary
    compiled: tuple[int, ...]
    compiled_reads: frozenset[str]
    source: tuple[int, ...]
    source_reads: frozenset[str]


@dataclass
class Judgement:
    """The largest error of a region and what is allowed there, relative to the scale of the slice; `at` is that slice.

    refuted: by axis, slices of the source's tensor that are not the constants that they were claimed to be.
    """

    error: float = 0.0
    allowed: float = 0.0
    at: tuple[int, int] | None = None
    why: str = ""
    refuted: dict[int, Array] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether both sides agree."""
        return self.error <= self.allowed


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

    def region(self, target: str) -> Region:
        """The region of a boundary."""
        boundary = self.boundaries[target]
        cut = self.boundaries.keys() if boundary.reads is None else boundary.reads
        nodes, leaves = self.compiled.closure(target, cut)
        sources = {
            self.boundaries[name].source
            for name in (cut if boundary.reads is None else leaves)
            if name in self.boundaries
        }
        twins, needed = self.source.closure(boundary.source, sources)
        return Region(target, boundary, tuple(nodes), frozenset(leaves), tuple(twins), frozenset(needed))

    def fresh(self, name: str, turn: int) -> Array:
        """Random values of a tensor of the source, in which the claims on it hold: as seen, sparse and wider, tiny, in turn."""
        seen = self.seen[name]
        if seen.values is not None:
            return seen.values[turn % len(seen.values)]
        rng = np.random.default_rng([zlib.crc32(name.encode()), turn, self.seed])
        shape = seen.shapes[turn % len(seen.shapes)]
        size = math.prod(shape)
        values = _drawn(_NORMAL, rng, size)
        if turn % KINDS == 1:
            values *= 3 * seen.spread
            values[_drawn(_ABSENT, rng, size)] = 0
        else:
            values *= seen.spread
            values += seen.mean
        if turn % KINDS == 2:
            values *= TINY
        if seen.low >= 0:
            values = np.maximum(np.abs(values), seen.low, out=values)
        elif seen.high <= 0:
            values = np.minimum(-np.abs(values), seen.high, out=values)
        if seen.dtype == np.float16:
            values = np.clip(values, -60000, 60000)
        values = values.reshape(shape).astype(seen.dtype)
        for axis, (slices, constants) in self.claims.get(name, {}).items():
            values[(slice(None),) * axis + (slices,)] = constants.reshape(-1, *[1] * (len(shape) - axis - 1))
        return values

    def turns(self, region: Region) -> int:
        """How often a region is run: more often where there are few places at which it computes the same."""
        shape = self.seen[region.boundary.source].shapes[0]
        places = math.prod(shape) / max(shape, default=1) if math.prod(shape) else 64
        return KINDS * next(times for least, times in ((64, 1), (16, 4), (0, 12)) if places >= least)

    def check(self, regions: Sequence[Region], *, briefly: bool = False) -> dict[str, Judgement]:
        """Run regions, by chunks, that end at the same boundaries; briefly: a few times. Raises what ONNX Runtime does."""
        found = {region.target: Judgement() for region in regions}
        chance = [r for r in regions if any(node.op_type in RANDOM for node in self._nodes(r))]
        for region in chance:  # no two runs are alike: the nodes have to be
            found[region.target] = self._judge_nodes(region)
        for turns, chunk in self._chunks([region for region in regions if region not in chance]):
            source_leaves = {name for region in chunk for name in region.source_reads}
            compiled_leaves = {name for region in chunk for name in region.compiled_reads}
            twins = list(dict.fromkeys(r.boundary.source for r in chunk if r.source))
            targets = [region.target for region in chunk]
            one = self._session(self.source, chunk, "source", source_leaves, twins)
            two = self._session(self.compiled, chunk, "compiled", compiled_leaves, targets)
            for turn in range(KINDS if briefly else turns):
                values = {name: self.fresh(name, turn) for name in source_leaves}
                fed = {name: self._value(name, values, turn) for name in compiled_leaves}
                wanted = (
                    dict(zip(twins, one.run(twins, {f"{n}·": values[n] for n in source_leaves}), strict=True))
                    if one
                    else {}
                )
                got = two.run(targets, {f"{n}·": array for n, array in fed.items()})
                for region, array in zip(chunk, got, strict=True):
                    name = region.boundary.source
                    want = wanted[name] if region.source else self.fresh(name, turn)
                    self._judge(region, want, array, turn, found[region.target])
        return found

    def _value(self, name: str, values: Mapping[str, Array], turn: int) -> Array:
        """What a boundary of the compiled model holds where the source's tensors have these values."""
        if name not in self.boundaries:
            raise KeyError(f"{name} is no boundary")
        boundary = self.boundaries[name]
        whole = values.get(boundary.source)
        return np.ascontiguousarray(boundary.cut(self.fresh(boundary.source, turn) if whole is None else whole))

    def _session(
        self, graph: Graph, regions: Sequence[Region], side: str, leaves: set[str], outputs: list[str]
    ) -> onnxruntime.InferenceSession | None:
        nodes = sorted({index for region in regions for index in getattr(region, side)})
        if not outputs:
            return None
        source = side == "source"
        types = {name: self.types[name if source else self.boundaries[name].source] for name in leaves}
        return session(graph.part(nodes, types, outputs))

    def _chunks(self, regions: Sequence[Region]) -> Iterator[tuple[int, list[Region]]]:
        """Regions with their number of turns, so many at a time that tensors and weights do not take much memory."""
        for turns in sorted({self.turns(region) for region in regions}):
            for chunk in self._sized([region for region in regions if self.turns(region) == turns]):
                yield turns, chunk

    def _sized(self, regions: Sequence[Region]) -> Iterator[list[Region]]:
        chunk: list[Region] = []
        size = 0
        for region in regions:
            names = {*region.source_reads, *(name for i in region.source for name in self.source.nodes[i].output)}
            weights = {name for i in region.source for name in self.source.reads[i]} & self.source.constants.keys()
            size += sum(8 * math.prod(self.seen[name].shapes[0]) for name in names if name in self.seen)
            size += sum(2 * math.prod(self.source.constants[name].dims) for name in weights)
            chunk.append(region)
            if size > CHUNK:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    # -- one judgement of an error ------------------------------------------------------------------------------------

    def allowed(self, region: Region) -> float:
        """Roundings of a region by the units in the last place of its coarsest type, relative to the scale of a slice.

        Each node rounds a few times, and a sum of n terms √n times: errors of rounding add up like the steps of a
        random walk (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). Of two operands of a and b elements and a result
        of c, a sum has at most √(ab/c) terms, or a/c.
        """
        roundings = ROUNDINGS * (1 + len(region.source) + len(region.compiled))
        names = {region.boundary.source, *region.source_reads}
        for index in region.source:
            node = self.source.nodes[index]
            names.update(node.output)
            sizes = [self._size(name) for name in node.input if name]
            result = max([1, *(self._size(name) for name in node.output if name in self.seen)])
            bilinear = math.sqrt(sizes[0] * sizes[1] / result) if len(sizes) > 1 else 0.0
            roundings += math.sqrt(max([1.0, bilinear, *(size / result for size in sizes[:1])]))
        return roundings * max(UNIT.get(self.seen[name].dtype, 0.0) for name in names if name in self.seen)

    def _size(self, name: str) -> int:
        if name in self.source.constants:
            return math.prod(self.source.constants[name].dims)
        return math.prod(self.seen[name].shapes[0]) if name in self.seen else 1

    def _judge(self, region: Region, want: Array, got: Array, turn: int, result: Judgement) -> None:
        """Take one turn of a region into account."""
        allowed = self.allowed(region)
        result.allowed = max(result.allowed, allowed)
        seen = self.seen[region.boundary.source]
        if not isinstance(want, np.ndarray) or not isinstance(got, np.ndarray) or want.ndim != len(seen.shapes[0]):
            result.error, result.why = math.inf, "it cannot be compared"
            return
        if region.source:
            self._judge_claims(region, want, allowed, result)
        want = region.boundary.cut(want)
        if want.shape != got.shape or want.dtype != got.dtype:
            result.error, result.why = (
                math.inf,
                f"it is {got.dtype} {list(got.shape)}, not {want.dtype} {list(want.shape)}",
            )
            return
        if not want.size:
            return
        axis = next(iter(region.boundary.slices), None if want.ndim < 2 else want.ndim - 1 if want.ndim == 3 else 1)
        steps = any(self._steps(node) for node in self._nodes(region))
        if want.dtype.kind != "f":
            apart = np.not_equal(want, got)
            if not apart.any():
                return
            few = steps and apart.mean() <= min(0.02, STEPS * allowed)
            if not few or (np.abs(want.astype(np.float64) - got.astype(np.float64)) > 1).any():
                result.error, result.at, result.why = (
                    math.inf,
                    _place(apart, axis),
                    f"{apart.sum()} of {want.size} elements differ",
                )
            return
        error, scale, why = _difference(want, got, axis)
        if why:
            result.error, result.why = math.inf, why
            return
        relative = error / scale
        if steps and relative.max() > allowed:
            outside = relative > allowed
            if outside.mean() <= min(0.02, STEPS * allowed) and not (relative > STEP).any():
                return
        elif allowed < relative.max() < MOST:
            condition = self.condition(region, want, turn, axis)
            most = np.inf if len(region.compiled) < 2 else MOST_CONDITION * scale
            relative = error / np.maximum(scale, np.minimum(condition, most))
        worst = float(relative.max())
        if not worst <= result.error:
            result.error = worst
            if not worst <= allowed and axis is not None:
                result.at = axis, int(relative.max(axis=_others(relative, axis)).argmax())

    def _judge_nodes(self, region: Region) -> Judgement:
        """A region of one node on each side agrees if these are the same and read the same."""
        pairs = {n: self.boundaries[n].source for n in region.compiled_reads if not self.boundaries[n].slices} | {
            "": ""
        }
        one = len(region.compiled) == len(region.source) == 1 and not region.boundary.slices
        if one and self.compiled.same_as(self.source, region.compiled[0], region.source[0], pairs):
            return Judgement()
        return Judgement(math.inf, why="it is random, and not made by the same node")

    def _judge_claims(self, region: Region, want: Array, allowed: float, result: Judgement) -> None:
        """Note slices that are not the constants that they are claimed to be."""
        for axis, (slices, constants) in self.claims.get(region.boundary.source, {}).items():
            rows = want.astype(np.float64).take(slices, axis)
            rows = np.moveaxis(rows, axis, 0).reshape(len(slices), want.size // want.shape[axis])
            off = np.abs(rows - constants[:, None]).max(axis=1, initial=0)
            top = float(np.abs(want[np.isfinite(want)]).max(initial=0)) if want.dtype.kind == "f" else 0.0
            wrong = slices[~(off <= allowed * np.maximum(np.abs(constants), top))]
            if len(wrong):
                result.refuted[axis] = np.union1d(result.refuted.get(axis, wrong), wrong)

    def condition(self, region: Region, want: Array, turn: int, axis: int | None) -> Array:
        """How far each slice of the source's result moves with relative movements of all that the region reads and makes.

        To first order a rounding of a tensor moves the result so far, in units of that rounding (Higham, Accuracy and
        Stability of Numerical Algorithms, 2002, chapter 3); this is larger than the result where terms cancel.
        """
        name = region.boundary.source
        inner = {n for i in region.source for n in self.source.nodes[i].output if n != name}
        floats = sorted(n for n in inner | region.source_reads if n in self.seen and self.seen[n].dtype in UNIT)
        unit = MOVE * max([UNIT[self.seen[n].dtype] for n in floats], default=1.0)
        moved = np.zeros(1)
        for pattern in range(2 if region.source else 0):
            rng = np.random.default_rng([pattern, self.seed])
            factors = {n: self._factors(n, turn, rng) for n in floats}
            part = self.source.part(region.source, {n: self.types[n] for n in region.source_reads}, [name], factors)
            (array,) = session(part).run([name], {f"{n}·": self.fresh(n, turn) for n in region.source_reads})
            other = region.boundary.cut(array).astype(np.float64)
            with np.errstate(all="ignore"):
                step = np.nan_to_num(np.abs(other - want.astype(np.float64)), posinf=0.0)
            moved = np.maximum(moved, step.max(axis=_others(step, axis), initial=0, keepdims=True) / unit)
        return moved

    def _factors(self, name: str, turn: int, rng: np.random.Generator) -> Array:
        """Numbers by which the elements of a tensor move by `MOVE` units up or down."""
        seen = self.seen[name]
        shape = seen.shapes[turn % len(seen.shapes)]
        signs = np.sign(_drawn(_NORMAL, rng, math.prod(shape))).reshape(shape)
        return (1 + MOVE * UNIT[seen.dtype] * signs).astype(seen.dtype)

    def _nodes(self, region: Region) -> Iterator[NodeProto]:
        yield from (self.source.nodes[i] for i in region.source)
        yield from (self.compiled.nodes[i] for i in region.compiled)

    def _steps(self, node: NodeProto) -> bool:
        if node.op_type == "Cast":
            to = next((a.i for a in node.attribute if a.name == "to"), 0)
            return to not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        inner = (
            n
            for a in node.attribute
            for body in ([a.g] if a.type == AttributeProto.GRAPH else a.graphs)
            for n in body.node
        )
        return node.op_type in STEPPING or any(self._steps(n) for n in inner)


def _others(array: Array, axis: int | None) -> tuple[int, ...]:
    """All axes but this one."""
    return tuple(a for a in range(array.ndim) if a != axis)


def _place(apart: Array, axis: int | None) -> tuple[int, int] | None:
    return None if axis is None else (axis, int(apart.sum(axis=_others(apart, axis)).argmax()))


def _difference(want: Array, got: Array, axis: int | None) -> tuple[Array, Array, str]:
    """The error of each element and the scale of each slice along the axis; a sentence where they cannot be compared."""
    one, two = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], two[~finite], equal_nan=True):
        return one, one, "its NaNs or infinities are in other places"
    one, two = np.where(finite, one, 0), np.where(finite, two, 0)
    if not np.isfinite(two).all():
        return one, one, "its NaNs or infinities are in other places"
    size = np.abs(one)
    scale = size.max(axis=_others(one, axis), keepdims=True)
    typical = TYPICAL * _low_quartile(size, axis)
    scale = np.where(typical > 0, np.minimum(scale, typical), scale)
    top = float(scale.max()) or 1.0
    return np.abs(one - two), size + np.maximum(scale, LEAST_SCALE * top), ""


def _low_quartile(size: Array, axis: int | None) -> Array:
    """The element of each slice, of those that are not zero, than which a quarter is smaller; 0 where there are few."""
    rows = size.reshape(1, -1) if axis is None else np.moveaxis(size, axis, 0).reshape(size.shape[axis], -1)
    rows = rows[:, :: max(1, rows.shape[1] // 512)]
    found = np.sort(np.where(rows > 0, rows, np.inf), axis=1)
    count = (rows > 0).sum(axis=1)
    quartile = np.where(count >= 8, found[np.arange(len(found)), count // 4 if rows.shape[1] else 0], 0)
    shape = [1] * size.ndim
    if axis is not None:
        shape[axis] = size.shape[axis]
    return quartile.reshape(shape)


def proved(checker: Checker, judged: Mapping[str, Judgement]) -> set[str]:
    """The boundaries that hold by induction over the nodes of both models, in order."""
    regions = {target: checker.region(target) for target in judged}
    position = checker.source.maker
    holding = {name for name in checker.source.inputs if name not in checker.claims}
    for target in sorted(regions, key=lambda t: position.get(regions[t].boundary.source, -1)):
        region, judgement = regions[target], judged[target]
        claimed = {name for name in region.source_reads if name in checker.claims}
        if region.source and not judgement.refuted and claimed <= holding:
            holding.add(region.boundary.source)
    done = set(checker.compiled.inputs)
    for target in sorted(regions, key=lambda t: checker.compiled.maker.get(t, -1)):
        region = regions[target]
        claimed = {
            name
            for name in {
                *region.source_reads,
                *(checker.boundaries[c].source for c in region.compiled_reads if c in checker.boundaries),
            }
            if name in checker.claims
        }
        if judged[target].agrees and region.compiled_reads <= done and claimed <= holding:
            done.add(target)
    return done


def whole(checker: Checker, done: set[str]) -> list[str]:
    """The outputs that are proved to be those of the source, whole."""
    return [
        name
        for name in checker.compiled.outputs
        if name in done
        and (
            name in checker.compiled.inputs
            or (checker.boundaries[name].source == name and not checker.boundaries[name].slices)
        )
    ]
