"""Sizes that a graph computes, as formulas over the unknown dimensions of its tensors.

A conversion from TensorFlow computes many shapes at run time: of a Dense layer on images, of a Reshape, of a loop.
Most turn out to be plain numbers, or the dimension of another tensor, once they are written down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import add, mul, sub
from typing import Any, TypeAlias

import numpy as np

Monomial: TypeAlias = tuple[tuple[str, int], ...]  # (tensor, axis) of each factor, sorted


@dataclass(frozen=True)
class Formula:
    """A polynomial with integer coefficients over the dimensions of tensors."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    @staticmethod
    def of(number: int) -> Formula:
        """A constant."""
        return Formula((((), int(number)),) if number else ())

    @staticmethod
    def dimension(tensor: str, axis: int) -> Formula:
        """The size of one axis of a tensor."""
        return Formula(((((tensor, axis),), 1),))

    @property
    def number(self) -> int | None:
        """The value, where it does not depend on any dimension."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    def __add__(self, other: Formula) -> Formula:
        total = dict(self.terms)
        for monomial, coefficient in other.terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return _collected(total)

    def __sub__(self, other: Formula) -> Formula:
        return self + other * Formula.of(-1)

    def __mul__(self, other: Formula) -> Formula:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                key = tuple(sorted(left + right))
                total[key] = total.get(key, 0) + a * b
        return _collected(total)


def _collected(terms: dict[Monomial, int]) -> Formula:
    return Formula(tuple(sorted((key, value) for key, value in terms.items() if value)))


Values: TypeAlias = list[Formula | None]  # a vector of sizes, or a scalar as a vector of one


class Sizes:
    """The formulas of one graph of tf2onnx, whose operators are ONNX's."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._known: dict[str, Values | None] = {}
        self._sizes: dict[tuple[str, int], Formula] = {}

    def dimension(self, tensor: str, axis: int) -> Formula:
        """The size of an axis: a number where it is known, or else a dimension of the first tensor that has it."""
        chain = []
        while (tensor, axis) not in self._sizes:
            chain.append((tensor, axis))
            shape = self._graph.get_shape(tensor)
            known = shape is not None and shape[axis] >= 0
            source = Formula.of(shape[axis]) if known else self._source(tensor, axis)
            if source is None or isinstance(source, Formula):
                self._sizes[tensor, axis] = source or Formula.dimension(tensor, axis)
                break
            tensor, axis = source
        size = self._sizes[tensor, axis]
        self._sizes.update(dict.fromkeys(chain, size))
        return size

    def shape(self, tensor: str) -> list[Formula] | None:
        """The sizes of all axes of a tensor of known rank."""
        rank = self._graph.get_rank(tensor)
        return None if rank is None else [self.dimension(tensor, axis) for axis in range(rank)]

    def values(self, tensor: str) -> Values | None:
        """What the elements of a vector (or a scalar) of integers are; None if nothing is known of them."""
        if tensor not in self._known:
            node = self._graph.get_node_by_output(tensor, search_in_parent_graphs=False)
            self._known[tensor] = None if node is None else self._computed(node)
        return self._known[tensor]

    def _source(self, tensor: str, axis: int) -> tuple[str, int] | Formula | None:
        """Another tensor that has the same size along one of its axes, or the size, where it is asked for."""
        node = self._graph.get_node_by_output(tensor, search_in_parent_graphs=False)
        shapes = [] if node is None else [self._graph.get_shape(name) for name in node.input]
        if not shapes or None in shapes:
            return None
        shape, first = shapes[0], node.input[0]
        if node.type in _SAME_SHAPE:
            return first, axis
        if node.type == "Transpose" and node.get_attr_value("perm"):
            return first, node.get_attr_value("perm")[axis]
        if node.type == "MatMul" and axis < len(shape) - 1 and len(shapes[1]) == 2:
            return first, axis
        if node.type == "Conv" and axis == 0:
            return first, 0
        if node.type in _BROADCASTING:
            return self._broadcast(node, axis - self._graph.get_rank(tensor), shapes)
        if node.type == "Slice":
            return (first, axis) if _keeps(node, axis, len(shape)) else None
        if node.type == "Reshape":
            return self._reshaped(node, axis)
        if node.type in ("Squeeze", "Unsqueeze"):
            axes = self.values(node.input[1]) if len(node.input) > 1 else None
            return None if axes is None else _around(node, axis, len(shape), _numbers(axes))
        return None

    def _broadcast(self, node: Any, from_end: int, shapes: list[Any]) -> tuple[str, int] | None:
        """The axis of the operand that has the size, if all others have 1 or the same there."""
        wide = [
            (name, len(shape) + from_end)
            for name, shape in zip(node.input, shapes, strict=True)
            if len(shape) >= -from_end and shape[from_end] != 1
        ]
        same = len(wide) == 1 or len({self.dimension(*place) for place in wide}) == 1
        return wide[0] if same else None

    def _reshaped(self, node: Any, axis: int) -> tuple[str, int] | Formula | None:
        """The size that a Reshape is told, or that it copies (0); None where it infers it (−1)."""
        sizes = self.values(node.input[1])
        size = None if sizes is None else sizes[axis]
        if size is None or size.number == -1:
            return None
        return (node.input[0], axis) if size.number == 0 else size

    def _computed(self, node: Any) -> Values | None:
        if node.is_const():
            value = node.get_tensor_value(as_list=False)
            whole = value.ndim <= 1 and value.dtype.kind in "iu"
            return [Formula.of(int(v)) for v in np.atleast_1d(value)] if whole else None
        rank = self._graph.get_rank(node.output[0])
        if node.type == "Shape":
            shape = self.shape(node.input[0])
            return None if shape is None else list(shape)
        if rank is None or rank > 1:
            return None
        if node.type in _SAME_VALUES:
            return self.values(node.input[0])
        operands = [self.values(name) for name in node.input] if node.type in _RULES else [None]
        return None if None in operands else _RULES[node.type](node, *operands)


_SAME_VALUES = frozenset("Cast Identity Reshape Squeeze Unsqueeze".split())
_SAME_SHAPE = frozenset(
    "Identity Cast Relu Sigmoid Tanh Erf Exp Log Neg Abs Sqrt Reciprocal Softmax Softplus Clip Elu Not".split()
)
_BROADCASTING = frozenset("Add Sub Mul Div Max Min Pow".split())


def _around(node: Any, axis: int, rank: int, axes: list[int] | None) -> tuple[str, int] | None:
    """Where an axis of the result of a Squeeze or Unsqueeze is in its operand, of this rank, if it is there."""
    if axes is None:
        return None
    wide = rank if node.type == "Squeeze" else rank + len(axes)
    kept = [i for i in range(wide) if i not in {a % wide for a in axes}]
    if node.type == "Squeeze":
        return node.input[0], kept[axis]
    return (node.input[0], kept.index(axis)) if axis in kept else None


def _keeps(node: Any, axis: int, rank: int) -> bool:
    """Whether a Slice leaves the size of an axis: it does not touch it, or reverses it."""
    if len(node.input) < 4 or not all(operand.is_const() for operand in node.inputs[1:]):
        return False
    starts, ends, axes, *steps = (operand.get_tensor_value() for operand in node.inputs[1:])
    places = [i for i, touched in enumerate(axes) if touched % rank == axis % rank]
    return all(steps and starts[i] == steps[0][i] == -1 and ends[i] < -(2**31) for i in places)


def _numbers(values: Values) -> list[int] | None:
    found = [None if value is None else value.number for value in values]
    return None if None in found else found  # type: ignore[return-value]


def _gather(node: Any, values: Values, indices: Values) -> Values | None:
    chosen = _numbers(indices)
    return None if chosen is None else [values[i] for i in chosen]


def _slice(node: Any, values: Values, *operands: Values) -> Values | None:
    found = [_numbers(operand) for operand in operands]
    if None in found:
        return None
    start, end = found[0][0], found[1][0]  # type: ignore[index]
    step = found[3][0] if len(found) == 4 else 1  # type: ignore[index]
    return values[start:end:step] if step > 0 else None


def _concat(node: Any, *parts: Values) -> Values:
    return [value for part in parts for value in part]


def _arithmetic(node: Any, left: Values, right: Values) -> Values | None:
    length = max(len(left), len(right))
    pairs = zip(left * (length // len(left)), right * (length // len(right)), strict=True)
    combine: dict[str, Callable[[Formula, Formula], Formula]] = {"Add": add, "Sub": sub, "Mul": mul}
    return [None if a is None or b is None else combine[node.type](a, b) for a, b in pairs]


def _product(node: Any, values: Values, *axes: Values) -> Values | None:
    return None if None in values else [math.prod(values, start=Formula.of(1))]  # type: ignore[type-var]


_RULES: dict[str, Callable[..., Values | None]] = {
    **dict.fromkeys(("Add", "Sub", "Mul"), _arithmetic),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "ReduceProd": _product,
}
