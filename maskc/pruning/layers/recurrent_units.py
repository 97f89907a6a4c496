"""Units of recurrent layers, which are masked in their weights: what an output hides would go on in the state."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.pruning.layers.contractions import Contraction, Layers
from passes.mask_savings.prunable_filters import Filters
from passes.model.set_nodes import set_nodes


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
            along = [(layer.weights, layer.shape, layer.along.rindex("o")) for layer in those]
            for number, (operand, shape, axis) in enumerate([*along, (bias, constants.values[bias].shape, 1)], 1):
                made, place = f"{name}/{number}", list(node.input).index(operand)
                column = np.array([-1 if each == axis else 1 for each in range(len(shape))], np.int64)
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
