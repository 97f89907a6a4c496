"""Node names by Keras layer in a converted graph.

TensorFlow calls a node by the scopes that it was made in, `unet_1/up0_conv1_1/convolution`: of the model, of its
layers, and of what computes them. Keras 3 opens the scope of a layer twice, first to build it, and TensorFlow numbers
what is not the first of its name; so what a layer computes is in a scope that ends in a number more than its name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnx import GraphProto, ModelProto, NodeProto

from maskc.frontend.graph_queries import all_nodes, claimed
from maskc.frontend.tensorflow.canonical_order import uncounted

# What a layer is mostly there for: where it has one of these, that is called like the layer.
_PRODUCTS = frozenset("Conv ConvTranspose Einsum Gemm GRU LSTM MatMul RNN".split())

_CALL = re.compile(r"(Stateful)?PartitionedCall(_\d+)?")
_COUNT = re.compile(r"_\d+$")

# The names of layers, from the outermost to the innermost.
Layer: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """The scopes that a node was made in, the model's and calls of functions left out, and its own name in the last."""

    layer: Layer
    within: tuple[str, ...]


def name_by_layer(model: ModelProto, opened_twice: bool) -> None:
    """Name the nodes of the graph by their layers, in place, in the order of the graph; tensors keep their names.

    The only product of a layer, and a node that is alone in it, has the layer's name: `up0_conv1`; others follow:
    `up0_conv1/Relu`. A product that has the name of a layer folded into it is of the layer whose weights it reads.
    `opened_twice` says whether the scopes are those of Keras 3.
    """
    nodes = model.graph.node
    places = _places(model.graph, opened_twice)
    layers: dict[Layer, list[NodeProto]] = defaultdict(list)
    for node, place in zip(nodes, places, strict=True):
        if place is not None and place.layer:
            layers[place.layer].append(node)
    heads = {}
    for layer, members in layers.items():
        chosen = [node for node in members if node.op_type in _PRODUCTS] or members
        if len(chosen) == 1:
            heads[id(chosen[0])] = "/".join(layer)
    inside = {node.name for node in all_nodes(model)} - {node.name for node in nodes}
    taken = {*inside, *heads.values()}
    for node, place in zip(nodes, places, strict=True):
        if id(node) in heads:
            node.name = heads[id(node)]
        elif place is not None:
            node.name = claimed("/".join((*place.layer, *place.within)), taken)


def _places(graph: GraphProto, opened_twice: bool) -> list[_Place | None]:
    """Where each node was made; None for those that tf2onnx made up between layers."""
    scopes = _Scopes((node.name for node in graph.node), opened_twice)
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    places = [scopes.place(node.name, node.op_type) for node in graph.node]
    by_place = zip(graph.node, places, strict=True)
    products = {place.layer for node, place in by_place if place and node.op_type in _PRODUCTS}
    reads = Counter(name for node in graph.node for name in node.input)
    for i, (node, place) in enumerate(zip(graph.node, places, strict=True)):
        for name in node.input[:2] if node.op_type in _PRODUCTS else ():
            of = scopes.layer_of_weight(name) if name in weights else None
            own = of not in products or reads[name] == 1  # equal weights of several layers are one tensor
            if of and own and (place is None or place.layer[: len(of)] != of[: len(place.layer)]):
                places[i] = _Place(of, (node.op_type,))
    return _between(graph.node, places)


class _Scopes:
    """The scopes of a graph: which is the model's, and which are its layers'."""

    def __init__(self, names: Iterable[str], opened_twice: bool) -> None:
        scoped = [parts for parts in map(_parts, names) if len(parts) > 1]
        self._all = {tuple(parts[:depth]) for parts in scoped for depth in range(1, len(parts) + 1)}
        (self._root, count) = Counter(parts[0] for parts in scoped).most_common(1)[0] if scoped else ("", 0)
        if 2 * count <= len(scoped):
            self._root = ""
        self._twice = opened_twice

    def place(self, name: str, operator: str) -> _Place | None:
        """Where a node of this name was made; None if the name was made up."""
        parts = _parts(name)
        if not parts:
            return None
        leaf = operator if uncounted(parts[-1]) != parts[-1] else parts[-1]
        start = int(len(parts) > 1 and parts[0] == self._root)
        end = len(parts) - 1
        if self._twice:
            end = next((i for i in range(start, end) if not self._opened_twice(tuple(parts[: i + 1]))), end)
        layer = (_COUNT.sub("", part) if self._twice else part for part in parts[start:end])
        return _Place(tuple(layer), (*parts[end:-1], leaf))

    def layer_of_weight(self, name: str) -> Layer:
        """The layer whose weight this is, by what reads the variable: `unet_1/conv_1/convolution/ReadVariableOp`."""
        place = self.place(name, "")
        if place is None:
            return ()
        return place.layer if self._twice else place.layer[:-1]

    def _opened_twice(self, scope: tuple[str, ...]) -> bool:
        """Whether a scope is a layer's: it ends in a number, and not because there is one without."""
        bare = (*scope[:-1], _COUNT.sub("", scope[-1]))
        return bare != scope and (bare not in self._all or self._opened_twice(bare))


def _parts(name: str) -> list[str]:
    """The parts of a name, without those of calls; none if it was made up."""
    parts = [part for part in name.split("/") if not _CALL.fullmatch(part)]
    return [] if len(parts) == 1 and uncounted(parts[0]) != parts[0] else parts


def _between(nodes: Iterable[NodeProto], places: Sequence[_Place | None]) -> list[_Place | None]:
    """The places, with what was made up between nodes of one layer in that layer."""
    nodes = list(nodes)
    before: dict[str, set[Layer]] = {}
    after: dict[str, set[Layer]] = defaultdict(set)
    for node, place in zip(nodes, places, strict=True):
        layers = {place.layer} if place else set().union(*(before.get(name, set()) for name in node.input))
        before.update(dict.fromkeys(node.output, layers))
    result = list(places)
    for i in range(len(nodes) - 1, -1, -1):
        node, place = nodes[i], places[i]
        layers = {place.layer} if place else set().union(*(after[name] for name in node.output))
        for name in node.input:
            after[name] |= layers
        if place is None and len(layers) == 1 and layers == before[node.output[0]] and layers != {()}:
            result[i] = _Place(next(iter(layers)), (node.op_type,))
    return result
