"""Shapes of a model's tensors by name, as far as the model tells them: it need not be valid."""

from __future__ import annotations

from contextlib import suppress

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError
from passes.model import inputs_with_defaults
from passes.model.local_functions import inlined
from passes.model.onnx_to_graph import imported
from passes.model.outline import outline
from passes.sizes.prepare import shaped


def tensors_by_name(model: onnx.ModelProto) -> dict[str, gs.Tensor]:
    """The tensors of the main graph with their types and shapes, those that constant folding removes among them."""
    light = inlined(inputs_with_defaults.opened(outline(model)))
    graph = imported(light)
    tensors = graph.tensors() | {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
    with suppress(GraphError):  # what is known before the contradiction stays
        shaped(light, graph)
    sequences = {name for name, t in tensors.items() if isinstance(t, gs.Variable) and t.type != "tensor_type"}
    return {name: tensor for name, tensor in tensors.items() if name not in sequences}
