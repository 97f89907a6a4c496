"""The smallest models that show a difference, and data to show it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto

from maskc import storage
from maskc.comparison.bisection import Parted
from maskc.errors import InputError
from maskc.graphs import all_graphs, bodies
from maskc.noise import Sample


def write(directory: Path, parted: Parted, sample: Sample) -> tuple[Path, ...]:
    """Write `expected.onnx` and `compiled.onnx`, both up to the tensor where they part, and `input.npz`.

    Returns the files. Raises `InputError` when they cannot be written.
    """
    tensor = parted.parting.tensor
    models = {"expected.onnx": parted.before, "compiled.onnx": parted.after}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for name, model in models.items():
            storage.write_model(up_to(model, tensor), directory / name)
            written.append(directory / name)
        np.savez(directory / "input.npz", **sample.inputs)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"The directory {directory} cannot be written: {error.strerror or error}.") from error
    return (*written, directory / "input.npz")


def up_to(model: ModelProto, tensor: str) -> ModelProto:
    """The nodes that the tensor depends on, with it as the only output; all of the model if it has no such tensor.

    The inputs stay as they are, so that both halves of a pair take the same data.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if not any(tensor in node.output for node in model.graph.node):
        return copy
    needed, kept = {tensor}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
            for body in (inner for held in bodies(node) for inner in all_graphs(held)):
                needed.update(name for inner in body.node for name in inner.input)
                needed.update(value.name for value in body.output)
    del copy.graph.node[:]
    copy.graph.node.extend(reversed(kept))
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    outputs = [value for value in model.graph.output if value.name == tensor]
    types = [value for value in model.graph.value_info if value.name == tensor]
    del copy.graph.output[:]
    copy.graph.output.extend(outputs or types)
    if not copy.graph.output:
        copy.graph.output.add(name=tensor)
    del copy.graph.value_info[:]
    return copy
