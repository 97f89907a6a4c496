"""Layers given biases of their own, so that they can make up for means that went."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.frontend.graph_queries import array_of
from maskc.pruning.layers.contractions import Layers, readers
from passes.model.set_nodes import set_nodes


def biased(model: ModelProto, layers: Layers, may: Callable[[str], bool]) -> Layers:
    """The layers with biases, where they can have any and the nodes of these names may, which the model gets in place.

    Biases that were not there are zero, and such as were shared are copied. Where the operator adds none, an Add that
    follows has it.
    """
    uses = readers(model)
    adds = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    constants, biases, nodes = layers.constants, dict[str, str](), list[NodeProto]()
    able = (layer for layer in reversed(layers.contractions) if layer.bias_shape is not None and may(layer.node))
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
