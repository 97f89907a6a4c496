"""Units of recurrent layers, which are masked in their weights: what an output hides would go on in the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from maskc.frontend.graph_queries import copied
from passes.model.set_nodes import set_nodes

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Units:
    """The units of one layer: their number, and the type of the weights."""

    count: int
    dtype: np.dtype[Any]


def gated_units(
    model: ModelProto, constants: Mapping[str, NDArray[Any]]
) -> tuple[ModelProto, dict[str, Units], dict[str, str]]:
    """A copy of the model in which the weights of units are multiplied by new graph inputs, of shape [units].

    A unit all of whose weights are zero gives zero, if its state begins with zero. Returns the units by the name of
    their mask, and the names of weights by those of what takes their place. Layers of one direction whose weights are
    constants, `constants` by name, have units.
    """
    changed = copied(model)
    units: dict[str, Units] = {}
    weights: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in changed.graph.node:
        gates = _GATES.get(node.op_type, 0)
        held = [constants.get(name) for name in node.input[1:4]] if gates else []
        if len(held) == 3 and all(a is not None and a.dtype.kind == "f" and len(a) == 1 for a in held):
            name = f"maskc_units_{len(units)}"
            count, dtype = held[1].shape[2], held[1].dtype  # type: ignore[union-attr]
            if not node.output[0]:
                node.output[0] = f"{name}/sequence"
            units[name] = Units(count, dtype)
            kind = helper.np_dtype_to_tensor_dtype(dtype)
            changed.graph.input.append(helper.make_tensor_value_info(name, kind, [count]))
            for place, (repeats, shape) in enumerate(
                [(gates, (1, -1, 1)), (gates, (1, -1, 1)), (2 * gates, (1, -1))], 1
            ):
                made = f"{name}/{place}"
                weights[made] = node.input[place]
                changed.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{made}/shape"))
                nodes += [
                    helper.make_node("Concat", [name] * repeats, [f"{made}/repeated"], axis=0),
                    helper.make_node("Reshape", [f"{made}/repeated", f"{made}/shape"], [f"{made}/column"]),
                    helper.make_node("Mul", [node.input[place], f"{made}/column"], [made]),
                ]
                node.input[place] = made
        nodes.append(node)
    set_nodes(changed.graph, nodes)
    return changed, units, weights
