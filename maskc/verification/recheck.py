"""Region-wise equivalence of two ONNX models, by certificate: `python recheck.py SOURCE COMPILED CERTIFICATE`.

Needs onnx, numpy and onnxruntime, and nothing of the compiler that wrote the files.

A *boundary* pairs a tensor c of the compiled model with slices of a tensor x of the source: c = x[slices]. A *claim*
says that a slice of x holds one constant, whatever the inputs are. What lies between boundaries is a *region*. Both of
its sides are run on the same random values at the boundaries that it reads, in which the claims hold.

Nothing is believed. A claim holds if the claims that its region reads hold and the source makes that constant of random
values; c is x[slices] if both sides of its region agree and all that it reads is proved. Regions read what comes before
them, so by induction the outputs agree for all inputs: as far as random values show that a region agrees for all, and
with each operator as ONNX Runtime has it.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
Slices = Mapping[int, Array]  # by axis, those that are held
Claims = Mapping[int, tuple[Array, Array]]  # by axis, slices and the constant of each

VERSION = 1
SPARSE = 8  # of sparse values one of so many is not zero, so that an error in one weight stands out of its sum
ROUNDINGS = 4.0  # of each node, beside those of its sum
STEPS = 512.0  # share of the results of rounding operators that may be one step off, in roundings
STEP = 1 / 8  # largest step, relative to the scale
MOST = 1e-2  # no error of that size is one of rounding
MOVE = 4096.0  # roundings by which tensors are moved to measure a condition
CONDITION = 16.0  # largest condition that is believed of a region that took boundaries in
TYPICAL = 64.0  # a scale is at most so many times what a quarter is below: a mask of -1e9 is none
WIDE = 100.0  # spread of values in every third turn of a region that took boundaries in, so that nothing there is dead
LEAST = 1e-3  # least scale of a slice, relative to the largest
THREADED = 1 << 16  # elements of a tensor from which on threads pay
CHUNK = 64 << 20  # bytes of tensors and weights at a time, about

NUMPY = {
    np.dtype(t): helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split()
}
NUMPY[np.dtype(object)] = TensorProto.STRING
UNIT = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators with steps, at which a rounding before them is no rounding after them.
STEPPING = frozenset(
    "ArgMax ArgMin BitShift Ceil DynamicQuantizeLinear Equal Floor Greater GreaterOrEqual Hardmax Less LessOrEqual Mod "
    "NonMaxSuppression NonZero QuantizeLinear Round Sign TopK Unique".split()
)
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())

_POOL = 1 << 20
_NORMAL = np.tile(np.random.default_rng(7).standard_normal(_POOL, np.float32), 2)
_ABSENT = np.tile(np.random.default_rng(8).integers(0, SPARSE, _POOL, np.int8) != 0, 2)


class Graph:
    """The nodes of a model without local functions, what makes each tensor, and what each node reads, bodies included.

    folder: where external data are.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None) -> None:
        self.model = onnx.inliner.inline_local_functions(model) if model.functions else model
        self.folder, graph = folder, self.model.graph
        self.nodes: Sequence[NodeProto] = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [list(dict.fromkeys(_reads(node))) for node in self.nodes]
        #: tensors that are computed of constants alone
        self.fixed: set[str] = set(self.constants) | sparse
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in RANDOM and all(name in self.fixed for name in names):
                self.fixed.update(name for name in node.output if name)

    def closure(self, target: str, cut: Collection[str]) -> tuple[list[int], set[str]]:
        """The nodes that make a tensor of what is cut and of inputs, in order, and what they read of both."""
        seen, leaves = set[int](), set[str]()
        todo = [self.maker[target]] if target in self.maker else []
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            for name in self.reads[index]:
                if name in cut or (name not in self.maker and name not in self.fixed):
                    leaves.add(name)
                elif name in self.maker:
                    todo.append(self.maker[name])
        return sorted(seen), leaves

    def part(
        self,
        nodes: Iterable[int],
        leaves: Mapping[str, np.dtype[Any]],
        outputs: Sequence[str],
        factors: Mapping[str, Array] | None = None,
    ) -> ModelProto:
        """A model of these nodes in which leaves are inputs, named `leaf·`; they may be computed here as well.

        factors: what tensors are multiplied by before they are read.
        """
        graph, factors = onnx.GraphProto(name="part"), factors or {}
        names = {leaf: f"{leaf}·" for leaf in leaves}

        def move(name: str, value: str) -> None:
            graph.initializer.append(numpy_helper.from_array(factors[name], f"{name}·by"))
            graph.node.add(op_type="Mul", input=[value, f"{name}·by"], output=[f"{name}·moved"])
            names[name] = f"{name}·moved"

        for leaf in leaves:
            if leaf in factors:
                move(leaf, f"{leaf}·")
        read: set[str] = set()
        for index in nodes:
            node = graph.node.add()
            node.CopyFrom(self.nodes[index])
            _rename(node, names)
            read.update(name for name in self.reads[index] if name not in leaves)
            for name in node.output:
                if name in factors and name not in leaves:
                    move(name, name)
        graph.initializer.extend(self.embedded(name) for name in sorted({*read, *outputs} & self.constants.keys()))
        graph.sparse_initializer.extend(t for t in self.model.graph.sparse_initializer if t.values.name in read)
        for leaf, dtype in leaves.items():
            graph.input.append(helper.make_tensor_value_info(f"{leaf}·", NUMPY[dtype], None))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = min(self.model.ir_version, 11)
        return model

    def embedded(self, name: str) -> TensorProto:
        """An initializer with its data."""
        tensor: TensorProto = self.constants[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        copy = TensorProto()
        copy.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(copy, str(self.folder or Path()))
        copy.data_location = TensorProto.DEFAULT
        del copy.external_data[:]
        return copy

    def digest(self) -> str:
        """A hash of the model and its weights."""
        found = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        for tensor in self.constants.values():
            if tensor.data_location == TensorProto.EXTERNAL:
                found.update(self.embedded(tensor.name).raw_data)
        return found.hexdigest()


def _bodies(node: NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _own(body: onnx.GraphProto) -> set[str]:
    """Names of what a body defines itself."""
    named = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    return named | {name for inner in body.node for name in inner.output}


def _reads(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, those that its bodies take from outside included."""
    yield from (name for name in node.input if name)
    for body in _bodies(node):
        own = _own(body)
        yield from (name for inner in body.node for name in _reads(inner) if name not in own)
        yield from (value.name for value in body.output if value.name not in own)


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read tensors by other names, in its bodies as well."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in _bodies(node):
        own = _own(body)
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            _rename(inner, outer)
        for value in body.output:
            if value.name in outer:
                body.node.add(op_type="Identity", input=[outer[value.name]], output=[value.name])


def session(model: ModelProto, elements: int) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime on the CPU, each operator as it is written and 8-bit products exact.

    elements: how many numbers it reads, about; few do not pay for threads.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1 if elements < THREADED else 0
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
    at, step = 0, 256
    while at < len(graph.nodes):
        nodes = range(at, min(at + step, len(graph.nodes)))
        made = [name for i in nodes for name in graph.nodes[i].output if name]
        leaves = {n: live[n][0].dtype for i in nodes for n in graph.reads[i] if n in live and n not in made}
        runs = session(graph.part(nodes, leaves, made), max((live[name][0].size for name in leaves), default=0))
        values = [runs.run(made, {f"{name}·": live[name][k] for name in leaves}) for k in range(len(feeds))]
        shown = {
            name: list(arrays)
            for name, arrays in zip(made, zip(*values, strict=True), strict=True)
            if all(isinstance(array, np.ndarray) and array.dtype in NUMPY for array in arrays)
        }
        if any(last.get(name, -1) >= nodes.stop for name in made if name not in shown):
            step *= 2  # what cannot be handed on is read later
            continue
        for name, arrays in shown.items():
            visit(name, arrays)
        live = {name: arrays for name, arrays in (live | shown).items() if last.get(name, -1) >= nodes.stop}
        size = sum(array.nbytes for arrays in shown.values() for array in arrays)
        at, step = nodes.stop, max(8, min(2 * step, step * CHUNK // max(size, 1)))


@dataclass
class Seen:
    """A tensor of the source in runs: its shape in each, its spread, and its values if it has integers."""

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
        few = first.reshape(-1)[:: max(1, first.size >> 16)].astype(np.float64)
        few = few[np.isfinite(few)]
        if not few.size:
            return cls(shapes, first.dtype)
        low = min(float(np.fmin.reduce(array, axis=None, initial=np.inf)) for array in arrays)
        high = max(float(np.fmax.reduce(array, axis=None, initial=-np.inf)) for array in arrays)
        mean, spread = float(few.mean()), float(few.std())
        return cls(shapes, first.dtype, mean, spread or abs(mean) or 1.0, low, high)


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
    """What lies between a boundary and those that it reads, on both sides: indices of nodes, and the tensors read."""

    target: str
    boundary: Boundary
    compiled: tuple[int, ...]
    compiled_reads: frozenset[str]
    source: tuple[int, ...]
    source_reads: frozenset[str]


@dataclass
class Judgement:
    """The largest error of a region and what is allowed, relative to the scale of a slice; `at` is its axis and index.

    refuted: by axis, slices of the source's tensor that are not the constants that they were claimed to be. condition:
    of slices, relative to their scale, on the last values on which it was measured. plain: the
    error without regard to it.
    """

    error: float = 0.0
    allowed: float = 0.0
    at: tuple[int, int] | None = None
    why: str = ""
    refuted: dict[int, Array] = field(default_factory=dict)
    condition: Array | None = None
    plain: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether both sides agree."""
        return self.error <= self.allowed

    def fail(self, why: str) -> None:
        """Note what is no matter of rounding."""
        self.error, self.why = math.inf, why


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
        boundary, held = self.boundaries[target], self.boundaries
        nodes, reads = self.compiled.closure(target, held if boundary.reads is None else boundary.reads)
        ends = {held[name].source for name in (held if boundary.reads is None else reads) if name in held}
        twins, needed = self.source.closure(boundary.source, ends)
        if any(held[name].source == boundary.source for name in reads if name in held):
            twins, needed = [], {boundary.source}  # slices of what is read
        return Region(target, boundary, tuple(nodes), frozenset(reads), tuple(twins), frozenset(needed))

    def fresh(self, name: str, turn: int) -> Array:
        """Random values of a tensor of the source, in which its claims hold: as seen, or sparse and wider, in turn.

        Below 0 they are as wide as in no run.
        """
        seen = self.seen[name]
        if seen.values is not None:
            return seen.values[turn % len(seen.values)]
        rng = np.random.default_rng([zlib.crc32(name.encode()), turn % 65_536, self.seed])
        shape = seen.shapes[turn % len(seen.shapes)]
        values = _drawn(_NORMAL, rng, math.prod(shape))
        values *= seen.spread * (WIDE if turn < 0 else 3 if turn % 2 else 1)
        if turn % 2:
            values[_drawn(_ABSENT, rng, values.size)] = 0
        else:
            values += seen.mean
        if seen.low >= 0:
            np.maximum(np.abs(values), seen.low, out=values)
        elif seen.high <= 0:
            np.minimum(-np.abs(values), seen.high, out=values)
        if seen.dtype == np.float16:
            np.clip(values, -6e4, 6e4, out=values)
        values = values.reshape(shape).astype(seen.dtype)
        for axis, (slices, constants) in self.claims.get(name, {}).items():
            values[(slice(None),) * axis + (slices,)] = constants.reshape(-1, *[1] * (len(shape) - axis - 1))
        return values

    def turns(self, region: Region) -> range:
        """The turns in which a region is run: more often where there are few places at which it computes the same."""
        shape = self.seen[region.boundary.source].shapes[0]
        places = math.prod(shape) / max(shape, default=1) if math.prod(shape) else 64
        times = next(times for least, times in ((64, 2), (16, 8), (0, 24)) if places >= least)
        return range(-times // 2 if self._took_in(region) else 0, times)

    def _took_in(self, region: Region) -> bool:
        """Whether there are tensors inside that could be boundaries."""
        inner = {name for i in region.compiled for name in self.compiled.nodes[i].output} - {region.target}
        return region.boundary.reads is not None or bool(inner & self.source.maker.keys())

    def check(self, regions: Sequence[Region], *, briefly: bool = False) -> dict[str, Judgement]:
        """Run regions that end at the same boundaries; briefly: twice. Raises what ONNX Runtime does."""
        found = {region.target: Judgement(allowed=self.allowed(region)) for region in regions}
        same = {r.target for r in regions if r.boundary.source not in self.claims and self._same_nodes(r)}
        for region in regions:
            if region.target not in same and any(node.op_type in RANDOM for node in self._nodes(region)):
                found[region.target].fail("it is random, and not made by the same node")
        run = [r for r in regions if r.target not in same and not found[r.target].why]
        for turns, chunk in self._chunks(run):
            reads = {name for region in chunk for name in region.source_reads}
            held = {name for region in chunk for name in region.compiled_reads}
            twins = list(dict.fromkeys(region.boundary.source for region in chunk if region.source))
            targets = [region.target for region in chunk]
            nodes = sorted({index for region in chunk for index in region.source})
            most = max((self._size(name) for name in reads), default=0)
            one = session(self.source.part(nodes, {n: self.types[n] for n in reads}, twins), most) if twins else None
            nodes = sorted({index for region in chunk for index in region.compiled})
            types = {name: self.types[self.boundaries[name].source] for name in held}
            two = session(self.compiled.part(nodes, types, targets), most)
            for turn in range(2) if briefly else turns:
                values = {name: self.fresh(name, turn) for name in reads | {self.boundaries[c].source for c in held}}
                feeds = {f"{name}·": values[name] for name in reads}
                wanted = dict(zip(twins, one.run(twins, feeds), strict=True)) if one else {}
                feeds = {
                    f"{n}·": np.asarray(b.cut(values[b.source]), order="C") for n in held if (b := self.boundaries[n])
                }
                for region, got in zip(chunk, two.run(targets, feeds), strict=True):
                    name = region.boundary.source
                    want = wanted[name] if region.source else self.fresh(name, turn)
                    self._judge(region, want, got, turn, found[region.target])
        return found

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

    def allowed(self, region: Region) -> float:
        """Roundings of a region in units of its coarsest type, relative to the scale of a slice.

        Each node rounds a few times, and a sum of n terms √n times, as errors of rounding add up like the steps of a
        random walk (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). With two operands of a and b elements and a result
        of c a sum has at most √(ab/c) terms, or a/c. Recurrent layers round once more at each step.
        """
        roundings = ROUNDINGS * (1 + len(region.source) + len(region.compiled))
        names = {region.boundary.source, *region.source_reads}
        for index in region.source:
            node = self.source.nodes[index]
            names.update(node.output)
            sizes = [self._size(name) for name in node.input[:2] if name]
            result = max([1, *(self._size(name) for name in node.output if name in self.seen)])
            product = math.sqrt(sizes[0] * sizes[1] / result) if len(sizes) > 1 else 0.0
            steps = (
                self.seen[node.input[0]].shapes[0][0] if node.op_type in RECURRENT and node.input[0] in self.seen else 1
            )
            roundings += steps * math.sqrt(max([1.0, product, *(size / result for size in sizes[:1])]))
        return roundings * max(UNIT.get(self.types[name], 0.0) for name in names if name in self.types)

    def _size(self, name: str) -> int:
        dims = self.source.constants[name].dims if name in self.source.constants else None
        return math.prod(self.seen[name].shapes[0] if name in self.seen else ()) if dims is None else math.prod(dims)

    def _judge(self, region: Region, want: Array, got: Array, turn: int, result: Judgement) -> None:
        """Take one turn of a region into account."""
        allowed = result.allowed
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
            apart = np.not_equal(want, got)
            few = steps and want.dtype.kind != "O" and apart.mean() <= min(0.02, STEPS * allowed)
            if not few or (np.abs(want.astype(np.float64) - got.astype(np.float64)) > 1).any():
                result.fail(f"{apart.sum()} of {want.size} elements differ")
                result.at = _worst(apart, axis)
            return None
        one, two = want.astype(np.float64), got.astype(np.float64)
        if not np.array_equal(one[np.isinf(one)], two[np.isinf(one)]) or not np.isfinite(two[np.isfinite(one)]).all():
            return result.fail("its NaNs or infinities are in other places")
        finite = np.isfinite(one)  # where the source has no number, any will do
        one, two = np.where(finite, one, 0), np.where(finite, two, 0)
        error, scale = np.abs(one - two), _scale(np.abs(one), axis)
        relative = error / scale
        result.plain = max(result.plain, float(relative.max()))
        if steps and relative.max() > allowed:
            if (relative > allowed).mean() <= min(0.02, STEPS * allowed) and not (relative > STEP).any():
                return None
        elif allowed < relative.max() < MOST:
            largest = scale.max(axis=_others(scale, axis), keepdims=True)
            most = CONDITION if region.boundary.reads is not None else np.inf
            for known in (result.condition, None):  # that of another turn often does
                if known is None:
                    known = result.condition = self._condition(region, one, turn, axis) / largest
                relative = error / np.maximum(scale, largest * np.minimum(known, most))
                if relative.max() <= allowed:
                    break
        worst = float(relative.max())
        if not worst <= result.error:
            result.error = worst
            result.at = _worst(relative, axis) if not worst <= allowed else None
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
        for pattern in range(2 if region.source and floats else 0):
            rng = np.random.default_rng([pattern, self.seed])
            factors = {n: self._factor(n, turn, rng) for n in floats}
            part = session(
                self.source.part(region.source, types, [name], factors), max(map(self._size, types), default=0)
            )
            (array,) = part.run([name], {f"{n}·": self.fresh(n, turn) for n in types})
            step = np.nan_to_num(np.abs(region.boundary.cut(array).astype(np.float64) - want), posinf=0.0)
            unit = MOVE * max(UNIT[self.types[n]] for n in floats)
            moved = np.maximum(moved, step.max(axis=_others(step, axis), initial=0, keepdims=True) / unit)
        return moved

    def _factor(self, name: str, turn: int, rng: np.random.Generator) -> Array:
        """Numbers by which the elements of a tensor move by `MOVE` roundings up or down."""
        seen = self.seen[name]
        shape = seen.shapes[turn % len(seen.shapes)]
        signs = np.sign(_drawn(_NORMAL, rng, math.prod(shape))).reshape(shape)
        return np.asarray((1 + MOVE * UNIT[seen.dtype] * signs).astype(seen.dtype))

    def _nodes(self, region: Region) -> Iterator[NodeProto]:
        yield from (self.source.nodes[i] for i in region.source)
        yield from (self.compiled.nodes[i] for i in region.compiled)

    def _same_nodes(self, region: Region) -> bool:
        """Whether both sides are one node with the same attributes and weights that reads the same."""
        if len(region.compiled) != 1 or len(region.source) != 1 or region.boundary.slices:
            return False
        one, two = self.source.nodes[region.source[0]], self.compiled.nodes[region.compiled[0]]
        if (one.op_type, one.domain, len(one.input)) != (two.op_type, two.domain, len(two.input)) or any(_bodies(one)):
            return False
        if sorted(map(_bytes, one.attribute)) != sorted(map(_bytes, two.attribute)):
            return False
        held = {n: self.boundaries[n].source for n in region.compiled_reads if not self.boundaries[n].slices}
        before, after = self.source.constants, self.compiled.constants
        return all(
            held.get(b, b if not b else None) == a
            or (a in before and b in after and _data(before[a]) == _data(after[b]) != b"")
            for a, b in zip(one.input, two.input, strict=True)
        ) and list(one.output).index(region.boundary.source) == list(two.output).index(region.target)


def _bytes(attribute: AttributeProto) -> bytes:
    return bytes(attribute.SerializeToString(deterministic=True))


def _data(tensor: TensorProto) -> bytes:
    """Type, sizes and elements of a tensor; nothing where it is in another file."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return b""
    array = numpy_helper.to_array(tensor)
    return b"%d %s " % (tensor.data_type, str(array.shape).encode()) + array.tobytes()


def _drawn(pool: Array, rng: np.random.Generator, size: int) -> Array:
    """So many elements of a pool from a random place on."""
    start = int(rng.integers(_POOL))
    return np.resize(pool[start:], size) if size > _POOL else pool[start : start + size].copy()


def _steps(node: NodeProto) -> bool:
    if node.op_type == "Cast":
        return next((a.i for a in node.attribute if a.name == "to"), 0) not in FLOATS
    return node.op_type in STEPPING or any(_steps(inner) for body in _bodies(node) for inner in body.node)


def _others(array: Array, axis: int | None) -> tuple[int, ...]:
    return tuple(a for a in range(array.ndim) if a != axis)


def _worst(error: Array, axis: int | None) -> tuple[int, int] | None:
    return None if axis is None else (axis, int(error.max(axis=_others(error, axis)).argmax()))


def _scale(size: Array, axis: int | None) -> Array:
    """The scale of each element: its size and the largest of its slice, unless that is far from typical."""
    largest = size.max(axis=_others(size, axis), keepdims=True)
    rows = size.reshape(1, -1) if axis is None else np.moveaxis(size, axis, 0).reshape(size.shape[axis], -1)
    rows = rows[:, :: max(1, rows.shape[1] >> 9)]
    count = (rows > 0).sum(axis=1)
    quarter = np.sort(np.where(rows > 0, rows, np.inf), axis=1)[np.arange(len(rows)), count // 4 * (count >= 8)]
    typical = np.where(count >= 8, TYPICAL * quarter, np.inf).reshape(largest.shape)
    scale = np.minimum(largest, typical)
    return np.asarray(size + np.maximum(scale, LEAST * (float(scale.max()) or 1.0)))


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
    held, before, after = checker.boundaries, checker.source.constants, checker.compiled.constants
    return [
        n
        for n in checker.compiled.outputs
        if (n in done and held[n].source == n and not held[n].slices)
        or (n in before and n in after and _data(before[n]) == _data(after[n]))
    ]
