"""Trace of a compilation: for progress displays, reports, and the search for a wrong pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from passes.graph.tensors import Mask
from passes.model.graph_to_onnx import exported

# Told the name of each pass before it runs.
Watch = Callable[[str], None]


@dataclass
class Trace:
    """Filled in by `shrink`.

    `stages`: the model after each pass, by the pass's name, in order; each computes the same function. `stored`: by
    tensor and axis, which slices of the source's tensor the compiled one has, in their order; what is absent is whole.
    """

    stages: dict[str, onnx.ModelProto] = field(default_factory=dict)
    stored: dict[tuple[str, int], Mask] = field(default_factory=dict)


@dataclass
class Recorder:
    """Notes how long each pass of a compilation takes and what it leaves; `model` is the source, for traces."""

    model: onnx.ModelProto | None = None
    watch: Watch | None = None
    trace: Trace | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, graph: gs.Graph | None = None, *, traced: bool = False) -> Iterator[None]:
        """Time a pass, measure the graph that it leaves if it is told which, and trace it if it changes the graph."""
        if self.watch is not None:
            self.watch(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if graph is not None:
            self.measure(name, graph)
        if graph is not None and traced and self.trace is not None and self.model is not None:
            stage = exported(graph, self.model).SerializeToString()
            self.trace.stages[name] = onnx.ModelProto.FromString(stage)

    def measure(self, name: str, graph: gs.Graph) -> None:
        """Note how large the graph is."""
        stored = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
        self.sizes[name] = len(graph.nodes), sum(math.prod(t.shape) for t in stored.values())
