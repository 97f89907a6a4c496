"""Differences of two models: layers, inputs, outputs, operators, metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from maskc.results.json_values import plain, ratio
from maskc.results.layers import Layer
from maskc.results.measurements import Figures

# Version of what `to_json` gives; docs/diff.md lists its keys.
JSON_SCHEMA = 1

Kind = Literal["input", "output", "opset", "operator", "metadata"]


@dataclass(frozen=True)
class Change:
    """One thing besides the layers that is not the same: its kind, its name, and what it is in both, None if absent."""

    kind: Kind
    name: str
    before: str | int | None
    after: str | int | None


@dataclass(frozen=True)
class Diff:
    """Two models side by side. `layers` are all of them, changed or not; `before` and `after` are the totals.

    `models` are their paths.
    """

    models: tuple[str, str]
    before: Figures
    after: Figures
    layers: tuple[Layer, ...]
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """The differences as values that `json` can write."""
        rows = [plain(layer) | {"changed": layer.changed} for layer in self.layers]
        data: dict[str, Any] = plain(self)
        reduction = ratio(self.before.reduction_to(self.after))
        return {"schema": JSON_SCHEMA} | data | {"layers": rows, "reduction": reduction}
