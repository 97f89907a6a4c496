"""Expressions of operators over one tensor, matched in a graph and emitted into it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import is_constant, numpy_dtype, values_of

#: The tensor; any initializer.
X, ANY = "x", "any"

# X, ANY, a number, or an operator and its operands.
Expression = str | float | tuple["Expression", ...]

# How far a number may be from what is asked for, as a part of it: as far as ONNX Runtime allows.
_NEAR = 1e-5

_COMMUTE = frozenset(("Add", "Mul"))


def match_around(node: gs.Node, expressions: Iterable[Expression]) -> tuple[gs.Node, ...]:
    """The nodes, the last one last, of the first of these expressions that the node is a part of; () if there is none.

    Its operator occurs in each of them once.
    """
    for expression in expressions:
        last: gs.Node | None = node
        for _ in range(_depth(expression, node.op)):
            readers = last.outputs[0].outputs if last is not None else []
            last = readers[0] if len(readers) == 1 else None
        found = None if last is None else nodes_of(expression, last.outputs[0])
        if found is not None and any(n is node for n in found):
            return found
    return ()


def _depth(expression: Expression, op: str) -> int:
    """How many operators read what the (only) operator of this name writes, one after the other; -1 without one."""
    if not isinstance(expression, tuple):
        return -1
    if expression[0] == op:
        return 0
    inner = max(_depth(operand, op) for operand in expression[1:])
    return inner + 1 if inner >= 0 else -1


def nodes_of(expression: Expression, tensor: gs.Tensor) -> tuple[gs.Node, ...] | None:
    """The nodes that compute the tensor by the expression, the last one last; None if it is computed otherwise."""
    matched = _matched(expression, tensor, None)
    return None if matched is None else tuple({id(n): n for n in matched[1]}.values())


def _matched(
    expression: Expression, tensor: gs.Tensor, data: gs.Tensor | None
) -> tuple[gs.Tensor | None, list[gs.Node]] | None:
    """What stands for X (`data`, if something does already) and the nodes; None if it is computed otherwise."""
    if expression == X:
        return (tensor, []) if data is None or data is tensor else None
    if not isinstance(expression, tuple):
        fits = is_constant(tensor) and (expression == ANY or _is_number(tensor, expression))
        return (data, []) if fits else None
    op, *operands = expression
    if len(tensor.inputs) != 1 or tensor.inputs[0].op != op:
        return None
    writer = tensor.inputs[0]
    given = writer.inputs[: len(operands)]
    for order in (given, given[::-1])[: 2 if op in _COMMUTE else 1]:
        bound, nodes = data, list[gs.Node]()
        for operand, each in zip(operands, order, strict=False):
            found = _matched(operand, each, bound)
            if found is None:
                break
            bound, nodes = found[0], nodes + found[1]
        else:
            return (bound, [*nodes, writer]) if len(order) == len(operands) else None
    return None


def _is_number(tensor: gs.Constant, number: str | float) -> bool:
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
