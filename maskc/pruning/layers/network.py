"""A trained network made ready for pruning: where its channels can be masked, and what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.pruning.layers.contractions import Contraction, contractions
from maskc.pruning.layers.recurrent_units import Units, gated_units
from maskc.pruning.layers.stored_weights import stored, with_weights
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.cost_model import CostModel, cost_model
from passes.mask_savings.coupled_entries import Coupling, coupling
from passes.mask_savings.gated import gated
from passes.mask_savings.prunable_filters import Filters
from passes.model.inputs import bind
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets.widths.rates import Rates

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reader:
    """A contraction that sums masked channels: `group_of` each channel of its input, int64 [channels], or -1."""

    contraction: Contraction
    group_of: Index

    def lost(self, gone: Mask) -> Mask:
        """The rows of its weights that go with these groups, bool [groups of the layer, rows]."""
        channels = (self.group_of >= 0) & gone[self.group_of]
        return np.repeat(channels.reshape(self.contraction.groups, -1), self.contraction.taps, axis=1)


@dataclass(frozen=True)
class Network:
    """A model whose channels can be masked.

    model: the masked form, in which each place of `places`, and the weights of each of `units`, are multiplied with a
    graph input of the same name. groups: by name, int64 [channels], the number of each channel's group; groups go as a
    whole. fixed: bool [groups], those that must stay. readers: all contractions, in the order of the graph. at: the
    sizes that FLOPs are counted at.
    """

    model: ModelProto
    places: Mapping[str, Filters]
    units: Mapping[str, Units]
    groups: Mapping[str, Index]
    fixed: Mask
    readers: tuple[Reader, ...]
    coupling: Coupling
    at: Sizes | None

    def masks(self, gone: Mask) -> dict[str, NDArray[np.generic]]:
        """0/1 by place, for groups that are gone, bool [groups]."""
        masked: dict[str, Filters | Units] = {**self.places, **self.units}
        return {name: np.where(gone[self.groups[name]], 0, 1).astype(what.dtype) for name, what in masked.items()}

    def masked(self, gone: Mask) -> ModelProto:
        """The model at these masks, whose layers do not read what is gone, whatever became of it on the way."""
        model = bind(self.model, self.masks(gone))
        whole = {f"{name}/masked" for name in self.places if not gone[self.groups[name]].any()}
        for node in model.graph.node:
            if node.output[0] in whole:  # what runtimes fuse, as what is between two steps of quantisation, stays so
                node.op_type = "Identity"
                del node.input[1:]
        constants = stored(model)
        unread = {}
        for reader in self.readers:
            lost = reader.lost(gone)
            if lost.any():
                layer = reader.contraction
                matrix = layer.matrix(constants[layer.weights])
                matrix[lost] = 0
                unread[layer.weights] = layer.stored(matrix)
        return with_weights(model, unread)

    def flops(self, gone: Mask) -> int:
        """FLOPs of the masked model when it is compiled, with as few channels as can be."""
        return compiled_cost(self.masked(gone), at=self.at).flops

    def cost_model(self, gone: Mask, rates: Rates | None = None) -> CostModel:
        """What each group saves beside those that are gone: FLOPs, or nanoseconds by these rates."""
        return cost_model(self.model, self.masks(gone), self.groups, self.coupling, self.at, rates)


def with_places(model: ModelProto, biases: Mapping[str, str], found: Sequence[Filters], at: Sizes | None) -> Network:
    """The network of a model with biases, by the name of a layer's output, that is masked at these places."""
    places = {f"maskc_filters_{i}": place for i, place in enumerate(found)}
    masked, units, weights = gated_units(gated(model, places), stored(model))
    sizes = {**{name: len(place.norm) for name, place in places.items()}, **{n: u.count for n, u in units.items()}}
    coupled = coupling(masked, sizes)
    roots = np.concatenate([coupled.groups[name] for name in sizes]) if sizes else np.zeros(0, np.int64)
    number = np.unique(roots)
    groups = {name: np.searchsorted(number, coupled.groups[name]) for name in sizes}
    fixed = np.zeros(len(number), bool)
    for name, place in places.items():
        fixed[groups[name]] |= place.fixed
    entries = np.concatenate(list(groups.values())) if groups else roots
    layers = contractions(masked, stored(masked), biases, weights)
    readers = tuple(_readers(layers, coupled, entries))
    return Network(masked, places, units, groups, fixed, readers, coupled, at)


def _readers(layers: Iterable[Contraction], coupled: Coupling, entries: Index) -> Iterator[Reader]:
    for found in layers:
        axes = {axis: label for (name, axis), label in coupled.entries.items() if name == found.source}
        rank = 1 + max(axes, default=0)
        candidates = [found.axis] if found.axis >= 0 else range(rank - 1, -1, -1)
        fitting = [axes[axis] for axis in candidates if axis in axes and len(axes[axis]) == found.channels]
        label = fitting[0] if fitting else np.full(found.channels, -1)
        yield Reader(found, np.append(entries, -1)[label])
