"""Places of masks: after layers, in the weights of recurrent ones, and else at what layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from maskc.frontend.graph_queries import copied, tensor_types
from maskc.pruning.layers.biases import biased
from maskc.pruning.layers.channel_tracing import reached
from maskc.pruning.layers.contractions import layers
from maskc.pruning.layers.network import Network, Reader, sharing, with_places
from passes.graph.name_scopes import captured_names
from passes.mask_savings.prunable_filters import Filters, filters
from passes.sizes.sizes_to_count_at import Sizes


def network(
    model: ModelProto,
    batch: Mapping[str, NDArray[Any]],
    at: Sizes | None = None,
    seed: int = 0,
    takes_bias: Callable[[str], bool] = lambda node: True,
) -> Network:
    """The network of a model whose constants are folded, which runs on a batch.

    takes_bias: whether what a node of this name sums may get a bias.
    A layer whose input no mask of another layer reaches, as behind attention, gets a mask at its input.

    Raises GraphError when the graph is not valid.
    """
    places = filters(model)
    model = copied(model)
    for number, node in enumerate(model.graph.node):
        if node.output and not node.output[0]:  # what recurrent layers write at each step, which they read themselves
            node.output[0] = f"maskc_output_{number}"
    read = biased(model, layers(model), takes_bias)
    known = with_places(model, read, places, at)
    found = reached(known, batch, seed)
    units = np.concatenate([np.zeros(0, np.int64), *(found.groups[name] for name in found.units)])
    unknown = [
        reader
        for reader, tried in zip(known.readers, found.readers, strict=True)
        if (reader.group_of < 0).all() and not np.isin(tried.group_of, units).any()
    ]
    own = list(_own_places(model, unknown))
    return sharing(reached(with_places(model, read, [*places, *own], at), batch, seed) if own else found)


def _own_places(model: ModelProto, readers: Iterable[Reader]) -> Iterator[Filters]:
    """Where layers that no mask reaches can be masked at their inputs."""
    types = tensor_types(model)
    made = {name for node in model.graph.node for name in node.output}
    inside = {name for node in model.graph.node for name in captured_names(node)}
    for reader in readers:
        layer = reader.contraction
        shape = types[layer.source].shape if layer.source in types else None
        if not shape or layer.source not in made or layer.source in inside:
            continue
        axis = layer.axis % len(shape)
        size = shape[axis]
        if isinstance(size, int) and size > 1 and layer.row_labels(range(size), axis) is not None:
            dtype = helper.tensor_dtype_to_np_dtype(types[layer.source].elem_type)
            yield Filters(layer.source, axis, len(shape), dtype, np.ones(size), fixed=False)
