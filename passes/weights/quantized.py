"""Weights of few bits: initializers and the arithmetic that makes a weight of them, read and cut as that weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.graph import construct
from passes.graph.construct import Composed, constant, variable
from passes.graph.editor import GraphEditor
from passes.graph.evaluate import evaluate
from passes.graph.tensors import Array, Dtype, Index, dtype_of, element_of, inverse, stored, values_of
from passes.weights.streaming import Picked, element_bits, moved

#: operators that do the same to each element, and of which weights are made of numbers of fewer bits
ARITHMETIC = frozenset({"Add", "Cast", "Div", "Mul", "Sub"})
#: what an operand must be to change nothing, where it is the second one
_NEUTRAL = {"Add": 0, "Div": 1, "Mul": 1, "Sub": 0}
_ANY_OPSET = 21  # these operators do the same in all


@dataclass(frozen=True, eq=False)
class Leaf:
    """An initializer, of which a weight has an element for each of its own.

    `stored`, in the shape `grid`, has as many axes as the weight. Along each, the weight's slices are those of it that
    `index` says; None: all, in order.
    """

    stored: gs.Constant
    grid: tuple[int, ...]
    index: tuple[Index | None, ...]

    @staticmethod
    def of(stored: gs.Constant) -> Leaf:
        """All of an initializer."""
        shape = tuple(int(d) for d in stored.shape)
        return Leaf(stored, shape, (None,) * len(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return tuple(g if i is None else i.size for g, i in zip(self.grid, self.index, strict=True))

    @property
    def values(self) -> Array:
        """The elements, in a shape that broadcasts to that of the weight."""
        values = values_of(self.stored).reshape(self.grid)
        for axis, index in enumerate(self.index):
            values = values if index is None or self.grid[axis] == 1 else np.take(values, index, axis)
        return values

    @property
    def is_whole(self) -> bool:
        """Whether there is one element for each of the weight's."""
        return all(index is None for index in self.index)

    @property
    def in_blocks(self) -> bool:
        """Whether its elements vary along more than one axis."""
        return sum(size > 1 for size in self.grid) > 1

    def run(self, axis: int) -> int:
        """How many slices along the axis have the same elements at least, from the first on: 0 where all have."""
        index = self.index[axis]
        if self.shape[axis] == 1 or (index is not None and self.grid[axis] == 1):
            return 0
        return 1 if index is None else gcd(*(int(c) for c in np.flatnonzero(np.diff(index)) + 1))

    def moved(self, name: str, move: Callable[[Array], Array], shape: tuple[int, ...]) -> Leaf:
        """As the weight, whose elements are moved or dropped, and which has this shape afterwards, needs it."""
        if len(values := self.stored.shape) == 0 or prod(values) == 1:
            return Leaf(self.stored, (1,) * len(shape), tuple(np.zeros(d, np.int64) for d in shape))
        if self.is_whole:
            return Leaf.of(constant(f"{name}_quantised", moved(self._in_grid(), move)))
        return self._picked(move.picked) if isinstance(move, Picked) else self.spread(move)

    def _in_grid(self) -> gs.Constant:
        """The initializer in the shape of the grid."""
        same = tuple(self.stored.shape) == self.grid
        return self.stored if same else constant(self.stored.name, values_of(self.stored).reshape(self.grid))

    def _picked(self, picked: Mapping[int, Index]) -> Leaf:
        index, left = list(self.index), dict(picked)
        for axis, kept in picked.items():
            along = index[axis]
            if along is not None:
                first, index[axis] = _distinct(along[kept])
                left[axis] = along[kept][first]
        left = {a: k for a, k in left.items() if k.size != self.grid[a] or (k != np.arange(k.size)).any()}
        stored = constant(self.stored.name, moved(self._in_grid(), Picked(left))) if left else self.stored
        grid = tuple(left[a].size if a in left else g for a, g in enumerate(self.grid))
        return Leaf(stored, grid, tuple(index))

    def spread(self, move: Callable[[Array], Array]) -> Leaf:
        """As `moved`, with slices stored once that are then the same."""
        numbers = replace(self, stored=constant("", np.arange(prod(self.grid))))
        places = move(np.broadcast_to(numbers.values, self.shape))  # which element each of the weight's has now
        index: list[Index | None] = []
        for axis in range(places.ndim):
            slices = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
            same = (slices == slices[:1]).all()  # of most axes, and found faster
            first, along = _distinct(np.zeros(len(slices)) if same else slices)
            places = np.take(places, first, axis)
            index.append(along)
        return Leaf(constant(self.stored.name, values_of(self.stored).reshape(-1)[places]), places.shape, tuple(index))


def _distinct(rows: Array) -> tuple[Index, Index | None]:
    """Where each row comes for the first time, and which of these each row is; None: they are all distinct."""
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], None if first.size == len(rows) else inverse(order)[which.reshape(-1)]


@dataclass(frozen=True, eq=False)
class Applied:
    """The result of DequantizeLinear or of arithmetic, on leaves and other results, which all have the same shape."""

    op: str
    attrs: Mapping[str, Any]
    parts: tuple[Expression, ...]


Expression = Leaf | Applied


class Quantized(Composed):
    """An initializer whose values are computed of others when they are asked for, and not kept."""

    def __init__(self, name: str, expression: Expression) -> None:
        self.expression = expression
        super().__init__(name, _Values(self))

    def copied(self, own: Callable[[gs.Constant], gs.Constant]) -> Quantized:
        """The same weight of copies of what is stored."""
        return Quantized(self.name, mapped(self.expression, lambda leaf: replace(leaf, stored=own(leaf.stored))))

    @property
    def key(self) -> tuple[object, ...]:
        """The same for weights that are made from the same initializers in the same way."""
        return _key(self.expression)

    @property
    def values(self) -> Array:
        """The weight."""
        return np.ascontiguousarray(np.broadcast_to(_evaluated(self.expression), leaves(self.expression)[0].shape))

    @property
    def bytes(self) -> int:
        """Bytes of what is stored."""
        return sum(_bytes(t) for t in {id(leaf.stored): leaf.stored for leaf in leaves(self.expression)}.values())

    def moved(self, name: str, move: Callable[[Array], Array]) -> Quantized | None:
        """The weight after its elements were moved or dropped; None where what is stored would not be less."""
        size = move(np.broadcast_to(np.zeros((), np.int8), self.shape)).shape
        if 0 in size:
            return None
        kept = self.expression if isinstance(move, Picked) else _unplaced(self.expression)
        made = Quantized(name, shortened(mapped(kept, lambda leaf: leaf.moved(name, move, size))))
        # what is along one axis never takes much, and kernels of integers are not given up for it
        simple = dequantizes(made.expression) and not any(leaf.in_blocks for leaf in leaves(made.expression)[1:])
        return made if simple or made.bytes < _bytes(made) else None

    def holding(self, name: str, values: Array, slack: Array | float = 0.0) -> Quantized | None:
        """Other values [same shape] in the same steps, where they fall on them but for `slack`; None if they do not."""
        steps = self.expression
        if not isinstance(steps, Applied) or steps.op != "DequantizeLinear":
            return None
        if values.shape != tuple(self.shape) or values.dtype != self.dtype:
            return None
        leaf, (scale, *zero) = steps.parts[0], [_evaluated(part).astype(np.float64) for part in steps.parts[1:]]
        assert isinstance(leaf, Leaf)
        dtype = leaf.stored.dtype
        with np.errstate(all="ignore"):
            whole = (np.rint(values.astype(np.float64) / scale) + (zero[0] if zero else 0)).astype(dtype)
        stored = Leaf.of(constant(f"{name}_quantised", whole))
        made = Quantized(name, replace(steps, parts=(stored, *steps.parts[1:])))
        with np.errstate(all="ignore"):  # out of range, or not a number
            near = np.abs(made.values.astype(np.float64) - values) <= slack
        return made if near.all() else None


class _Values(LazyValues):
    """Shape and type of a weight that is not computed yet."""

    def __init__(self, weight: Quantized) -> None:
        self._weight = weight
        self.shape = list(leaves(weight.expression)[0].shape)
        dtype = dtype_of_result(weight.expression)
        assert isinstance(dtype, np.dtype)
        self.dtype = dtype

    def load(self) -> Array:
        return self._weight.values


def dequantized(node: gs.Node, operands: list[gs.Constant]) -> Quantized:
    """What a DequantizeLinear makes of the steps, scales and zero points, if there are any, in `operands`."""
    shape = tuple(int(d) for d in operands[0].shape)
    axis, block = int(node.attrs.get("axis", 1)) % max(len(shape), 1), int(node.attrs.get("block_size", 0))
    steps, *parameters = map(expression_of, operands)
    parts = [mapped(part, lambda leaf: _parameter(leaf, shape, axis, block)) for part in parameters]
    return Quantized(node.outputs[0].name, Applied("DequantizeLinear", dict(node.attrs), (steps, *parts)))


def expression_of(tensor: gs.Constant) -> Expression:
    """The initializer as an operand."""
    return tensor.expression if isinstance(tensor, Quantized) else Leaf.of(tensor)


def _parameter(leaf: Leaf, shape: tuple[int, ...], axis: int, block: int) -> Leaf:
    """A leaf of one parameter, of one for each slice along the axis, or for each block, as one of a weight's."""
    along = np.arange(shape[axis]) // block if block else None
    if along is not None:
        own = leaf.index[axis]
        along = along if own is None else own[along]
        return replace(leaf, index=tuple(along if a == axis else i for a, i in enumerate(leaf.index)))
    if prod(leaf.shape) == 1:
        return Leaf(leaf.stored, (1,) * len(shape), tuple(np.zeros(d, np.int64) for d in shape))
    grid = tuple(leaf.grid[0] if a == axis else 1 for a in range(len(shape)))
    return Leaf(
        leaf.stored, grid, tuple(leaf.index[0] if a == axis else np.zeros(d, np.int64) for a, d in enumerate(shape))
    )


def computed(node: gs.Node, parts: Sequence[Expression]) -> Quantized | None:
    """What arithmetic makes of its operands as such a weight; None where that is not stored in fewer bits."""
    plain = all(isinstance(part, Leaf) for part in parts) and node.op != "Cast"
    if plain or any(leaf.stored.dtype == object for part in parts for leaf in leaves(part)):  # texts
        return None
    shape = np.broadcast_shapes(*(leaves(part)[0].shape for part in parts))
    operands = tuple(mapped(part, lambda leaf: _broadcast(leaf, shape)) for part in parts)
    made = Quantized(node.outputs[0].name, shortened(Applied(node.op, dict(node.attrs), operands)))
    return made if made.bytes < _bytes(made) else None


def spread(part: Expression, move: Callable[[Array], Array]) -> Expression | None:
    """An operand whose elements are moved, dropped or repeated; None where they cannot be."""
    try:
        return mapped(part, lambda leaf: leaf.spread(move))
    except (TypeError, ValueError):
        return None


def moved_initializer(editor: GraphEditor, tensor: gs.Constant, move: Callable[[Array], Array]) -> gs.Constant:
    """A new initializer with elements of this one, in as few bits."""
    name = editor.names.fresh(tensor.name)
    found = tensor.moved(name, move) if isinstance(tensor, Quantized) else None
    return constant(name, moved(tensor, move)) if found is None else found


def twin(editor: GraphEditor, tensor: gs.Constant) -> gs.Constant:
    """A new initializer with the values of this one."""
    name = editor.names.fresh(tensor.name)
    return Quantized(name, tensor.expression) if isinstance(tensor, Quantized) else constant(name, stored(tensor))


def scaled(weight: Quantized, name: str, factors: Array) -> Quantized | None:
    """The weight times factors [broadcast], in as few bits; None where they are not exact in its type."""
    exact = weight.dtype == np.float32 or (factors.astype(weight.dtype) == factors).all()
    if not exact or dequantizes(weight.expression):
        return None
    shape = tuple(weight.shape)
    factor = _broadcast(Leaf.of(constant(f"{name}_scale", factors.astype(weight.dtype))), shape)
    made = Quantized(name, Applied("Mul", {}, (weight.expression, factor)))
    return made if made.bytes < _bytes(made) else None


def _broadcast(leaf: Leaf, shape: tuple[int, ...]) -> Leaf:
    """The leaf where its weight is an operand of arithmetic whose result has this shape."""
    more = len(shape) - len(leaf.grid)
    index = [
        i if size == d else np.full(d, 0 if i is None else i[0])
        for i, size, d in zip((*[None] * more, *leaf.index), (*[1] * more, *leaf.shape), shape, strict=True)
    ]
    return Leaf(leaf.stored, (*[1] * more, *leaf.grid), tuple(index))


def leaves(expression: Expression) -> list[Leaf]:
    """All that it is made of."""
    if isinstance(expression, Leaf):
        return [expression]
    return [leaf for part in expression.parts for leaf in leaves(part)]


def mapped(expression: Expression, change: Callable[[Leaf], Leaf]) -> Expression:
    """The same of other leaves."""
    if isinstance(expression, Leaf):
        return change(expression)
    return replace(expression, parts=tuple(mapped(part, change) for part in expression.parts))


def _unplaced(expression: Expression) -> Expression:
    """Without the axes of a DequantizeLinear, which others take the place of."""
    if isinstance(expression, Leaf):
        return expression
    attrs = {k: v for k, v in expression.attrs.items() if k not in ("axis", "block_size")}
    return replace(expression, attrs=attrs, parts=tuple(map(_unplaced, expression.parts)))


def shortened(expression: Expression) -> Expression:
    """Without arithmetic that changes nothing, as is left of a mask."""
    if isinstance(expression, Leaf) or expression.op not in _NEUTRAL:
        return expression
    first, second = map(shortened, expression.parts)
    if isinstance(second, Leaf) and not second.is_whole and (second.values == _NEUTRAL[expression.op]).all():
        return first
    return replace(expression, parts=(first, second))


def _key(expression: Expression) -> tuple[object, ...]:
    if isinstance(expression, Leaf):
        index = tuple(i if i is None else i.tobytes() for i in expression.index)
        return id(expression.stored), expression.grid, index
    return expression.op, tuple(sorted(expression.attrs.items())), *map(_key, expression.parts)


def _bytes(tensor: gs.Constant) -> int:
    return -(-prod(int(d) for d in tensor.shape) * element_bits(element_of(tensor.dtype)) // 8)


def dequantizes(expression: Expression) -> bool:
    """Whether a DequantizeLinear is part of it, which runtimes compute when they run."""
    if isinstance(expression, Leaf):
        return False
    return expression.op == "DequantizeLinear" or any(map(dequantizes, expression.parts))


def is_dequantized(tensor: gs.Tensor) -> bool:
    """Whether it is such a weight, and a DequantizeLinear is part of it."""
    return isinstance(tensor, Quantized) and dequantizes(tensor.expression)


def dtype_of_result(expression: Expression) -> Dtype:
    """The type of its elements."""
    if isinstance(expression, Leaf):
        return np.dtype(expression.stored.dtype)
    if expression.op == "Cast":
        return dtype_of(expression.attrs["to"])
    return dtype_of_result(expression.parts[1 if expression.op == "DequantizeLinear" else 0])


def _evaluated(expression: Expression) -> Array:
    """The values, in a shape that broadcasts to that of the weight."""
    if isinstance(expression, Leaf):
        return expression.values
    parts = [_evaluated(part) for part in expression.parts]
    if expression.op != "DequantizeLinear":
        results = evaluate(construct.node(expression.op, "", expression.attrs, (), [variable("")]), _ANY_OPSET, parts)
        assert results is not None, expression.op
        return results[0]
    steps, scale, *zero = parts
    if np.dtype(steps.dtype).name.startswith("float"):
        wide = steps
    else:
        wide = steps.astype(np.int64) - (zero[0].astype(np.int64) if zero else 0)
    # ONNX Runtime computes in single precision, whatever the scale is
    return np.asarray((wide.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype))
