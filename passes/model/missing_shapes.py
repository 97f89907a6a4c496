"""Shapes that inference by onnx gives up, though the operators that write or read a tensor say something of them.

It loses the rank of a Reshape, and with it all that follows, where one element of the computed shape is the product of
two sizes; before opset 13 it loses all sizes that are computed; and it does not look from a Conv or Gemm at what that
must have been given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from passes.graph.tensors import Dim
from passes.model.known_sizes import Sizes
from passes.ops.base import rules_of
from passes.ops.slice_gather import keeps_axis, ranges

#: a number or vector of sizes: int where it is known, a symbol, None where nothing is known
Elements = NDArray[Any]

Shapes = Callable[[str], Sequence[Dim] | None]

#: the operator whose output is as large as what its operands are broadcast to
BROADCASTS = "Sum"

# Elements of the longest vector that is followed: no shape has as many axes.
_LONGEST = 1024

_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def missing_shapes(sizes: Sizes) -> dict[str, list[Dim]]:
    """The shapes of tensors of which none is known, where an operator that writes or reads them says their rank.

    The nodes are in order; what is found for one tensor serves others.
    """
    found: dict[str, list[Dim]] = {}

    def known(name: str) -> Sequence[Dim] | None:
        return found[name] if name in found else sizes.known(name)

    graph = sizes.graph
    unknown = {name for name in sizes.writers if sizes.known(name) is None}
    if not unknown:
        return {}
    nodes = [n for n in graph.node if not unknown.isdisjoint(n.output)]
    elements = _Elements(sizes, known)
    for node in nodes:
        dims = _told(node, known, elements)
        if dims is not None and known(node.output[0]) is None:
            found[node.output[0]] = dims
    lacking = {name for n in nodes for name in n.output if known(name) is None}
    for node in reversed(graph.node):
        if lacking.isdisjoint(node.input):
            continue
        for index, dims in _read(node, known):
            if node.input[index] in lacking:
                lacking.remove(node.input[index])
                found[node.input[index]] = dims
    return found


def computed_sizes(sizes: Sizes) -> Iterator[tuple[str, list[Dim]]]:
    """The shapes that operands give to tensors some of whose sizes are open, None where they do not tell.

    Inference by onnx follows the elements of operands, but only of operators as they are from opset 13 on.
    """
    writing = (n for n in sizes.graph.node if n.op_type in _WRITERS and not n.domain)
    nodes = [n for n in writing if any(map(sizes.is_open, sizes.of(n.output[0])))]
    elements = _Elements(sizes, sizes.known)
    for node in nodes:
        dims = _told(node, sizes.known, elements)
        if dims is not None:
            yield node.output[0], dims


def _told(node: onnx.NodeProto, shape: Shapes, elements: _Elements) -> list[Dim] | None:
    """The shape that the operands tell of what the node writes, None where they do not."""
    told = _WRITERS.get(node.op_type) if not node.domain else None
    return None if told is None else told(node, shape, elements)


class _Elements:
    """What is known of the elements of numbers and vectors of integers."""

    def __init__(self, sizes: Sizes, shape: Shapes) -> None:
        self._sizes = sizes
        self._shape = shape
        self._found: dict[str, Elements | None] = {}

    def of(self, name: str) -> Elements | None:
        """The elements of a tensor; None where not even their number is known."""
        waiting = [name]
        while waiting:  # by hand, as chains may be longer than Python lets functions call each other
            node = self._sizes.writers.get(waiting[-1])
            missing = [] if node is None or waiting[-1] in self._found else self._operands(node)
            if missing:
                waiting += missing
                continue
            last = waiting.pop()
            if last not in self._found:
                self._found[last] = self._written(last, node)
        return self._found[name]

    def _operands(self, node: onnx.NodeProto) -> list[str]:
        if node.op_type not in _RULES or node.domain:
            return []
        return [name for name in node.input if name and name not in self._found]

    def _written(self, name: str, node: onnx.NodeProto | None) -> Elements | None:
        stored = self._sizes.initializer(name)
        if stored is not None and stored.data_type in _INTEGERS and len(stored.dims) < 2:
            return onnx.numpy_helper.to_array(stored).astype(object)
        dims = self._shape(name)
        unknown = None
        if dims is not None and len(dims) < 2 and all(isinstance(d, int) and 0 <= d <= _LONGEST for d in dims):
            unknown = np.full([int(d or 0) for d in dims], None, object)
        if node is None or node.domain or node.output[0] != name:
            return unknown
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Shape":
            sizes = self._shape(node.input[0])
            return unknown if sizes is None else _vector(sizes[attributes.get("start", 0) : attributes.get("end")])
        operands = [self._found.get(each) for each in node.input]
        if node.op_type not in _RULES or not operands or operands[0] is None:
            return unknown
        try:
            result = np.asarray(_RULES[node.op_type](attributes, *operands), object)
        except (ValueError, TypeError, IndexError, AttributeError):  # operands that are not known, or do not fit
            return unknown
        return result if result.ndim < 2 else unknown


def _vector(sizes: Iterable[Dim]) -> Elements:
    return np.array([*sizes], object)


def _each(compute: Callable[[Dim, Dim], Dim]) -> Callable[..., Elements]:
    return lambda _, a, b: np.asarray(np.frompyfunc(compute, 2, 1)(a, b), object)


def _product(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return b if a == 1 else a if b == 1 else 0 if 0 in (a, b) else None


def _sum(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 else a if b == 0 else None


def _difference(a: Dim, b: Dim) -> Dim:
    return a - b if isinstance(a, int) and isinstance(b, int) else a if b == 0 else None


def _quotient(a: Dim, b: Dim) -> Dim:
    """Integers are divided towards zero, which matters below zero only."""
    known = isinstance(a, int) and isinstance(b, int) and a >= 0 < b
    return int(a) // int(b) if known else a if b == 1 else None  # type: ignore[arg-type]


def _cast(attributes: Mapping[str, Any], x: Elements) -> Elements:
    if attributes["to"] not in _INTEGERS:
        raise TypeError
    return x


def _cut(attributes: Mapping[str, Any], x: Elements, *bounds: Elements | None) -> Elements:
    given = [attributes.get(k) for k in ("starts", "ends", "axes")] if "starts" in attributes else list(bounds)
    starts, ends, _, steps = [*given, None, None][:4]
    (start,), (end,), (step,) = starts, ends, [1] if steps is None else steps
    if not all(isinstance(bound, int) for bound in (start, end, step)):
        raise TypeError
    return x[start:end:step]


# By operator: the elements that it writes, given its attributes and those of its operands.
_RULES: dict[str, Callable[..., Elements]] = {
    "Identity": lambda _, x: x,
    "Cast": _cast,
    "Concat": lambda _, *parts: np.concatenate(parts),
    "Gather": lambda _, x, index: np.take(x, index.astype(np.int64), 0),
    "Slice": _cut,
    "Squeeze": lambda _, x, axes=None: x.reshape(()),
    "Unsqueeze": lambda _, x, axes=None: x.reshape((1,) * (x.ndim + 1)),
    "Mul": _each(_product),
    "Add": _each(_sum),
    "Sub": _each(_difference),
    "Div": _each(_quotient),
}


# -- operators that are handed a shape -------------------------------------------------------------------------------


def _reshaped(node: onnx.NodeProto, shape: Shapes, elements: _Elements) -> list[Dim] | None:
    wanted, before = elements.of(node.input[1]), shape(node.input[0])
    if wanted is None or wanted.ndim != 1:
        return None
    copies = not any(a.name == "allowzero" and a.i for a in node.attribute)
    dims: list[Dim] = []
    for axis, size in enumerate(wanted):
        if copies and size == 0:
            dims.append(before[axis] if before is not None and axis < len(before) else None)
        else:
            dims.append(None if size == -1 else size)
    return dims


def _expanded(node: onnx.NodeProto, shape: Shapes, elements: _Elements) -> list[Dim] | None:
    wanted, before = elements.of(node.input[1]), shape(node.input[0])
    if wanted is None or wanted.ndim != 1 or before is None:
        return None
    rank = max(len(wanted), len(before))
    pairs = zip(*([1] * (rank - len(sizes)) + [*sizes] for sizes in (before, wanted)), strict=True)
    return [_broadcast_size(old, new) for old, new in pairs]


def _broadcast_size(one: Dim, other: Dim) -> Dim:
    """The size that both are broadcast to, None where it is not known."""
    for size, beside in ((one, other), (other, one)):
        if beside == 1 or (isinstance(size, int) and size > 1):
            return size
    return None


def _filled(node: onnx.NodeProto, shape: Shapes, elements: _Elements) -> list[Dim] | None:
    wanted = elements.of(node.input[0])
    return None if wanted is None or wanted.ndim != 1 else [*wanted]


def _multiplied(node: onnx.NodeProto, shape: Shapes, elements: _Elements) -> list[Dim] | None:
    """A matrix in any case, as many columns wide as the weight, whatever is known of the data."""
    turned = {a.name: bool(a.i) for a in node.attribute}
    rows, columns = shape(node.input[0]), shape(node.input[1])
    return [
        None if rows is None or len(rows) != 2 else rows[turned.get("transA", False)],
        None if columns is None or len(columns) != 2 else columns[not turned.get("transB", False)],
    ]


def _sliced(node: onnx.NodeProto, shape: Shapes, elements: _Elements) -> list[Dim] | None:
    """The sizes along the axes that stay whole."""
    before, attributes = shape(node.input[0]), {a.name: list(a.ints) for a in node.attribute}
    operands = [elements.of(name) if name else None for name in node.input[1:]]
    if any(name and not _are_numbers(of) for name, of in zip(node.input[1:], operands, strict=True)):
        return None
    bounds = [None if of is None else of.tolist() for of in operands]
    if attributes:
        bounds = [attributes.get(name) for name in ("starts", "ends", "axes")]
    found = ranges(len(before or ()), *bounds)
    if before is None or found is None:
        return None
    return [d if a not in found or keeps_axis(before, a, *found[a]) else None for a, d in enumerate(before)]


def _are_numbers(elements: Elements | None) -> bool:
    """Whether all elements of a vector are known."""
    return elements is not None and elements.ndim == 1 and all(isinstance(each, int) for each in elements)


_WRITERS: dict[str, Callable[[onnx.NodeProto, Shapes, _Elements], list[Dim] | None]] = {
    "Reshape": _reshaped,
    "Expand": _expanded,
    "ConstantOfShape": _filled,
    "Gemm": _multiplied,
    "Slice": _sliced,
}


# -- operators that take operands of one rank only -------------------------------------------------------------------


def _read(node: onnx.NodeProto, shape: Shapes) -> Iterator[tuple[int, list[Dim]]]:
    """Operands of the node with what it says of their shapes."""
    if not node.domain and node.op_type in _READERS:
        yield from _READERS[node.op_type](node, shape)
    elif rules_of(node.domain, node.op_type).like == BROADCASTS:
        yield from _broadcast(node, shape)


def _broadcast(node: onnx.NodeProto, shape: Shapes) -> Iterator[tuple[int, list[Dim]]]:
    """The one operand of unknown shape, where it alone has as many axes as the output."""
    after = shape(node.output[0])
    given = [shape(name) for name in node.input if name]
    others = [dims for dims in given if dims is not None]
    if after is None or len(others) != len(given) - 1 or any(len(dims) >= len(after) for dims in others):
        return
    beside = [{dims[-place] for dims in others if len(dims) >= place} - {1} for place in range(len(after), 0, -1)]
    dims = [None if narrow else size for size, narrow in zip(after, beside, strict=True)]
    yield [*map(shape, node.input)].index(None), dims


def _convolved(node: onnx.NodeProto, shape: Shapes) -> Iterator[tuple[int, list[Dim]]]:
    weight = shape(node.input[1])
    if weight is not None and len(weight) > 1:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        read = weight[0] if node.op_type == "ConvTranspose" else _product(weight[1], groups)
        yield 0, [None, read, *[None] * (len(weight) - 2)]


def _factors(node: onnx.NodeProto, shape: Shapes) -> Iterator[tuple[int, list[Dim]]]:
    turned = {a.name: bool(a.i) for a in node.attribute}
    for index, (own, other) in enumerate([("transA", "transB"), ("transB", "transA")]):
        beside = shape(node.input[1 - index])
        known = beside is not None and len(beside) == 2
        inner = beside[(index == 1) != turned.get(other, False)] if known and beside is not None else None
        dims: list[Dim] = [None, inner] if (index == 0) != turned.get(own, False) else [inner, None]
        yield index, dims


def _sequence(node: onnx.NodeProto, shape: Shapes) -> Iterator[tuple[int, list[Dim]]]:
    weight = shape(node.input[1])
    yield 0, [None, None, weight[2] if weight is not None and len(weight) == 3 else None]


_READERS: dict[str, Callable[[onnx.NodeProto, Shapes], Iterator[tuple[int, list[Dim]]]]] = {
    "Gemm": _factors,
    "Conv": _convolved,
    "ConvTranspose": _convolved,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _sequence),
}
