"""Places of masks: after layers, which get biases of their own, in recurrent weights, and else at what layers read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.frontend.graph_queries import array_of, copied, tensor_types
from maskc.pruning.layers.channel_tracing import reached
from maskc.pruning.layers.contractions import Contraction, Layers, layers, readers
from maskc.pruning.layers.network import Network, Reader, sharing, with_places
from passes.graph.name_scopes import captured_names
from passes.mask_savings.prunable_filters import Filters, filters
from passes.model.set_nodes import set_nodes
from passes.sizes.sizes_to_count_at import Sizes


def network(
    model: ModelProto,
    batch: Mapping[str, NDArray[Any]],
    at: Sizes | None = None,
    seed: int = 0,
    takes_bias: Callable[[Contraction], bool] = lambda layer: True,
) -> Network:
    """The network of a model whose constants are folded, which runs on a batch.

    takes_bias: whether a layer may get a bias.
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


def biased(model: ModelProto, layers: Layers, may: Callable[[Contraction], bool]) -> Layers:
    """The layers with biases, where they can and may have any, which the model gets in place.

    Biases that were not there are zero, and such as were shared are copied. Where the operator adds none, an Add that
    follows has it.
    """
    uses = readers(model)
    adds = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    constants, biases, nodes = layers.constants, dict[str, str](), list[NodeProto]()
    able = (layer for layer in reversed(layers.contractions) if layer.bias_shape is not None and may(layer))
    first = {layer.output: layer for layer in able}
    for node in model.graph.node:
        nodes.append(node)
        layer = first.get(next(iter(node.output), ""))
        if layer is None or layer.bias_shape is None:
            continue
        output, name = layer.output, f"{layer.output}/maskc_bias"
        held = np.zeros(layer.bias_shape, constants.values[layer.weights].dtype)
        if layer.addend is None:
            following = adds.get(output) if uses[output] == 1 else None
            place = 0 if following is None else 1 - list(following.input).index(output)
            added = None if following is None else stored.get(following.input[place])
            if following is not None and added is not None and tuple(added.dims) == held.shape:
                held = array_of(added)
                following.input[place] = name
            else:
                output = f"{layer.output}/maskc_product"
                node.output[0] = output
                nodes.append(helper.make_node("Add", [output, name], [layer.output], f"{layer.output}/maskc_add"))
        else:
            node.input.extend([""] * (layer.addend + 1 - len(node.input)))
            own = node.input[layer.addend]
            held = constants.values.get(own, np.zeros(0)) if own else held
            if held.shape != layer.bias_shape:
                continue
            tensor = constants.steps[own].tensor if own in constants.steps else own
            if tensor in stored and uses[own] == uses[tensor] == 1:
                biases[layer.output] = own
                continue
            node.input[layer.addend] = name
        biases[layer.output] = name
        constants.values[name] = held
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(held), name))
    set_nodes(model.graph, nodes)
    given = {id(layer): biases.get(layer.output, "") for layer in first.values()}
    made = [dataclasses.replace(layer, bias=given.get(id(layer), "")) for layer in layers.contractions]
    return dataclasses.replace(layers, contractions=tuple(made))
