"""Normalisation over neighbouring channels or groups of them: these stay whole, what is known of them does not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import linear_dependence
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Dependences, Link, Reads, Sets
from passes.graph.tensors import Mask, is_constant, is_float, volume
from passes.ops.base import Linked, register
from passes.ops.convolution import level
from passes.ops.movement import all_but, same_axis
from passes.ops.normalization_moments import Absent, DecomposedNormalization
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter


@register("LRN")
class LocalResponseNormalization(Linked):
    """x / (bias + alpha / size · sum of squares of `size` channels around)^beta: zero stays zero.

    Source: ONNX operator specification, LRN.
    """

    reason = "divides by its neighbours along the channels"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return all_but(node, facts, 1)

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return self._zeros(node, known)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        known = facts.known(node.inputs[0], 1)
        if known is not None:
            yield 0, 1, self._zeros(node, known)

    @staticmethod
    def _zeros(node: gs.Node, known: ConstantSlices) -> ConstantSlices:
        positive = node.attrs.get("bias", 1.0) > 0 and node.attrs.get("alpha", 1e-4) >= 0
        return ConstantSlices(known.mask & (known.value == 0) & positive, known.value)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        live = facts.live(node.outputs[0], 1)
        if live.size:
            yield 0, 1, self._around(live, int(node.attrs["size"]))

    @staticmethod
    def _around(live: Mask, size: int) -> Mask:
        """Channels that lie in the window of a live one."""
        need = np.zeros(live.shape, bool)
        for channel in np.flatnonzero(live):
            need[max(channel - (size - 1) // 2, 0) : channel + size // 2 + 1] = True
        return need

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Square, add each of the window, raise, divide."""
        return volume(node.outputs[0]) * (3 + int(node.attrs["size"])), 0


@register("GroupNormalization")
class GroupNormalization(Linked):
    """Statistics over the positions of a group of channels; only the examples pass through.

    A scale of zero leaves the bias, and so does a group that holds one constant altogether. Before opset 21 scale and
    bias are given for each group.
    """

    reason = "normalises along another axis"
    like = "InstanceNormalization"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        return same_axis(node, facts, [(0, 0)])

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return None

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

    # -- constants that are not there ------------------------------------------------------------------------------

    def narrowed(self, node: gs.Node, facts: Facts) -> ConstantSlices | None:
        """Constants among the channels, where it pays to leave them out and scale and bias are given for each."""
        size, known = facts.size(node.inputs[0], 1), facts.known(node.inputs[0], 1)
        if size is None or known is None or 8 * int(known.mask.sum()) < size or not is_float(node.inputs[0]):
            return None
        plain = all(is_constant(t) and list(t.shape) == [size] for t in list(node.inputs)[1:3])
        return known if plain and facts.opset >= 11 else None

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """Constants of one group are combinations of what its channels share."""
        known = self.narrowed(node, facts)
        if known is None:
            return
        groups, size = int(node.attrs["num_groups"]), known.mask.size
        scale = facts.value(node.inputs[1]).astype(np.float64)
        value = np.where(known.mask, known.value, 0).astype(np.float64)
        group = np.arange(size) // (size // groups)
        rows = np.zeros((size, 2 * groups))
        rows[np.arange(size), 2 * group] = scale * value
        rows[np.arange(size), 2 * group + 1] = -scale
        bias = facts.value(node.inputs[2]).astype(np.float64)
        dependence = linear_dependence.dependence(
            linear_dependence.Combination(known.mask, tuple(range(2 * groups)), rows, bias)
        )
        if dependence is not None:
            yield 0, 1, dependence

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result = super().storable_outputs(node, facts, asked)
        if (0, 1) in asked and self.narrowed(node, facts) is not None:
            result[0, 1] = asked[0, 1]
        return result

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        demands = super().required_inputs(node, facts, stored)
        known = self.narrowed(node, facts)
        if known is not None:
            need = ~known.mask | stored.get((0, 1), np.ones(known.mask.size, bool))
            need = level(need, int(node.attrs["num_groups"]))
            demands[0, 1] = Demand(need, reason="takes equal numbers of channels in every group, and those it writes")
        return demands

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        known = self.narrowed(rewriter.before, rewriter.facts)
        if known is None:
            return
        whole = np.ones(known.mask.size, bool)
        required, out = rewriter.required(node, 0, 1), rewriter.stored(rewriter.before.outputs[0], 1)
        required, out = whole if required is None else required, whole if out is None else out
        if not (required.all() and out.all()):
            self._write(node, rewriter, known, required, out)

    @staticmethod
    def _write(node: gs.Node, rewriter: Rewriter, known: ConstantSlices, required: Mask, out: Mask) -> None:
        """The kept channels of each group as one row, as for LayerNormalization."""
        groups, at = int(node.attrs["num_groups"]), DecomposedNormalization(node, rewriter)
        kept = required.reshape(groups, -1).any(axis=1)  # a group of which nothing is there writes nothing
        removed = (known.mask & ~required).reshape(groups, -1)[kept]
        absent = Absent.among(known.value.reshape(groups, -1)[kept], removed)
        epsilon = float(node.attrs.get("epsilon", np.float32(1e-5)))
        sizes = rewriter.constant("groups", np.asarray([0, int(kept.sum()), -1], np.int64))
        rows = at.emit("Reshape", at.data, sizes)
        result = at.normalised(
            rows, 2, absent, epsilon, lambda centred: at.mean(at.emit("Mul", centred, centred), 2, absent.share)
        )
        shape = at.emit("Shape", at.data)
        shape.dtype = np.dtype(np.int64)
        scale, bias = (np.asarray(rewriter.before.inputs[i].values) for i in (1, 2))
        at.finish(at.emit("Reshape", result, shape), 1, required, out, scale, bias)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        live = facts.live(node.outputs[0], 1)
        groups = int(node.attrs["num_groups"])
        if live.size and live.size % groups == 0:
            yield 0, 1, np.repeat(live.reshape(groups, -1).any(axis=1), live.size // groups)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Mean, centring, variance (2), normalising, scale and bias: seven per element."""
        return 7 * volume(node.outputs[0]), 0
