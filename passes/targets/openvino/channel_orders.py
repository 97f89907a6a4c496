"""Channels that are put in another order before a convolution, whose weights OpenVINO permutes the wrong way round.

OpenVINO (2026.4, transformation `ReverseInputChannelsFusion`) moves a Gather of all channels down through elementwise
operators, norms, depthwise convolutions, Pads and Transposes into the weights of convolutions, and permutes these by
the same order. That is right where the order is its own inverse, as the reverse is. Any order is two such in a row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import Index, is_constant, shape_of
from passes.ops import rules
from passes.ops.convolutions.conv import Conv
from passes.ops.slice_gather import Gather

_CHANNELS = 1  # the axis


def split_orders(graph: gs.Graph) -> None:
    """Let a Gather of all channels that a convolution may come to be merged with be its own inverse.

    Another one becomes two.
    """
    editor = GraphEditor(graph)
    for node in _merged(graph):
        order, data, output = _order(node), node.inputs[0], node.outputs[0]
        if order is None or np.array_equal(order[order], np.arange(order.size)):
            continue
        first, second = _own_inverses(order)
        half = editor.gather(data, _CHANNELS, first, f"{output.name}_half", before=node)
        node.inputs = [half, editor.ints("channels", second)]
    editor.finish()


def _merged(graph: gs.Graph) -> list[gs.Node]:
    """The Gathers of all channels that a convolution reads, directly or after operators that read nothing else.

    Not all of those let an order pass, so these may be too many.
    """
    gathers: dict[int, dict[int, gs.Node]] = {}  # those before a tensor
    found: dict[int, gs.Node] = {}
    for node in graph.nodes:
        if _order(node) is not None:
            gathers[id(node.outputs[0])] = {id(node): node}
            continue
        computed = [tensor for tensor in node.inputs if tensor.name and not is_constant(tensor)]
        if not computed or any(id(tensor) not in gathers for tensor in computed):
            continue
        before = {key: gather for tensor in computed for key, gather in gathers[id(tensor)].items()}
        if isinstance(rules(node), Conv) and node.attrs.get("group", 1) == 1:
            found |= before
        else:
            gathers |= dict.fromkeys(map(id, node.outputs), before)
    return list(found.values())


def _order(node: gs.Node) -> Index | None:
    """The order that the node puts all channels of a tensor in: int64 [channels]; None where it does something else."""
    if not isinstance(rules(node), Gather) or not is_constant(node.inputs[1]) or len(node.inputs[1].shape) != 1:
        return None
    shape = shape_of(node.inputs[0])
    if not shape or node.attrs.get("axis", 0) % len(shape) != _CHANNELS:
        return None
    index = np.asarray(node.inputs[1].values).astype(np.int64)
    if isinstance(shape[_CHANNELS], int) and shape[_CHANNELS] != index.size:
        return None
    order = np.where(index < 0, index + index.size, index)
    return order if np.array_equal(np.sort(order), np.arange(index.size)) else None


def _own_inverses(order: Index) -> tuple[Index, Index]:
    """Two orders, each its own inverse, with `first[second] == order`: each cycle is turned by mirroring it twice."""
    first, second = order.copy(), order.copy()
    for cycle in _cycles(order):
        place = np.arange(cycle.size)
        first[cycle], second[cycle] = cycle[(1 - place) % cycle.size], cycle[-place % cycle.size]
    return first, second


def _cycles(order: Index) -> Iterable[Index]:
    left = set(range(order.size))
    while left:
        cycle = [left.pop()]
        while (place := int(order[cycle[-1]])) != cycle[0]:
            cycle.append(place)
            left.remove(place)
        yield np.asarray(cycle, np.int64)
