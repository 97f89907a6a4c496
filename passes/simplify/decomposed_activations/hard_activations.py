"""Scalings, shifts and clips in a row become as few operators as they can: an activation spelled out is one again.

Exporters write a HardSigmoid as Add, Clip and Div, and a HardSwish as these around a Mul. ONNX Runtime computes them
one after the other, each over all of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import ClampedAffine, longest_chain, rounds
from passes.graph.editor import GraphEditor, become, erase
from passes.ops import rules
from passes.ops.arithmetic import is_product

_HARD_SWISH = 14  # the opset that brought the operator
_CLIP_BY_OPERANDS = 11  # before, its bounds are attributes
# Without a factor so large or so small the product could leave the range of single precision.
_MOST = 2.0**16


@dataclass(frozen=True)
class Row:
    """Nodes that make a ramp, the last one first; none but the next reads what a node before the last writes."""

    clamped_affine: ClampedAffine
    nodes: list[gs.Node]


def join(graph: gs.Graph) -> None:
    """Write rows of scalings, shifts and clips with as few nodes as they need.

    Afterwards a row takes no more nodes than its ramp does, and a factor behind a product, one of whose operands is
    such a row, is part of that row. In single precision only: ONNX Runtime has no HardSigmoid for others.
    """
    joiner = _Joiner(graph)
    for node in reversed(list(graph.nodes)):
        row = joiner.row(node)
        if row is not None and not joiner.move_factor(row):
            joiner.shorten(row)
    joiner.editor.finish()
    if graph.opset >= _HARD_SWISH:
        for node in graph.nodes:
            joiner.swish(node)
        joiner.editor.finish()


class _Joiner:
    def __init__(self, graph: gs.Graph) -> None:
        self.editor = GraphEditor(graph)

    def shorten(self, row: Row) -> None:
        """Write the row in fewer nodes, where that can be."""
        if max(row.clamped_affine.operators(), 1) < len(row.nodes):
            output = row.nodes[0].outputs[0]
            erase(*row.nodes)
            self._write(row.clamped_affine, output, row.nodes[0])

    def move_factor(self, row: Row) -> bool:
        """Take a factor out of a product's operand into the row behind it, where nodes go by that; whether it was."""
        product = self.editor.sole_producer(row.clamped_affine.data)
        if product is None or not is_product(product):
            return False
        for index, operand in enumerate(product.inputs):
            before = self.editor.sole_producer(operand)
            inner = None if before is None else self.row(before)
            if inner is None:
                continue
            core, factor = inner.clamped_affine.factored()
            outer = ClampedAffine(product.outputs[0], scale=factor).then(row.clamped_affine)
            if outer is None or not core.fits or rounds(inner.clamped_affine.shift, np.float32):
                continue
            if not 1 / _MOST <= abs(factor) <= _MOST:
                continue
            core, outer = core.in_single_precision(), outer.in_single_precision()
            if core.operators() + outer.operators() < len(row.nodes) + len(inner.nodes):
                self._write_product(product, index, core, outer, row, inner)
                return True
        return False

    def _write_product(
        self, product: gs.Node, index: int, core: ClampedAffine, outer: ClampedAffine, row: Row, inner: Row
    ) -> None:
        """The product with `core` as that operand, and `outer` behind it, in place of the two rows."""
        last, operand, output = row.nodes[0], inner.nodes[0].outputs[0], row.nodes[0].outputs[0]
        erase(*row.nodes, *inner.nodes)
        if core.operators() == 0:
            product.inputs[index] = core.data
        else:
            product.inputs[index] = operand
            self._write(core, operand, product)
        if outer.operators() == 0:
            product.outputs = [output]
        else:
            self._write(outer, output, last)

    def swish(self, product: gs.Node) -> None:
        """x · min(max(x / 6 + 1 / 2, 0), 1) is a HardSwish."""
        if not is_product(product):
            return
        for data, factor in (product.inputs, reversed(product.inputs)):
            before = self.editor.sole_producer(factor)
            clamped_affine = None if before is None else rules(before).clamped_affine(before)
            if (
                clamped_affine is None
                or before is None
                or clamped_affine.data is not data
                or not clamped_affine.is_hard_sigmoid()
            ):
                continue
            if (clamped_affine.scale, clamped_affine.shift) == (float(np.float32(1 / 6)), 0.5):
                erase(before)
                become(product, "HardSwish", [data])
                return

    def row(self, last: gs.Node) -> Row | None:
        """The longest row that ends with the node, None if the node is no ramp."""
        chain = longest_chain(last, self._ramp, self.editor)
        return None if chain is None else Row(chain[0].in_single_precision(), chain[1])

    @staticmethod
    def _ramp(node: gs.Node) -> ClampedAffine | None:
        """The node as a ramp in single precision; None if it is none."""
        clamped_affine = (
            rules(node).clamped_affine(node) if node.outputs and node.outputs[0].dtype == np.float32 else None
        )
        return clamped_affine if clamped_affine is not None and clamped_affine.fits else None

    def _write(self, clamped_affine: ClampedAffine, output: gs.Tensor, place: gs.Node) -> None:
        """The nodes of a ramp, in front of the place of a node."""
        data, steps = clamped_affine.data, self._steps(clamped_affine)
        for step, (op, constants, attrs) in enumerate(steps, 1):
            hint = f"{output.name}_{op.lower()}"
            made = output if step == len(steps) else self.editor.variable(hint, output.dtype, output.shape)
            name = f"{place.name or output.name}_{op.lower()}"
            data = self.editor.emit(op, [data, *map(self._constant, constants)], made, name, attrs, before=place)

    def _steps(self, clamped_affine: ClampedAffine) -> list[tuple[str, list[float | None], dict[str, float]]]:
        """The operators of a ramp, with their constant operands and attributes."""
        if clamped_affine.is_hard_sigmoid():
            return [("HardSigmoid", [], {"alpha": clamped_affine.scale, "beta": clamped_affine.shift})]
        steps: list[tuple[str, list[float | None], dict[str, float]]] = []
        if clamped_affine.scale != 1:
            steps.append(("Mul", [clamped_affine.scale], {}))
        if clamped_affine.shift != 0:
            steps.append(("Add", [clamped_affine.shift], {}))
        bounds = {"min": clamped_affine.low, "max": clamped_affine.high}
        given = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
        if given == {"min": 0.0}:
            steps.append(("Relu", [], {}))
        elif given and self.editor.opset < _CLIP_BY_OPERANDS:
            steps.append(("Clip", [], given))
        elif given:
            steps.append(("Clip", [given.get("min"), *([given["max"]] if "max" in given else [])], {}))
        return steps or [("Identity", [], {})]

    def _constant(self, value: float | None) -> gs.Tensor:
        if value is None:
            return gs.Variable.empty()
        return self.editor.constant("ramp", np.asarray(value, np.float32))
