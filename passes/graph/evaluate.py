"""Constant evaluation of one operator, by ONNX's reference implementation or as numpy gives the same bytes.

The reference takes a tenth of a millisecond a call and more: without numpy's functions for the operators that nearly
all calls are of, a default compile of published models takes a tenth longer.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from passes.graph.process_wide import without_warnings
from passes.graph.tensors import Array, is_standard, static_shape, values_of

_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: x.dtype.type(1) / (x.dtype.type(1) + np.exp(-x)),
    "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Min": lambda *parts: functools.reduce(np.minimum, parts),
    "Max": lambda *parts: functools.reduce(np.maximum, parts),
    "Less": np.less,
    "Where": np.where,
    "Identity": lambda x: x,
}
# Elements: of computed weights no more are made before it is known how many they are.
_MOST = 2**27
# Elements: operands that say how large a result is are no larger.
_SHAPE_DATA = 1024
_OF_INTEGERS = ("Add", "Sub", "Mul", "Min", "Max", "Less", "Where")
# These do the same to elements of any type, and have attributes.
_WITH_ATTRIBUTES: dict[str, Callable[..., Array]] = {
    "Cast": lambda x, to: x.astype(_plain(to)),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Gather": lambda x, index, axis=0: np.take(x, index, axis),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: _hard_sigmoid(x, alpha, beta),
    "HardSwish": lambda x: _hard_swish(x),  # in older opsets, too, where a pass puts it before it raises the opset
    "Reshape": lambda x, shape, allowzero=0: x.reshape(shape if allowzero else _whole(x, shape)),
    "Slice": lambda x, starts, ends, axes=None, steps=None: x[_cut(x, starts, ends, axes, steps)],
    "Squeeze": lambda x, axes=None: x.squeeze(None if axes is None else tuple(axes)),
    "Transpose": lambda x, perm=None: x.transpose(perm),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
}


def evaluate(node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
    """Outputs of the node on these operands (None: omitted), or None if they cannot be had, or are very large."""
    if _is_large(node, opset, operands):
        return None
    with np.errstate(all="ignore"):
        with contextlib.suppress(Exception):  # operands and attributes that are left to the reference
            value = by_numpy(node, operands)
            if value is not None:
                return [value]
        with contextlib.suppress(Exception):  # an operator, type or attribute that the reference does not implement
            return _reference(node, opset, operands)
    return None


def by_numpy(node: gs.Node, operands: Sequence[Array | None]) -> Array | None:
    """The output, by the numpy function that gives the same bytes as the reference; None where there is none."""
    if not is_standard(node):
        return None
    if node.op in _ARITHMETIC:
        compared = operands[1:] if node.op == "Where" else operands  # without the condition
        kinds = {None if x is None else x.dtype.kind for x in compared}
        exact = kinds == {"f"} or (kinds == {"i"} and node.op in _OF_INTEGERS)
        return np.asarray(_ARITHMETIC[node.op](*operands)) if exact else None
    if node.op in _WITH_ATTRIBUTES and all(x is not None for x in operands):
        return np.asarray(_WITH_ATTRIBUTES[node.op](*operands, **node.attrs))
    return None


def _is_large(node: gs.Node, opset: int, operands: Sequence[Array | None]) -> bool:
    """Whether the outputs, whose shapes nobody has inferred yet, have more elements than are computed here.

    A few numbers can ask for any number of them.
    """
    if all(static_shape(t) is not None for t in node.outputs if t.name):
        return False
    if is_standard(node) and node.op in _ARITHMETIC:
        with contextlib.suppress(ValueError):  # operands that do not fit each other
            return math.prod(np.broadcast_shapes(*(x.shape for x in operands if x is not None))) > _MOST
        return False
    return not (is_standard(node) and node.op in _WITH_ATTRIBUTES) and _elements(node, opset, operands) > _MOST


def _elements(node: gs.Node, opset: int, operands: Sequence[Array | None]) -> int:
    """The elements of the largest output; none where onnx finds that the operands do not fit each other.

    onnx is asked, and not the swept graph: analysis evaluates nodes on other operands than those that the graph has.
    """
    model, feeds = _alone(node, opset, operands)
    small = {name: x for name, x in feeds.items() if x.size <= _SHAPE_DATA}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in small.items())
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # computing it will say the same
        return 0
    dims = [value.type.tensor_type.shape.dim for value in inferred.graph.output]
    return max((math.prod(dim.dim_value for dim in each) for each in dims), default=0)


def _plain(element: int) -> np.dtype[Any]:
    """A type of numpy's own; values outside the range of others are cut off in ways of their own."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    if dtype.kind not in "biuf":
        raise TypeError(dtype)
    return dtype


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    scale, shift = (float(np.float32(number)) for number in (alpha, beta))  # which attributes hold
    return np.asarray(np.maximum(0, np.minimum(1, x * scale + shift)).astype(x.dtype))


def _hard_swish(x: Array) -> Array:
    if x.dtype == np.float16:
        raise TypeError(x.dtype)  # rounded in between
    return np.asarray(x * _hard_sigmoid(x, 1 / 6, 0.5))


def _whole(x: Array, shape: Array) -> Array:
    """The shape with sizes of `x` where it has zeros."""
    return np.asarray([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)], np.int64)


def _cut(
    x: Array, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> tuple[slice, ...]:
    """What a Slice takes of `x`."""
    taken = [slice(None)] * x.ndim
    axes, steps = range(len(starts)) if axes is None else axes, [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken[axis] = slice(int(start), int(end), int(step))
    return tuple(taken)


def _reference(node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    model, feeds = _alone(node, opset, operands)
    with without_warnings():  # as they take long
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]


def _alone(node: gs.Node, opset: int, operands: Sequence[Array | None]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of the node alone, and what it is fed with."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(operands)]
    outputs = [f"y{i}" for i in range(len(node.outputs))]
    attrs: dict[str, Any] = {
        k: onnx.numpy_helper.from_array(values_of(v)) if isinstance(v, gs.Constant) else v
        for k, v in node.attrs.items()
    }
    proto = helper.make_node(node.op, names, outputs, domain=node.domain or "", **attrs)
    feeds = {n: x for n, x in zip(names, operands, strict=True) if x is not None}
    graph = helper.make_graph(
        [proto],
        "node",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in feeds.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain or "", opset)]), feeds
