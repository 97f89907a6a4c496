"""Symbolic reading of a loop body: states, sequences, gates, linear terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.frontend.tensorflow.size_formulas import Sizes
from passes.abstract_values.polynomial import Polynomial

Array = NDArray[Any]

# ONNX's names, with the default of a parameter that the operator of the same name has.
_ACTIVATIONS = {
    **dict.fromkeys("Relu Tanh Sigmoid Softsign Softplus".split()),
    "Elu": 1.0,
    "LeakyRelu": 0.01,
}


@dataclass(frozen=True)
class Activation:
    """What a gate is put through; `alpha` and `beta` are None where the function has no such parameter."""

    name: str
    alpha: float | None = None
    beta: float | None = None


_LINEAR = Activation("Affine", 1.0, 0.0)

# The end of a slice that takes all rows, however many there are.
_ALL = 2**31 - 1


@dataclass(frozen=True)
class Linear:
    """A sum of products of tensors with constant matrices, and of constant vectors."""

    weights: dict[str, Array]
    bias: Array | float


class Body:
    """One Loop of a converted tf2onnx graph: what its tensors are, inside and outside.

    Names are those of tensors in the body; `initial` and `become` say what each state is at first and after a step. The
    methods answer None, or nothing, for whatever does not have the form asked for.
    """

    def __init__(self, outer: Any, loop: Any) -> None:
        self.outer, self.loop = outer, loop
        self.graph = loop.get_body_graphs()["body"]
        self.inputs = list(self.graph.input_names)
        self.initial = dict(zip(self.inputs[2:], loop.input[2:], strict=True))
        self.become: dict[str, str] = {}
        results = [self.root(name) for name in self.graph.outputs]
        self.become = dict(zip(self.initial, results[1:], strict=False))
        self.condition, self.scans = results[0], results[1 + len(self.initial) :]

    def root(self, name: str) -> str:
        """The tensor that this one is another name of; for what the loop does not change, a tensor outside."""
        while True:
            node = self._node(name)
            if node is not None and node.type == "Identity":
                name = node.input[0]
            elif self.become.get(name) == name:
                return self._outside(self.initial[name])
            else:
                return name if node is not None else self._outside(name)

    def producer(self, name: str, *types: str) -> Any:
        """The node that makes a tensor in the body, if it is of one of these types."""
        node = self._node(self.root(name))
        return node if node is not None and node.type in types else None

    def number(self, name: str) -> Array | None:
        """The value of a tensor that does not change, where it is known."""
        name = self.root(name)
        node = self._node(name) or self.outer.get_node_by_output(name)
        if node is None:
            return None
        if node.is_const():
            return np.asarray(node.get_tensor_value(as_list=False))
        value = self.number(node.input[0]) if node.type in ("Split", "Squeeze", "Slice") else None
        return None if value is None else self._taken(node, name, value)

    def _taken(self, node: Any, name: str, value: Array) -> Array | None:
        """What a Split, Squeeze or Slice makes of this value in the output of this name; None where it is computed."""
        operands = [operand for operand in map(self.number, node.input[1:]) if operand is not None]
        if len(operands) != len(node.input) - 1:
            return None
        if node.type == "Slice":
            return _sliced(value, *operands) if len(operands) > 2 else None
        if node.type == "Squeeze":
            return np.squeeze(value, tuple(operands[0].tolist()) if operands else None)
        places = np.cumsum(operands[0])[:-1] if operands else len(node.output)
        return np.split(value, places, axis=node.get_attr_value("axis", 0))[list(node.output).index(name)]

    def _node(self, name: str) -> Any:
        return self.graph.get_node_by_output(name, search_in_parent_graphs=False)

    def _outside(self, name: str) -> str:
        while (node := self.outer.get_node_by_output(name)) is not None and node.type == "Identity":
            name = node.input[0]
        return name

    def states(self) -> Iterator[str]:
        """Inputs that change from step to step and are no counters."""
        for name, result in self.become.items():
            if result != name and not self._counts(name) and len(self.graph.get_shape(name) or ()) == 2:
                yield name

    def _counts(self, name: str) -> bool:
        """Whether a tensor is the number of steps done: 0 at first, one more after each."""
        if name == self.inputs[0]:
            return True
        if name not in self.become:
            return False
        start = self.outer.get_node_by_output(self._outside(self.initial[name]))
        if start is None or not start.is_const() or np.any(start.get_tensor_value(as_list=False)):
            return False
        return self._next(self.become[name]) == name

    def _next(self, name: str) -> str | None:
        """The tensor that this one is one more than."""
        node = self.producer(name, "Add")
        if node is None:
            return None
        for tensor, one in (node.input, node.input[::-1]):
            value = self.number(one)
            if value is not None and value.size == 1 and value.item() == 1:
                return self.root(tensor)
        return None

    def sequence(self, name: str) -> str | None:
        """The tensor outside whose elements along its first axis this one is, step by step."""
        node = self.producer(name, "Gather")
        if node is None or node.get_attr_value("axis", 0) or not self._counts(self.root(node.input[1])):
            return None
        source = self.root(node.input[0])
        return source if self._node(source) is None and source not in self.inputs else None

    def steps_through(self, x: str, sizes: Sizes) -> bool:
        """Whether the loop ends exactly with the sequence that x is taken from."""
        sequence = self.sequence(x)
        if sequence is None or self.outer.get_rank(sequence) != 3:
            return False
        length = sizes.dimension(sequence, 0)
        return (
            sizes.values(self._outside(self.loop.input[0])) == [length]
            and self._goes_on(self.condition, length, sizes)
            and self._starts(self._outside(self.loop.input[1]), length, sizes)
        )

    def _goes_on(self, name: str, length: Polynomial, sizes: Sizes) -> bool:
        """Whether the condition, after a step, does not end the loop before its length."""
        node = self.producer(name, "And", "Less")
        if node is None:
            return False
        if node.type == "And":
            return all(self._goes_on(operand, length, sizes) for operand in node.input)
        counter, limit = (self._uncast(operand) for operand in node.input)
        counts = self._counts(counter) or self._counts(self._next(counter) or "")
        return counts and self._limit(limit, sizes) == length

    def _uncast(self, name: str) -> str:
        while (node := self.producer(name, "Cast")) is not None:
            name = node.input[0]
        return self.root(name)

    def _limit(self, name: str, sizes: Sizes) -> Polynomial | None:
        value = self.number(name)
        if value is not None:
            return Polynomial.of(int(value)) if value.size == 1 else None
        values = sizes.values(name) if self._node(name) is None else None
        return values[0] if values else None

    def _starts(self, name: str, length: Polynomial, sizes: Sizes) -> bool:
        """Whether the condition lets the loop begin: it compares 0 with the length, whatever that is."""
        node = self.outer.get_node_by_output(name)
        if node is None:
            return False
        if node.is_const():
            return bool(node.get_tensor_value(as_list=False))
        if node.type == "And":
            return all(self._starts(self._outside(operand), length, sizes) for operand in node.input)
        if node.type != "Less":
            return False
        return [sizes.values(operand) for operand in node.input] == [[Polynomial.of(0)], [length]]

    # What cells are made of.

    def linear(self, name: str) -> Linear | None:
        """A sum of matrix products and constant vectors."""
        weights: dict[str, Array] = {}
        bias: Array | float = 0.0
        pending = [name]
        while pending:
            term = self.root(pending.pop())
            value = self.number(term)
            node = self.producer(term, "Add", "MatMul")
            if value is not None and value.ndim <= 1:
                bias = bias + value
            elif node is not None and node.type == "Add":
                pending += node.input
            elif node is not None and self.root(node.input[0]) not in weights:
                matrix = self.number(node.input[1])
                if matrix is None or matrix.ndim != 2:
                    return None
                weights[self.root(node.input[0])] = matrix
            else:
                return None
        return Linear(weights, bias)

    def activation(self, name: str) -> tuple[Activation, str]:
        """The function that a tensor is put through last, and what goes into it."""
        node = self.producer(name, *_ACTIVATIONS)
        if node is None:
            return _LINEAR, self.root(name)
        default = _ACTIVATIONS[node.type]
        alpha = None if default is None else node.get_attr_value("alpha", default)
        return Activation(node.type, alpha), self.root(node.input[0])

    def part(self, name: str, index: int, parts: int) -> str | None:
        """The tensor of whose last axis this one is part `index`, of equal parts."""
        node = self.producer(name, "Split", "Slice")
        if node is None or (node.type == "Split" and node.get_attr_value("axis", 0) not in (1, -1)):
            return None
        source = self.root(node.input[0])
        shape = self.graph.get_shape(source)
        if shape is None or len(shape) != 2 or shape[1] < 0 or shape[1] % parts:
            return None
        numbers = np.arange(shape[1])
        taken = self._taken(node, self.root(name), np.broadcast_to(numbers, (_ALL, shape[1])))
        units = shape[1] // parts
        wanted = numbers[index * units : (index + 1) * units]
        return source if taken is not None and len(taken) == _ALL and np.array_equal(taken[0], wanted) else None

    def pair(self, name: str, operator: str) -> list[tuple[str, str]]:
        """The operands of an addition or multiplication, in both orders."""
        node = self.producer(name, operator)
        if node is None:
            return []
        a, b = (self.root(operand) for operand in node.input)
        return [(a, b), (b, a)]


def _sliced(value: Array, starts: Array, ends: Array, axes: Array, steps: Array | None = None) -> Array:
    where = [slice(None)] * value.ndim
    for i, axis in enumerate(axes):
        where[axis] = slice(int(starts[i]), int(ends[i]), 1 if steps is None else int(steps[i]))
    return value[tuple(where)]
