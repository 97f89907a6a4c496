"""Sums over windows of the channels of a group: what convolutions of floats and of integers share."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.shape_rules import ReadRule, Shape, ShapeVectors, SizeRule
from passes.abstract_values.slices import Constants, ConstantSlices, Couples, Demand, Demands, Partitions, Reads, Sets
from passes.abstract_values.windows import Window, kernel_windows, positions
from passes.graph.editor import Change, all_or_none
from passes.graph.tensors import (
    Array,
    Index,
    Mask,
    initializer,
    inverse,
    is_constant,
    numpy_dtype,
    operand,
    product,
    shape_of,
    size_of,
    values_of,
    volume,
)
from passes.ops.base import Op
from passes.ops.convolutions.channel_groups import cut_groups, group_size, level
from passes.ops.traits import CoupledAxes, WeightedSum, WeightedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.rewriting.lower_ops import Rewriter
from passes.weights.statistics import Nonzero


class GroupedSums(SizeRule, ReadRule, Op, CoupledAxes, Reordering, WeightedSums):
    """Weights [out, in / group, *kernel], whatever their order on disk; removed constants add to the bias.

    No `Contraction`: no label names the channels of several groups, and at a border sums have fewer terms.
    """

    reason = kept_reasons.GROUPS
    width_axis: int | None = 1
    #: positions of the weights, and of what is added to the sums, None where a node after this one adds
    weight = 1
    addend: int | None = 2
    #: those of all operands beside the weights that may be vectors along the output
    per_output: tuple[int, ...] = (2,)
    #: axes of the weights on disk that run along the output and the input channels; the second is that of one group
    channel_axes = (0, 1)
    slides = "Conv"

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        weights, (out, _) = node.inputs[self.weight], self.channels(node)
        along = "oc" if self.channel_axes == (0, 1) else "co"
        if self.has_stored_weights(node) and isinstance(weights, gs.Constant) and out is not None:
            along += "k" * (len(weights.shape) - 2)
            yield WeightedSum(node.inputs[0], (1,), weights, along, group_size(node), self.addend, (out,), self.slides)

    def windows(self, node: gs.Node) -> list[Window] | None:
        """The windows over the spatial axes, None if they are not understood."""
        return kernel_windows(shape_of(node.inputs[self.weight]) or (), node.attrs)

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        weights, windows = shape_of(node.inputs[self.weight]), self.windows(node)
        return positions(shape_of(node.inputs[0]), windows, weights[0] if weights else None)

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        weights = shape_of(node.inputs[self.weight])
        if weights is not None and len(weights) > 1:
            yield 0, [None, self.channels(node)[1], *[None] * (len(weights) - 2)]

    def channels(self, node: gs.Node) -> tuple[int | None, int | None]:
        """How many channels are written and read, by the weights."""
        sizes = [size_of(node.inputs[self.weight], axis) for axis in (0, 1)]
        written, read = self.channel_axes
        if sizes[1] is not None:
            sizes[1] *= group_size(node)
        return sizes[written], sizes[read]

    def has_stored_weights(self, node: gs.Node) -> bool:
        """Whether the weights are an initializer, and so is what they are scaled by."""
        return is_constant(node.inputs[self.weight])

    def understood_shapes(self, node: gs.Node, facts: Facts) -> bool:
        """Whether the weights are stored and the channel counts are static."""
        if not self.has_stored_weights(node) or len(shape_of(node.inputs[self.weight]) or ()) < 3:
            return False
        return self.channels(node) == (facts.size(node.outputs[0], 1), facts.size(node.inputs[0], 1))

    def _kernel(self, node: gs.Node) -> tuple[int, ...]:
        return tuple(initializer(node, self.weight).shape[2:])

    def by_output(self, weights: Array, groups: int) -> Array:
        """Weights on disk as [out, in / group, *kernel], and back."""
        return weights

    def weights(self, node: gs.Node, facts: Facts) -> Array:
        """What the sums have as factors: [out, in / group, *kernel]."""
        return self.by_output(facts.value(node.inputs[self.weight]), group_size(node))

    def connected(self, node: gs.Node, facts: Facts) -> Nonzero:
        """Whether output channel m depends on channel j of its group: [out, in / group]."""
        groups, weights = group_size(node), node.inputs[self.weight]
        if groups == 1:
            return facts.nonzero(weights, self.channel_axes)
        return Nonzero.of(self.by_output(facts.nonzero(weights, (0, 1)).matrix, groups))

    def constant_inputs(self, node: gs.Node, facts: Facts) -> ConstantSlices:
        """Channels of the input that are one constant in the sums."""
        return facts.constant_slices(node.inputs[0], 1)

    def dtype_of_sums(self, node: gs.Node) -> np.dtype[np.generic]:
        """The type that the bias has."""
        return numpy_dtype(node.outputs[0])

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        """What the output has of these sums."""
        raise NotImplementedError

    def spreads_evenly(self, node: gs.Node) -> bool:
        """Whether a constant channel adds the same to every position of the output."""
        auto = node.attrs.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            return all(k == 1 for k in self._kernel(node))
        return auto == "VALID" or not any(node.attrs.get("pads", []))

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        if not self.understood_shapes(node, facts):
            return
        nonzero, groups = self.connected(node, facts), group_size(node)
        known = self.constant_inputs(node, facts)
        mask = ~self._touched(nonzero, ~known.mask, groups)
        shift, total = known.mask & (known.value != 0), np.zeros(mask.shape)
        if mask.any() and shift.any():
            if self.spreads_evenly(node):
                total = self._shift(node, facts, np.where(shift, known.value, 0))
            else:  # the border of the output reads less of the constant
                mask &= ~self._touched(nonzero, shift, groups)
        found = self.with_operands_beside(node, facts, 1, ConstantSlices(mask, total))
        if found.mask.any():
            yield 0, 1, ConstantSlices(found.mask, found.value.astype(numpy_dtype(node.outputs[0])))

    @staticmethod
    def _touched(nonzero: Nonzero, channels: Mask, groups: int) -> Mask:
        """Output channels that depend on any of these input channels."""
        if groups == 1:
            return nonzero.rows(channels)
        per_out = np.repeat(channels.reshape(groups, -1), len(nonzero.matrix) // groups, axis=0)
        return np.asarray((nonzero.matrix & per_out).any(axis=1))

    def _shift(self, node: gs.Node, facts: Facts, values: Array) -> Array:
        """What constant input channels add to each output channel away from borders: float64 [out]."""
        weights = self.weights(node, facts)
        kernel = tuple(range(2, weights.ndim))
        if group_size(node) == 1:
            used = np.flatnonzero(values)
            rows = weights[:, used].astype(np.float64).sum(axis=kernel)
            return np.asarray(rows @ values[used].astype(np.float64))
        summed = weights.astype(np.float64).sum(axis=kernel)
        out = weights.shape[0]
        per_out = np.repeat(values.reshape(group_size(node), -1), out // group_size(node), axis=0)
        return np.asarray((summed * per_out).sum(axis=1))

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        if not self.understood_shapes(node, facts):
            return
        live = facts.live(node.outputs[0], 1)
        yield 0, 1, self.read_by(node, facts, live)
        yield from ((i, 0, live) for i in self.along_output(node))

    def along_output(self, node: gs.Node) -> list[int]:
        """The operands that are vectors along the output."""
        given = [(i, t) for i in self.per_output if (t := operand(node, i)) is not None]
        return [i for i, t in given if shape_of(t) not in ((), (1,))]

    def read_by(self, node: gs.Node, facts: Facts, outputs: Mask) -> Mask:
        """Input channels that these output channels depend on."""
        nonzero, groups = self.connected(node, facts), group_size(node)
        if groups == 1:
            return nonzero.columns(outputs)
        used = nonzero.matrix & outputs[:, None]
        return np.asarray(used.reshape(groups, -1, used.shape[1]).any(axis=1).reshape(-1))

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        if (0, 1) not in asked or not self.understood_shapes(node, facts):
            return {}
        return {(0, 1): level(asked[0, 1], group_size(node))}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        if not self.understood_shapes(node, facts):
            return {}
        outputs = stored.get((0, 1), np.ones(facts.size(node.outputs[0], 1) or 0, bool))
        demands: Demands = {(i, 0): Demand(outputs) for i in self.along_output(node) if (0, 1) in stored}
        need, groups = self.needed(node, facts, self.read_by(node, facts, outputs)), group_size(node)
        if groups == 1:
            flops = 2.0 * volume(node.outputs[0]) * math.prod(self._kernel(node))
            demands[0, 1] = Demand(need, flexible=True, flops=flops, reason=kept_reasons.PADDED_BORDER)
        else:
            kept = outputs.reshape(groups, -1).any(axis=1)
            rows = need.reshape(groups, -1).copy()
            rows[kept, 0] |= ~rows[kept].any(axis=1)  # a group that keeps an output keeps an input
            rows[~kept] = False
            demands[0, 1] = Demand(level(rows.reshape(-1), groups), reason=kept_reasons.GROUPS)
        return demands

    def needed(self, node: gs.Node, facts: Facts, read: Mask) -> Mask:
        """Of the input channels that are read, those that are no constants, or for which the bias cannot make up."""
        known = self.constant_inputs(node, facts)
        return read & ~(known if self.spreads_evenly(node) else known.only(0)).mask

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        """Cut the weights to the channels that are stored, and add what the removed inputs did."""
        channels = self.channels_left(node, rewriter)
        if channels is not None:
            self.add_constants(node, rewriter, *channels)
            self.cut(node, rewriter, *channels)

    def add_constants(self, node: gs.Node, rewriter: Rewriter, inputs: Mask, outputs: Mask) -> None:
        """Add what constants did that are no longer read."""
        before, facts = rewriter.before, rewriter.facts
        known = self.constant_inputs(before, facts)
        shift = np.where(self.read_by(before, facts, outputs) & ~inputs & known.mask, known.value, 0)
        if shift.any():
            self.add_shift(node, rewriter, self._shift(before, facts, shift)[outputs])

    def channels_left(self, node: gs.Node, rewriter: Rewriter) -> tuple[Mask, Mask] | None:
        """Input and output channels that are stored; None where all are."""
        before, facts = rewriter.before, rewriter.facts
        if not self.understood_shapes(before, facts):
            return None
        required, stored = rewriter.required(node, 0, 1), rewriter.stored(node.outputs[0], 1)
        if required is None and stored is None:
            return None
        sizes = [facts.size(t, 1) or 0 for t in (before.inputs[0], before.outputs[0])]
        inputs, outputs = (
            np.ones(n, bool) if mask is None else mask for n, mask in zip(sizes, (required, stored), strict=True)
        )
        return inputs, outputs

    def cut(self, node: gs.Node, rewriter: Rewriter, inputs: Mask, outputs: Mask) -> None:
        """Leave the weights between these channels alone."""
        weights, groups = rewriter.before.inputs[self.weight], group_size(rewriter.before)
        if groups == 1:
            cut = rewriter.slice(weights, dict(zip(self.channel_axes, (outputs, inputs), strict=True)))
        else:
            node.attrs["group"] = kept = int(outputs.reshape(groups, -1).any(axis=1).sum())
            cut = rewriter.moved(
                weights,
                lambda w: self.by_output(cut_groups(self.by_output(w, groups), outputs, inputs, groups), kept),
            )
        rewriter.set_input(node, self.weight, cut)

    def add_shift(self, node: gs.Node, rewriter: Rewriter, shift: Array) -> None:
        """Add these numbers, one for each output channel that is stored, to the sums."""
        bias, dtype = None if self.addend is None else operand(node, self.addend), self.dtype_of_sums(node)
        if not shift.any():
            return
        if self.addend is None or (bias is not None and not is_constant(bias)):
            rank = len(rewriter.shape(rewriter.before.outputs[0]))
            rewriter.add_after(node, shift.astype(dtype).reshape(1, -1, *[1] * (rank - 2)))
        elif bias is None:
            rewriter.set_input(node, self.addend, rewriter.constant("bias", shift.astype(dtype)))
        else:
            values = (shift + values_of(bias).astype(np.float64)).astype(dtype)
            rewriter.set_input(node, self.addend, rewriter.shifted(bias, shift, values))

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        if axis != 1 or group_size(node) != 1 or not self.has_stored_weights(node):
            return None
        places = [(self.weight, self.channel_axes[0]), *((i, 0) for i in self.along_output(node))]
        return all_or_none([orders.taken(node, i, a, order) for i, a in places])

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        if index != 0 or axis != 1 or group_size(node) != 1 or not self.has_stored_weights(node):
            return None
        return orders.taken(node, self.weight, self.channel_axes[1], inverse(order))

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """For each output element two FLOPs for each weight of its sum, less one, and one for the bias."""
        out, depth = volume(node.outputs[0]), product((shape_of(node.inputs[self.weight]) or ())[1:])
        biased = self.addend is not None and operand(node, self.addend) is not None
        return out * (2 * depth - 1 + biased), out * depth

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(0, 1)] if group_size(node) > 1 and axis == 1 else []

    def partitions(self, node: gs.Node, facts: Facts) -> Partitions:
        """Groups have equally many channels: whole groups are removed, or the same place in each."""
        groups = group_size(node)
        for tensor in (node.inputs[0], node.outputs[0]) if groups > 1 else ():
            size = facts.size(tensor, 1)
            if size and size > groups:
                yield (tensor, 1), [np.arange(size) // (size // groups), np.arange(size) % (size // groups)]

    def couples(self, node: gs.Node, facts: Facts) -> Couples:
        """A group of one input channel is that channel; between the channels of larger groups nothing is fixed."""
        sizes = facts.size(node.inputs[0], 1), facts.size(node.outputs[0], 1)
        if sizes[0] and sizes[1] and sizes[0] == group_size(node) > 1:
            yield (node.inputs[0], 1), (node.outputs[0], 1), np.arange(sizes[1]) // (sizes[1] // sizes[0])
