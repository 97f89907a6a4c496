"""Operators that compute each output element from the operands' elements at the same (broadcast) place."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons, linear_dependence
from passes.abstract_values.constant_maps import MOST_PLACES, ConstantMap, refined, whole
from passes.abstract_values.linear_dependence import Combination
from passes.abstract_values.row_index import Rows
from passes.abstract_values.shape_rules import (
    AgreementRule,
    ElementRule,
    Elements,
    ReadRule,
    Shape,
    ShapeVectors,
    SizeRule,
    broadcast,
    side_by_side,
)
from passes.abstract_values.slices import Constants, ConstantSlices, Dependences, Link, Maps, merge
from passes.graph.editor import Change, GraphEditor, all_or_none
from passes.graph.evaluate import evaluate
from passes.graph.tensors import (
    Array,
    Dim,
    Index,
    Mask,
    inverse,
    is_constant,
    is_float,
    operand,
    present,
    rank_of,
    shape_of,
    values_of,
)
from passes.ops.base import Linked, register, rules
from passes.ops.traits import DependenceTransfer, combination
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering


class Elementwise(AgreementRule, ReadRule, SizeRule, Linked, DependenceTransfer, Reordering):
    """Numpy broadcasting of any number of operands, axes aligned at the last.

    A slice of the output is constant when the slices of all operands are, or when one operand decides alone.
    """

    foldable = True
    scope = "place"
    like = "Sum"
    reason = kept_reasons.COMBINED
    #: how many simple operators it stands for, in estimates of what a slice costs to compute
    stands_for = 1
    #: whether an operand may be given with size 1 in place of repeated slices
    broadcasts = True

    def align(self, node: gs.Node, index: int, axis: int) -> int | None:
        """The axis of operand `index` that runs along axis `axis` of the output, None if it has none."""
        operand, output = node.inputs[index].shape, node.outputs[0].shape
        if operand is None or output is None:
            return None
        aligned = axis - (len(output) - len(operand))
        return aligned if aligned >= 0 else None

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        if type(self).align is not Elementwise.align:
            return shape_of(node.inputs[0])
        return broadcast([shape_of(tensor) for _, tensor in present(node.inputs)])

    def agreeing(self, node: gs.Node, values: Mapping[str, int]) -> Iterator[tuple[Dim, Dim]]:
        if type(self).align is Elementwise.align and node.inputs:
            yield from side_by_side([shape_of(tensor) or () for _, tensor in present(node.inputs)])

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        """The only operand, or the one of unknown shape where it alone has as many axes as the output."""
        after, operands = shape_of(node.outputs[0]), present(node.inputs)
        if len(operands) == 1 and after is not None:
            yield operands[0][0], after
            return
        others = [shape for _, tensor in operands if (shape := shape_of(tensor)) is not None]
        if after is None or len(others) != len(operands) - 1 or any(len(shape) >= len(after) for shape in others):
            return
        beside = [
            {shape[-place] for shape in others if len(shape) >= place} - {1} for place in range(len(after), 0, -1)
        ]
        missing = next(index for index, tensor in operands if shape_of(tensor) is None)
        yield missing, [None if narrow else size for size, narrow in zip(after, beside, strict=True)]

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        found = []
        operands = present(node.inputs)
        if any(tensor.shape is None for _, tensor in operands):
            return []
        for axis in range(len(node.outputs[0].shape or ())):
            size = facts.size(node.outputs[0], axis)
            if size is None:
                continue
            along = []
            for index, tensor in operands:
                aligned = self.align(node, index, axis)
                own = 1 if aligned is None else facts.size(tensor, aligned)
                if aligned is not None and own == size:
                    along.append(Link(index, aligned, 0, axis))
                elif own != 1:
                    break  # an operand of unknown size there cannot be cut with the others
            else:
                found += along
        return found

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        for axis, aligned in facts.aligned(node).items():
            if (known := self._along(node, facts, axis, aligned)) is not None:
                yield 0, axis, known

    def _along(self, node: gs.Node, facts: Facts, axis: int, aligned: dict[int, int]) -> ConstantSlices | None:
        size = facts.size(node.outputs[0], axis)
        assert size is not None
        operands: list[ConstantSlices | None] = [None] * len(node.inputs)
        nothing = ConstantSlices(np.zeros(size, bool), np.zeros(size))
        one_decides = type(self).decided is not Elementwise.decided
        for index, tensor in present(node.inputs):
            known = facts.numbers(tensor, aligned[index]) if index in aligned else facts.repeated(tensor, size)
            if known is None and not one_decides:
                return None
            operands[index] = known or nothing
        if all(k is None or k is nothing for k in operands):
            return None
        decided = self.decided(node, facts, operands) if one_decides else None
        all_known = functools.reduce(np.logical_and, [k.mask for k in operands if k is not None])
        values = self._values(node, facts, operands, all_known)
        computed = None if values is None else ConstantSlices(all_known, values)
        if decided is None or not decided.mask.any():
            return computed
        return decided if computed is None else merge(computed, decided)

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        computed = [tensor for _, tensor in present(node.inputs) if not is_constant(tensor)]
        if all(tensor.name in facts.constant or tensor.name in facts.constant_map for tensor in computed):
            for axis, aligned in facts.aligned(node).items():
                if (found := self._map(node, facts, axis, aligned)) is not None:
                    yield 0, axis, found

    def _map(self, node: gs.Node, facts: Facts, axis: int, aligned: dict[int, int]) -> ConstantMap | None:
        operands: dict[int, ConstantMap] = {}
        for index, _ in present(node.inputs):
            operand = self._operand_map(node, facts, index, axis, aligned)
            if operand is None:
                return None
            operands[index] = operand
        mask = functools.reduce(np.logical_and, [p.mask for p in operands.values()])
        joint = refined(list(operands.values())) if mask.any() else None
        if joint is None:
            return None
        places, values = joint
        shapes = {v.shape for v in values}
        shape = np.broadcast_shapes(*shapes) if len(shapes) > 1 else shapes.pop()
        if not 0 < math.prod(shape[1:]) <= MOST_PLACES:
            return None
        flat = [(v if v.shape == shape else np.broadcast_to(v, shape))[mask].reshape(-1) for v in values]
        vectors = dict(zip(operands, flat, strict=True))
        computed = self.fold(node, facts, [vectors.get(i) for i in range(len(node.inputs))])
        if computed is None or computed.size != flat[0].size:
            return None
        value = np.zeros(shape, computed.dtype)
        value[mask] = computed.reshape(-1, *shape[1:])
        return ConstantMap(mask, value, places)

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        computed = {index for index, tensor in present(node.inputs) if not is_constant(tensor)}
        for axis, aligned in facts.aligned(node).items():
            if not self._may_depend(node, facts, computed, aligned):
                continue
            size = facts.size(node.outputs[0], axis) or 0
            parts = [self._combination(node, facts, i, aligned, size) for i, _ in present(node.inputs)]
            found = self.combined(node, parts)
            if found is None or not found.rows[found.inside].any():  # such as zeros over what may be zero, too
                found = linear_dependence.grouped(parts)
            fixed = facts.constants(node.outputs[0], axis)
            if fixed is not None:
                found = replace(found, inside=found.inside & ~fixed)
            before = [
                t.reps for i, a in aligned.items() if (t := facts.dependence.get((node.inputs[i].name, a))) is not None
            ]
            dependence = linear_dependence.dependence(found, np.concatenate(before) if before else None)
            if dependence is not None:
                yield 0, axis, dependence

    @staticmethod
    def _may_depend(node: gs.Node, facts: Facts, computed: set[int], aligned: dict[int, int]) -> bool:
        """Whether some slices are linearly dependent already, or constants meet what is shared along the axis."""
        if facts.dependence and any((node.inputs[i].name, a) in facts.dependence for i, a in aligned.items()):
            return True
        if computed <= aligned.keys():
            return False
        return any(i not in computed or a in facts.constant.get(node.inputs[i].name, ()) for i, a in aligned.items())

    @staticmethod
    def _combination(node: gs.Node, facts: Facts, index: int, aligned: dict[int, int], size: int) -> Combination:
        """What one operand gives to the slices of the output."""
        tensor = node.inputs[index]
        if index not in aligned:
            value = facts.uniform(tensor)
            if value is None:
                return linear_dependence.broadcast(tensor.name, size)
            return linear_dependence.constants(np.ones(size, bool), np.full(size, value))
        return combination(facts, tensor, aligned[index])

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        """The output as combinations, where the operator is linear in these operands."""
        return None

    def _operand_map(
        self, node: gs.Node, facts: Facts, index: int, axis: int, aligned: dict[int, int]
    ) -> ConstantMap | None:
        """What is known of one operand, as maps of slices along this axis of the output; None if nothing is."""
        tensor, output = node.inputs[index], node.outputs[0]
        size, rank = facts.size(output, axis) or 0, rank_of(output)
        own: int | None = aligned.get(index)
        if own is not None:
            constant_map = facts.maps(tensor, own)
        elif is_constant(tensor):  # the same in all slices
            own, values = self.align(node, index, axis), facts.value(tensor)
            one = whole(values[None], 0) if own is None else whole(values, own)
            constant_map = ConstantMap(np.ones(size, bool), one.value, one.index)
        else:
            return None
        if constant_map is None:
            return None
        rows: list[Rows | None] = []
        shape = [len(constant_map.value)]
        for other in (a for a in range(rank) if a != axis):
            a = self.align(node, index, other)
            place = None if a is None or a == own else a - (own is not None and a > own)
            found = None if place is None else constant_map.index[place]
            if found is not None and found.size != facts.dim(output, other):
                return None  # a map must have the output's own sizes, or it would be repeated
            rows.append(found)
            shape.append(1 if place is None else constant_map.value.shape[place + 1])
        return ConstantMap(constant_map.mask, constant_map.value.reshape(shape), tuple(rows))

    def _values(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None], mask: Mask) -> Array | None:
        """Values of the output where `mask`, zero elsewhere; None if they cannot be computed."""
        if not mask.any():
            return None
        computed = self.fold(node, facts, [None if k is None else k.value[mask] for k in operands])
        if computed is None or computed.shape != (np.count_nonzero(mask),):
            return None
        values = np.zeros(mask.shape, computed.dtype)
        values[mask] = computed
        return values

    def fold(self, node: gs.Node, facts: Facts, operands: Sequence[Array | None]) -> Array | None:
        """The operator on vectors of constants."""
        results = evaluate(node, facts.opset, operands)
        return None if results is None else results[0]

    def decided(self, node: gs.Node, facts: Facts, operands: list[ConstantSlices | None]) -> ConstantSlices | None:
        """Slices that are constant because of some operands alone, whatever finite values the others have."""
        return None

    def scales(self, node: gs.Node, facts: Facts, place: int) -> bool:
        """Whether output 0 is operand `place`, scaled by the other one, whatever that is: zeros stay zero."""
        return False

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        along = self._computed_along(node, axis)
        if not along:
            return None
        data = [orders.written(tensor, a, order) for tensor, a in along]
        return all_or_none([*data, *self._constants_in_order(node, axis, order, orders)])

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        ranks = len(shape_of(node.outputs[0]) or ()), len(shape_of(node.inputs[index]) or ())
        out = axis + ranks[0] - ranks[1]
        if 0 in ranks or len(node.outputs) != 1 or self.align(node, index, out) != axis:
            return None
        along = self._computed_along(node, out)
        if along is None or not any(t is node.inputs[index] for t, _ in along):
            return None
        after = orders.read(node.outputs[0], out, order)
        data = [orders.written(t, a, inverse(order)) for t, a in along if t is not node.inputs[index]]
        return all_or_none([after, *data, *self._constants_in_order(node, out, inverse(order), orders)])

    def _computed_along(self, node: gs.Node, axis: int) -> list[tuple[gs.Tensor, int]] | None:
        """The computed operands along the axis of the output, each with its own axis; None if one may or may not be."""
        found = []
        for index, tensor in present(node.inputs):
            shape, along = shape_of(tensor), self.align(node, index, axis)
            if is_constant(tensor) or (shape is not None and (along is None or shape[along] == 1)):
                continue
            if shape is None or along is None or not isinstance(shape[along], int):
                return None
            found.append((tensor, along))
        return found

    def _constants_in_order(self, node: gs.Node, axis: int, order: Index, orders: Orders) -> list[Change | None]:
        """The constant operands that run along the axis of the output, in another order."""
        return [
            orders.taken(node, index, along, order)
            for index, tensor in present(node.inputs)
            if is_constant(tensor) and (along := self.align(node, index, axis)) is not None and tensor.shape[along] != 1
        ]

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        rule = _LOWEST.get(node.op)
        return -math.inf if rule is None else float(rule([facts.lowest(t) for _, t in present(node.inputs)]))


_NONNEGATIVE = "Abs Exp HardSigmoid Relu Sigmoid Softplus Sqrt ThresholdedRelu".split()
_LOWEST: dict[str, Callable[[list[float]], float]] = {
    **dict.fromkeys(_NONNEGATIVE, lambda _: 0.0),
    "Sqrt": lambda bounds: math.sqrt(max(bounds[0], 0.0)),
    "Reciprocal": lambda bounds: 0.0 if bounds[0] > 0 else -math.inf,
    "Max": max,
    "Min": min,
    "Sum": sum,
}

register(
    *"Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Gelu".split(),
    *"LeakyRelu Log Mish Neg Not PRelu Reciprocal Round Selu Shrink Sigmoid Sign Sin Sinh Softplus".split(),
    *"Softsign Sqrt Swish Tan Tanh ThresholdedRelu IsInf IsNaN".split(),
    *"Sum Mean Greater GreaterOrEqual Less LessOrEqual".split(),
    *"Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot".split(),
)(Elementwise)


def is_pointwise(node: gs.Node) -> bool:
    """Whether the node does the same to every element of its first operand, wherever that lies."""
    op, rank = rules(node), len(shape_of(node.inputs[0]) or ()) if node.inputs else 0
    others = [tensor for index, tensor in present(node.inputs) if index > 0]
    alike = all(is_constant(t) and math.prod(t.shape) == 1 and len(t.shape) <= rank for t in others)
    return isinstance(op, Elementwise) and op.foldable and alike and bool(rank) and not is_constant(node.inputs[0])


def pointwise_after(node: gs.Node, editor: GraphEditor) -> Iterator[gs.Node]:
    """What follows the node and does the same to every element, where what is before it has no other reader."""
    while (reader := editor.sole_reader(node.outputs[0])) is not None and is_pointwise(reader):
        yield reader
        node = reader


@register("Cast")
class Copy(ElementRule, Elementwise):
    """Moves data, computes nothing."""

    broadcasts = False
    flops_per_element = 0

    def elements(self, node: gs.Node, vectors: ShapeVectors) -> Elements | None:
        dtype = node.outputs[0].dtype
        return vectors.of(node.inputs[0]) if dtype in (np.int64, np.int32) else None

    def combined(self, node: gs.Node, parts: list[Combination]) -> Combination | None:
        return parts[0] if is_float(node.outputs[0]) else None

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        return facts.lowest(node.inputs[0]) if is_float(node.outputs[0]) else -math.inf


@register("CastLike")
class CastLike(Copy):
    """To the type of the second operand."""

    foldable = False

    def align(self, node: gs.Node, index: int, axis: int) -> int | None:
        return axis if index == 0 else None

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        dtype = node.outputs[0].dtype
        for link in facts.links(node):
            known = facts.known(node.inputs[0], link.input_axis)
            if known is not None and dtype is not None and not isinstance(dtype, int):
                yield 0, link.output_axis, ConstantSlices(known.mask, known.value.astype(dtype))

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        return iter(())


@register("Identity")
class Identity(Copy):
    """Changes nothing."""

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        return node.inputs[0]


@register("Dropout")
class Dropout(Copy):
    """Changes nothing at inference."""

    foldable = False

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        # a second output that is still there has a consumer, which needs it whole
        return super().links(node, facts) if len(node.outputs) == 1 and self.passes_on(node) is not None else []

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        mode = operand(node, 2)
        never = mode is None or (is_constant(mode) and not values_of(mode).any())
        mask_is_read = len(node.outputs) > 1 and bool(node.outputs[1].outputs)
        return node.inputs[0] if never and not mask_is_read else None
