"""Times of passes and sizes of what they leave, for progress displays and reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

# Told the name of each pass before it runs.
Watch = Callable[[str], None]


@dataclass
class Recorder:
    """Notes how long each pass of a compilation takes, and how large a graph it leaves."""

    watch: Watch | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, graph: gs.Graph | None = None) -> Iterator[None]:
        """Time a pass, and measure the graph that it leaves if it is told which."""
        if self.watch is not None:
            self.watch(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if graph is not None:
            self.measure(name, graph)

    def measure(self, name: str, graph: gs.Graph) -> None:
        """Note how large the graph is."""
        stored = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
        self.sizes[name] = len(graph.nodes), sum(math.prod(t.shape) for t in stored.values())
