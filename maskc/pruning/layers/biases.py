"""Layers given biases of their own, so that they can make up for means that went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.frontend.graph_queries import copied
from passes.model.set_nodes import set_nodes

# The operand of each operator that is its bias.
_OPERAND = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3}


def biased(model: ModelProto, constants: Mapping[str, NDArray[Any]]) -> tuple[ModelProto, dict[str, str]]:
    """A copy of the model whose layers with constant weights have biases, and their names by that of a layer's output.

    constants: those that the model stores, by name. Biases that were not there are zero, and such as were shared are
    copied. A MatMul has its in the Add that follows.
    """
    changed = copied(model)
    uses = Counter(name for node in changed.graph.node for name in node.input)
    shown = {value.name for value in changed.graph.output}
    adds = {name: node for node in changed.graph.node if node.op_type == "Add" for name in node.input}
    dequantised = {node.output[0] for node in changed.graph.node if node.op_type == "DequantizeLinear"}
    biases: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in changed.graph.node:
        nodes.append(node)
        output = next(iter(node.output), "")
        weights = constants.get(node.input[1]) if len(node.input) > 1 else None
        if weights is None or weights.dtype.kind != "f" or node.domain not in ("", "ai.onnx") or not output:
            continue
        name = f"{output}/maskc_bias"
        if node.op_type == "MatMul" and weights.ndim == 2:
            following = adds.get(output) if uses[output] == 1 and output not in shown else None
            operand = None if following is None else 1 - list(following.input).index(output)
            held = None if following is None or operand is None else constants.get(following.input[operand])
            if following is None or operand is None or held is None or held.shape != weights.shape[1:]:
                raw = f"{output}/maskc_product"
                node.output[0] = raw
                nodes.append(helper.make_node("Add", [raw, name], [output], f"{output}/maskc_add"))
                held = np.zeros(weights.shape[1], weights.dtype)
                biases[raw] = name
            else:
                following.input[operand] = name
                biases[output] = name
        elif node.op_type in _OPERAND:
            place = _OPERAND[node.op_type]
            given = node.input[place] if len(node.input) > place else ""
            shape = _shape(node, weights)
            held = constants.get(given) if given else np.zeros(shape, weights.dtype)
            if held is None or held.shape != shape:
                continue
            if given in dequantised and uses[given] == 1:
                biases[output] = given
                continue
            node.input.extend([""] * (place + 1 - len(node.input)))
            node.input[place] = name
            biases[output] = name
        else:
            continue
        changed.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(held), name))
    set_nodes(changed.graph, nodes)
    return changed, biases


def _shape(node: NodeProto, weights: NDArray[Any]) -> tuple[int, ...]:
    """That of the bias."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm":
        return (weights.shape[0] if given.get("transB") else weights.shape[1],)
    if node.op_type == "ConvTranspose":
        return (weights.shape[1] * int(given.get("group", 1)),)
    if node.op_type == "Conv":
        return (weights.shape[0],)
    return (weights.shape[0], 2 * weights.shape[1])
