"""Operators that work along one or two axes: the others pass through; zeros or constants often stay what they are."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Link, Maps, Reads, Sets
from passes.graph.evaluate import evaluate
from passes.graph.tensors import int_list, numpy_dtype, operand, present, shape_of
from passes.ops.base import Linked, axis_attribute, register
from passes.ops.movement import maps_by_slices, same_axis, stored_alike, whole_line
from passes.ops.traits import Distribution
from passes.rewriting.channel_facts import Facts


class AlongAxes(Linked):
    """All outputs have the axes of input 0; those that the operator works along are whole."""

    foldable = True
    reason = kept_reasons.ANOTHER_AXIS

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        """Axes that the operator works along, by default that of its attribute; None if that is not known."""
        return {axis_attribute(node, -1)}

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        whole = self.whole_axes(node, facts, rank) if rank else None
        if whole is None:
            return []
        found = []
        for axis in range(rank):
            size = facts.size(node.inputs[0], axis)
            sizes = [facts.size(t, axis) for _, t in present(list(node.outputs))]
            if axis not in whole and size is not None and all(s == size for s in sizes):
                found += [Link(0, axis, o, axis) for o, _ in present(list(node.outputs))]
        return found

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """All outputs store the same, as they come from one input."""
        result = super().storable_outputs(node, facts, asked)
        return stored_alike(result, {axis for _, axis in result}, len(present(node.outputs)))


@register("CumSum", "CumProd")
class Cumulative(AlongAxes):
    """Running sums or products along an axis that is an operand."""

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        axes = int_list(operand(node, 1))
        return None if axes is None else {a % rank for a in axes}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        # an exclusive product begins with a one
        return None if node.op == "CumProd" and node.attrs.get("exclusive", 0) else known.only(0)


@register("TopK")
class TopK(AlongAxes):
    """Values of a constant are the constant; where they stood is not said."""

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return known if link.output == 0 else None


@register("Trilu")
class Trilu(AlongAxes):
    """Half of each matrix becomes zero; what is zero stays so."""

    preserves = "zeros"
    flops_per_element = 0

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        """None of square matrices of which half is kept, with or without the diagonal: so it is of some of their rows
        and the same columns."""
        first, without = operand(node, 1), 1 if node.attrs.get("upper", 1) else -1
        half = (int_list(first) if first is not None else [0]) in ([0], [without])
        square = facts.size(node.inputs[0], rank - 2) == facts.size(node.inputs[0], rank - 1)
        return () if half and square else {rank - 2, rank - 1}

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        rank = len(shape_of(node.inputs[0]) or ())
        yield from ((0, axis, facts.constant_slices(node.inputs[0], axis).only(0)) for axis in range(rank)[-2:])

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        result, rank = super().storable_outputs(node, facts, asked), len(shape_of(node.inputs[0]) or ())
        rows, columns = (result.pop((0, axis), None) for axis in (rank - 2, rank - 1))
        both = {} if rows is None or columns is None else {(0, axis): rows | columns for axis in (rank - 2, rank - 1)}
        return result | both


@register("ReverseSequence")
class ReverseSequence(AlongAxes):
    """The time axis is turned around, up to a length that is an operand for each example."""

    flops_per_element = 0

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        return {int(node.attrs.get("time_axis", 0)), int(node.attrs.get("batch_axis", 1))}

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        batch, found = int(node.attrs.get("batch_axis", 1)), super().links(node, facts)
        examples = same_axis(node, facts, [(batch, batch)])
        if examples and facts.size(node.inputs[1], 0) == facts.size(node.inputs[0], batch):
            found += [*examples, Link(1, 0, 0, batch)]
        return found

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return known if link.input == 0 else None


@register("CenterCropPad")
class CenterCropPad(AlongAxes):
    """Cuts or pads with zeros along the given axes."""

    preserves = "zeros"
    flops_per_element = 0

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        axes = node.attrs.get("axes")
        return None if axes is None else {a % rank for a in axes}


@register("DFT")
class DFT(AlongAxes):
    """Fourier transform along one axis; the last holds real and imaginary parts."""

    preserves = "zeros"

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        axes = [int(node.attrs["axis"])] if "axis" in node.attrs else int_list(operand(node, 2))
        return None if axes is None else {*(a % rank for a in axes), rank - 1}


@register("MeanVarianceNormalization")
class MeanVarianceNormalization(AlongAxes):
    """Statistics over all axes but the channels, unless other axes are named.

    Of a constant channel nothing is known: ONNX Runtime divides zero by zero there.
    """

    foldable = False
    preserves = "nothing"
    flops_per_element = 5  # mean, centring, variance (2), dividing

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> Collection[int] | None:
        return {a % rank for a in node.attrs.get("axes", [0, 2, 3])}


@register("Softmax", "LogSoftmax", "Hardmax")
class Softmax(AlongAxes, Distribution):
    """Needs all channels along its axis (before opset 13, along all axes from it on)."""

    preserves = "nothing"
    scope = "example"
    flops_per_element = 4  # subtract the maximum, exponentiate, sum, divide

    def whole_axes(self, node: gs.Node, facts: Facts, rank: int) -> range:
        several = facts.opset < 13
        axis = axis_attribute(node, 1 if several else -1)
        return range(axis, rank if several else min(axis + 1, rank))

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        return maps_by_slices(node, facts, self.whole_axes(node, facts, len(shape_of(node.inputs[0]) or ())))

    def _axis(self, node: gs.Node, facts: Facts) -> int | None:
        """The one axis that it works on, None where that is not known, or before opset 13 there are several."""
        axes = self.whole_axes(node, facts, len(shape_of(node.inputs[0]) or ()))
        return axes[0] if len(axes) == 1 else None

    def sums_to_one(self, node: gs.Node, facts: Facts) -> int | None:
        return None if node.op == "LogSoftmax" else self._axis(node, facts)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """Of what is known all along its axis, the result is as well."""
        axis = self._axis(node, facts)
        line = None if axis is None else whole_line(facts, node.inputs[0], axis)
        results = None if line is None else evaluate(node, facts.opset, [line])
        if axis is not None and line is not None and results is not None and results[0].size == line.size:
            yield 0, axis, ConstantSlices(np.ones(line.size, bool), results[0].reshape(-1))
        for (output, along), counted in self._counted(node, facts).items():
            yield output, along, ConstantSlices(~counted, np.zeros(counted.size, numpy_dtype(node.outputs[0])))

    def _counted(self, node: gs.Node, facts: Facts) -> Sets:
        """Of its axis the slices that are not minus infinity: the others add nothing, and are zero behind it."""
        axis = self._axis(node, facts) if node.op == "Softmax" else None
        infinite = None if axis is None else facts.infinite.get(node.inputs[0].name, {}).get(axis)
        return {} if axis is None or infinite is None or infinite.mask.all() else {(0, axis): ~infinite.mask}

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        yield from super().reads(node, facts)
        yield from ((0, axis, counted) for (_, axis), counted in self._counted(node, facts).items())

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        counted = {key: asked[key] | mask for key, mask in self._counted(node, facts).items() if key in asked}
        return super().storable_outputs(node, facts, asked) | counted

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        counted = {key: Demand(stored[key], reason=self.reason) for key in self._counted(node, facts) if key in stored}
        return super().required_inputs(node, facts, stored) | counted
