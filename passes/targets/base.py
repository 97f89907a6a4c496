"""Interface of targets: the runtimes that a model is compiled for, each a folder beside this file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import onnx_graphsurgeon as gs


class Target(Protocol):
    """A runtime: which forms it is fast with, and what it computes wrongly."""

    def write_fast_forms(self, graph: gs.Graph, limit: int, *, nested: bool) -> None:
        """Write a compiled graph in forms that run faster, as far as it does not come to more FLOPs than `limit`.

        nested: whether it is a subgraph of control flow.
        """

    def faults(self, graph: gs.Graph, given: Collection[str]) -> Collection[str]:
        """Names of tensors of a source that this runtime computes wrongly.

        given: names of nodes that are masks beside the file, and stand in the way of nothing there.
        """

    def avoid_faults(self, graph: gs.Graph, known: Collection[str], *, nested: bool) -> None:
        """Write a compiled graph so that the runtime computes nothing wrongly, but for the tensors in `known`.

        nested: as above.
        """
