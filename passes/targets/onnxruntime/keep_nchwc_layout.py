"""Scales, shifts and gates between convolutions on NCHWc channel blocks become operators that keep this layout."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine, longest_chain
from passes.graph import construct
from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import dimensions, shape_of, size_of, volume
from passes.ops import rules, traits
from passes.rewriting.storage_plan import untouched
from passes.simplify import dead_code
from passes.sizes.sum_over_nodes import flops_of
from passes.targets.widths.estimated_time import Timing
from passes.targets.widths.fusions import fused_nodes
from passes.targets.widths.plan_steps import Network, PlanSteps, gate_operand
from passes.targets.widths.rates import Rates

# For each element.
_BATCH_NORMALIZATION_FLOPS = 2


def keep_nchwc_layout(graph: gs.Graph, rates: Rates, limit: int, *, gates: bool = True) -> None:
    """Write what is done to NCHWc channel blocks so that they stay, for FLOPs up to `limit` in the whole graph.

    ONNX Runtime brings channels out of channel blocks for a Mul or Add whose operands are not of the same sizes, and
    into them again for the next convolution. A BatchNormalization after an operator that writes channel blocks it
    computes as a depthwise convolution, and a Resize of one position to all of them on channel blocks, too. Afterwards
    no Mul or Add with constants stands between what these rates say to be in channel blocks, nor a product with a gate,
    as far as FLOPs go. What ONNX Runtime fuses stays as it is, and so do gates where they are not asked for.
    """
    writer = _Writer(graph, fused_nodes(graph))
    found = [(node, gate_operand(node, graph.opset) if gates else None) for node in graph.nodes]
    found = [(node, gate) for node, gate in found if gate is not None or writer.affine(node) is not None]
    if not found:
        return
    flops = limit - flops_of(graph)
    blocked = Timing(PlanSteps(Network(graph), untouched(graph)), rates).written_in_blocks()
    for node, gate in found:
        if gate is not None and blocked.issuperset(t.name for t in node.inputs):
            writer.spread(node, gate)
        affine, saved = writer.chain(node)
        goes_on = any(t.name in blocked for reader in node.outputs[0].outputs for t in reader.outputs)
        if affine is None or affine.data.name not in blocked or not goes_on:
            continue
        more = max(_BATCH_NORMALIZATION_FLOPS * volume(node.outputs[0]) - saved, 0)
        if more <= flops:
            flops -= more
            writer.normalize(node, affine)
    writer.editor.finish()
    dead_code.drop_unused(graph)


class _Writer:
    def __init__(self, graph: gs.Graph, fused: Set[int]) -> None:
        self.editor = GraphEditor(graph)
        self._fused = fused

    def chain(self, last: gs.Node) -> tuple[Affine | None, int]:
        """All scales and shifts up to this node as one, per channel, and their FLOPs; None if it is not the last."""
        chain = longest_chain(last, self.affine, self.editor)
        if chain is None or any(self.affine(n) is not None for n in last.outputs[0].outputs):
            return None, 0
        return chain.whole, sum(rules(node).cost(node)[0] for node in chain.nodes)

    def affine(self, node: gs.Node) -> Affine | None:
        """The scale and shift of images that the node is, unless the runtime fuses it with others."""
        if id(node) in self._fused:
            return None
        shape, affine = shape_of(node.outputs[0]) if node.outputs else None, traits.affine(node)
        if affine is None or shape is None or len(shape) != 4 or node.outputs[0].dtype != np.float32:
            return None
        return affine if affine.axis in (None, 3) and isinstance(shape[1], int) else None

    def spread(self, node: gs.Node, index: int) -> None:
        """A Resize of that operand to the positions of the other one, before the node."""
        gate, shape = node.inputs[index], dimensions(node.inputs[1 - index])
        wide = self.editor.variable(f"{gate.name}_spread", np.dtype(np.float32), shape)
        scales = self.editor.constant("scales", np.array([1, 1, *shape[2:]], np.float32))
        attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        node.inputs[index] = wide
        resize = construct.node("Resize", wide.name, attrs, [gate, construct.omitted(), scales], [wide])
        self.editor.insert(resize, before=node)

    def normalize(self, last: gs.Node, affine: Affine) -> None:
        """A BatchNormalization in place of the nodes that end with this one."""
        output = last.outputs[0]
        operands = {"scale": affine.scale, "shift": affine.shift, "mean": np.zeros(()), "variance": np.ones(())}
        inputs = [affine.data]
        for name, values in operands.items():
            spread = np.broadcast_to(np.asarray(values, np.float32), size_of(output, 1) or 0).copy()
            inputs.append(self.editor.constant(f"{output.name}_{name}", spread))
        erase(last)
        name = f"{last.name or output.name}_in_blocks"
        self.editor.emit("BatchNormalization", inputs, output, name, {"epsilon": 0.0}, before=last)
