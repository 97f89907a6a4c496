"""Cost of the compiled model, without writing its file."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.adapters.price import Policy
from passes.graph.tensors import is_constant, set_stored
from passes.model.graph_to_onnx import exported
from passes.pipeline import order
from passes.pipeline.options import ShrinkOptions
from passes.pipeline.recorder import Recorder
from passes.sizes import sum_over_nodes
from passes.sizes.cost_values import Cost
from passes.sizes.prepare import shaped
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets.widths.estimated_time import of_graph
from passes.targets.widths.rates import Rates

_LARGE = 2**12  # elements
_MANY = 2**22  # weights


@dataclass(frozen=True)
class CompiledCost:
    """A compiled graph, all of whose tensors have shapes, and FLOPs by the names of the nodes that take any.

    Large constants in it have lost their values: several such graphs are kept beside a model in training.
    """

    graph: gs.Graph
    nodes: dict[str, int]

    @property
    def flops(self) -> int:
        """Those of all nodes."""
        return sum(self.nodes.values())

    def priced(self, rates: Rates | None) -> int:
        """FLOPs, or nanoseconds by these rates."""
        return self.flops if rates is None else round(of_graph(self.graph, rates).total())


def collect(model: onnx.ModelProto) -> None:
    """Frees what graphs of a model with many weights held: graphs are cycles, each with copies of the weights.

    Every object of the process is visited, a quarter of a second beside TensorFlow; few weights are not worth it.
    """
    if sum(math.prod(t.dims) for t in model.graph.initializer) > _MANY:
        gc.collect()


def compiled_cost(model: onnx.ModelProto, adapters: Policy = "auto", at: Sizes | None = None) -> CompiledCost:
    """What the file costs that `shrink` makes of the model with this policy, at these sizes as for `passes.count`.

    Raises GraphError if the graph is not valid, and SizeError for sizes that do not fit.
    """

    def counted(graph: gs.Graph, at: Sizes) -> tuple[gs.Graph, Cost]:
        file = exported(graph, model)
        return sum_over_nodes.graph_and_cost(file, shaped(file, graph, known=True), at, fits=True)

    options = ShrinkOptions(adapters=adapters, explains=False, at=at)
    found = order.attempts(model, options, counted, Recorder())
    nodes: dict[str, int] = {}
    for node in found.after.nodes:
        if node.flops:
            nodes[node.name] = nodes.get(node.name, 0) + node.flops
    for tensor in found.written.tensors().values():
        if is_constant(tensor) and math.prod(tensor.shape) > _LARGE:
            set_stored(tensor, np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape))
    return CompiledCost(found.written, nodes)
