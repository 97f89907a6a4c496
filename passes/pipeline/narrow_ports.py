"""Narrow ports of control flow: what goes into a subgraph or comes out, without slices that are zero or not read.

The others are picked on the one side and put back on the other, in both with nodes that planning sees through: what
makes them and what reads them are then planned as anywhere else, each in its own graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import Mask, is_float, shape_of, size_of
from passes.ops import rules
from passes.ops.control_flow import ControlFlow, Port
from passes.rewriting.channel_facts import Facts

_PADS_BY_OPERANDS = 11  # the opset


def narrow_ports(graph: gs.Graph, facts: Facts, inside: Mapping[int, Facts]) -> set[str] | None:
    """Let ports have no slices that are zero or not read; None if there were none.

    Otherwise the tensors behind nodes that have zeros in place of what nothing reads. facts: those of the graph, found
    with what is known `inside` of its subgraphs, by their `id`.
    """
    changed, unread = False, set[str]()
    outer = GraphEditor(graph)
    for node in graph.nodes if graph.opset >= _PADS_BY_OPERANDS else ():
        op, bodies = rules(node), subgraphs(node)
        for port in op.narrow_ports(node) if isinstance(op, ControlFlow) else ():
            kept = _kept(node, bodies, port, facts, inside)
            if kept is None:
                continue
            axis, mask = kept
            behind = [node.outputs[port.leaves[0]]] if port.leaves else []
            if any(tensor.name in outer.seen_outside for tensor in behind):
                continue
            _narrow(node, bodies, port, axis, mask, outer)
            changed = True
            unread.update(t.name for t in behind if not (mask | facts.zero(t, port.outside(axis))).all())
    outer.finish()
    return unread if changed else None


def _kept(
    node: gs.Node, bodies: list[gs.Graph], port: Port, facts: Facts, inside: Mapping[int, Facts]
) -> tuple[int, Mask] | None:
    """An axis inside, and the slices along it that are worth while; None where all are, or nothing is known."""
    if port.leaves and port.leaves[0] >= len(node.outputs):
        return None  # a state whose last value nobody wants
    ends = [(body.inputs[port.enters[1]], inside[id(body)]) for body in bodies if port.enters]
    if port.leaves:
        ends += [(body.outputs[port.leaves[1]], inside[id(body)]) for body in bodies]
    outside = [node.inputs[port.enters[0]]] if port.enters else []
    outside += [node.outputs[port.leaves[0]]] if port.leaves else []
    if any(not is_float(t) or t.is_empty() for t in [*outside, *(t for t, _ in ends)]):
        return None
    for axis in range(len(shape_of(ends[0][0]) or ())):
        size, there = size_of(ends[0][0], axis), port.outside(axis)
        if (
            not size
            or any(size_of(t, axis) != size for t, _ in ends)
            or any(size_of(t, there) != size for t in outside)
        ):
            continue
        if port.enters and port.leaves:  # a state: of every round
            dead = np.logical_and.reduce([known.zero(t, axis) for t, known in ends] + [facts.zero(outside[0], there)])
            dead |= ~ends[0][1].counts(ends[0][0], axis) & ~facts.counts(outside[1], there)
        elif port.enters:
            dead = ~ends[0][1].counts(ends[0][0], axis)
        else:
            dead = ~facts.counts(outside[0], there)
        if dead.any() and not dead.all():
            return axis, ~dead
    return None


def _narrow(node: gs.Node, bodies: list[gs.Graph], port: Port, axis: int, kept: Mask, outer: GraphEditor) -> None:
    there, picked = port.outside(axis), np.flatnonzero(kept)
    if port.enters:
        number, inner = port.enters
        data = node.inputs[number]
        node.inputs[number] = outer.gather(data, there, picked, f"{data.name}_narrow", before=node)
    if port.leaves:
        data = node.outputs[port.leaves[0]]
        node.outputs[port.leaves[0]] = _put_back(outer, data, there, kept, after=node)
    for body in bodies:
        editor = GraphEditor(body, outer.names)
        if port.leaves:
            data = body.outputs[port.leaves[1]]
            body.outputs[port.leaves[1]] = editor.gather(data, axis, picked, f"{data.name}_narrow")
        if port.enters:
            body.inputs[inner] = _put_back(editor, body.inputs[inner], axis, kept, after=editor.start)
        editor.finish()


def _put_back(editor: GraphEditor, tensor: gs.Tensor, axis: int, kept: Mask, after: gs.Node) -> gs.Variable:
    """A tensor of the slices that are kept, of which nodes make this one, with zeros in place of the others."""
    count, rank = int(kept.sum()), len(shape_of(tensor) or ())
    narrow, padded = _like(editor, tensor, axis, count), _like(editor, tensor, axis, kept.size)
    pads = [0] * (2 * rank)
    pads[rank + axis] = kept.size - count
    editor.emit("Pad", [narrow, editor.ints("pads", pads)], padded, f"{padded.name}_pad", after=after)
    places = np.where(kept, np.cumsum(kept) - 1, count + np.cumsum(~kept) - 1)
    operands = [padded, editor.ints("places", places)]
    editor.emit("Gather", operands, tensor, f"{tensor.name}_places", {"axis": axis}, after=after)
    return narrow


def _like(editor: GraphEditor, tensor: gs.Tensor, axis: int, size: int) -> gs.Variable:
    shape = [size if a == axis else d for a, d in enumerate(shape_of(tensor) or ())]
    return editor.variable(f"{tensor.name}_narrow", tensor.dtype, shape)
