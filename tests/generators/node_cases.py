"""The ONNX project's node tests, each operator placed between two linear layers with masked channels."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from maskc.frontend.graph_queries import copied
from tests.generators.builder import Array

NEWEST_OPSET = 26  # what ONNX Runtime 1.31 reads
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_WHOLE = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL})
LARGEST, WIDEST = 20_000, 200  # elements and channels of a tensor, so that all cases together stay fast


@dataclass(frozen=True)
class Form:
    """How a case is wrapped.

    Where the masked layer lies (on the `last` axis or on the second, `channel`), whether a shift behind it
    makes the masked channels nonzero, whether other inputs are constants, whether a linear layer follows.
    """

    axis: str
    shift: bool
    constant: bool
    linear: bool


FORMS = (
    Form("last", shift=False, constant=True, linear=True),
    Form("channel", shift=True, constant=True, linear=False),
    Form("channel", shift=False, constant=False, linear=True),
    Form("last", shift=True, constant=False, linear=False),
)


@dataclass(frozen=True)
class Case:
    """A wrapped case, ready to compile and run."""

    name: str
    model: ModelProto
    feeds: dict[str, Any]


# What the project has no test of, or none that ONNX Runtime runs or that has a tensor to mask.
_OWN = {
    "Constant": "(float[2,3,4] x) => (float[2,3,4] y) "
    "{ c = Constant<value_floats = [1.0, 2.0, 0.5, 3.0]>() y = Mul(x, c) }",
    "ConcatFromSequence": "(float[2,3,4] x, float[2,3,4] z) => (float[2,6,4] y) "
    "{ s = SequenceConstruct(x, z) y = ConcatFromSequence<axis = 1>(s) }",
    "GlobalLpPool": "(float[2,4,5] x) => (float[2,4,1] y) { y = GlobalLpPool<p = 3>(x) }",
    "HannWindow": "(float[2,3,4] x) => (float[2,3,4] y) "
    "{ f = Shape(x) i = Constant<value_int = 2>() n = Gather(f, i) w = HannWindow(n) y = Mul(x, w) }",
    "If": "(float[2,3,4] x, bool c) => (float[2,3,4] y) "
    "{ y = If(c)<then_branch = t () => (float[2,3,4] a) { a = Relu(x) }, "
    "else_branch = e () => (float[2,3,4] b) { b = Neg(x) }> }",
    "MaxRoiPool": "(float[1,4,6,6] x, float[2,5] r) => (float[2,4,2,3] y) "
    "{ z = Constant<value_float = 0.0>() q = Mul(r, z) y = MaxRoiPool<pooled_shape = [2, 3]>(x, q) }",
    "MeanVarianceNormalization": "(float[2,4,3,5] x) => (float[2,4,3,5] y) "
    "{ y = MeanVarianceNormalization<axes = [0, 1, 2, 3]>(x) }",
    "MelWeightMatrix": "(float[2,3,9] x) => (float[2,3,8] y) "
    "{ b = Constant<value_int = 8>() l = Constant<value_int = 16>() r = Constant<value_int = 8192>() "
    "lo = Constant<value_float = 0.0>() hi = Constant<value_float = 4096.0>() "
    "m = MelWeightMatrix(b, l, r, lo, hi) y = MatMul(x, m) }",
    "Mish": "(float[2,3,4] x) => (float[2,3,4] y) { y = Mish(x) }",
    "Optional": "(float[2,3,4] x) => (float[2,3,4] y) { o = Optional(x) y = OptionalGetElement(o) }",
    "OptionalHasElement": "(float[2,3,4] x) => (float[2,3,4] y) "
    "{ o = Optional(x) h = OptionalHasElement(o) n = Neg(x) y = Where(h, x, n) }",
    "Range": "(float[2,3,4] x) => (float[2,3,4] y) "
    "{ f = Shape(x) i = Constant<value_int = 1>() n = Gather(f, i) z = Constant<value_int = 0>() "
    "r = Range(z, n, i) c = Cast<to = 1>(r) s = Constant<value_ints = [3, 1]>() v = Reshape(c, s) y = Add(x, v) }",
    "SequenceAt": "(float[2,3,4] x, float[2,3,4] z) => (float[2,3,4] y) "
    "{ i = Constant<value_int = 1>() s = SequenceConstruct(z, x) y = SequenceAt(s, i) }",
    "SequenceEmpty": "(float[2,3,4] x) => (float[2,3,4] y) "
    "{ i = Constant<value_int = 0>() e = SequenceEmpty<dtype = 1>() s = SequenceInsert(e, x) y = SequenceAt(s, i) }",
    "SequenceErase": "(float[2,3,4] x, float[2,3,4] z) => (float[2,3,4] y) "
    "{ i = Constant<value_int = 0>() s = SequenceConstruct(z, x) t = SequenceErase(s, i) y = SequenceAt(t, i) }",
    "SequenceLength": "(float[2,3,4] x, float[2,3,4] z) => (float[2,3,4] y) "
    "{ s = SequenceConstruct(z, x) n = SequenceLength(s) c = Cast<to = 1>(n) y = Mul(x, c) }",
}
_OWN["BlackmanWindow"] = _OWN["HannWindow"].replace("HannWindow", "BlackmanWindow")
_OWN["HammingWindow"] = _OWN["HannWindow"].replace("HannWindow", "HammingWindow")
_OWN["SequenceConstruct"] = _OWN["SequenceAt"]


@dataclass(frozen=True)
class _OwnCase:
    """A case like those of the project."""

    name: str
    model: ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]


def _own_cases(op: str) -> list[_OwnCase]:
    if op not in _OWN:
        return []
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {_OWN[op]}')
    rng = np.random.default_rng(0)
    inputs = [
        np.asarray(rng.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim])).astype(
            helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        )
        for i in model.graph.input
    ]
    outputs = [np.zeros([d.dim_value for d in o.type.tensor_type.shape.dim], np.float32) for o in model.graph.output]
    return [_OwnCase(f"own_{op.lower()}", model, [(inputs, outputs)])] * 2  # one after the other in two forms


def _array(value: Any) -> Any:
    """A tensor as an array, where numpy has its type."""
    if isinstance(value, TensorProto) and value.data_type in _FLOATS | _WHOLE:
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


@cache
def _all_cases() -> dict[str, list[Any]]:
    from onnx.backend.test.case.node import collect_testcases

    def shaped(padded: Array, x_shape: Sequence[int], _: Any, __: Any, shape: Any, *more: Any, **named: Any) -> Array:
        return np.ones([*x_shape[:2], *shape], padded.dtype)

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"), ExitStack() as patches:
        # What is expected is computed while cases are collected, and nobody reads it here, nor where it is computed.
        patches.enter_context(patch("onnx.reference.ops.op_pool_common.pool", shaped))
        patches.enter_context(patch("onnx.backend.test.case.base.process_snippet", lambda *_: ("", "")))
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            key = case.name.split("_expanded")[0] if "_expanded" in case.name else ""
            assert case.model is not None
            op = case.model.graph.node[0].op_type if not key else "expanded"
            found.setdefault(op, []).append(case)
    return found


def operators() -> list[str]:
    """Every operator of the standard, in alphabetical order."""
    return sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})


def cases(op: str, *, every: bool) -> Iterator[Case]:
    """The wrapped cases of an operator (or `expanded`: of the bodies of functions).

    Each case in `every` form that fits it, or in one of them, another one from case to case.
    """
    for number, case in enumerate([*_all_cases().get(op, []), *_own_cases(op)]):
        order = [FORMS[(number + k) % len(FORMS)] for k in range(len(FORMS))]
        for form in order:
            wrapped = _wrap(case, form, number)
            if wrapped is not None:
                yield wrapped
                if not every:
                    break


def _wrap(case: Any, form: Form, seed: int) -> Case | None:
    rng = np.random.default_rng(seed)
    model = copied(case.model)
    graph = model.graph
    inputs, outputs = ([_array(x) for x in tensors] for tensors in case.data_sets[0])
    if any(isinstance(x, TensorProto) for x in (*inputs, *outputs)):
        return None  # of a type that numpy does not have
    feeds = dict(zip([i.name for i in graph.input], inputs, strict=False))
    able = [i for i in graph.input if _can_mask(i, feeds.get(i.name), form)]
    able.sort(key=lambda i: i.type.tensor_type.elem_type in _WHOLE)  # floats first, otherwise in order
    if not able:
        return None
    masked = able[0]
    if any(np.size(x) > LARGEST for x in (*inputs, *outputs) if isinstance(x, np.ndarray)):
        return None
    x = np.asarray(feeds[masked.name])
    source = f"{masked.name}/source"
    nodes = _layer(graph, source, masked.name, x, form, rng)
    feeds[source] = feeds.pop(masked.name)
    # The layer writes the tensor that the operator reads under its own name.
    entry = onnx.ValueInfoProto()
    entry.CopyFrom(masked)
    entry.name = source
    if x.dtype.kind != "f":
        entry.type.tensor_type.elem_type = TensorProto.FLOAT
        feeds[source] = x.astype(np.float32)
    position = [i.name for i in graph.input].index(masked.name)
    graph.input[position].CopyFrom(entry)
    if form.constant:
        for info in list(graph.input):
            value = feeds.get(info.name)
            if info.name != source and info.type.HasField("tensor_type") and isinstance(value, np.ndarray):
                if value.dtype.kind in "OUS":
                    continue
                graph.initializer.append(_tensor(value, info))
                graph.input.remove(info)
                del feeds[info.name]
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
    if form.linear:
        _follow(graph, dict(zip([o.name for o in graph.output], outputs, strict=False)), rng)
    if not _set_versions(model):
        return None
    text = "-".join([case.name, form.axis, *(n for n in ("shift", "constant", "linear") if getattr(form, n))])
    return Case(text, model, feeds)


def _can_mask(info: onnx.ValueInfoProto, value: Any, form: Form) -> bool:
    if not info.type.HasField("tensor_type") or not isinstance(value, np.ndarray):
        return False
    if info.type.tensor_type.elem_type not in _FLOATS | _WHOLE:
        return False
    if value.size == 0:
        return False
    if form.axis == "channel":
        return 3 <= value.ndim <= 5 and 1 < value.shape[1] <= WIDEST
    return value.ndim >= 1 and value.shape[-1] <= WIDEST


def _tensor(value: Array, info: onnx.ValueInfoProto) -> TensorProto:
    tensor = numpy_helper.from_array(value, info.name)
    if tensor.data_type != info.type.tensor_type.elem_type:  # a type that numpy itself does not have
        tensor = helper.make_tensor(info.name, info.type.tensor_type.elem_type, value.shape, value.tobytes(), raw=True)
    return tensor


def _layer(
    graph: onnx.GraphProto, source: str, target: str, x: Array, form: Form, rng: np.random.Generator
) -> list[onnx.NodeProto]:
    """A mixing of channels that keeps signs and sizes, a mask, and perhaps a shift."""
    axis = x.ndim - 1 if form.axis == "last" else 1
    c = x.shape[axis]
    whole = None if x.dtype.kind == "f" else helper.np_dtype_to_tensor_dtype(x.dtype)
    dtype = x.dtype if whole is None else np.dtype(np.float32)
    result, target = target, target if whole is None else f"{target}/float"
    mix = 0.7 * np.eye(c) + 0.3 / c
    keep = rng.random(c) < 0.5
    keep[rng.integers(c)] = True
    if c > 1:
        keep[(int(np.argmax(keep)) + 1) % c] = False
    shape = [c] + [1] * (x.ndim - 1 - axis)
    weights = {
        f"{target}/mix": mix if axis == x.ndim - 1 else mix.T.reshape([c, c] + [1] * (x.ndim - 2)),
        f"{target}/mask": keep.reshape(shape).astype(float),
        f"{target}/shift": rng.uniform(0.1, 0.5, size=c).reshape(shape),
    }
    if not form.shift:
        del weights[f"{target}/shift"]
    for name, value in weights.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(dtype), name))
    last = f"{target}/masked" if form.shift else target
    nodes = [
        helper.make_node("MatMul" if axis == x.ndim - 1 else "Conv", [source, f"{target}/mix"], [f"{target}/raw"]),
        helper.make_node("Mul", [f"{target}/raw", f"{target}/mask"], [last]),
    ]
    if form.shift:
        nodes.append(helper.make_node("Add", [last, f"{target}/shift"], [target]))
    if whole is not None:
        nodes.append(helper.make_node("Round", [target], [f"{target}/round"]))
        nodes.append(helper.make_node("Cast", [f"{target}/round"], [result], to=whole))
    return nodes


def _follow(graph: onnx.GraphProto, values: dict[str, Any], rng: np.random.Generator) -> None:
    """A linear layer, some of whose rows are zero, behind each output that one can follow."""
    for info in list(graph.output):
        value = values.get(info.name)
        kind = info.type.tensor_type.elem_type
        if not isinstance(value, np.ndarray) or value.ndim < 1 or value.size == 0:
            continue
        if kind not in _FLOATS:
            continue
        n = value.shape[-1]
        w = rng.normal(size=(n, 2)) / np.sqrt(n)
        w[rng.random(n) < 0.3] = 0
        graph.initializer.append(numpy_helper.from_array(w.astype(value.dtype), f"{info.name}/w"))
        graph.node.append(helper.make_node("MatMul", [info.name, f"{info.name}/w"], [f"{info.name}/y"]))
        made = helper.make_tensor_value_info(f"{info.name}/y", kind, [None] * (value.ndim - 1) + [2])
        graph.output[[o.name for o in graph.output].index(info.name)].CopyFrom(made)


def _set_versions(model: ModelProto) -> bool:
    """Brings the model to versions that ONNX Runtime reads; whether it is valid there."""
    model.ir_version = min(max(model.ir_version, 8), 11)
    old = any(node.op_type in ("Scatter", "Upsample") for node in model.graph.node)  # gone since
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = opset.version if old else min(max(opset.version, 11), NEWEST_OPSET)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True
