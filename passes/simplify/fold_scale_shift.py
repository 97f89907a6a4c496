"""Scales and shifts become part of the weights of the contraction before them, or of all contractions after them.

A BatchNormalization after a convolution is one, for instance, and one before a convolution, or before two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.graph.editor import Change, GraphEditor, drop_erased, erase_keeping_input, erase_keeping_output, sequence
from passes.graph.tensors import operand, volume
from passes.ops import rules, traits
from passes.rewriting.weight_scaling import AffineFolding, Fuser

# A shift so many times the scale is left: where the data are small beside it, sums of weights times the shift would
# drown what sums of weights times data say.
_FAR = 32.0


def fold_into_producers(graph: gs.Graph) -> None:
    """Fold scales and shifts into the contraction before them.

    Afterwards no BatchNormalization, Mul or Add with a per-channel constant follows a Conv, ConvTranspose, Gemm or
    MatMul of constant weights whose result nothing else reads (a shift after a MatMul stays an Add).
    """
    fuser = Fuser(GraphEditor(graph), rules)
    _fold(graph, list(graph.nodes), lambda node, affine: fuser.fold(affine), erase_keeping_output)


def fold_into_consumers(graph: gs.Graph, fused: Set[int]) -> None:
    """Fold scales and shifts, which no contraction before them could take, into the contractions after them.

    Afterwards none is left whose result only Convs, ConvTransposes, MatMuls and Gemms of constant weights read that can
    take it: a shift cannot be folded where a border is padded, as it is not there, nor where there is no bias. Nodes
    whose ids are in `fused`, which the target fuses with others, stay as they are: without the ½ a Gelu is four
    operators, without its scale a normalisation five.
    """
    editor = GraphEditor(graph)
    fuser = Fuser(editor, rules)

    def folded(node: gs.Node, affine: Affine) -> bool:
        change = None if node.outputs[0].name in editor.seen_outside else _into_consumers(node, affine, fuser)
        if change is not None:
            change()
        return change is not None

    nodes = [node for node in reversed(graph.nodes) if id(node) not in fused]
    _fold(graph, nodes, folded, erase_keeping_input)


def _fold(
    graph: gs.Graph,
    nodes: Iterable[gs.Node],
    folded: Callable[[gs.Node, Affine], bool],
    erase: Callable[[gs.Node, gs.Tensor], None],
) -> None:
    """Erase each scale and shift that could be folded into others."""
    for node in nodes:
        affine = traits.affine(node)
        if affine is not None and folded(node, affine):
            erase(node, affine.data)
    drop_erased(graph)


def _into_consumers(node: gs.Node, affine: Affine, fuser: Fuser) -> Change | None:
    """What puts the map into all that read it; None where one cannot take it, or biases cost more than the map does."""
    output, changes = node.outputs[0], list[Change]()
    if not output.outputs or (np.abs(affine.shift) > _FAR * np.abs(affine.scale)).any():
        return None
    biased = [c.outputs[0] for c in output.outputs if operand(c, 2) is None] if affine.shift.any() else []
    if sum(map(volume, biased)) > rules(node).cost(node)[0]:
        return None
    for consumer in output.outputs:
        index, *others = (i for i, t in enumerate(consumer.inputs) if t is output)
        op = rules(consumer)
        change = None
        if isinstance(op, AffineFolding) and not others:
            change = op.fold_input_affine(consumer, index, affine, fuser)
        if change is None:
            return None
        changes.append(change)
    return sequence(changes)
