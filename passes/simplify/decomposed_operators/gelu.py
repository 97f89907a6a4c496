"""A decomposed Gelu is fused into the operator, or written as runtimes know it where there is no operator yet.

Exporters associate x · ½ · (1 + erf(x / √2)) in many ways: TensorFlow multiplies by √½, PyTorch writes the cube of the
tanh approximation as x · x · x. Runtimes fuse a few of these; of others they read and write the data five to eight
times. What a tensor holds is compared as a polynomial, so that the order of factors does not matter. Unlike those of
sizes (`abstract_values.polynomial`), its coefficients are real numbers, equal up to rounding.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.expression_match import Expression, X, emit_expression, match_around, number_of
from passes.graph.tensors import is_constant, is_standard, shape_of
from passes.ops import rules
from passes.ops.arithmetic import Arithmetic, Difference, Power, Product, Quotient, Sum

# Coefficients by the names of the tensors that are multiplied, in order: {("x", "x"): 2.0, (): 1.0} is 2 x² + 1.
Polynomial = dict[tuple[str, ...], float]

# A polynomial of more is not compared.
_MOST_TERMS = 8

# The opset that brought the operator.
_OPERATOR = 20

# How far coefficients may be from those of a Gelu, as a part of them: single precision rounds a product of three so.
_NEAR = 1e-6

# Operators from the data to what f is asked for, and from there to the end, at most.
_FAR = 6

_GATE = ("Add", ("Erf", ("Div", X, math.sqrt(2))), 1.0)

#: the orders of factors that runtimes know, the first of which is written where there is no operator yet
BY_ERF: tuple[Expression, ...] = (("Mul", ("Mul", X, _GATE), 0.5), ("Mul", ("Mul", X, 0.5), _GATE))

_STEEP, _CUBIC = math.sqrt(2 / math.pi), 0.044715
_CUBE = ("Mul", ("Add", X, ("Mul", ("Pow", X, 3.0), _CUBIC)), _STEEP)
_HORNER = ("Mul", ("Mul", X, _STEEP), ("Add", ("Mul", ("Mul", X, _CUBIC), X), 1.0))

#: the same for the approximation
BY_TANH: tuple[Expression, ...] = tuple(
    ("Mul", ("Mul", X, 0.5), ("Add", ("Tanh", argument), 1.0)) for argument in (_CUBE, _HORNER)
)


@dataclass(frozen=True)
class _Gelu:
    """x · ½ · (1 + f(p(x))) for an operator f.

    `argument`: coefficients of the polynomial p, by power. `attrs`: of the operator that computes it. `expressions`:
    what it is left as before that operator, the first of them what it is written as.
    """

    argument: tuple[float, ...]
    attrs: Mapping[str, str]
    expressions: tuple[Expression, ...]


# By f.
_GELUS = {
    "Erf": _Gelu((0.0, math.sqrt(0.5)), {}, BY_ERF),
    "Tanh": _Gelu((0.0, _STEEP, 0.0, _STEEP * _CUBIC), {"approximate": "tanh"}, BY_TANH),
}


def fuse(graph: gs.Graph, keep: Collection[str] = ()) -> bool:
    """Write each Gelu, in single precision, as runtimes compute it fast; whether any was written otherwise.

    Nodes that no other reads then are left. Initializers that are named in `keep` are no numbers.
    """
    gates = [(n, _GELUS[n.op]) for n in graph.nodes if n.op in _GELUS and is_standard(n)]
    if not gates:
        return False
    editor, replaced = GraphEditor(graph), False
    for node, gelu in gates:
        known = graph.opset < _OPERATOR and match_around(node, gelu.expressions)
        if node.outputs[0].dtype != np.float32 or known:
            continue
        found = _found(node, gelu, editor, keep)
        if found is not None:
            data, last = found
            output = last.outputs[0]
            erase(last)
            replaced = True
            if graph.opset < _OPERATOR:
                emit_expression(gelu.expressions[0], data, output, editor, before=last)
            else:
                editor.emit("Gelu", [data], output, last.name, gelu.attrs, before=last)
    editor.finish()
    return replaced


def _found(gate: gs.Node, gelu: _Gelu, editor: GraphEditor, keep: Collection[str]) -> tuple[gs.Tensor, gs.Node] | None:
    """The data of a Gelu with this f, and the node that ends it."""
    argument, gated = gate.inputs[0], gate.outputs[0]
    for data in _sources(argument):
        asked = _polynomial(argument, {data.name}, keep)
        wanted: Polynomial = {(data.name,) * power: value for power, value in enumerate(gelu.argument)}
        if asked is None or not _alike(asked, wanted):
            continue
        wanted = {(data.name,): 0.5, tuple(sorted((data.name, gated.name))): 0.5}
        tensor = gated
        for _ in range(_FAR):
            last = editor.sole_reader(tensor)
            if last is None:
                break
            tensor = last.outputs[0]
            held = _polynomial(tensor, {data.name, gated.name}, keep)
            if held is None:
                break
            if _alike(held, wanted) and len(shape_of(tensor) or ()) == len(shape_of(data) or ()):
                return data, last
    return None


def _sources(tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    """The tensor, and those that it is computed of, as far as they may be data."""
    layer = {tensor.name: tensor}
    for _ in range(_FAR):
        yield from layer.values()
        inputs = [t for each in layer.values() for node in each.inputs for t in node.inputs if not is_constant(t)]
        layer = {t.name: t for t in inputs}


def _polynomial(
    tensor: gs.Tensor, variables: Collection[str], keep: Collection[str], far: int = _FAR
) -> Polynomial | None:
    """What the tensor holds, in these variables; None if it is something else."""
    if tensor.name in variables:
        return {(tensor.name,): 1.0}
    if is_constant(tensor):
        value = None if tensor.name in keep else number_of(tensor)
        return None if value is None else {(): value}
    if not far or len(tensor.inputs) != 1:
        return None
    writer = tensor.inputs[0]
    parts = [_polynomial(t, variables, keep, far - 1) for t in writer.inputs]
    known = [part for part in parts if part is not None]
    return _applied(writer, known) if len(known) == len(parts) else None


def _applied(node: gs.Node, operands: list[Polynomial]) -> Polynomial | None:
    """What the node makes of polynomials, as one; None if it is none."""
    op = rules(node)
    if not isinstance(op, Arithmetic | Power):
        return None
    first, second = operands
    value = number(second)
    match op:
        case Sum():
            return added(first, second)
        case Difference():
            return added(first, second, -1.0)
        case Product():
            return multiplied(first, second)
        case Quotient():
            return multiplied(first, {(): 1 / value}) if value else None
    square = multiplied(first, first) if value in (2, 3) else None
    return square if square is None or value == 2 else multiplied(square, first)


def _alike(found: Mapping[tuple[str, ...], float], wanted: Mapping[tuple[str, ...], float]) -> bool:
    names = found.keys() | wanted.keys()
    return all(np.isclose(found.get(n, 0.0), wanted.get(n, 0.0), rtol=_NEAR, atol=0) for n in names)


def added(a: Polynomial, b: Polynomial, factor: float = 1.0) -> Polynomial | None:
    """a + factor · b; None where that has many terms."""
    total = defaultdict(float, a)
    for names, value in b.items():
        total[names] += factor * value
    return _few(total)


def multiplied(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """a · b; None where that has many terms."""
    total: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for first, x in a.items():
        for second, y in b.items():
            total[tuple(sorted(first + second))] += x * y
    return _few(total)


def number(of: Polynomial) -> float | None:
    """The number that it is, None if it depends on a tensor."""
    return of.get((), 0.0) if not of.keys() - {()} else None


def _few(terms: dict[tuple[str, ...], float]) -> Polynomial | None:
    return dict(terms) if len(terms) <= _MOST_TERMS else None
