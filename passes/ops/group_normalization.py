"""Normalisation over neighbouring channels or groups of them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Link, Reads, Sets
from passes.graph.tensors import Array, Mask, is_constant, is_float, volume
from passes.ops.base import register
from passes.ops.convolutions.channel_groups import level
from passes.ops.normalization import Normalization
from passes.ops.normalization_moments import Absent, NarrowedNormalization
from passes.ops.softmax_like import AlongAxes
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


@register("LRN")
class LocalResponseNormalization(AlongAxes):
    """x / (bias + alpha / size · sum of squares of `size` channels around)^beta: zero stays zero.

    Source: ONNX operator specification, LRN.
    """

    foldable = False
    reason = kept_reasons.NEIGHBOURS

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        return {1}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return self._zeros(node, known)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        yield 0, 1, self._zeros(node, facts.constant_slices(node.inputs[0], 1))

    @staticmethod
    def _zeros(node: gs.Node, known: ConstantSlices) -> ConstantSlices:
        positive = node.attrs.get("bias", 1.0) > 0 and node.attrs.get("alpha", 1e-4) >= 0
        return ConstantSlices(known.only(0).mask & positive, known.value)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        live = facts.live(node.outputs[0], 1)
        if live.size:
            size = int(node.attrs["size"])
            in_windows = np.convolve(live, np.ones(size)) > 0  # the first window begins so far before the first channel
            yield 0, 1, in_windows[(size - 1) // 2 :][: live.size]

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Square, add each of the window, raise, divide."""
        return volume(node.outputs[0]) * (3 + int(node.attrs["size"])), 0


@register("GroupNormalization")
class GroupNormalization(Normalization):
    """Statistics over the positions of a group of channels, of which only whole groups go.

    A scale of zero leaves the bias, and so does a group that holds one constant altogether. Before opset 21 scale and
    bias are given for each group.
    """

    foldable = False
    reason = kept_reasons.GROUPS
    like = "InstanceNormalization"
    flops_per_element = 7  # mean, centring, variance (2), normalising, scale and bias

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        return range(1, rank)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        size, groups = facts.size(node.outputs[0], 1), int(node.attrs["num_groups"])
        scale, bias = (self._each(facts, t, size or 0, groups) for t in node.inputs[1:3])
        if not size or scale is None or bias is None:
            return
        mask = scale.mask & (scale.value == 0)
        known = facts.known(node.inputs[0], 1)
        if known is not None:
            value = known.value.reshape(groups, -1)
            whole = known.mask.reshape(groups, -1).all(axis=1) & (value == value[:, :1]).all(axis=1)
            mask = mask | np.repeat(whole, size // groups)
        yield 0, 1, ConstantSlices(np.asarray(mask & bias.mask), bias.value)

    @staticmethod
    def _each(facts: Facts, tensor: gs.Tensor, size: int, groups: int) -> ConstantSlices | None:
        """What is known of scale or bias, one for each channel."""
        known = facts.known(tensor, 0)
        if known is None or known.mask.size not in (groups, size):
            return None
        times = size // known.mask.size
        return ConstantSlices(np.repeat(known.mask, times), np.repeat(known.value, times))

    def channels(self, node: gs.Node, facts: Facts) -> tuple[int, ConstantSlices] | None:
        """Scale and bias must be given for each channel."""
        size, known = facts.size(node.inputs[0], 1), facts.constant_slices(node.inputs[0], 1)
        if size is None or 8 * int(known.mask.sum()) < size or not is_float(node.inputs[0]):
            return None
        plain = all(is_constant(t) and list(t.shape) == [size] for t in list(node.inputs)[1:3])
        return (1, known) if plain and facts.opset >= 11 else None

    def rows(self, node: gs.Node, value: Array, scale: Array) -> Array:
        """Constants of one group are combinations of what its channels share."""
        groups, channel = int(node.attrs["num_groups"]), np.arange(value.size)
        group = channel // (value.size // groups)
        rows = np.zeros((value.size, 2 * groups))
        rows[channel, 2 * group] = scale * value
        rows[channel, 2 * group + 1] = -scale
        return rows

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """Any channels where some are left out of the statistics, as it is written out then; else whole groups."""
        result = super().storable_outputs(node, facts, asked)
        if (0, 1) in asked and (0, 1) not in result and self._is_divided(node, facts):
            groups = self._groups(node, asked[0, 1])
            result[0, 1] = np.repeat(groups, asked[0, 1].size // groups.size)
        return result

    @staticmethod
    def _is_divided(node: gs.Node, facts: Facts) -> bool:
        """Whether groups can go: scale and bias are known to be given for each of them, or for each channel."""
        size, groups = facts.size(node.inputs[0], 1) or 0, int(node.attrs["num_groups"])
        vectors = [facts.size(t, 0) for t in node.inputs[1:3]]
        return size > 0 and size % groups == 0 and all(length in (groups, size) for length in vectors)

    @staticmethod
    def _groups(node: gs.Node, channels: Mask) -> Mask:
        """The groups that any of these channels is in: bool [groups]."""
        return np.asarray(channels.reshape(int(node.attrs["num_groups"]), -1).any(axis=1))

    @staticmethod
    def _slices(node: gs.Node, facts: Facts, groups: Mask) -> Sets:
        """These groups along the channels of the input, and along scale and bias."""
        ends = ((0, 1), (1, 0), (2, 0))
        return {end: np.repeat(groups, (facts.size(node.inputs[end[0]], end[1]) or 0) // groups.size) for end in ends}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands, out = super().required_inputs(node, facts, stored), stored.get((0, 1))
        if out is None:
            return demands
        groups = self._groups(node, out)
        needs = self._slices(node, facts, groups)
        if (found := self.channels(node, facts)) is not None:
            needs[0, 1] = level(needs[0, 1] & ~found[1].mask | out, groups.size)
        return demands | {key: Demand(need, reason=self.reason) for key, need in needs.items()}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        required = rewriter.required(node, 0, 1)
        if required is not None:
            node.attrs["num_groups"] = int(self._groups(rewriter.before, required).sum())
        super().lower(node, rewriter)

    def lower_narrowed(self, at: NarrowedNormalization) -> None:
        """The kept channels of each group as one row, as for LayerNormalization, unless they are all of each group."""
        rewriter = at.rewriter
        kept = self._groups(rewriter.before, at.required)  # a group of which nothing is there writes nothing
        groups = kept.size
        if at.required.reshape(groups, -1)[kept].all():
            at.pick(list(at.node.inputs))
            return
        absent = Absent.among(at.known.value.reshape(groups, -1)[kept], at.removed.reshape(groups, -1)[kept])
        sizes = rewriter.constant("groups", np.asarray([0, int(kept.sum()), -1], np.int64))
        rows = at.emit("Reshape", at.data, sizes)
        result = at.normalised(
            rows, 2, absent, lambda centred: at.mean(at.emit("Mul", centred, centred), 2, absent.share)
        )
        shape = at.emit("Shape", at.data)
        shape.dtype = np.dtype(np.int64)
        factors = self._factors(rewriter.before, rewriter.facts, at.required.size)
        at.finish(at.emit("Reshape", result, shape), *factors)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        if self._is_divided(node, facts):
            groups = self._groups(node, facts.live(node.outputs[0], 1))
            yield from ((index, axis, mask) for (index, axis), mask in self._slices(node, facts, groups).items())
