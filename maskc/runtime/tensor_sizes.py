"""How large the tensors inside a model get at given sizes of its inputs, before it is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import ModelProto

from maskc.frontend.graph_queries import copied, without_weights
from maskc.runtime.random_inputs import Port
from passes.model.declarations import dims_of
from passes.model.shape_inference import with_elements


def largest_tensor(model: ModelProto, ports: Sequence[Port]) -> Callable[[Mapping[str, int]], int]:
    """A function of sizes by symbol that gives the most elements of a tensor, sizes that nobody infers taken as 1."""
    named = copied(without_weights(model))
    symbols = {port.name: iter(port.symbols()) for port in ports}
    for value in named.graph.input:
        for dim in value.type.tensor_type.shape.dim if value.name in symbols else ():
            if not dim.HasField("dim_value"):
                dim.dim_param = next(symbols[value.name])
    try:
        graph = with_elements(named).graph
    except onnx.shape_inference.InferenceError:  # of a model that a runtime may take
        graph = named.graph
    shapes = {tuple(dims) for value in (*graph.value_info, *graph.output) if (dims := dims_of(value)) is not None}

    def elements(sizes: Mapping[str, int]) -> int:
        known = ((d if isinstance(d, int) else sizes.get(d or "", 1) for d in shape) for shape in shapes)
        return max((math.prod(each) for each in known), default=0)

    return elements
