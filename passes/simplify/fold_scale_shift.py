"""Scales and shifts in front of contractions, which no contraction before could take, become part of their weights."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.graph.editor import Change, sequence
from passes.ops import rules
from passes.rewriting.weight_scaling import Fuser

# A shift so many times the scale is left: where the data are small beside it, sums of weights times the shift would
# drown what sums of weights times data say.
_FAR = 32.0


def fold_ahead(graph: gs.Graph, fused: Set[int]) -> None:
    """Fold scales and shifts into the contractions behind them.

    Afterwards none is left whose result only Convs, ConvTransposes, MatMuls and Gemms of constant weights read that can
    take it: a shift does not go where a border is padded, as it is not there, nor where there is no bias. Nodes whose
    ids are in `fused`, which the target fuses with others, stay as they are: without the ½ a Gelu is four operators,
    without its scale a normalisation five.
    """
    fuser = Fuser(graph, rules)
    for node in reversed(list(graph.nodes)):
        affine = None if id(node) in fused else rules(node).affine(node)
        change = None if affine is None else _change(node, affine, fuser)
        if affine is None or change is None:
            continue
        change()
        output = node.outputs[0]
        for consumer in list(output.outputs):
            consumer.inputs = [affine.data if t is output else t for t in consumer.inputs]
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes = [n for n in graph.nodes if n.outputs]


def _change(node: gs.Node, affine: Affine, fuser: Fuser) -> Change | None:
    """What puts the map into all who read it; None where one cannot take it."""
    output = node.outputs[0]
    if fuser.is_seen_outside(output) or not output.outputs:
        return None
    if (np.abs(affine.shift) > _FAR * np.abs(affine.scale)).any():
        return None
    changes = [_taken(consumer, output, affine, fuser) for consumer in output.outputs]
    done = [change for change in changes if change is not None]
    return sequence(done) if len(done) == len(changes) else None


def _taken(consumer: gs.Node, tensor: gs.Tensor, affine: Affine, fuser: Fuser) -> Change | None:
    places = [i for i, t in enumerate(consumer.inputs) if t is tensor]
    return rules(consumer).fold_input_affine(consumer, places[0], affine, fuser) if len(places) == 1 else None


def fuse(graph: gs.Graph) -> None:
    """Fold scales and shifts into the contraction before them.

    Afterwards no BatchNormalization, Mul or Add with a per-channel constant follows a Conv, ConvTranspose, Gemm or
    MatMul of constant weights whose result nothing else reads (a shift behind a MatMul stays an Add).
    """
    fuser = Fuser(graph, rules)
    for node in list(graph.nodes):
        affine = rules(node).affine(node)
        if affine is None or not fuser.fold(affine):
            continue
        producer = affine.data.inputs[0]
        output = node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
        producer.outputs = [output if t is affine.data else t for t in producer.outputs]
    graph.nodes = [n for n in graph.nodes if n.outputs]
