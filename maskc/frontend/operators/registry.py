"""The table of conversions, in the form that tf2onnx takes, and what they are written with.

A conversion is a function of tf2onnx's graph and a node of it. It rewrites the node in ONNX's terms, in place or by
making others, which tf2onnx leaves as they are; one with a third parameter `tables` is given the lookup tables. Shapes
are lists of sizes, −1 where unknown, or None; types are numbers of ONNX's TensorProto.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Shape: TypeAlias = list[int] | None
Tables: TypeAlias = Mapping[bytes, tuple[NDArray[Any], NDArray[Any]]]
Conversion: TypeAlias = Callable[..., None]

_TABLE: dict[str, Conversion] = {}


def converts(*operators: str) -> Callable[[Conversion], Conversion]:
    """Decorator: TensorFlow's `operators` are converted by this function."""

    def add(conversion: Conversion) -> Conversion:
        for operator in operators:
            _TABLE[operator] = conversion
        return conversion

    return add


def handlers(tables: Tables) -> dict[str, tuple[Callable[..., None], list[str]]]:
    """The argument `custom_op_handlers` of `tf2onnx.tfonnx.process_tf_graph`.

    `tables` are the keys and values of lookup tables by shared name, as `tf_loader.from_trackable` returns them.
    """
    return {operator: (_adapted(conversion, tables), []) for operator, conversion in _TABLE.items()}


def _adapted(conversion: Conversion, tables: Tables) -> Callable[..., None]:
    takes = "tables" in inspect.signature(conversion).parameters

    def handler(graph: Any, node: Any, name: str, args: list[str]) -> None:
        if takes:
            conversion(graph, node, tables)
        else:
            conversion(graph, node)

    return handler


def constant(graph: Any, value: ArrayLike, dtype: int | None = None) -> str:
    """The name of a new constant, of one of ONNX's types; int64 by default."""
    from tf2onnx import utils

    kind = np.int64 if dtype is None else utils.map_onnx_to_numpy_type(dtype)
    name: str = graph.make_const(utils.make_name("const"), np.ascontiguousarray(np.asarray(value, kind))).output[0]
    return name


def make(graph: Any, operator: str, inputs: Sequence[str], shape: Shape, dtype: int, **attributes: Any) -> str:
    """The output of a new node."""
    node = graph.make_node(operator, list(inputs), attr=attributes, shapes=[shape], dtypes=[dtype])
    name: str = node.output[0]
    return name


def elementwise(graph: Any, operator: str, *inputs: str) -> str:
    """The output of a new node that has the shape and type of its first input."""
    return make(graph, operator, inputs, graph.get_shape(inputs[0]), graph.get_dtype(inputs[0]))


def replace(graph: Any, node: Any, result: str) -> None:
    """Let `result` be the node's first output, under the name that this has, and drop the node."""
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    graph.remove_node(node.name)
    graph.make_node("Identity", [result], outputs=list(node.output[:1]), name=node.name, shapes=[shape], dtypes=[dtype])
