"""Convolutions: contractions over channels at each position, in groups, with borders."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import Absorbed, ConstantMap, Sliding
from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.shape_rules import ReadRule, Shape
from passes.abstract_values.slices import (
    Constants,
    ConstantSlices,
    Couples,
    Demand,
    Demands,
    Maps,
    Partitions,
    Reads,
    Sets,
)
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
from passes.rewriting.weight_scaling import AffineFolding, Fuser
from passes.weights.quantized import is_dequantized
from passes.weights.statistics import Nonzero


class Convolution(ReadRule, Op, AffineFolding, CoupledAxes, Reordering, WeightedSums):
    """What plain and transposed convolutions share: weights [out, in / group, ...], whatever their order on disk.

    No `Contraction`: no label names the channels of several groups, and at a border sums have fewer terms.
    """

    reason = kept_reasons.GROUPS
    width_axis = 1

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        weights, (out, _) = node.inputs[1], self.channels(node)
        along, slides = ("oc", "Conv") if self.channel_axes == (0, 1) else ("co", "ConvTranspose")
        if is_constant(weights) and out is not None:
            along += "k" * (len(weights.shape) - 2)
            yield WeightedSum(node.inputs[0], (1,), weights, along, group_size(node), 2, (out,), slides)

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        weights = shape_of(node.inputs[1])
        if weights is not None and len(weights) > 1:
            yield 0, [None, self.channels(node)[1], *[None] * (len(weights) - 2)]

    def contradiction(self, node: gs.Node) -> str:
        data, weight, bias = node.inputs[0], node.inputs[1], operand(node, 2)
        channels, (out, taken) = size_of(data, 1), self.channels(node)
        shape, read = shape_of(weight), shape_of(data)
        if shape is not None and (len(shape) < 3 or (read is not None and len(read) != len(shape))):
            return f"its weights have shape {list(shape)}, and must have as many axes as its input, and 3 at least"
        if taken is None or out is None:
            return ""
        if channels not in (None, taken):
            return f"its input has {channels} channels and its weights are for {taken}"
        if bias is not None and size_of(bias, 0) not in (None, out):
            return f"it writes {out} channels and its bias is for {size_of(bias, 0)}"
        return ""

    def understood_shapes(self, node: gs.Node, facts: Facts) -> bool:
        """Whether the weights are an initializer and the channel counts are static."""
        if not is_constant(node.inputs[1]) or len(shape_of(node.inputs[1]) or ()) < 3:
            return False
        return self.channels(node) == (facts.size(node.outputs[0], 1), facts.size(node.inputs[0], 1))

    def channels(self, node: gs.Node) -> tuple[int | None, int | None]:
        """How many channels are written and read, by the weights."""
        sizes = [size_of(node.inputs[1], axis) for axis in (0, 1)]
        written, read = self.channel_axes
        if sizes[1] is not None:
            sizes[1] *= group_size(node)
        return sizes[written], sizes[read]

    #: axes of the weights on disk that run along the output and the input channels; the second is that of one group
    channel_axes = (0, 1)

    def by_output(self, weights: Array, groups: int) -> Array:
        """Weights on disk as [out, in / group, *kernel], and back."""
        return weights

    def weights(self, node: gs.Node, facts: Facts) -> Array:
        """The weights as [out, in / group, *kernel]."""
        return self.by_output(facts.value(node.inputs[1]), group_size(node))

    def connected(self, node: gs.Node, facts: Facts) -> Nonzero:
        """Whether output channel m depends on channel j of its group: [out, in / group]."""
        groups = group_size(node)
        if groups == 1:
            return facts.nonzero(node.inputs[1], self.channel_axes)
        return Nonzero.of(self.by_output(facts.nonzero(node.inputs[1], (0, 1)).matrix, groups))

    def spreads_evenly(self, node: gs.Node) -> bool:
        """Whether a constant channel adds the same to every position of the output."""
        return False

    # -- forward -------------------------------------------------------------------------------------------------

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        if not self.understood_shapes(node, facts):
            return
        nonzero, groups = self.connected(node, facts), group_size(node)
        known = facts.constant_slices(node.inputs[0], 1)
        mask = ~self._touched(nonzero, ~known.mask, groups)
        shift, total = known.mask & (known.value != 0), np.zeros(mask.shape)
        if mask.any() and shift.any():
            if self.spreads_evenly(node):
                total = self._shift(node, facts, np.where(shift, known.value, 0))
            else:  # the border of the output reads less of the constant
                mask &= ~self._touched(nonzero, shift, groups)
        bias = operand(node, 2)
        if bias is not None:
            constant = facts.known(bias, 0)
            if constant is None:
                return
            mask, total = mask & constant.mask, total + constant.value
        if mask.any():
            yield 0, 1, ConstantSlices(mask, total.astype(numpy_dtype(node.outputs[0])))

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

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        known = facts.maps(node.inputs[0], 1) if self.understood_shapes(node, facts) else None
        bias = operand(node, 2)
        constant = None if bias is None else facts.known(bias, 0)
        if known is None or (bias is not None and constant is None):
            return
        mask = ~self._touched(self.connected(node, facts), ~known.mask, group_size(node))
        if constant is not None:
            mask &= constant.mask
        mask &= ~facts.constant_slices(node.outputs[0], 1).mask  # which `constants` has found, for much less
        result = self.convolved(node, facts, known, mask) if mask.any() else None
        if result is None:
            return
        value = result.value
        if constant is not None:
            value = value + constant.value.reshape(-1, *[1] * len(result.index))
        yield 0, 1, ConstantMap(mask, value.astype(numpy_dtype(node.outputs[0])), result.index)

    def sliding(self, node: gs.Node, facts: Facts, known: ConstantMap) -> tuple[Sliding, ConstantMap] | None:
        """Windows, and these maps of the input as they lie under them; None if that is not understood."""
        raise NotImplementedError

    def convolved(self, node: gs.Node, facts: Facts, known: ConstantMap, outputs: Mask) -> ConstantMap | None:
        """What known input channels add to these output channels, without the bias; 0 in the others. float64.

        None where the windows or the sizes are not understood.
        """
        groups, weights = group_size(node), self.weights(node, facts)
        asked, inputs = outputs.reshape(groups, -1).any(axis=1), known.mask.size // groups  # of which groups
        used = known.mask if groups == 1 else np.repeat(asked, inputs)
        values = known.cleared()[used].astype(np.float64)
        weights = weights[np.ix_(outputs, used)] if groups == 1 else weights[outputs]
        weights = weights.reshape(*weights.shape[:2], -1).astype(np.float64)
        sliding = self.sliding(node, facts, ConstantMap(used[used], values, known.index))
        found = None if sliding is None else sliding[0].over(sliding[1], 0.0)
        if found is None:
            return None
        index, windows = found  # [in, 1, tuples..., kernel...]
        tuples = windows.shape[1 : 1 + len(index)]
        windows = windows.reshape(len(values), math.prod(tuples), -1)  # [in, tuples, kernel]
        value = np.zeros((outputs.size, math.prod(tuples)))
        if groups == 1:
            value[outputs] = np.tensordot(weights, windows, axes=((1, 2), (0, 2)))
        else:
            group_of = np.cumsum(asked)[np.flatnonzero(outputs) // (outputs.size // groups)] - 1
            per_group = windows.reshape(-1, inputs, *windows.shape[1:])  # [groups asked, inputs, tuples, kernel]
            each = per_group if len(group_of) == len(per_group) else per_group[group_of]
            value[outputs] = np.einsum("mik,mitk->mt", weights, each)
        return ConstantMap(outputs, value.reshape(outputs.size, *tuples), index)

    # -- backward ------------------------------------------------------------------------------------------------

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        if not self.understood_shapes(node, facts):
            return
        live = facts.live(node.outputs[0], 1)
        yield 0, 1, self.read_by(node, facts, live)
        yield 2, 0, live

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
        bias, demands = operand(node, 2), Demands()
        outputs = stored.get((0, 1), np.ones(facts.size(node.outputs[0], 1) or 0, bool))
        if bias is not None and (0, 1) in stored:
            demands[2, 0] = Demand(outputs)
        read = self.read_by(node, facts, outputs)
        known = facts.constant_slices(node.inputs[0], 1)
        uneven = facts.constant_map.get(node.inputs[0].name, {}).get(1)
        groups = group_size(node)
        need, shift = read & ~known.mask, read & known.mask & (known.value != 0)
        if uneven is not None and groups == 1 and self._adds_map(node, facts, read & uneven.mask, uneven.mask | ~need):
            need = need & ~uneven.mask
        elif shift.any() and not self.spreads_evenly(node):
            need = need | self._representatives(node, known, shift)
        dependence = self._dependence(node, facts)
        need = need if dependence is None else dependence.required(need)
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

    def _dependence(self, node: gs.Node, facts: Facts) -> LinearDependence | None:
        """Input channels that weights of their representatives can stand for: at a border no shift can."""
        dependence = facts.combinations(node.inputs[0], 1)
        if dependence is None or group_size(node) != 1 or is_dequantized(node.inputs[1]):
            return None
        return dependence if self.spreads_evenly(node) or not dependence.shift.any() else None

    @staticmethod
    def _representatives(node: gs.Node, known: ConstantSlices, shift: Mask) -> Mask:
        """Of constant channels that borders read less of, those that must be there: one, if it can stand for all."""
        if group_size(node) > 1 or is_dequantized(node.inputs[1]):  # weights that take no others in
            return shift
        strongest = np.zeros(shift.shape, bool)  # dividing by the largest keeps the folded weights small
        strongest[np.where(shift, np.abs(known.value.astype(np.float64)), 0).argmax()] = True
        return strongest

    def _adds_map(self, node: gs.Node, facts: Facts, uneven: Mask, removable: Mask) -> bool:
        """Whether one added map takes the place of the uneven channels. `removable`: all that need not be read then."""
        maps = facts.constant_map[node.inputs[0].name][1]
        sliding = self.sliding(node, facts, maps) if uneven.any() and facts.adds_maps else None
        if sliding is None:
            return False
        places = sliding[0].places(sliding[1])
        elements, outputs = facts.weights(node.inputs[0], 1), facts.size(node.outputs[0], 1) or 1
        made_of = Absorbed(elements, outputs, math.prod(self._kernel(node)))
        return places is not None and made_of.pays(places, int(uneven.sum()), int(removable.sum()))

    def _kernel(self, node: gs.Node) -> tuple[int, ...]:
        return tuple(initializer(node, 1).shape[2:])

    # -- rewriting -----------------------------------------------------------------------------------------------

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        """Cut the weights to the channels that are stored, and put what the removed inputs add elsewhere.

        Away from borders constants add to the bias. Where a border is padded, one constant channel that stays takes the
        weights of those removed, or a constant map is added to the output. Linearly dependent channels add their
        weights to those of their representatives.
        """
        facts, before = rewriter.facts, rewriter.before
        if not self.understood_shapes(before, facts):
            return
        required, stored = rewriter.required(node, 0, 1), rewriter.stored(node.outputs[0], 1)
        if required is None and stored is None:
            return
        inputs = np.ones(facts.size(before.inputs[0], 1) or 0, bool) if required is None else required
        outputs = np.ones(facts.size(before.outputs[0], 1) or 0, bool) if stored is None else stored
        removed = self.read_by(before, facts, outputs) & ~inputs
        known, dependence = facts.constant_slices(before.inputs[0], 1), self._dependence(before, facts)
        dependence = None if dependence is None else dependence.without(~(dependence.gone(inputs) & removed))
        # what removed channels hold beside multiples of their representatives
        shift, mapped = np.where(known.mask & removed, known.value, 0), removed
        if dependence is not None:
            shift, mapped = np.where(dependence.mask, dependence.shift, shift), removed & ~dependence.mask
        meets_border = bool(shift.any()) and not self.spreads_evenly(before)
        strength = np.where(inputs & known.mask, np.abs(known.value.astype(np.float64)), 0)  # of constants that stay
        unrepresented = meets_border and strength.max() < np.abs(shift).max()
        maps = self._removed_maps(before, facts, mapped, unrepresented)
        if maps is not None:
            self._add_maps(node, rewriter, maps, outputs)
        elif shift.any() and not meets_border:
            self._add_bias(node, rewriter, self._shift(before, facts, shift)[outputs])
        represented = meets_border and maps is None
        if (groups := group_size(before)) > 1:
            kept = int(outputs.reshape(groups, -1).any(axis=1).sum())
            node.attrs["group"] = kept
            cut = rewriter.moved(
                before.inputs[1],
                lambda w: self.by_output(cut_groups(self.by_output(w, groups), outputs, inputs, groups), kept),
            )
        elif dependence is None and not represented:
            cut = rewriter.slice(before.inputs[1], dict(zip(self.channel_axes, (stored, required), strict=True)))
        else:
            weights = self.weights(before, facts)
            if dependence is not None:
                weights = np.moveaxis(dependence.folded(np.moveaxis(weights, 1, 0), dependence.mask), 0, 1)
            if represented:
                weights = _with_representative(weights, int(strength.argmax()), shift, known.value)
            weights = self.by_output(weights[np.ix_(outputs, inputs)], 1)
            cut = rewriter.constant(before.inputs[1].name, np.ascontiguousarray(weights))
        rewriter.set_input(node, 1, cut)

    @staticmethod
    def _removed_maps(node: gs.Node, facts: Facts, removed: Mask, unrepresented: bool) -> ConstantMap | None:
        """The removed channels, where a constant map is to be added in place of them; None where it is not.

        unrepresented: no constant channel stays that could stand for them. A map was chosen then, and the uneven
        channels are here nevertheless, as other consumers need them.
        """
        uneven = facts.constant_map.get(node.inputs[0].name, {}).get(1)
        if group_size(node) > 1 or uneven is None or not (unrepresented or (uneven.mask & removed).any()):
            return None
        maps = facts.maps(node.inputs[0], 1)
        assert maps is not None
        return ConstantMap(maps.mask & removed, maps.value, maps.index)

    def _add_maps(self, node: gs.Node, rewriter: Rewriter, maps: ConstantMap, outputs: Mask) -> None:
        """Add what these maps and the bias bring, by distinct rows and columns, expanded when the model is loaded."""
        added = self.convolved(rewriter.before, rewriter.facts, maps, outputs)
        assert added is not None
        value, bias = added.value[added.mask], operand(node, 2)
        if bias is not None and is_constant(bias) and not is_dequantized(bias):
            value = value + values_of(bias).reshape(-1, *[1] * len(added.index))
            node.inputs = node.inputs[:2]
        value = value.astype(numpy_dtype(rewriter.before.inputs[1]))
        rewriter.add_after(node, rewriter.adapters.expand(ConstantMap(added.mask[added.mask], value, added.index), 1))

    @staticmethod
    def _add_bias(node: gs.Node, rewriter: Rewriter, shift: Array) -> None:
        bias, dtype = operand(node, 2), numpy_dtype(rewriter.before.inputs[1])
        if not shift.any():
            return
        if bias is None:
            rewriter.set_input(node, 2, rewriter.constant("bias", shift.astype(dtype)))
        elif is_constant(bias):
            values = (shift + values_of(bias).astype(np.float64)).astype(dtype)
            rewriter.set_input(node, 2, rewriter.shifted(bias, shift, values))
        else:
            rank = len(rewriter.shape(rewriter.before.outputs[0]))
            rewriter.add_after(node, shift.astype(dtype).reshape(1, -1, *[1] * (rank - 2)))

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        return fuser.into_weights(node, affine, self.channel_axes[0], len(node.inputs[1].shape or ()) - 1)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        weight = node.inputs[1]
        if index != 0 or not is_constant(weight) or affine.axis not in (None, len(weight.shape) - 1):
            return None
        if affine.shift.any() and not self.spreads_evenly(node):
            return None
        return fuser.from_inputs(node, affine, self.channel_axes, group_size(node))

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Orders) -> Change | None:
        if axis != 1 or group_size(node) != 1:
            return None
        bias = [] if operand(node, 2) is None else [orders.taken(node, 2, 0, order)]
        return all_or_none([orders.taken(node, 1, self.channel_axes[0], order), *bias])

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Orders) -> Change | None:
        if index != 0 or axis != 1 or group_size(node) != 1:
            return None
        return orders.taken(node, 1, self.channel_axes[1], inverse(order))

    # -- cost ----------------------------------------------------------------------------------------------------

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


def _with_representative(weights: Array, channel: int, shift: Array, value: Array) -> Array:
    """Let a constant channel stand for others, which hold `shift`, at borders too; `value` is what channels hold."""
    used = np.flatnonzero(shift)
    ratio = shift[used].astype(np.float64) / float(value[channel])
    folded = np.tensordot(weights[:, used].astype(np.float64), ratio, axes=(1, 0))
    weights = weights.copy()
    weights[:, channel] = (weights[:, channel] + folded).astype(weights.dtype)
    return weights
