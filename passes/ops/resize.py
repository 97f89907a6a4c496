"""Interpolation between positions: each channel by itself."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.constant_maps import ConstantMap
from passes.abstract_values.polynomial import Polynomial
from passes.abstract_values.row_index import Rows
from passes.abstract_values.shape_rules import Shape, ShapeVectors, SizeRule
from passes.abstract_values.slices import ConstantSlices, Link, Maps
from passes.graph.tensors import Dim, is_constant, operand, shape_of
from passes.ops.base import Linked, register
from passes.ops.movement import same_axis
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

# Products with fractions of larger denominators are rounded by the runtime.
_LARGEST_DENOMINATOR = 64


@register("Resize", "Upsample")
class Resize(SizeRule, Linked):
    """Slices of an axis that keeps its size pass through."""

    may_overflow = False
    reason = kept_reasons.EACH_BY_ITSELF

    def sizes(self, node: gs.Node, vectors: ShapeVectors) -> Shape | None:
        before, axes = shape_of(node.inputs[0]), node.attrs.get("axes")
        if axes is None:
            return self._resized(node, vectors, before)
        if before is None:
            return None
        resized = self._resized(node, vectors, [before[axis] for axis in axes])
        changed = zip([axis % len(before) for axis in axes], resized or (), strict=True)
        return None if resized is None else [*(dict(enumerate(before)) | dict(changed)).values()]

    def _resized(self, node: gs.Node, vectors: ShapeVectors, before: Shape | None) -> Shape | None:
        """The new sizes of the axes that are resized."""
        wanted, scales = operand(node, 3), _floats(self._scales(node)) or ()
        if wanted is not None and str(node.attrs.get("keep_aspect_ratio_policy", "stretch")) == "stretch":
            elements = vectors.of(wanted)
            return None if elements is None else vectors.wanted(elements)
        if wanted is not None or before is None or len(before) != len(scales) or self._crops(node):
            return None
        return [*map(_scaled, before, scales)]

    def contradiction(self, node: gs.Node) -> str:
        odd = next((scale for scale in _floats(self._scales(node)) or () if not scale > 0), None)
        return "" if odd is None or operand(node, 3) is not None else f"its scale {odd:g} is not above 0"

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        rank = len(shape_of(node.inputs[0]) or ())
        resized = self._axes(node, rank)
        changed = {axis for i, axis in enumerate(resized) if not self._stays(node, facts, i)}
        return same_axis(node, facts, [(a, a) for a in range(rank) if a not in changed])

    @staticmethod
    def _axes(node: gs.Node, rank: int) -> list[int]:
        """The axes that scales and sizes speak of."""
        return [axis % rank for axis in node.attrs.get("axes") or range(rank)] if rank else []

    def _stays(self, node: gs.Node, facts: Facts, position: int) -> bool:
        """Whether an axis, `position` among those resized, is copied as it is if it keeps its size."""
        if self._crops(node):
            region = _floats(operand(node, 1))
            if region is None or (region[position], region[len(region) // 2 + position]) != (0, 1):
                return False
        if str(node.attrs.get("keep_aspect_ratio_policy", "stretch")) != "stretch":
            return False
        if operand(node, 3) is not None:  # the scale is the quotient of the sizes
            return True
        scales = facts.known(self._scales(node), 0)  # computed ones may be known along some axes
        return scales is not None and bool(scales.mask[position] and scales.value[position] == 1)

    @staticmethod
    def _scales(node: gs.Node) -> gs.Tensor:
        """By what each axis is scaled; Upsample and the first Resize have no region before it."""
        return node.inputs[min(len(node.inputs) - 1, 2)]

    @staticmethod
    def _crops(node: gs.Node) -> bool:
        return str(node.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize"

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        if self._crops(node):  # what lies outside has a value of its own
            return known.only(node.attrs.get("extrapolation_value", 0.0))
        if str(node.attrs.get("mode", "nearest")) == "cubic":
            return known.only(0)
        return known

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        """Of whole multiples by the nearest neighbour, which repeat each row and column."""
        x, y = node.inputs[0], node.outputs[0]
        if str(node.attrs.get("mode", "nearest")) != "nearest" or not self._repeats(node):
            return
        for axis in facts.constant_map.get(x.name, {}):
            known = facts.maps(x, axis)
            if known is None or facts.size(y, axis) != known.mask.size:
                continue
            index: list[Rows | None] = []
            for place, rows in enumerate(known.index):
                size = facts.size(y, place + (place >= axis))
                if rows is not None and (rows.course is not None or size is None or size % rows.places.size):
                    break
                index.append(None if rows is None else Rows(np.repeat(rows.places, (size or 0) // rows.places.size)))
            else:
                yield 0, axis, ConstantMap(known.mask, known.value, tuple(index))

    @staticmethod
    def _repeats(node: gs.Node) -> bool:
        """Whether the nearest neighbour of position i is position i // s, when the size grows s times."""
        old = node.op == "Upsample" or len(node.inputs) == 2
        where = str(node.attrs.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel"))
        which = str(node.attrs.get("nearest_mode", "floor" if old else "round_prefer_floor"))
        plain = str(node.attrs.get("keep_aspect_ratio_policy", "stretch")) == "stretch" and "axes" not in node.attrs
        return plain and (where, which) in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        if operand(node, 3) is not None:
            axes = self._axes(node, len(rewriter.shape(node.outputs[0])))
            rewriter.set_shape_operand(node, 3, one_is_inferred=False, axes=axes)


def _floats(tensor: gs.Tensor | None) -> list[float] | None:
    if tensor is None or not is_constant(tensor):
        return None
    return [float(v) for v in np.asarray(tensor.values).reshape(-1)]


def _scaled(size: Dim, scale: float) -> Dim:
    """The size times the scale, rounded down; None where the runtime may round it otherwise."""
    numerator, denominator = scale.as_integer_ratio()
    if size is None or denominator > _LARGEST_DENOMINATOR:
        return None
    return ((Polynomial.of(size) * Polynomial.of(numerator)) // Polynomial.of(denominator)).dim
