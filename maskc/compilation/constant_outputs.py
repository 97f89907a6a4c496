"""Outputs that are the same for every input, as all that they are computed from is masked."""

from __future__ import annotations

from onnx import ModelProto

from maskc.frontend.graph_queries import constants
from passes.graph.nested_protos import read_names

# Operators of which the result says nothing of the values that they read.
_OF_SIZES_ALONE = frozenset({"Shape", "Size"})


def constant_outputs(masked: ModelProto, compiled: ModelProto) -> list[str]:
    """A sentence about each output of the compiled model that no input reaches, but for its sizes, any more."""
    gone = _reached(masked) - _reached(compiled)
    names = [value.name for value in compiled.graph.output if value.name in gone]
    return [
        f"Output '{name}' is the same for every input: the masks leave nothing of what computes it." for name in names
    ]


def _reached(model: ModelProto) -> set[str]:
    """Tensors of the main graph whose values depend on those of an input, or on random numbers."""
    found = {value.name for value in model.graph.input} - constants(model).keys()
    for node in model.graph.node:
        if node.op_type not in _OF_SIZES_ALONE and (
            node.op_type.startswith("Random") or not found.isdisjoint(read_names(node))
        ):
            found.update(node.output)
    return found
