"""The plan that rules are handed: what each tensor stores, and what each consumer requires of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Index, Mask

Key = tuple[str, int]  # tensor name, axis


@dataclass
class StoragePlan:
    """Stored sets by `(tensor, axis)`, required sets by `(node index, input, axis)`; what is absent is whole.

    `stored[key]` that is all False: the tensor is not computed at all. `computed` holds the indices of the nodes that
    stay, `absent` the names of tensors that are not computed. `reason[key]` gives for each slice the index in `reasons`
    (node, operator, words) of the consumer that needs it although it is constant, or -1: `otherwise`. `aligned` are the
    indices of those that speak of a width that was chosen.
    """

    stored: dict[Key, Mask] = field(default_factory=dict)
    required: dict[tuple[int, int, int], Mask] = field(default_factory=dict)
    computed: set[int] = field(default_factory=set)
    reason: dict[Key, Index] = field(default_factory=dict)
    reasons: list[tuple[str, str, str]] = field(default_factory=list)
    aligned: set[int] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    otherwise: tuple[str, str, str] = ("the whole graph", "all", "would cost more to narrow than it saves")

    def stays(self, tensor: str, axis: int, size: int) -> Mask:
        """Slices along the axis that are still computed: bool [size]."""
        if tensor in self.absent:
            return np.zeros(size, bool)
        return self.stored.get((tensor, axis), np.ones(size, bool))


def untouched(graph: gs.Graph) -> StoragePlan:
    """The plan that leaves the graph as it is."""
    return StoragePlan(computed=set(range(len(graph.nodes))))


@dataclass
class StorageFloor:
    """What is stored whatever it costs, and the indices of nodes that are left as they are: their outputs are whole.

    `wider` is what of it is stored so that the channel count suits the kernels, which consumers read if they can, with
    words (`why`).
    """

    stored: dict[Key, Mask] = field(default_factory=dict)
    intact: set[int] = field(default_factory=set)
    wider: dict[Key, Mask] = field(default_factory=dict)
    why: dict[Key, str] = field(default_factory=dict)
