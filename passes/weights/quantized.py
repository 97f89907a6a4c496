"""Weights of few bits: initializers and the arithmetic that makes a weight of them, read and cut as that weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.graph import construct
from passes.graph.construct import Composed, constant, variable
from passes.graph.editor import GraphEditor
from passes.graph.evaluate import evaluate
from passes.graph.tensors import Array, Dtype, dtype_of, element_of, is_floating, stored
from passes.weights.leaf import Leaf
from passes.weights.steps import Steps
from passes.weights.streaming import Picked, element_bits, moved

#: operators that do the same to each element, and of which weights are made of numbers of fewer bits
ARITHMETIC = frozenset({"Add", "Cast", "Div", "Mul", "Sub"})
#: what an operand must be to change nothing, where it is the second one
_NEUTRAL = {"Add": 0, "Div": 1, "Mul": 1, "Sub": 0}
_ANY_OPSET = 21  # these operators do the same in all


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
        simple = dequantizes(made.expression) and not has_blocks(made)
        return made if simple or made.bytes < _bytes(made) else None

    def steps(self) -> Steps | None:
        """The integers of a DequantizeLinear; None where it is made of others."""
        if not isinstance(self.expression, Applied) or self.expression.op != "DequantizeLinear":
            return None
        leaf, (scale, *zero) = self.expression.parts[0], map(_evaluated, self.expression.parts[1:])
        if not isinstance(leaf, Leaf) or "int" not in np.dtype(leaf.stored.dtype).name:
            return None
        point = zero[0].astype(np.float32) if zero else np.zeros((), np.float32)
        held = self.expression.parts[1]
        whole = isinstance(held, Leaf) and prod(held.stored.shape) == scale.size
        name = held.stored.name if isinstance(held, Leaf) and whole else ""
        return Steps(leaf.stored.name, leaf.values, scale, point, scale_tensor=name)

    def holding(self, name: str, values: Array, slack: Array | float = 0.0) -> Quantized | None:
        """Other values [same shape] in the same steps, where they fall on them but for `slack`; None if they do not."""
        steps, expression = self.steps(), self.expression
        if steps is None or values.shape != tuple(self.shape) or values.dtype != self.dtype:
            return None
        assert isinstance(expression, Applied)
        with np.errstate(all="ignore"):
            stored = Leaf.of(constant(f"{name}_quantised", steps.holding(values.astype(np.float64))))
        made = Quantized(name, replace(expression, parts=(stored, *expression.parts[1:])))
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
    if block:
        own, along = leaf.index[axis], np.arange(shape[axis]) // block
        along = along if own is None else own[along]
        return replace(leaf, index=tuple(along if a == axis else i for a, i in enumerate(leaf.index)))
    one = Leaf.of_one(leaf.stored, shape)
    if prod(leaf.shape) == 1:
        return one
    grid = tuple(leaf.grid[0] if a == axis else 1 for a in range(len(shape)))
    return replace(one, grid=grid, index=tuple(leaf.index[0] if a == axis else i for a, i in enumerate(one.index)))


def computed(node: gs.Node, parts: Sequence[Expression]) -> Quantized | None:
    """What arithmetic makes of its operands as such a weight; None where that is not stored in fewer bits."""
    plain = all(isinstance(part, Leaf) for part in parts) and node.op != "Cast"
    shape = np.broadcast_shapes(*(leaves(part)[0].shape for part in parts))
    operands = tuple(mapped(part, lambda leaf: _broadcast(leaf, shape)) for part in parts)
    result = shortened(Applied(node.op, dict(node.attrs), operands))
    types = [dtype_of_result(result), *(leaf.stored.dtype for leaf in leaves(result))]
    if plain or any(isinstance(dtype, int) or dtype.kind == "O" for dtype in types):  # of texts, or of none of numpy's
        return None
    made = Quantized(node.outputs[0].name, result)
    return made if made.bytes < _bytes(made) else None


def spread(part: Expression, move: Callable[[Array], Array]) -> Expression | None:
    """An operand whose elements are moved, dropped or repeated; None where they cannot be."""
    try:
        return mapped(part, lambda leaf: leaf.spread(move))
    except (TypeError, ValueError):
        return None


def joined(name: str, weights: Sequence[Quantized], axis: int) -> Quantized | None:
    """Weights that are concatenated; None where they are not made in the same way."""
    try:
        made = Quantized(name, _joined([weight.expression for weight in weights], axis % len(weights[0].shape)))
    except (TypeError, ValueError):
        return None
    return made if made.bytes < _bytes(made) else None


def _joined(parts: Sequence[Expression], axis: int) -> Expression:
    found = [part for part in parts if isinstance(part, Leaf)]
    if len(found) == len(parts) and len({leaf.stored.dtype for leaf in found}) == 1:
        return Leaf.joined(found, axis)
    applied = [part for part in map(_unplaced, parts) if isinstance(part, Applied)]
    if len(applied) < len(parts) or any((a.op, a.attrs) != (applied[0].op, applied[0].attrs) for a in applied):
        raise ValueError(parts)
    columns = zip(*(a.parts for a in applied), strict=True)
    return replace(applied[0], parts=tuple(_joined(column, axis) for column in columns))


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
    """The weight times factors [broadcast], in as few bits; None where they are not exact in its type, or its steps."""
    if dequantizes(weight.expression):
        return weight.holding(name, weight.values * factors.astype(weight.dtype))
    exact = weight.dtype == np.float32 or (factors.astype(weight.dtype) == factors).all()
    if not exact:
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


def has_blocks(tensor: gs.Tensor) -> bool:
    """Whether it is such a weight, with parameters that vary along more than one axis."""
    return isinstance(tensor, Quantized) and any(leaf.in_blocks for leaf in leaves(tensor.expression)[1:])


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
    return numbers(*parts)


def numbers(steps: Array, scale: Array, zero: Array | None = None) -> Array:
    """What a DequantizeLinear makes of steps: in single precision, whatever the scale is, as ONNX Runtime computes."""
    wide = steps
    if not is_floating(steps.dtype):
        wide = steps.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    return np.asarray((wide.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype))
