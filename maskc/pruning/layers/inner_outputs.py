"""Models that show what is inside."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, ValueInfoProto

from maskc.frontend.graph_queries import copied


def showing(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """The model with these tensors among its outputs."""
    shown = copied(model)
    have = {value.name for value in shown.graph.output}
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in have)
    return shown
