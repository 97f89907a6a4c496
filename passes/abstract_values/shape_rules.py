"""Rules of symbolic shape inference: traits of operators that tell sizes of outputs, or elements of shape vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.abstract_values.polynomial import Polynomial
from passes.graph.tensors import Array, Dim, is_constant, static_shape, values_of

#: a vector or number: of a numeric dtype where all elements are known, else of objects, Polynomial or None (unknown)
Elements = NDArray[Any]

Shape = Sequence[Dim]

#: elements: longer vectors are not followed, as no shape has as many axes
LONGEST = 1024


class ShapeVectors:
    """The elements of vectors and numbers that shapes are made of, in a graph of this opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._computed: dict[int, tuple[gs.Tensor, Elements]] = {}
        self._measured: set[Polynomial] = set()

    def of(self, tensor: gs.Tensor) -> Elements | None:
        """The elements of a tensor; None where they are not followed."""
        if is_constant(tensor):
            small = not isinstance(tensor.dtype, int) and math.prod(tensor.shape) <= LONGEST
            return values_of(tensor) if small else None
        computed = self._computed.get(id(tensor))
        return None if computed is None else computed[1]

    def listed(self, tensor: gs.Tensor) -> list[Polynomial | None] | None:
        """The elements of a vector, None for those that are not known; None where even their number is not."""
        elements = self.of(tensor)
        elements = _unknown(tensor) if elements is None else elements
        return None if elements is None or elements.ndim != 1 else [*polynomials(elements)]

    def of_parts(self, tensors: Sequence[gs.Tensor]) -> list[Elements | None]:
        """The elements of several, all unknown of one that is not followed where others are."""
        found = [self.of(tensor) for tensor in tensors]
        if all(x is None for x in found):
            return found
        return [_unknown(t) if x is None else x for x, t in zip(found, tensors, strict=True)]

    def put(self, tensor: gs.Tensor, elements: Elements) -> bool:
        """Note the elements of a tensor; whether they were others before."""
        before = self._computed.get(id(tensor))
        self._computed[id(tensor)] = tensor, elements
        return before is None or not np.array_equal(before[1], elements)

    def measured(self, shape: Shape) -> Elements:
        """The sizes of a tensor as a vector: int64 where all are static, else of objects."""
        if all(isinstance(dim, (int, np.integer)) for dim in shape):
            return np.asarray(shape, np.int64)
        found = np.empty(len(shape), object)
        found[:] = [None if dim is None else Polynomial.of(dim) for dim in shape]
        self._measured.update(size for size in found if size is not None)
        return found

    def wanted(self, elements: Elements) -> list[Dim]:
        """The sizes that a vector asks for; None for what may be less than nothing."""
        if elements.dtype != object:
            return [*elements.tolist()]
        return [p.dim if p is not None and (p.is_natural or p in self._measured) else None for p in elements]


class SizeRule:
    """Operators whose output sizes follow from sizes and elements of the inputs, more exactly than onnx infers."""

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        """The shape of output 0: None for a size that is not known, or for a rank.

        Raises ValueError where operands contradict each other.
        """
        raise NotImplementedError


class OutputSizesRule:
    """Operators that tell the shapes of all their outputs, of the element type of input 0."""

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        """The shapes of the first outputs, as many as follow; None for a size that does not."""
        raise NotImplementedError


class ReadRule:
    """Operators that tell the rank, or sizes, of operands where nothing else tells them."""

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        """Shapes by the index of the input, None for sizes that the node does not tell."""
        raise NotImplementedError


class AgreementRule:
    """Operators whose operands must have sizes in common."""

    def agreeing(self, node: gs.Node, values: Mapping[str, int]) -> Iterator[tuple[Dim, Dim]]:
        """Pairs of sizes that are the same, unless one of them is 1; `values` of symbols are those chosen so far."""
        raise NotImplementedError


class ElementRule:
    """Operators that compute with sizes."""

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        """The elements of output 0; None where they are not known. Raises ValueError where operands do not fit."""
        raise NotImplementedError


def _unknown(tensor: gs.Tensor) -> Elements | None:
    """Elements of which nothing is known, where it is known how many there are."""
    shape = static_shape(tensor)
    if shape is None or min(shape, default=0) < 0 or math.prod(shape) > LONGEST:
        return None
    return np.full(shape, None, object)


def polynomials(elements: Elements) -> Elements:
    """The elements as polynomials, an array of objects."""
    if elements.dtype == object:
        return elements
    return np.asarray(np.frompyfunc(lambda number: Polynomial.of(int(number)), 1, 1)(elements), object)


def settled(elements: Elements, dtype: Any) -> Elements:
    """The elements as numbers of this type, where all are known."""
    if elements.dtype != object:
        return elements
    numbers = [None if each is None else each.number for each in elements.flat]
    return elements if None in numbers else np.asarray(numbers, dtype).reshape(elements.shape)


def each(operation: Callable[..., Polynomial | None], *operands: Elements | None) -> Elements | None:
    """An operation on corresponding elements, broadcast; elements that are not known make unknown ones."""
    if any(x is None or (x.dtype != object and x.dtype.kind != "i") for x in operands):
        return None

    def apply(*values: Polynomial | None) -> Polynomial | None:
        return None if None in values else operation(*values)

    parts = [polynomials(x) for x in operands if x is not None]
    return np.asarray(np.frompyfunc(apply, len(parts), 1)(*parts), object)


def broadcast(shapes: Sequence[Shape | None]) -> list[Dim] | None:
    """What operands of these shapes are broadcast to. Raises ValueError where they cannot be."""
    if not shapes or any(shape is None for shape in shapes):
        return None
    given = [shape for shape in shapes if shape is not None]
    rank = max(map(len, given))
    found: list[Dim] = []
    for place in range(-rank, 0):
        dims = {shape[place] for shape in given if len(shape) >= -place} - {1}
        static = {dim for dim in dims if isinstance(dim, (int, np.integer))}
        if len(static) > 1:
            raise ValueError(f"sizes {sorted(static)} cannot be broadcast")
        found.append(static.pop() if static else None if len(dims) > 1 else dims.pop() if dims else 1)
    return found


def side_by_side(shapes: Sequence[Shape]) -> Iterator[tuple[Dim, Dim]]:
    """The sizes of the first shape with those of each other, axes aligned at the last."""
    first, *others = shapes
    for other in others:
        yield from zip(reversed(first), reversed(other), strict=False)


def times(size: Dim, factor: Dim) -> Dim:
    """The product of two sizes; None where one of them is not known."""
    return None if size is None or factor is None else (Polynomial.of(size) * Polynomial.of(factor)).dim


def united(dims: Sequence[Dim]) -> Dim:
    """The size that all of these are. Raises ValueError where they cannot be the same."""
    static = {dim for dim in dims if isinstance(dim, (int, np.integer))}
    if len(static) > 1:
        raise ValueError(f"sizes {sorted(static)} are not the same")
    return static.pop() if static else next((dim for dim in dims if dim is not None), None)


def picked(compute: Callable[[list[Array]], Array | None], data: Sequence[Elements]) -> Elements | None:
    """What an operator that moves elements makes of these, computed on their numbers."""
    flat = np.concatenate([polynomials(x).reshape(-1) for x in data])
    ends = np.cumsum([0, *(x.size for x in data)])
    numbers = [np.arange(a, b).reshape(x.shape) for x, a, b in zip(data, ends[:-1], ends[1:], strict=True)]
    places = compute(numbers)
    return None if places is None else np.asarray(flat[places], object)
