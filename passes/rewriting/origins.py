"""Origins of tensors: which slices of a tensor of the source each holds, noted as passes go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from passes.graph.tensors import Index, Mask


@dataclass(frozen=True)
class Origin:
    """Slices of a tensor of the source, by axis, in their order; of an axis that is absent, all."""

    source: str
    slices: dict[int, Index] = field(default_factory=dict)


class Origins(dict[str, Origin | None]):
    """By name; a tensor that is absent is that of the source, and one that is None holds other slices in each head.

    cleared: by name, which elements are zero now because nothing reads them; a mask that broadcasts to the tensor.
    constant: by name and axis, which slices of tensors of the source are constant, whatever the data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cleared: dict[str, Mask] = {}
        self.constant: dict[str, dict[int, set[int]]] = {}

    def note_constant(self, name: str, axis: int, mask: Mask) -> None:
        """Note which slices of a tensor are constant, before it is stored in parts."""
        origin, index = self.get(name, Origin(name)), np.flatnonzero(mask)
        if origin is not None:
            slices = origin.slices[axis][index] if axis in origin.slices else index
            self.constant.setdefault(origin.source, {}).setdefault(axis, set()).update(slices.tolist())

    def store(self, stored: Mapping[tuple[str, int], Mask]) -> None:
        """Note that tensors have come to hold these slices: none of the source if elements among them are cleared."""
        for (name, axis), kept in stored.items():
            self.take(name, axis, np.flatnonzero(kept))
            if name in self.cleared and self.cleared[name].shape[axis] > 1:
                self.cleared[name] = self.cleared[name].compress(kept, axis)
        self.update((name, None) for name, cleared in self.cleared.items() if cleared.any())

    def take(self, name: str, axis: int, index: Index) -> None:
        """Note that a tensor has come to hold these of the slices that it held along an axis."""
        origin = self.setdefault(name, Origin(name))
        if origin is not None:
            origin.slices[axis] = origin.slices[axis][index] if axis in origin.slices else index
