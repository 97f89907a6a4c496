"""Operators that work along one or two axes: the others pass through; zeros or constants often stay what they are."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Constants, ConstantSlices, Link, Sets
from passes.graph.tensors import int_list, is_float, operand, present, shape_of, volume
from passes.ops.base import Linked, register
from passes.ops.movement import same_axis
from passes.rewriting.channel_facts import Facts


def _zeros(known: ConstantSlices) -> ConstantSlices:
    return ConstantSlices(known.mask & (known.value == 0), known.value)


class Elsewhere(Linked):
    """All outputs have the axes of input 0; `taken` are those it works along."""

    foldable = True
    reason = "works along another axis"

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        """Axes that are whole; None if that is not known."""
        raise NotImplementedError

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        taken = self.taken(node, rank) if rank else None
        if taken is None:
            return []
        found = []
        for axis in range(rank):
            size = facts.size(node.inputs[0], axis)
            sizes = [facts.size(t, axis) for _, t in present(list(node.outputs))]
            if axis not in taken and size is not None and all(s == size for s in sizes):
                found += [Link(0, axis, o, axis) for o, _ in present(list(node.outputs))]
        return found

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """All outputs store the same, as they come from one input."""
        result = super().storable_outputs(node, facts, asked)
        count = len(present(node.outputs))
        for axis in {a for _, a in result}:
            keys = [key for key in result if key[1] == axis]
            sets = [result.pop(key) for key in keys]
            if len(keys) == count:
                result.update(dict.fromkeys(keys, np.asarray(np.logical_or.reduce(sets))))
        return result

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return sum(volume(t) for t in node.outputs if is_float(t)), 0


@register("CumSum", "CumProd")
class Cumulative(Elsewhere):
    """Running sums or products along an axis that is an operand."""

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        axes = int_list(operand(node, 1))
        return None if axes is None else {a % rank for a in axes}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        # an exclusive product begins with a one
        return None if node.op == "CumProd" and node.attrs.get("exclusive", 0) else _zeros(known)


@register("TopK")
class TopK(Elsewhere):
    """Values of a constant are the constant; where they stood is not said."""

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        return {int(node.attrs.get("axis", -1)) % rank}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return known if link.output == 0 else None


@register("Trilu")
class Trilu(Elsewhere):
    """Half of each matrix becomes zero; what is zero stays so."""

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        return {rank - 2, rank - 1}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return _zeros(known)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        yield from super().constants(node, facts)
        rank = len(shape_of(node.inputs[0]) or ())
        for axis in range(max(rank - 2, 0), rank):
            known = facts.known(node.inputs[0], axis)
            if known is not None and _zeros(known).mask.any():
                yield 0, axis, _zeros(known)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0


@register("ReverseSequence")
class ReverseSequence(Elsewhere):
    """The time axis is turned around, up to a length that is an operand for each example."""

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        return {int(node.attrs.get("time_axis", 0)), int(node.attrs.get("batch_axis", 1))}

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        batch = int(node.attrs.get("batch_axis", 1))
        examples = same_axis(node, facts, [(batch, batch)])
        if examples and facts.size(node.inputs[1], 0) == facts.size(node.inputs[0], batch):
            examples.append(Link(1, 0, 0, batch))
            return super().links(node, facts) + examples
        return super().links(node, facts)

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return known if link.input == 0 else None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0


@register("CenterCropPad")
class CenterCropPad(Elsewhere):
    """Cuts or pads with zeros along the given axes."""

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        axes = node.attrs.get("axes")
        return None if axes is None else {a % rank for a in axes}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return _zeros(known)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0


@register("DFT")
class DFT(Elsewhere):
    """Fourier transform along one axis; the last holds real and imaginary parts."""

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        axes = [int(node.attrs["axis"])] if "axis" in node.attrs else int_list(operand(node, 2))
        return None if axes is None else {*(a % rank for a in axes), rank - 1}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return _zeros(known)


@register("RotaryEmbedding")
class RotaryEmbedding(Elsewhere):
    """Turns pairs of features by an angle for each position; heads with an axis of their own pass through."""

    foldable = False

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        return {0, 2, 3} if rank == 4 else None

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return _zeros(known)

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Two products and a sum for each element."""
        return 3 * volume(node.outputs[0]), 0


@register("MeanVarianceNormalization")
class MeanVarianceNormalization(Elsewhere):
    """Statistics over all axes but the channels, unless other axes are named.

    Of a constant channel nothing is known: ONNX Runtime divides zero by zero there.
    """

    foldable = False

    def taken(self, node: gs.Node, rank: int) -> set[int] | None:
        return {a % rank for a in node.attrs.get("axes", [0, 2, 3])}

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        return None

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Mean, centring, variance (2), dividing: five per element."""
        return 5 * volume(node.outputs[0]), 0
