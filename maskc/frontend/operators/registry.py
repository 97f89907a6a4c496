"""The table of conversions, in the form that tf2onnx takes.

A conversion is a function of tf2onnx's graph and a node of it. It rewrites the node in ONNX's terms, in place or by
making others; tf2onnx does not convert again what it made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Conversion: TypeAlias = Callable[[Any, Any], None]

_TABLE: dict[str, Conversion] = {}


def converts(*operators: str) -> Callable[[Conversion], Conversion]:
    """Decorator: TensorFlow's `operators` are converted by this function."""

    def add(conversion: Conversion) -> Conversion:
        for operator in operators:
            _TABLE[operator] = conversion
        return conversion

    return add


def handlers() -> dict[str, tuple[Callable[..., None], list[str]]]:
    """The argument `custom_op_handlers` of `tf2onnx.tfonnx.process_tf_graph`."""
    return {operator: (_adapted(conversion), []) for operator, conversion in _TABLE.items()}


def _adapted(conversion: Conversion) -> Callable[..., None]:
    def handler(graph: Any, node: Any, name: str, args: list[str]) -> None:
        conversion(graph, node)

    return handler


def constant(graph: Any, value: ArrayLike, like: str | None = None) -> str:
    """The name of a new constant, in the type of the tensor `like` if one is named."""
    from tf2onnx import utils

    dtype = None if like is None else utils.map_onnx_to_numpy_type(graph.get_dtype(like))
    name: str = graph.make_const(utils.make_name("const"), np.asarray(value, dtype)).output[0]
    return name


def make(graph: Any, operator: str, inputs: list[str], like: str | None = None, **attributes: Any) -> str:
    """The output of a new node; `like` names a tensor whose shape and type it has."""
    shapes = None if like is None else [graph.get_shape(like)]
    dtypes = None if like is None else [graph.get_dtype(like)]
    name: str = graph.make_node(operator, inputs, attr=attributes, shapes=shapes, dtypes=dtypes).output[0]
    return name


def replace(graph: Any, node: Any, result: str) -> None:
    """Let everything that reads the node's first output read `result`, and drop the node.

    The name of the output is kept, since it may be the name of an output of the model.
    """
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    graph.remove_node(node.name)
    graph.make_node("Identity", [result], outputs=list(node.output[:1]), name=node.name, shapes=[shape], dtypes=[dtype])
