"""Expressions of operators over one tensor, matched in a graph and emitted into it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import is_constant, numpy_dtype, values_of

#: The tensor; any initializer.
X, ANY = "x", "any"

# X, ANY, the name of an initializer, a number, or an operator and its operands.
Expression = str | float | tuple["Expression", ...]

# How far a number may be from what is asked for, as a part of it: as far as ONNX Runtime allows.
_NEAR = 1e-5

_COMMUTE = frozenset(("Add", "Mul"))


@dataclass(frozen=True)
class Match:
    """The nodes of an expression, the last one last, and what stands for X and the names of initializers."""

    nodes: tuple[gs.Node, ...]
    tensors: Mapping[str, gs.Tensor]


def match_around(node: gs.Node, expressions: Iterable[Expression]) -> Match | None:
    """The first of these expressions that the node is a part of. Its operator occurs in each of them once."""
    for expression in expressions:
        last: gs.Node | None = node
        for _ in range(_depth(expression, node.op)):
            readers = last.outputs[0].outputs if last is not None else []
            last = readers[0] if len(readers) == 1 else None
        found = None if last is None else match_at(expression, last.outputs[0])
        if found is not None and any(n is node for n in found.nodes):
            return found
    return None


def _depth(expression: Expression, op: str) -> int:
    """How many operators read what the (only) operator of this name writes, one after the other; -1 without one."""
    if not isinstance(expression, tuple):
        return -1
    if expression[0] == op:
        return 0
    inner = max(_depth(operand, op) for operand in expression[1:])
    return inner + 1 if inner >= 0 else -1


def match_at(expression: Expression, tensor: gs.Tensor) -> Match | None:
    """How the tensor is computed by the expression; None if it is computed otherwise."""
    found = _matched(expression, tensor, Match((), {}))
    return None if found is None else Match(tuple({id(n): n for n in found.nodes}.values()), found.tensors)


def _matched(expression: Expression, tensor: gs.Tensor, so_far: Match) -> Match | None:
    """The match with the nodes and tensors of this expression, too."""
    if not isinstance(expression, tuple):
        return _leaf(expression, tensor, so_far)
    op, *operands = expression
    if len(tensor.inputs) != 1 or tensor.inputs[0].op != op:
        return None
    writer = tensor.inputs[0]
    given = writer.inputs[: len(operands)]
    if len(given) < len(operands):
        return None
    for order in (given, given[::-1])[: 2 if op in _COMMUTE else 1]:
        found: Match | None = so_far
        for operand, each in zip(operands, order, strict=True):
            found = None if found is None else _matched(operand, each, found)
        if found is not None:
            return replace(found, nodes=(*found.nodes, writer))
    return None


def _leaf(expression: str | float, tensor: gs.Tensor, so_far: Match) -> Match | None:
    if not isinstance(expression, str):
        return so_far if is_constant(tensor) and _is_number(tensor, expression) else None
    if expression != X and not is_constant(tensor):
        return None
    if expression == ANY:
        return so_far
    tensors = {expression: tensor, **so_far.tensors}
    return replace(so_far, tensors=tensors) if tensors[expression] is tensor else None


def _is_number(tensor: gs.Constant, number: float) -> bool:
    value = number_of(tensor)
    return value is not None and bool(np.isclose(value, number, rtol=_NEAR, atol=0))


def number_of(tensor: gs.Tensor) -> float | None:
    """The one number that an initializer holds, None if it holds more."""
    if not is_constant(tensor) or isinstance(tensor.dtype, int) or math.prod(tensor.shape) != 1:
        return None
    return float(values_of(tensor).reshape(()))


def emit_expression(
    expression: Expression, data: gs.Tensor, output: gs.Tensor, editor: GraphEditor, *, before: gs.Node
) -> None:
    """Put in the nodes that compute `output` as the expression says; all between is of the type and shape of `data`."""

    def operand(each: Expression) -> gs.Tensor:
        if each == X:
            return data
        if isinstance(each, tuple):
            return emit(each, editor.variable(f"{output.name}_{str(each[0]).lower()}", data.dtype, data.shape))
        return editor.constant(f"{output.name}_number", np.asarray(each, numpy_dtype(data)))

    def emit(each: Expression, into: gs.Tensor) -> gs.Tensor:
        assert isinstance(each, tuple)
        return editor.emit(str(each[0]), [operand(e) for e in each[1:]], into, f"{into.name}_node", before=before)

    emit(expression, output)
