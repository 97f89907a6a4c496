"""Places of masks: after layers, which get biases of their own, in recurrent weights, and else at what layers read."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.frontend.graph_queries import array_of, copied, tensor_types
from maskc.pruning.layers.channel_tracing import reached
from maskc.pruning.layers.contractions import Layers, layers, readers
from maskc.pruning.layers.network import Holder, Network, Reader, sharing, together, with_places
from passes.graph.nested_protos import captured_names
from passes.mask_savings.coupled_entries import Decisions
from passes.mask_savings.prunable_filters import Filters, filters
from passes.model.set_nodes import set_nodes
from passes.sizes.sizes_to_count_at import Sizes

#: how tensors end that a product has in a network in which a bias is added behind it
PRODUCT = "/maskc_product"


def network(
    model: ModelProto,
    batch: Mapping[str, NDArray[Any]],
    at: Sizes | None = None,
    seed: int = 0,
    holder: Holder | None = None,
) -> Network:
    """The network of a model whose constants are folded, which runs on a batch.

    A layer whose input no mask of another layer reaches, as behind attention, gets a mask at its input.

    Raises GraphError when the graph is not valid.
    """
    model = with_biases_first(model)
    places = filters(model)
    for number, node in enumerate(model.graph.node):
        if node.output and not node.output[0]:  # what recurrent layers write at each step, which they read themselves
            node.output[0] = f"maskc_output_{number}"
    read = biased(model, layers(model), holder)
    best: Decisions = {}
    known = with_places(model, read, places, at, holder, best)
    found = reached(known, batch, seed)
    units = np.concatenate([np.zeros(0, np.int64), *(found.groups[name] for name in found.units)])
    unknown = [
        reader
        for reader, tried in zip(known.readers, found.readers, strict=True)
        if (reader.group_of < 0).all()
        and not np.isin(tried.group_of, units).any()
        and (holder is None or holder.leaves_unread(reader.contraction))
    ]
    own = list(_own_places(model, unknown))
    made = sharing(reached(with_places(model, read, [*places, *own], at, holder, best), batch, seed) if own else found)
    return made if holder is None else together(made, holder.together(made))


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


def with_biases_first(model: ModelProto) -> ModelProto:
    """A copy of the model, in which a product gets its bias before its channels are divided into heads, say.

    Keras adds that of an EinsumDense after.
    """
    model = copied(model)
    types, uses = tensor_types(model), readers(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node if node.output}
    for add in [node for node in model.graph.node if node.op_type == "Add"]:
        for name, divided in (tuple(add.input), tuple(add.input)[::-1]):
            reshape = made.get(divided)
            product = None if reshape is None or reshape.op_type != "Reshape" else made.get(reshape.input[0])
            if reshape is None or product is None or product.op_type != "MatMul" or name not in stored:
                continue
            value, alone = array_of(stored[name]), uses[divided] == uses[reshape.input[0]] == 1
            whole, parts = (types[each].shape or () if each in types else () for each in (reshape.input[0], divided))
            if alone and whole[-1:] == (value.size,) and parts[-value.ndim :] == value.shape:
                bias, summed = f"{add.output[0]}/maskc_flat", f"{add.output[0]}/maskc_sum"
                model.graph.initializer.append(numpy_helper.from_array(value.reshape(-1), bias))
                for node in (reshape, add):  # each takes the place of the other
                    del made[node.output[0]]
                first = NodeProto(op_type="Add", name=add.name, input=[product.output[0], bias], output=[summed])
                last = NodeProto(op_type="Reshape", name=reshape.name, input=[summed, reshape.input[1]])
                last.output.append(add.output[0])
                last.attribute.extend(reshape.attribute)
                reshape.CopyFrom(first)
                add.CopyFrom(last)
                break
    return model


def biased(model: ModelProto, layers: Layers, holder: Holder | None = None) -> Layers:
    """The layers with biases, where they can and may have any, which the model gets in place.

    Biases that were not there are zero, and such as were shared are copied, but for those that the holder has in
    common. Where the operator adds none, an Add that follows has it.
    """
    uses = readers(model)
    adds = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    constants, biases, nodes = layers.constants, dict[str, str](), list[NodeProto]()
    held_in = {id(each): each.output if holder is None else holder.bias_of(each) for each in layers.contractions}
    names: dict[Hashable, str] = {}  # of what is held in one place
    able = (x for x in reversed(layers.contractions) if x.bias_shape is not None and held_in[id(x)] is not None)
    first = {layer.output: layer for layer in able}
    for node in model.graph.node:
        nodes.append(node)
        layer = first.get(next(iter(node.output), ""))
        if layer is None or layer.bias_shape is None:
            continue
        held, own = np.zeros(layer.bias_shape, constants.values[layer.weights].dtype), ""
        adding, place = node, layer.addend
        if place is None:
            following = adds.get(layer.output) if uses[layer.output] == 1 else None
            at = 0 if following is None else 1 - list(following.input).index(layer.output)
            added = None if following is None else stored.get(following.input[at])
            if following is not None and added is not None and tuple(added.dims) == held.shape:
                held, adding, place = array_of(added), following, at
        else:
            node.input.extend([""] * (place + 1 - len(node.input)))
            own = node.input[place]
            held = constants.values.get(own, np.zeros(0)) if own else held
            if held.shape != layer.bias_shape:
                continue
            tensor = constants.steps[own].tensor if own in constants.steps else own
            own = own if tensor in stored and uses[own] == uses[tensor] == 1 else ""
        name = names.setdefault((held_in[id(layer)], layer.weights), own or f"{layer.output}/maskc_bias")
        if not np.array_equal(constants.values.setdefault(name, held), held):
            name = own or f"{layer.output}/maskc_bias"
            constants.values[name] = held
        if place is not None:
            adding.input[place] = name
        else:
            product = f"{layer.output}{PRODUCT}"
            node.output[0] = product
            nodes.append(helper.make_node("Add", [product, name], [layer.output], f"{layer.output}/maskc_add"))
        if name not in {own, *biases.values()}:
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(held), name))
        biases[layer.output] = name
    set_nodes(model.graph, nodes)
    given = {id(layer): biases.get(layer.output, "") for layer in first.values()}
    made = [dataclasses.replace(layer, bias=given.get(id(layer), "")) for layer in layers.contractions]
    return dataclasses.replace(layers, contractions=tuple(made))
