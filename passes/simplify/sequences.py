"""Sequences whose length and places are known, replaced by the tensors in them.

PyTorch writes lists as sequences. A tensor in a sequence keeps all of its channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.graph import construct
from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import int_list, is_standard, operand, shape_of

_MOST = 64  # into more parts nothing is split


def replace_sequences(graph: gs.Graph) -> bool:
    """Write SequenceAt and ConcatFromSequence without a sequence where its tensors are known; whether any was."""
    if not any("Sequence" in node.op for node in graph.nodes):
        return False
    editor, changed = GraphEditor(graph), False
    held: dict[str, list[gs.Tensor]] = {}  # by the name of the sequence
    for node in filter(is_standard, graph.nodes):
        found = held.get(node.inputs[0].name) if node.inputs else None
        if node.op in ("SequenceConstruct", "SequenceEmpty"):
            held[node.outputs[0].name] = [*node.inputs]
        elif node.op == "SplitToSequence" and (sizes := _sizes(node, editor)):
            held[node.outputs[0].name] = _split(node, sizes, editor)
        elif node.op == "SequenceInsert" and found is not None:
            place = _place(node, 2, len(found), len(found))
            if place is not None:
                held[node.outputs[0].name] = [*found[:place], node.inputs[1], *found[place:]]
        elif node.op == "SequenceAt" and found:
            place = _place(node, 1, len(found), len(found) - 1)
            if place is not None:
                become(node, "Identity", [found[place]])
                changed = True
        elif node.op == "ConcatFromSequence" and found:
            axis = int(node.attrs["axis"])
            parts = [_unsqueezed(t, axis, node, editor) for t in found] if node.attrs.get("new_axis", 0) else found
            become(node, "Concat", parts, {"axis": axis})
            changed = True
    editor.finish()
    return changed


def _place(node: gs.Node, index: int, count: int, last: int) -> int | None:
    """Which place an operand names among `count`, the last where it is left out; None where that is not known."""
    if operand(node, index) is None:
        return last
    places = int_list(node.inputs[index])
    place = places[0] + count * (places[0] < 0) if places else -1
    return place if 0 <= place <= last else None


def _sizes(node: gs.Node, editor: GraphEditor) -> list[int]:
    """The sizes of the parts of a SplitToSequence; empty where they, or what is taken of them, are not known."""
    data, sequence, split = node.inputs[0], node.outputs[0], operand(node, 1)
    takers = [
        n for n in sequence.outputs if n.op == "ConcatFromSequence" or (n.op == "SequenceAt" and int_list(n.inputs[1]))
    ]
    if not takers or len(takers) < len(sequence.outputs) or sequence.name in editor.seen_outside:
        return []
    shape, axis = shape_of(data), int(node.attrs.get("axis", 0))
    whole = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    sizes = [1] if split is None else int_list(split) or []
    if isinstance(whole, int) and len(sizes) == 1 and sizes[0] > 0 and (split is None or not split.shape):
        sizes = [min(sizes[0], whole - start) for start in range(0, whole, sizes[0])]
    return sizes if sum(sizes) == whole and len(sizes) <= _MOST else []


def _split(node: gs.Node, sizes: Sequence[int], editor: GraphEditor) -> list[gs.Tensor]:
    """The parts, by a Split that takes the name of the node, which nothing will read."""
    data, axis = node.inputs[0], int(node.attrs.get("axis", 0))
    parts: list[gs.Tensor] = [editor.variable(f"{node.outputs[0].name}_part", data.dtype) for _ in sizes]
    inputs, attrs = editor.form("Split", [data], {"axis": axis, "split": [*sizes]})
    editor.insert(construct.node("Split", node.name, attrs, inputs, parts), before=node)
    node.name = editor.names.fresh(node.name)
    if operand(node, 1) is not None or node.attrs.get("keepdims", 1):
        return parts
    return [
        editor.emit("Squeeze", [part], editor.variable(part.name, data.dtype), part.name, {"axes": [axis]}, before=node)
        for part in parts
    ]


def _unsqueezed(tensor: gs.Tensor, axis: int, node: gs.Node, editor: GraphEditor) -> gs.Tensor:
    output = editor.variable(f"{tensor.name}_stacked", tensor.dtype)
    return editor.emit("Unsqueeze", [tensor], output, f"{output.name}_unsqueeze", {"axes": [axis]}, before=node)
