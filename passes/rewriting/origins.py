"""Origins of tensors: which slices of a tensor of the source each holds, noted as passes go."""

from __future__ import annotations

from dataclasses import dataclass, field

from passes.graph.tensors import Index


@dataclass(frozen=True)
class Origin:
    """Slices of a tensor of the source, by axis, in their order; of an axis that is absent, all."""

    source: str
    slices: dict[int, Index] = field(default_factory=dict)


class Origins(dict[str, Origin | None]):
    """By name; a tensor that is absent is that of the source, and one that is None holds other slices in each head."""

    def take(self, name: str, axis: int, index: Index) -> None:
        """Note that a tensor has come to hold these of the slices that it held along an axis."""
        origin = self.setdefault(name, Origin(name))
        if origin is not None:
            origin.slices[axis] = origin.slices[axis][index] if axis in origin.slices else index
