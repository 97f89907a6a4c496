"""Chains of Mul, Add and Clip are fused into as few operators as they can be: HardSigmoid and HardSwish, for two.

Exporters write a HardSigmoid as Add, Clip and Div, and a HardSwish as these around a Mul. ONNX Runtime computes them
one after the other, each over all of the data. A HardSigmoid of what a contraction gives is a Clip once its scale and
shift are in the weights: every runtime clips inside of convolutions, and few know a HardSigmoid.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine, Chain, ClampedAffine, longest_chain, rounds
from passes.graph.construct import omitted
from passes.graph.editor import GraphEditor, become, erase
from passes.graph.normalization_steps import ends_normalization
from passes.ops import rules, traits
from passes.ops.activations import Clip, Extremum, HardSigmoid, HardSwish
from passes.ops.arithmetic import is_product
from passes.rewriting.weight_scaling import Fuser
from passes.simplify.raise_opset import raise_opset

_HARD_SWISH = 14  # the opset that brought the operator
_SCALE, _SHIFT = float(np.float32(1 / 6)), 0.5  # of its ramp
_CLIP_BY_OPERANDS = 11  # before, its bounds are attributes
# Without a factor so large or so small the product could leave the range of single precision.
_MOST = 2.0**16


def fuse(graph: gs.Graph) -> None:
    """Write chains of scales, shifts and clips with as few nodes as they need, where there are clips at all.

    Afterwards a chain takes no more nodes than the map that it is, and a factor after a product, one of whose operands
    is such a chain, is part of that chain. In single precision only: ONNX Runtime has no HardSigmoid for others. There
    may be a HardSwish of which the opset knows nothing yet.
    """
    if any(isinstance(rules(node), (Clip, Extremum, HardSigmoid)) for node in graph.nodes):
        _fuse_chains(_Fusion(GraphEditor(graph)), graph)


def fuse_into_contractions(graph: gs.Graph) -> None:
    """The same for all chains; a HardSigmoid is a Clip where the contraction before it takes its scale and shift.

    The opset is raised where there is a HardSwish; where it cannot be, that is two operators.
    """
    fusion = _Fusion(GraphEditor(graph))
    _fuse_chains(fusion, graph)
    swishes = [node for node in graph.nodes if isinstance(rules(node), HardSwish)]
    if swishes and not raise_opset(graph, _HARD_SWISH, "HardSwish"):
        for node in swishes:
            fusion.spell(node)
    for node in graph.nodes:
        fusion.clip(node)
    fusion.editor.finish()


def _fuse_chains(fusion: _Fusion, graph: gs.Graph) -> None:
    for node in reversed(graph.nodes):
        chain = longest_chain(node, _clamped_affine, fusion.editor)
        if chain is not None and not fusion.move_factor(chain):
            fusion.shorten(chain)
    fusion.editor.finish()
    for product, (data, gate) in [(node, found) for node in graph.nodes if (found := fusion.swish(node)) is not None]:
        erase(gate)
        become(product, "HardSwish", [data])
    fusion.editor.finish()


def _clamped_affine(node: gs.Node) -> ClampedAffine | None:
    """The node as a scale, shift and clip in single precision; None if it is none, or the end of a normalisation."""
    single = bool(node.outputs) and node.outputs[0].dtype == np.float32
    clamped_affine = traits.clamped_affine(node) if single else None
    if clamped_affine is None or not clamped_affine.fits or ends_normalization(node):
        return None
    return clamped_affine


class _Fusion:
    def __init__(self, editor: GraphEditor) -> None:
        self.editor, self._fuser = editor, Fuser(editor, rules)

    def shorten(self, chain: Chain[ClampedAffine]) -> None:
        """Write the chain in fewer nodes, where that can be."""
        whole, last = chain.whole.in_single_precision(), chain.nodes[0]
        if max(whole.operators(), 1) < len(chain.nodes):
            output = last.outputs[0]
            erase(*chain.nodes)
            self._write(whole, output, last)

    def move_factor(self, chain: Chain[ClampedAffine]) -> bool:
        """Move a factor from a product's operand to after the product where that takes fewer nodes; whether it was."""
        product = self.editor.sole_producer(chain.whole.data)
        if product is None or not is_product(product):
            return False
        for index, operand in enumerate(product.inputs):
            before = self.editor.sole_producer(operand)
            inner = None if before is None else longest_chain(before, _clamped_affine, self.editor)
            if inner is None:
                continue
            scaled = inner.whole.in_single_precision()
            core, factor = scaled.factored()
            outer = ClampedAffine(product.outputs[0], scale=factor).then(chain.whole.in_single_precision())
            if outer is None or not core.fits or rounds(scaled.shift, np.float32):
                continue
            if not 1 / _MOST <= abs(factor) <= _MOST:
                continue
            core, outer = core.in_single_precision(), outer.in_single_precision()
            if core.operators() + outer.operators() < len(chain.nodes) + len(inner.nodes):
                last, output = chain.nodes[0], chain.nodes[0].outputs[0]
                erase(*chain.nodes, *inner.nodes)
                if core.operators() == 0:
                    product.inputs[index] = core.data
                else:
                    self._fuser.rename(operand)
                    self._write(core, operand, product)
                if outer.operators() == 0:
                    product.outputs = [output]
                else:
                    self._fuser.rename(product.outputs[0])
                    self._write(outer, output, last)
                return True
        return False

    def swish(self, product: gs.Node) -> tuple[gs.Tensor, gs.Node] | None:
        """Where the product is x · min(max(x / 6 + 1 / 2, 0), 1), x and the node of the other factor."""
        for data, factor in (product.inputs, reversed(product.inputs)) if is_product(product) else ():
            before = self.editor.sole_producer(factor)
            gate = None if before is None else traits.clamped_affine(before)
            if before is None or gate is None or gate.data is not data or not gate.is_hard_sigmoid():
                continue
            if (gate.scale, gate.shift) == (_SCALE, _SHIFT):
                return data, before
        return None

    def spell(self, node: gs.Node) -> None:
        """Write a HardSwish as the product that it is."""
        data, output = node.inputs[0], node.outputs[0]
        gate = self.editor.variable(f"{output.name}_gate", output.dtype, output.shape)
        attrs = {"alpha": _SCALE, "beta": _SHIFT}
        self.editor.emit("HardSigmoid", [data], gate, f"{node.name or output.name}_hardsigmoid", attrs, before=node)
        become(node, "Mul", [data, gate])

    def clip(self, node: gs.Node) -> None:
        """Write a HardSigmoid as a Clip if the contraction before it takes its scale and shift."""
        gate = _clamped_affine(node)
        if gate is None or not gate.is_hard_sigmoid() or (gate.scale, gate.shift) == (1, 0):
            return
        if self._fuser.fold(Affine(gate.data, np.asarray(gate.scale), np.asarray(gate.shift), None)):
            ((op, bounds, attrs),) = self._steps(replace(gate, scale=1.0, shift=0.0))
            become(node, op, [gate.data, *self._constants(bounds)], attrs)

    def _write(self, clamped_affine: ClampedAffine, output: gs.Tensor, place: gs.Node) -> None:
        """The nodes of the map, before the place of a node."""
        data, steps = clamped_affine.data, self._steps(clamped_affine)
        for step, (op, constants, attrs) in enumerate(steps, 1):
            hint = f"{output.name}_{op.lower()}"
            made = output if step == len(steps) else self.editor.variable(hint, output.dtype, output.shape)
            name = f"{place.name or output.name}_{op.lower()}"
            data = self.editor.emit(op, [data, *self._constants(constants)], made, name, attrs, before=place)

    def _constants(self, numbers: list[float | None]) -> list[gs.Tensor]:
        """Operands that hold these numbers; those that are None are left out."""
        return [
            omitted() if number is None else self.editor.constant("ramp", np.asarray(number, np.float32))
            for number in numbers
        ]

    def _steps(self, clamped_affine: ClampedAffine) -> list[tuple[str, list[float | None], dict[str, float]]]:
        """The operators of the map, with their constant operands and attributes."""
        if clamped_affine.is_hard_sigmoid() and (clamped_affine.scale, clamped_affine.shift) != (1, 0):
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
