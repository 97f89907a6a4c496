"""Storage plan: the slices that each tensor stores, and those that each consumer requires of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.kept_reasons import Reason
from passes.abstract_values.slices import Demand
from passes.graph.tensors import Mask

Key = tuple[str, int]  # tensor name, axis


@dataclass(eq=False)
class Cause:
    """Why a consumer requires what it does; without a node, it is the caller of the model."""

    node: gs.Node | None
    reason: Reason | str


@dataclass(eq=False)
class Requirement:
    """What a consumer requires along one axis of a tensor: input `input` of the node with index `node`."""

    demand: Demand
    node: int
    input: int
    cause: Cause


@dataclass(eq=False)
class Settled:
    """What is stored of a tensor along an axis, for whom, and which of it so that the channel count suits the kernels.

    words: why this count is one that suits them.
    """

    tensor: gs.Tensor
    axis: int
    stored: Mask
    requirements: list[Requirement]
    wider: Mask | None
    words: str


@dataclass(frozen=True)
class StorageFloor:
    """What is stored whatever it costs, and the indices of nodes that are left as they are: their outputs are whole.

    `wider` is what of it is stored so that the channel count suits the kernels, which consumers read if they can, with
    words (`why`).
    """

    stored: dict[Key, Mask] = field(default_factory=dict)
    intact: set[int] = field(default_factory=set)
    wider: dict[Key, Mask] = field(default_factory=dict)
    why: dict[Key, str] = field(default_factory=dict)


#: nothing is stored but what is worth it
NO_FLOOR = StorageFloor()


@dataclass
class StoragePlan:
    """Stored sets by `(tensor, axis)`, required sets by `(node index, input, axis)`; what is absent is whole.

    A required set that equals what is stored is the same array, so that it is seen at once.

    `stored[key]` that is all False: the tensor is not computed at all. `computed` holds the indices of the nodes that
    stay, `absent` the names of tensors that are not computed. `settled` says in order what was decided, of axes where
    there was something to choose. `floor` is what was to be stored in any case.
    """

    stored: dict[Key, Mask] = field(default_factory=dict)
    required: dict[tuple[int, int, int], Mask] = field(default_factory=dict)
    computed: set[int] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    settled: list[Settled] = field(default_factory=list)
    floor: StorageFloor = NO_FLOOR

    def stays(self, tensor: str, axis: int, size: int) -> Mask:
        """Slices along the axis that are still computed: bool [size]."""
        if tensor in self.absent:
            return np.zeros(size, bool)
        return self.stored.get((tensor, axis), np.ones(size, bool))


def everything(plan: StoragePlan, why: str) -> StorageFloor:
    """All slices of all axes that are computed, and why."""
    wider = {key: np.ones(mask.size, bool) for key, mask in plan.stored.items() if key[0] not in plan.absent}
    return StorageFloor(dict(wider), wider=wider, why=dict.fromkeys(wider, why))


def untouched(graph: gs.Graph) -> StoragePlan:
    """The plan that leaves the graph as it is."""
    return StoragePlan(computed=set(range(len(graph.nodes))))
