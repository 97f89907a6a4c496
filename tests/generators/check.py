"""What must hold between a model and what the compiler made of it.

`check` does everything for one model. Its parts can be called alone:

* `assert_same_function`: both agree to rounding in ONNX Runtime, on the same inputs, at several sizes;
* `assert_exact`: the same in double precision, where a wrong formula cannot hide behind rounding;
* `assert_well_formed`: the signature, the validity of the graph, its cost, its size, no rubbish left;
* `assert_explained`: every masked channel that stayed is named in the report.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from maskc.frontend.graph_queries import all_graphs as graphs
from maskc.verification.double_precision import Evaluator, has_double, to_double, widen
from passes import count, shrink
from passes.model.inputs_with_defaults import opened
from passes.pipeline.report import Report
from passes.planning import planner
from tests.generators.builder import Network

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

ort.set_default_logger_severity(4)

_TOLERANCE = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2e-2}


class Shrunk(Protocol):
    """What `passes.shrink` returns."""

    @property
    def model(self) -> ModelProto: ...
    @property
    def report(self) -> Report: ...


class CannotRunError(Exception):
    """Neither ONNX Runtime nor the reference evaluator has every operator of the model."""


# -- inputs -----------------------------------------------------------------------------------------


def required_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that have no initializer."""
    held = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in held]


def random_feeds(
    model: ModelProto,
    seed: int,
    sizes: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> Feeds:
    """Inputs for the model: normal floats, integers within `ranges` (0 or 1 if not given), fair coins.

    `sizes` gives the symbolic dimensions; those it does not name are 2.
    """
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in required_inputs(model):
        kind = info.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else (sizes or {}).get(d.dim_param, 2) for d in kind.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if dtype.kind == "b":
            feeds[info.name] = np.asarray(rng.random(shape) < 0.5)
        elif dtype.kind in "iu":
            low, high = (ranges or {}).get(info.name, (0, 2))
            feeds[info.name] = rng.integers(low, high, size=shape).astype(dtype)
        else:
            feeds[info.name] = rng.normal(size=shape).astype(dtype)
    return feeds


def all_sizes(model: ModelProto, symbols: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """One choice of sizes per entry of the longest list in `symbols` for a dimension of the model."""
    present = {
        d.dim_param for info in required_inputs(model) for d in info.type.tensor_type.shape.dim if d.dim_value <= 0
    }
    used = {name: list(symbols.get(name, (1, 3))) for name in sorted(present)}
    longest = max((len(values) for values in used.values()), default=1)
    return [{name: values[min(i, len(values) - 1)] for name, values in used.items()} for i in range(longest)]


# -- running ----------------------------------------------------------------------------------------


class Runner:
    """Runs a model in ONNX Runtime on the CPU, or in numpy where that lacks an operator for the type."""

    def __init__(self, model: ModelProto, *, optimize: bool = True) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize or _optimized_badly(model):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._evaluator: Evaluator | None = None
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if "NOT_IMPLEMENTED" not in str(error):
                raise
            if not has_double(model):
                raise CannotRunError(str(error)) from error
            self._evaluator = Evaluator(model)

    def __call__(self, feeds: Feeds) -> list[Any]:
        if self._evaluator is not None:
            return self._evaluator(feeds)
        return list(self._session.run(None, feeds))


def _optimized_badly(model: ModelProto) -> bool:
    """Whether ONNX Runtime 1.31 computes something else when it optimises the model.

    In double its fusions round to single; with dequantised weights a product quantises its other operand.
    """
    return (
        any(t.data_type == TensorProto.DOUBLE for t in model.graph.initializer)
        or any(i.type.tensor_type.elem_type == TensorProto.DOUBLE for i in model.graph.input)
        or any(
            n.op_type == "DequantizeLinear" or any(a.t.data_type == TensorProto.DOUBLE for a in n.attribute)
            for n in model.graph.node
        )
    )


def _deviation(a: Array, b: Array) -> float:
    """The largest difference; infinite where one is not finite and the other is, or is another such."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if odd.any():
        same = (np.isnan(a) & np.isnan(b)) | (a == b)
        if not same[odd].all():
            return float("inf")
        a, b = a[~odd], b[~odd]
    return float(np.abs(a - b).max(initial=0.0))


def _scale(a: Array) -> float:
    a = a.astype(np.float64)
    return float(np.abs(a[np.isfinite(a)]).max(initial=0.0))


def perturbed(model: ModelProto, seed: int) -> ModelProto:
    """The model with every floating-point constant moved by about one unit in its last place."""
    rng = np.random.default_rng(seed)
    copy = ModelProto()
    copy.CopyFrom(model)
    tensors = [t for graph in graphs(copy.graph) for t in graph.initializer]
    tensors += [
        a.t
        for graph in graphs(copy.graph)
        for node in graph.node
        if node.op_type == "Constant"
        for a in node.attribute
        if a.name == "value"
    ]
    for tensor in tensors:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            array = numpy_helper.to_array(tensor)
            if array.size == 0 or np.isin(array, (0, 1)).all() or tensor.name.startswith("scales"):
                continue  # masks and operands that must stay what they are
            moved = array * (1 + rng.uniform(-1, 1, array.shape) * np.finfo(array.dtype).eps)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(array.dtype), tensor.name))
    return copy


def _jitter(feeds: Feeds, seed: int) -> Feeds:
    """The inputs moved by about one unit in their last place."""
    rng = np.random.default_rng(seed)
    return {
        name: (x * (1 + rng.uniform(-1, 1, x.shape) * np.finfo(x.dtype).eps)).astype(x.dtype)
        if isinstance(x, np.ndarray) and x.dtype.kind == "f"
        else x
        for name, x in feeds.items()
    }


# -- the function -----------------------------------------------------------------------------------


def assert_same_function(
    reference: ModelProto,
    compiled: ModelProto,
    *,
    symbols: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    samples: int = 2,
    seed: int = 0,
    rtol: float | None = None,
    optimize: bool = True,
    run: Any = Runner,
    cases: Sequence[Feeds] | None = None,
) -> dict[str, float]:
    """Both models give the same outputs on the same random inputs, at every choice of sizes, or on `cases`.

    The error of an output is measured against the output's own scale, the largest magnitude over all runs.
    `rtol` defaults to 1e-5 in single, 2e-2 in half and 1e-10 in double precision. Where the error is larger,
    the limit is raised to ten times the distance that the reference itself moves when its constants and
    inputs are rounded differently, or nothing is rounded.

    Returns the error of each output in units of its scale.

    Raises:
        CannotRunError: the reference does not run, so nothing was compared.
        AssertionError: the outputs differ in number, type, shape or value; the text names the output and the
        graphs.
    """
    arguments = {} if run is not Runner else {"optimize": optimize}
    try:
        first = run(reference, **arguments)
    except CannotRunError:
        raise
    except Exception:
        if run is not Runner:
            raise
        arguments = {"optimize": False}  # ONNX Runtime's own optimisers fail on some valid graphs
        first = run(reference, **arguments)
    try:
        second = run(compiled, **arguments)
    except Exception as error:
        if "pool_attributes.h" not in str(error):
            raise
        # ONNX Runtime 1.31 merges a Pad into the pooling behind it even if the kernel is too small.
        arguments = {"optimize": False}
        first, second = run(reference, **arguments), run(compiled, **arguments)
    cases = cases or [
        random_feeds(reference, seed + 100 * i + k, sizes, ranges)
        for i, sizes in enumerate(all_sizes(reference, symbols or {}))
        for k in range(samples)
    ]
    try:
        expected = [first(feeds) for feeds in cases]
    except Exception as error:
        raise CannotRunError(str(error)) from error
    actual = [second(feeds) for feeds in cases]
    floors: list[float] | None = None
    errors: dict[str, float] = {}
    for k, info in enumerate(reference.graph.output):
        wanted, got = [e[k] for e in expected], [a[k] for a in actual]
        for w, g, feeds in zip(wanted, got, cases, strict=True):
            if not isinstance(w, np.ndarray):
                continue
            where = f"output {info.name} for inputs { {n: np.shape(x) for n, x in feeds.items()} }"
            assert w.dtype == g.dtype, f"{where}: {w.dtype} became {g.dtype}"
            assert w.shape == g.shape, f"{where}: shape {w.shape} became {g.shape}"
        arrays = [pair for w, g in zip(wanted, got, strict=True) for pair in _pairs(w, g)]
        if not arrays or arrays[0][0].dtype.kind not in "fiub":
            assert all(np.array_equal(w, g) for w, g in arrays), f"output {info.name} differs"
            continue
        scale = max(_scale(w) for w, _ in arrays)
        distance = max(_deviation(w, g) for w, g in arrays)
        limit = (rtol or _TOLERANCE.get(arrays[0][0].dtype, 0.0)) * scale if arrays[0][0].dtype.kind == "f" else 0.0
        errors[info.name] = distance / scale if scale else distance
        if distance <= limit:
            continue
        if floors is None:
            floors = _movement(reference, cases, expected, run, arguments)
        limit = max(limit, 10 * floors[k])
        assert distance <= limit, (
            f"output {info.name} differs by {distance:.3g} at a scale of {scale:.3g} "
            f"(the reference moves by {floors[k]:.3g})\n" + describe(reference) + "\nbecame\n" + describe(compiled)
        )
    return errors


def _pairs(wanted: Any, got: Any) -> list[tuple[Array, Array]]:
    """The arrays of an output, several if it is a sequence."""
    if isinstance(wanted, np.ndarray):
        return [(wanted, got)]
    if wanted is None:
        assert got is None
        return []
    assert len(wanted) == len(got), f"a sequence of {len(wanted)} became one of {len(got)}"
    assert all(w.shape == g.shape for w, g in zip(wanted, got, strict=True))
    return list(zip(wanted, got, strict=True))


def _movement(
    reference: ModelProto, cases: Sequence[Feeds], expected: Sequence[Sequence[Any]], run: Any, arguments: Any
) -> list[float]:
    """Per output, how far the reference moves when its constants and inputs are rounded, or nothing is."""
    moves = [0.0 for _ in reference.graph.output]

    def compare(before: Sequence[Any], after: Sequence[Any]) -> None:
        for k, (x, y) in enumerate(zip(before, after, strict=True)):
            if isinstance(x, np.ndarray) and x.dtype.kind in "fiub" and x.shape == y.shape:
                moves[k] = max(moves[k], _deviation(x, y))

    for trial in range(4):
        runner = run(perturbed(reference, trial), **arguments)
        for feeds, before in zip(cases, expected, strict=True):
            compare(before, runner(_jitter(feeds, trial)))
    if run is Runner and has_double(reference):
        with contextlib.suppress(Exception):  # what the reference evaluator lacks
            exact = Evaluator(to_double(reference))
            for feeds, before in zip(cases, expected, strict=True):
                compare(before, exact(widen(feeds)))
    return moves


def assert_exact(
    model: ModelProto,
    *,
    symbols: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    samples: int = 1,
    seed: int = 0,
    rtol: float = 1e-10,
    cases: Sequence[Feeds] | None = None,
) -> bool:
    """The model cast to double and compiled there agrees with itself to `rtol` in the reference evaluator.

    False, and nothing checked, if the model has no form in double precision.
    """
    if not has_double(model):
        return False
    wide = to_double(model)
    try:
        onnx.checker.check_model(wide, full_check=True)
    except Exception:
        return False
    assert_same_function(
        wide,
        shrink(wide).model,
        symbols=symbols,
        ranges=ranges,
        samples=samples,
        seed=seed,
        rtol=rtol,
        run=Evaluator,
        cases=[widen(feeds) for feeds in cases] if cases else None,
    )
    return True


# -- the form ---------------------------------------------------------------------------------------


def weight_bytes(model: ModelProto) -> int:
    """The bytes of all initializers and Constant nodes, subgraphs included."""
    total = 0
    for graph in graphs(model.graph):
        total += sum(len(t.SerializeToString()) for t in graph.initializer)
        total += sum(n.ByteSize() for n in graph.node if n.op_type == "Constant")
    return total


def _same_type(wanted: onnx.ValueInfoProto, got: onnx.ValueInfoProto) -> bool:
    if wanted.name != got.name:
        return False
    if not wanted.type.HasField("tensor_type"):
        return wanted.type == got.type
    a, b = wanted.type.tensor_type, got.type.tensor_type
    if a.elem_type != b.elem_type or len(a.shape.dim) != len(b.shape.dim):
        return False
    return all(
        (not x.HasField("dim_value") or x.dim_value == y.dim_value) and (not x.dim_param or x.dim_param == y.dim_param)
        for x, y in zip(a.shape.dim, b.shape.dim, strict=True)
    )


def assert_well_formed(source: ModelProto, compiled: ModelProto, sizes: Mapping[str, int] | None = None) -> None:
    """The compiled model is valid, has the source's signature, costs no more and carries no rubbish.

    Costs are compared with the symbolic dimensions as `sizes` says, so that none counts as 1 in one graph only.
    """
    onnx.checker.check_model(compiled, full_check=True)
    graph = compiled.graph
    wanted, got = required_inputs(source), required_inputs(compiled)
    assert [i.name for i in wanted] == [i.name for i in got], "the inputs are not the source's"
    for a, b in (*zip(wanted, got, strict=True), *zip(source.graph.output, graph.output, strict=True)):
        assert _same_type(a, b), f"{a.name} was declared as\n{a}\nand is now\n{b}"
    assert {o.domain: o.version for o in source.opset_import}.get("") == {
        o.domain: o.version for o in compiled.opset_import
    }.get(""), "the opset changed"
    # Version 3 demands that initializers are inputs; what can no longer be set is no input of the result.
    assert compiled.ir_version <= max(source.ir_version, 4), "the IR version rose"
    _assert_cheaper(with_sizes(source, sizes or {}), with_sizes(compiled, sizes or {}))
    spare = 1024 + compiled.ByteSize() - weight_bytes(compiled)
    assert compiled.ByteSize() <= source.ByteSize() + spare, (
        f"the file grew from {source.ByteSize()} to {compiled.ByteSize()} bytes, {weight_bytes(compiled)} of weights"
    )
    assert_no_rubbish(source, compiled)


def with_sizes(model: ModelProto, sizes: Mapping[str, int]) -> ModelProto:
    """The model with these symbolic dimensions as numbers."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for info in (*fixed.graph.input, *fixed.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value <= 0 and dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    del fixed.graph.value_info[:]
    return fixed


def _assert_cheaper(source: ModelProto, compiled: ModelProto) -> None:
    if _knows_its_shapes(source):
        before, after = count(source), count(compiled)
        assert after.flops <= before.flops, f"FLOPs rose from {before.flops} to {after.flops}"
        assert after.macs <= before.macs, f"MACs rose from {before.macs} to {after.macs}"


def _knows_its_shapes(model: ModelProto) -> bool:
    """Whether shape inference finds every size: behind a Loop it does not, and what is not known counts as 1."""
    shapes = _shapes(model, data_prop=True)
    return all(
        name in shapes and all(isinstance(dim, int) for dim in shapes[name])
        for node in model.graph.node
        for name in node.output
        if name
    )


def _shapes(model: ModelProto, *, data_prop: bool = False) -> dict[str, list[int | str | None]]:
    """What is known of the shape of each tensor: numbers, names, or nothing."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=data_prop).graph
    shapes = {
        i.name: [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in i.type.tensor_type.shape.dim]
        for i in (*graph.value_info, *graph.input, *graph.output)
        if i.type.HasField("tensor_type") and i.type.tensor_type.HasField("shape")
    }
    return shapes | {t.name: list(t.dims) for t in graph.initializer}


def _undeclared(model: ModelProto) -> ModelProto:
    """The model without the shapes that its outputs are only said to have."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    return bare


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in graphs(graph):
        for node in inner.node:
            yield from node.input
        yield from (o.name for o in inner.output)


def _was_empty(source: ModelProto, name: str, shape: list[int | str | None] | None) -> bool:
    """Whether the source's own tensor has no elements; it is run to see where inference does not tell."""
    if shape is not None and all(isinstance(d, int) for d in shape):
        return 0 in shape
    if not any(name in node.output for node in source.graph.node):
        return False
    wide = ModelProto()
    wide.CopyFrom(source)
    wide.graph.output.append(onnx.ValueInfoProto(name=name))
    return 0 in Runner(wide, optimize=False)(random_feeds(source, 0))[-1].shape


def assert_no_rubbish(source: ModelProto, compiled: ModelProto) -> None:
    """Nothing dead or empty, no product with ones, sum with zeros, Gather in order or Identity, no name twice."""
    graph = compiled.graph
    read = set(_reads(graph))
    outputs = {o.name for o in graph.output}
    inputs = {i.name for i in graph.input}
    for tensor in graph.initializer:
        assert tensor.name in read or tensor.name in inputs, f"initializer {tensor.name} is dead"
    for node in graph.node:
        assert any(o in read for o in node.output if o), f"{node.op_type} {node.name} -> {list(node.output)} is dead"
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output if o]
    assert len(names) == len(set(names)), "a tensor is defined twice"

    shapes, before = _shapes(opened(compiled)), _shapes(source)  # a default may be overridden, and sizes with it
    given = {t.name for t in source.graph.initializer}
    given |= {o for n in source.graph.node if n.op_type == "Constant" for o in n.output}
    if not any(0 in shape for name, shape in before.items() if name not in given):
        for name, shape in shapes.items():
            assert 0 not in shape or _was_empty(source, name, before.get(name)), f"{name} has shape {shape}"

    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type != TensorProto.STRING}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    proved = _shapes(_undeclared(opened(compiled)))
    for node in graph.node:
        neutral = {"Mul": 1, "Add": 0}.get(node.op_type)
        if neutral is not None:
            for one, other in (node.input, list(node.input)[::-1]):
                if one in constants and one not in inputs and (constants[one] == neutral).all():
                    grows = proved.get(node.output[0]) != proved.get(other) or other not in proved
                    assert grows, f"{node.op_type} {node.name} of {other} and {neutral} everywhere"
        if node.op_type == "Gather" and node.input[1] in constants and constants[node.input[1]].ndim == 1:
            shape, axis = shapes.get(node.input[0]), next((a.i for a in node.attribute if a.name == "axis"), 0)
            places = constants[node.input[1]]
            moves = shape is None or shape[axis] != places.size or (places != np.arange(places.size)).any()
            assert moves, f"Gather {node.name} takes all in order"
        if node.op_type == "Identity":
            kept = node.output[0] in outputs and (node.input[0] in inputs | outputs | set(constants))
            shared = node.output[0] in outputs
            assert kept or shared, f"Identity {node.name} is left"


# Operators on constants that stay: they make more of them, the same in no two runs, or weights of fewer bits.
_MAY_STAY = {
    "ConstantOfShape",
    "DequantizeLinear",
    "Expand",
    "Identity",
    "Loop",
    "If",
    "RandomNormal",
    "RandomUniform",
    "Range",
    "Tile",
}


def _elements(shape: Sequence[int | str | None] | None) -> int | None:
    """How many elements a tensor of this shape has, if that is known."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return math.prod(d for d in shape if isinstance(d, int))


def assert_folded(model: ModelProto) -> None:
    """No node computes the same from constants in every run, but those that make more of what is stored."""
    graph = model.graph
    shapes = _shapes(model)
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer}
    for name in {i.name for i in graph.input}:
        sizes.pop(name, None)
    for node in graph.node:
        given = [name for name in node.input if name]
        if given and node.op_type not in _MAY_STAY and all(name in sizes for name in given):
            size = _elements(shapes.get(node.output[0]))
            stored = sum(sizes[name] for name in given)
            if sum(name in other.input for other in graph.node for name in given) > len(given):
                continue  # a weight that is also read as it is: two of them would make the file larger
            folds = (size is not None and size <= stored) and _reference_computes(model, node)
            assert not folds, f"{node.op_type} {node.name} computes a constant"


def _reference_computes(model: ModelProto, node: onnx.NodeProto) -> bool:
    """Whether ONNX's reference implementation can run the node, which reads initializers only, on its own."""
    if node.op_type == "ConvTranspose":  # with groups it raises, or gives other numbers than ONNX Runtime
        return False
    single = ModelProto()
    single.CopyFrom(model)
    del single.graph.node[:], single.graph.input[:], single.graph.output[:], single.graph.value_info[:]
    single.graph.node.append(node)
    single.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    try:
        ReferenceEvaluator(single).run(None, {})
    except Exception:  # groups of a ConvTranspose, negative amounts of a Pad, operators of other domains
        return False
    return True


def assert_explained(report: Report) -> None:
    """Each masked channel is removed, or is held by a node that the report names."""
    held: dict[tuple[str, int], set[int]] = defaultdict(set)
    for entry in report.held:
        assert entry.reason and entry.op, entry
        held[entry.tensor, entry.axis].update(entry.channels)
    for axis in report.masked:
        stayed = axis.masked - axis.removed
        assert 0 <= axis.removed <= axis.masked <= axis.total, axis
        named = len(held[axis.tensor, axis.axis])
        assert named >= stayed, f"{axis.tensor}@{axis.axis}: {stayed} masked channels stayed, {named} are explained"


@contextlib.contextmanager
def adapters_cost(price: float | None) -> Iterator[None]:
    """Within, moving an element counts as so many FLOPs: few make adapters the rule, many rule them out."""
    if price is None:
        yield
        return
    with patch.object(planner, "flops_per_moved_element", lambda policy: price):
        yield


# -- everything -------------------------------------------------------------------------------------


def check(
    network: Network | ModelProto,
    *,
    samples: int = 1,
    seed: int = 0,
    twice: bool = True,
    exact: bool = True,
    folded: bool = False,
    cases: Sequence[Feeds] | None = None,
) -> Shrunk:
    """Compiles the model and asserts all that is promised of the result.

    With `folded`, also that nothing computes a constant. `cases` are the inputs to compare
    on; random ones if there are none.
    """
    if isinstance(network, ModelProto):
        network = Network(network)
    model = network.model
    before = model.SerializeToString(deterministic=True)
    shrunk = shrink(model)
    assert model.SerializeToString(deterministic=True) == before, "the argument was changed"
    try:
        ran = False
        with contextlib.suppress(CannotRunError):
            assert_same_function(
                model,
                shrunk.model,
                symbols=network.symbols,
                ranges=network.ranges,
                samples=samples,
                seed=seed,
                cases=cases,
            )
            ran = True
        if exact and network.sharp:
            ran |= assert_exact(
                model,
                symbols=network.symbols,
                ranges=network.ranges,
                samples=samples,
                seed=seed,
                cases=cases,
            )
        if not ran:
            raise CannotRunError("nothing here runs the model")
        assert_well_formed(model, shrunk.model, all_sizes(model, network.symbols)[0])
        if folded:
            assert_folded(shrunk.model)
        if twice:
            again = shrink(model).model.SerializeToString(deterministic=True)
            assert again == shrunk.model.SerializeToString(deterministic=True), "compiled twice, two results"
        assert_explained(shrunk.report)
        for said, model_ in ((shrunk.report.before, model), (shrunk.report.after, shrunk.model)):
            counted = count(model_)
            assert (said.flops, said.macs, said.params) == (counted.flops, counted.macs, counted.params), "wrong cost"
    except AssertionError as error:
        text = str(error)
        if "\nbecame\n" not in text:
            text += "\n" + describe(model) + "\nbecame\n" + describe(shrunk.model)
        raise AssertionError(text) from error
    return shrunk


# -- reading a graph --------------------------------------------------------------------------------


def _show(array: Array) -> str:
    if array.size <= 8:
        return str(array.tolist())
    if array.dtype.kind == "f" and array.ndim:
        dead = [
            f"axis {axis}: {zero} of {array.shape[axis]} zero"
            for axis in range(array.ndim)
            if (zero := int((~array.any(axis=tuple(i for i in range(array.ndim) if i != axis))).sum()))
        ]
        return "; ".join(dead) or "..."
    return "..."


def describe(model: ModelProto) -> str:
    """The graph as one line per node, for a person to read."""
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        return f"(shape inference fails: {error})\n" + "\n".join(_lines(model, {}))
    shapes = {
        i.name: "x".join(
            str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in i.type.tensor_type.shape.dim
        )
        for i in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    return "\n".join(_lines(model, shapes))


def _lines(model: ModelProto, shapes: Mapping[str, str]) -> Iterator[str]:
    graph = model.graph
    versions = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    yield f"opset {versions}, ir {model.ir_version}"
    yield "inputs " + ", ".join(f"{i.name}[{shapes.get(i.name, '')}]" for i in graph.input)
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        yield f"  {tensor.name}: {array.dtype}{list(array.shape)} {_show(array)}"
    for node in graph.node:
        attributes = []
        for a in node.attribute:
            value = helper.get_attribute_value(a)
            if isinstance(value, TensorProto):
                array = numpy_helper.to_array(value)
                value = f"{array.dtype}{list(array.shape)} {_show(array)}"
            elif isinstance(value, onnx.GraphProto):
                value = (
                    "{"
                    + " ; ".join(f"{n.op_type}({', '.join(n.input)})->{', '.join(n.output)}" for n in value.node)
                    + "}"
                )
            attributes.append(f"{a.name}={value}")
        made = ", ".join(f"{o}[{shapes.get(o, '')}]" for o in node.output)
        yield f"  {made} = {node.op_type}({', '.join(node.input)}) {' '.join(attributes)}"
    yield "outputs " + ", ".join(f"{o.name}[{shapes.get(o.name, '')}]" for o in graph.output)
