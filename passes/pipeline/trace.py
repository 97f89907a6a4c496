"""What a compilation was like on its way, for whoever looks for the pass that went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from passes.graph.tensors import Mask
from passes.model.exporting import exported


@dataclass
class Trace:
    """Filled in by `shrink`.

    `stages`: the model behind each pass, by the pass's name, in order; each computes the same function. `stored`: by
    tensor and axis, which slices of the source's tensor the compiled one has, in their order; what is absent is whole.
    """

    stages: dict[str, onnx.ModelProto] = field(default_factory=dict)
    stored: dict[tuple[str, int], Mask] = field(default_factory=dict)

    def stage(self, name: str, graph: gs.Graph, source: onnx.ModelProto) -> None:
        """Note the graph as the pass left it."""
        self.stages[name] = onnx.ModelProto.FromString(exported(graph, source).SerializeToString())
