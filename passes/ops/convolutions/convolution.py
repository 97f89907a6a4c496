"""Convolutions: contractions over channels at each position, in groups, with borders."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import Absorbed, ConstantMap, Sliding
from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.slices import ConstantSlices, Maps
from passes.graph.editor import Change
from passes.graph.tensors import Array, Mask, is_constant, numpy_dtype, operand, shape_of, size_of, values_of
from passes.ops.convolutions.channel_groups import group_size
from passes.ops.convolutions.grouped_sums import GroupedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter
from passes.rewriting.weight_scaling import AffineFolding, Fuser
from passes.weights.quantized import is_dequantized


class Convolution(GroupedSums, AffineFolding):
    """What plain and transposed convolutions of floats share: their weights take in what channels were that go."""

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

    def with_operands_beside(self, node: gs.Node, facts: Facts, axis: int, sums: ConstantSlices) -> ConstantSlices:
        bias = operand(node, 2)
        return sums if bias is None else sums.plus(facts.known(bias, 0))

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

    def needed(self, node: gs.Node, facts: Facts, read: Mask) -> Mask:
        """Without those, too, for which one constant channel, an added map or weights of representatives make up."""
        known = self.constant_inputs(node, facts)
        uneven = facts.uneven(node.inputs[0], 1)
        need, shift = read & ~known.mask, read & known.mask & (known.value != 0)
        groups = group_size(node)
        if uneven is not None and groups == 1 and self._adds_map(node, facts, read & uneven.mask, uneven.mask | ~need):
            need = need & ~uneven.mask
        elif shift.any() and not self.spreads_evenly(node):
            need = need | self._representatives(node, known, shift)
        dependence = self._dependence(node, facts)
        return need if dependence is None else dependence.required(need)

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

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        """Cut the weights to the channels that are stored, and put what the removed inputs add elsewhere.

        Away from borders constants add to the bias. Where a border is padded, one constant channel that stays takes the
        weights of those removed, or a constant map is added to the output. Linearly dependent channels add their
        weights to those of their representatives.
        """
        channels = self.channels_left(node, rewriter)
        if channels is None:
            return
        facts, before, (inputs, outputs) = rewriter.facts, rewriter.before, channels
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
            self.add_shift(node, rewriter, self._shift(before, facts, shift)[outputs])
        represented = meets_border and maps is None
        if dependence is None and not represented:
            self.cut(node, rewriter, inputs, outputs)
        else:
            weights = self.weights(before, facts)
            if dependence is not None:
                weights = np.moveaxis(dependence.folded(np.moveaxis(weights, 1, 0), dependence.mask), 0, 1)
            if represented:
                weights = _with_representative(weights, int(strength.argmax()), shift, known.value)
            weights = self.by_output(weights[np.ix_(outputs, inputs)], 1)
            rewriter.set_input(node, 1, rewriter.constant(before.inputs[1].name, np.ascontiguousarray(weights)))

    @staticmethod
    def _removed_maps(node: gs.Node, facts: Facts, removed: Mask, unrepresented: bool) -> ConstantMap | None:
        """The removed channels, where a constant map is to be added in place of them; None where it is not.

        unrepresented: no constant channel stays that could stand for them. A map was chosen then, and the uneven
        channels are here nevertheless, as other consumers need them.
        """
        uneven = facts.uneven(node.inputs[0], 1)
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
        y = rewriter.before.outputs[0]
        others = {a: rewriter.stored(y, a) for a in range(2, len(rewriter.shape(y)))}
        stored = ConstantMap(added.mask[added.mask], value, added.index).cut(1, others)
        rewriter.add_after(node, rewriter.adapters.expand(stored, 1))

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        return fuser.into_weights(node, affine, self.channel_axes[0], len(node.inputs[1].shape or ()) - 1)

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        weight = node.inputs[1]
        if index != 0 or not is_constant(weight) or affine.axis not in (None, len(weight.shape) - 1):
            return None
        if affine.shift.any() and not self.spreads_evenly(node):
            return None
        return fuser.from_inputs(node, affine, self.channel_axes, group_size(node))


def _with_representative(weights: Array, channel: int, shift: Array, value: Array) -> Array:
    """Let a constant channel stand for others, which hold `shift`, at borders too; `value` is what channels hold."""
    used = np.flatnonzero(shift)
    ratio = shift[used].astype(np.float64) / float(value[channel])
    folded = np.tensordot(weights[:, used].astype(np.float64), ratio, axes=(1, 0))
    weights = weights.copy()
    weights[:, channel] = (weights[:, channel] + folded).astype(weights.dtype)
    return weights
