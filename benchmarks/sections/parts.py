"""What the sections of the page are made of: titles, tables, where it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# The versions that the page has; the others are in the records.
_NAMED = (
    *("onnxruntime", "onnxruntime-gpu", "openvino"),
    *("onnxsim", "onnxslim", "qonnx", "torch-pruning", "model-compression-toolkit"),
)


def section(
    title: str,
    text: str,
    head: tuple[str, ...],
    rows: Iterator[tuple[str, ...]],
    record: dict[str, Any],
    more: str = "",
) -> str:
    return "\n".join([f"## {title}", "", table(text, head, rows), more, where(record), ""])


def table(text: str, head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [text, "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def where(record: dict[str, Any]) -> str:
    machine = record.get("machine", {})
    told = [record["date"]]
    if isinstance(machine, dict):
        told += [str(name) for name in [machine.get("processor") or machine.get("architecture")] if name]
        told += [f"{machine['cores']} cores"] if "cores" in machine else []
        told += [f"load {machine['load']}"] if "load" in machine else []
    versions = record.get("versions", {}) | record.get("peers", {})
    told += [f"{name} {version}" for name, version in versions.items() if name in _NAMED]
    return f"{', '.join(told)}."


def spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low}–{high})"


def number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def mean_and_range(values: list[float]) -> str:
    """The mean, the lowest and the highest."""
    if not values:
        return "–"
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"
