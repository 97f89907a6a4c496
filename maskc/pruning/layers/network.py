"""A trained network made ready for pruning: where its channels can be masked, and what reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.pruning.layers.contractions import Contraction, Index, Layers
from passes.graph.tensors import along, unite
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.cost_model import CostModel, cost_model
from passes.mask_savings.coupled_entries import Coupling, Decisions, coupling
from passes.mask_savings.gated import PLACE, gated
from passes.mask_savings.prunable_filters import Filters
from passes.model.inputs import bind, split
from passes.model.set_nodes import set_nodes
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets.widths.rates import Rates

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reader:
    """A contraction that sums masked channels.

    group_of: int64 [axes of its input, groups of the layer, rows], the groups that each row goes with, or -1.
    """

    contraction: Contraction
    group_of: Index

    def lost(self, gone: Mask) -> Mask:
        """The rows of its weights that go with these groups, bool [groups of the layer, rows]."""
        return np.asarray(((self.group_of >= 0) & gone[self.group_of]).any(axis=0))


@dataclass(frozen=True)
class Network:
    """A model whose channels can be masked.

    model: the masked form, in which each place of `places`, and the weights of each of `units`, are multiplied with a
    graph input of the same name. groups: by name, int64 [channels], the number of each channel's group; groups go as a
    whole. fixed: bool [groups], those that must stay. readers: all contractions, in the order of the graph. layers:
    what they are of, and its constants. at: the sizes that FLOPs are counted at.
    """

    model: ModelProto
    places: Mapping[str, Filters]
    units: Mapping[str, Filters]
    groups: Mapping[str, Index]
    fixed: Mask
    readers: tuple[Reader, ...]
    layers: Layers
    coupling: Coupling
    at: Sizes | None

    def masks(self, gone: Mask) -> dict[str, NDArray[np.generic]]:
        """0/1 by place, for groups that are gone, bool [groups]."""
        masked = {**self.places, **self.units}
        return {name: np.where(gone[self.groups[name]], 0, 1).astype(what.dtype) for name, what in masked.items()}

    def masked(self, gone: Mask) -> ModelProto:
        """The model at these masks, whose layers do not read what is gone, whatever became of it on the way."""
        model = bind(self.model, self.masks(gone))
        whole = {f"{name}/masked" for name in self.places if not gone[self.groups[name]].any()}
        for node in model.graph.node:
            if node.output[0] in whole:  # what runtimes fuse, as what is between two steps of quantisation, stays so
                node.op_type = "Identity"
                del node.input[1:]
        unread = {}
        for reader in self.readers:
            lost = reader.lost(gone)
            if lost.any():
                layer = reader.contraction
                matrix = layer.matrix(self.layers.constants.values[layer.weights])
                matrix[lost] = 0
                unread[layer.weights] = layer.stored(matrix)
        return self.layers.constants.put(model, unread)

    def flops(self, gone: Mask) -> int:
        """FLOPs of the masked model when it is compiled, with as few channels as can be."""
        return compiled_cost(self.masked(gone), at=self.at).flops

    def made_by(self, layer: Contraction) -> Index:
        """The groups of what a layer makes, int64 [outputs of all groups], -1 where there is none."""
        places = (self.groups[name] for name, place in self.places.items() if place.tensor == layer.output)
        labels = (*places, *self.of_tensor(layer.output))
        return next((each for each in labels if each.size == layer.outputs), np.full(layer.outputs, -1))

    def of_tensor(self, tensor: str) -> Iterator[Index]:
        """The groups of a tensor's slices along each axis that any reach, -1 where none does."""
        number = np.append(np.concatenate([*self.groups.values()]), -1)
        for (name, _), entries in self.coupling.entries.items():
            if name == tensor:
                yield number[entries]

    def cost_model(self, gone: Mask, rates: Rates | None = None) -> CostModel:
        """What each group saves beside those that are gone: FLOPs, or nanoseconds by these rates."""
        return cost_model(self.model, self.masks(gone), self.groups, self.coupling, self.at, rates)


class Holder(Protocol):
    """What is to hold the weights of a network, where it holds less than a file: a Keras model, say."""

    def bias_of(self, layer: Contraction) -> Hashable | None:
        """What a layer's bias is held in, the same of layers that must have one in common; None if it may have none."""

    def leaves_unread(self, layer: Contraction) -> bool:
        """Whether a layer can do without channels that no layer makes, as those of an input of the model."""

    def division(self, node: str, classes: Sequence[Index]) -> int | None:
        """How it divides the channels that a node of this name divides, as for `coupling`."""

    def together(self, network: Network) -> Iterable[Index]:
        """Groups that can only go together, as `together` takes them."""


def with_places(
    model: ModelProto,
    layers: Layers,
    found: Sequence[Filters],
    at: Sizes | None,
    holder: Holder | None = None,
    best: Decisions | None = None,
) -> Network:
    """The network of a model with these layers that is masked at these places. best: as for `coupling`."""
    places = {f"{PLACE}{i}": place for i, place in enumerate(found)}
    masked = gated(model, places)
    units = gated_units(masked, layers)
    sizes = {name: len(what.norm) for name, what in {**places, **units}.items()}
    coupled = coupling(masked, sizes, None if holder is None else holder.division, best)
    roots = np.concatenate([np.zeros(0, np.int64), *(coupled.groups[name] for name in sizes)])
    number, index = np.unique(roots, return_inverse=True)
    entries, groups = np.append(index, -1), split(index, sizes)
    fixed = np.zeros(len(number), bool)
    for name, place in places.items():
        fixed[groups[name]] |= place.fixed
    renamed = {place.tensor: f"{name}/masked" for name, place in places.items()}
    readers = []
    for layer in layers.contractions:
        if layer.refits:
            layer = dataclasses.replace(layer, source=renamed.get(layer.source, layer.source))
        unknown = np.full((layer.groups, layer.width * layer.taps), -1)
        known = (layer.row_labels(coupled.entries.get((layer.source, axis), ()), axis) for axis in layer.axes)
        readers.append(Reader(layer, entries[np.stack([unknown if each is None else each for each in known])]))
    return Network(masked, places, units, groups, fixed, tuple(readers), layers, coupled, at)


def sharing(network: Network) -> Network:
    """The network in which channels that several layers read with the same weights go together.

    They stay where it is not known of all of these layers what they read.
    """
    of: dict[str, list[Index]] = {}
    for reader in network.readers:
        of.setdefault(reader.contraction.weights, []).append(reader.group_of)
    shared = {name: np.stack(labels) for name, labels in of.items() if len(labels) > 1}
    readers = []
    for reader in network.readers:
        known = (shared.get(reader.contraction.weights, reader.group_of[None]) >= 0).all(axis=0)
        readers.append(Reader(reader.contraction, np.where(known, reader.group_of, -1)))
    return together(dataclasses.replace(network, readers=tuple(readers)), shared.values())


def together(network: Network, labels: Iterable[Index]) -> Network:
    """The network in which those groups are one that stand in one column of these, int64 [n, ...].

    Such as stand in a column with -1 stay.
    """
    root, fixed = np.arange(len(network.fixed)), network.fixed.copy()
    for those in labels:
        known = (those >= 0).all(axis=0)
        fixed[np.setdiff1d(those[:, ~known], -1)] = True
        for other in those[1:]:
            unite(root, those[0, known], other[known])
    number, new = np.unique(root, return_inverse=True)
    readers = (Reader(reader.contraction, np.append(new, -1)[reader.group_of]) for reader in network.readers)
    groups = {name: new[index] for name, index in network.groups.items()}
    return dataclasses.replace(network, groups=groups, fixed=np.isin(number, root[fixed]), readers=tuple(readers))


def gated_units(model: ModelProto, layers: Layers) -> dict[str, Filters]:
    """The units of layers that read those of the step before, as filters, by the name of their mask.

    That is a new graph input, of shape [units], that their weights are multiplied by, in place: a unit all of whose
    weights are zero gives zero, if its state begins with zero.
    """
    of_node: dict[str, list[Contraction]] = {}
    for layer in layers.contractions:
        of_node.setdefault(layer.output, []).append(layer)
    constants, units, nodes = layers.constants, dict[str, Filters](), list[NodeProto]()
    for node in model.graph.node:
        those = of_node.get(next(iter(node.output), ""), [])
        state = next((layer for layer in those if not layer.refits), None)
        bias = those[0].bias if those else ""
        if state is not None and len(those) > 1 and bias:
            name, dtype = f"maskc_units_{len(units)}", constants.values[state.weights].dtype
            units[name] = Filters(node.output[0], state.axis, len(state.shape) + 1, dtype, np.ones(state.width), False)
            kind = helper.np_dtype_to_tensor_dtype(dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, [state.width]))
            cuts = [(layer.weights, layer.shape, layer.along.rindex("o")) for layer in those]
            for number, (operand, shape, axis) in enumerate([*cuts, (bias, constants.values[bias].shape, 1)], 1):
                made, place = f"{name}/{number}", list(node.input).index(operand)
                column = np.array(along(axis, len(shape)), np.int64)
                repeated = [name] * (shape[axis] // state.width)
                model.graph.initializer.append(numpy_helper.from_array(column, f"{made}/shape"))
                nodes += [
                    helper.make_node("Concat", repeated, [f"{made}/repeated"], axis=0),
                    helper.make_node("Reshape", [f"{made}/repeated", f"{made}/shape"], [f"{made}/column"]),
                    helper.make_node("Mul", [operand, f"{made}/column"], [made]),
                ]
                node.input[place] = made
        nodes.append(node)
    set_nodes(model.graph, nodes)
    return units
