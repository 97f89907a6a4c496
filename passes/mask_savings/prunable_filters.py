"""The filters of a model's layers: where the channels of each can be masked, and how large its weights are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.analysis import dataflow
from passes.graph.editor import Change
from passes.graph.subgraphs import captured
from passes.graph.tensors import Index, is_constant, is_float, shape_of, sizes_of
from passes.ops import Linked, rules
from passes.ops.contractions.integer import IntegerSums
from passes.ops.traits import WeightedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders, Reordering
from passes.sizes.prepare import checked


@dataclass(frozen=True)
class Filters:
    """The filters of one layer.

    To zero slice i of `tensor`, of `rank` dimensions and of floating-point type `dtype`, along `axis` is to take filter
    i away. `norm`, float64 [channels], is the L2 norm of the weights of each. `fixed`: the channels must stay, since an
    output shows them.
    """

    tensor: str
    axis: int
    rank: int
    dtype: np.dtype[np.generic]
    norm: NDArray[np.float64]
    fixed: bool


def filters(model: onnx.ModelProto) -> list[Filters]:
    """The filters of all layers with weights of their own, in the order of the graph.

    The place for a mask is after the operators that follow the layer and keep its channels apart, while nothing else
    that is computed comes in: a bias, a BatchNormalization, an activation, a pooling. A channel that is masked there is
    zero for all that read it. Channels are fixed where some way to an output of the model leads through no other layer,
    and where a subgraph reads them.

    Raises GraphError when the graph is not valid.
    """
    graph = checked(model)
    found = dataflow.analyse(graph)
    makers = {id(node): made for node in graph.nodes if (made := _weights(graph, node)) is not None}
    shown = _shown(graph, makers)
    layers: dict[tuple[str, int], Filters] = {}
    for node in graph.nodes:
        if id(node) not in makers:
            continue
        weights, along, axis = makers[id(node)]
        tensor, axis = _masked_place(graph, node.outputs[0], axis, found)
        op = rules(node)
        values = op.steps(node) if isinstance(op, IntegerSums) else found.value(weights)
        norm = np.sqrt(
            np.square(values.astype(np.float64)).sum(axis=tuple(a for a in range(values.ndim) if a != along))
        )
        dtype = None if isinstance(tensor.dtype, int) or tensor.dtype is None else np.dtype(tensor.dtype)
        if dtype is not None and dtype.kind == "f" and found.size(tensor, axis) == norm.size:
            rank = len(shape_of(tensor) or ())
            layers[tensor.name, axis] = Filters(tensor.name, axis, rank, dtype, norm, tensor.name in shown)
    return list(layers.values())


class _Asked(Orders):
    """Notes which operands would have to be put in another order, and lets all be."""

    def __init__(self, graph: gs.Graph) -> None:
        super().__init__(graph, rules)
        self.operands: list[tuple[int, int]] = []

    def taken(self, node: gs.Node, index: int, axis: int, order: Index) -> Change | None:
        self.operands.append((index, axis))
        return lambda: None


def _weights(graph: gs.Graph, node: gs.Node) -> tuple[gs.Tensor, int, int] | None:
    """Weights of a layer, their axis along which the filters lie, and that axis of its output; None if it is no layer.

    What makes an operator write its channels in another order is what makes them.
    """
    op = rules(node)
    if not isinstance(op, Reordering) or op.cost(node)[1] == 0:
        return None
    sizes = sizes_of(node.outputs[0])
    for axis in range(len(sizes)) if op.width_axis is None else [op.width_axis % max(len(sizes), 1)]:
        asked = _Asked(graph)
        if axis < len(sizes) and (size := sizes[axis]) is not None:
            op.writes_in_order(node, 0, axis, np.arange(size), asked)
        for index, along in asked.operands:
            weights = node.inputs[index]
            if is_constant(weights) and len(weights.shape) > 1:
                return weights, along, axis
    return None


def _masked_place(graph: gs.Graph, tensor: gs.Tensor, axis: int, found: Facts) -> tuple[gs.Tensor, int]:
    """The last tensor to which operators pass these channels on, each by itself, beside computed numbers at most."""
    inside = {t.name for node in graph.nodes for t in captured(node)}
    while len(tensor.outputs) == 1 and tensor.name not in inside and not any(t is tensor for t in graph.outputs):
        node = tensor.outputs[0]
        others = [t for t in node.inputs if t is not tensor and not t.is_empty() and not is_constant(t)]
        apart = not is_float(tensor) or all(map(_is_number, others))  # among integers nothing comes in but a bias
        links = [k for k in found.links(node) if node.inputs[k.input] is tensor and k.input_axis == axis]
        if not isinstance(rules(node), Linked) or not apart or len(node.outputs) != 1 or len(links) != 1:
            break
        if links[0].source is not None or rules(node).cost(node)[1]:
            break
        tensor, axis = node.outputs[0], links[0].output_axis
    return tensor, axis


def _is_number(tensor: gs.Tensor) -> bool:
    """Whether it is one element, as the scale of a whole tensor is, in which no channel shows."""
    return tensor.shape is not None and {*sizes_of(tensor)} <= {1}


def _shown(graph: gs.Graph, layers: dict[int, tuple[gs.Tensor, int, int]]) -> set[str]:
    """Names of the tensors from which a way to an output, or into a subgraph, leads through no layer."""
    shown = {t.name for t in graph.outputs}
    for node in reversed(graph.nodes):
        shown |= {t.name for t in captured(node)}
        if id(node) not in layers and any(t.name in shown and not _is_number(t) for t in node.outputs):
            op = rules(node)
            sums = op.weighted_sums(node) if isinstance(op, WeightedSums) else ()
            shown |= {t.name for t in node.inputs} - {each.data.name for each in sums}
    return shown
