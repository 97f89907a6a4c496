"""Registry of conversions from TensorFlow operators, and helpers to write nodes in them.

A conversion is a function of tf2onnx's graph and a node of it. It rewrites the node in ONNX's terms, in place or by
making others, which tf2onnx leaves as they are. One with a third parameter `tables` is given the lookup tables, keys
and values by shared name. Shapes are lists of sizes, −1 where unknown, or None; types are those of TensorProto.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import helper

from maskc.frontend.tensorflow.tf2onnx_internals import fresh_name, numpy_type, register

Shape: TypeAlias = list[int] | None
Tables: TypeAlias = Mapping[bytes, tuple[NDArray[Any], NDArray[Any]]]
Conversion: TypeAlias = Callable[..., None]

# Conversions are registered under a domain of their own, so that they hold where it is asked for and nowhere else.
DOMAIN = "maskc"

_TABLE: dict[str, Conversion] = {}

# The name of the node that is being converted, which begins the names of what is made for it.
_CONVERTED: ContextVar[str] = ContextVar("converted", default="")


def converts(*operators: str) -> Callable[[Conversion], Conversion]:
    """Decorator: TensorFlow's `operators` are converted by this function."""

    def add(conversion: Conversion) -> Conversion:
        for operator in operators:
            _TABLE[operator] = conversion
        return conversion

    return add


def opset() -> Any:
    """What `tf2onnx.tfonnx.process_tf_graph` takes as `extra_opset` to use the conversions of this package."""
    for operator, conversion in _TABLE.items():
        register(operator, _adapted(conversion), DOMAIN)
    return helper.make_opsetid(DOMAIN, 1)


def _adapted(conversion: Conversion) -> Callable[..., None]:
    takes = "tables" in inspect.signature(conversion).parameters

    def handler(graph: Any, node: Any, initialized_tables: Tables | None = None, **_: Any) -> None:
        whole = _CONVERTED.set(f"{node.name}/")
        try:
            conversion(graph, node, *([initialized_tables or {}] if takes else []))
        finally:
            _CONVERTED.reset(whole)

    return handler


def constant(graph: Any, value: ArrayLike, dtype: int | None = None) -> str:
    """The name of a new constant, of one of ONNX's types; int64 by default."""
    kind = np.int64 if dtype is None else numpy_type(dtype)
    array = np.ascontiguousarray(np.asarray(value, kind))
    name: str = graph.make_const(fresh_name(f"{_CONVERTED.get()}const"), array).output[0]
    return name


def make(graph: Any, operator: str, inputs: Sequence[str], shape: Shape, dtype: int, **attributes: Any) -> str:
    """The output of a new node."""
    named = fresh_name(f"{_CONVERTED.get()}{operator}")
    node = graph.make_node(operator, list(inputs), attr=attributes, shapes=[shape], dtypes=[dtype], name=named)
    name: str = node.output[0]
    return name


def elementwise(graph: Any, operator: str, *inputs: str) -> str:
    """The output of a new node that has the shape and type of its first input."""
    return make(graph, operator, inputs, graph.get_shape(inputs[0]), graph.get_dtype(inputs[0]))


def cast(graph: Any, name: str, dtype: int) -> str:
    """A tensor in another type."""
    return make(graph, "Cast", [name], graph.get_shape(name), dtype, to=dtype)


def column(graph: Any, name: str) -> str:
    """A tensor with one more axis, of size 1, after the others."""
    shape = graph.get_shape(name)
    wide = None if shape is None else [*shape, 1]
    return make(graph, "Unsqueeze", [name, constant(graph, [-1])], wide, graph.get_dtype(name))


def transposed(graph: Any, name: str, order: Sequence[int]) -> str:
    """A tensor with its axes in this order."""
    shape = graph.get_shape(name)
    permuted = None if shape is None else [shape[axis] for axis in order]
    return make(graph, "Transpose", [name], permuted, graph.get_dtype(name), perm=list(order))


def replace(graph: Any, node: Any, result: str) -> None:
    """Let `result` be the node's first output, under the name that this has, and drop the node."""
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    become(graph, node, "Identity", [result], shape, dtype)


def past_identities(node: Any) -> Any:
    """The node whose output this one passes on: itself, if it is no Identity. None stays None."""
    while node is not None and node.type == "Identity":
        node = node.inputs[0]
    return node


def become(
    graph: Any, node: Any, operator: str, inputs: list[str], shape: Shape, dtype: int, name: str = "", **attributes: Any
) -> None:
    """Put a new node in the place of this one, which keeps the name of its first output and, by default, its own."""
    outputs = list(node.output[:1])
    graph.remove_node(node.name)
    graph.make_node(operator, inputs, attributes, 1, outputs, name=name or node.name, shapes=[shape], dtypes=[dtype])
