"""The smallest models that show a difference, and data to show it on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from maskc.errors import MaskcError
from maskc.frontend import write_model_files
from maskc.frontend.graph_queries import all_graphs, bodies, copied
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.bisection import Bisection
from maskc.verification.error_statistics import distance
from maskc.verification.inputs import Sample
from maskc.verification.intermediate_tensors import Inside, Tensors
from maskc.verification.tolerance import tolerance

# Tensors that are no farther apart, relative to their scale, are where both models are cut off.
_ALIKE = 1e-4

Arrays = Mapping[str, NDArray[Any]]


def write(directory: Path, bisection: Bisection, sample: Sample) -> tuple[Path, ...]:
    """Write `expected.onnx` and `compiled.onnx`, the parts of both that make the tensor differ, and `input.npz`.

    Returns the files. Raises `InputError` when they cannot be written.
    """
    models, inputs = _smallest(bisection, sample)
    names = ("expected.onnx", "compiled.onnx")
    with write_model_files.written(f"The directory {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, model in zip(names, models, strict=True):
            write_model_files.write_model(model, directory / name)
        np.savez(directory / "input.npz", **inputs)  # type: ignore[arg-type]
    return tuple(directory / name for name in (*names, "input.npz"))


def _smallest(bisection: Bisection, sample: Sample) -> tuple[tuple[ModelProto, ModelProto], Arrays]:
    """From the last tensors before it that agree to the one that does not; from the inputs where that shows nothing."""
    tensor, pair = bisection.difference.tensor, (bisection.before, bisection.after)
    whole = (up_to(bisection.before, tensor), up_to(bisection.after, tensor)), sample.inputs
    if not all(_makes(model, tensor) for model in pair):
        return whole
    try:
        inside = Inside(*pair, seed=0, double=False).values(sample)
        cut = _cut(bisection.after, tensor, inside.before, inside.after)
        inputs = {**sample.inputs, **{name: inside.before[name] for name in cut}}
        parts = tuple(up_to(model, tensor, {name: inputs[name] for name in cut}) for model in pair)
        read = {name for part in parts for node in part.graph.node for name in _reads(node)}
        inputs = {name: array for name, array in inputs.items() if name in read}
        for part in parts:
            kept = [value for value in part.graph.input if value.name in inputs]
            del part.graph.input[:]
            part.graph.input.extend(kept)
        expected, got = (OnnxRuntimeSession(part, optimized=False).run(inputs)[tensor] for part in parts)
        error = distance(expected, got)
        if error is None or error.max_abs > tolerance(expected.dtype, 1) * error.scale:
            return (parts[0], parts[1]), inputs
    except MaskcError:
        pass
    return whole


def _cut(model: ModelProto, tensor: str, before: Tensors, after: Tensors) -> set[str]:
    """The nearest tensors that this one is computed from and that are the same in both models."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    cut: set[str] = set()
    seen = {tensor}
    waiting = [tensor]
    while waiting:
        for name in _reads(makers[waiting.pop()]):
            if name in seen or name not in makers:
                continue
            seen.add(name)
            error = distance(before[name], after[name]) if name in before and name in after else None
            if error is not None and not error.exceeds(_ALIKE):
                cut.add(name)
            else:
                waiting.append(name)
    return cut


def up_to(model: ModelProto, tensor: str, cut: Arrays | None = None) -> ModelProto:
    """The nodes that the tensor depends on, with it as the only output; all of the model if it has no such tensor.

    The tensors of `cut` become inputs of these types and shapes, and nothing is kept that only they depend on.
    The other inputs stay as they are, so that both halves of a pair take the same data.
    """
    cut = cut or {}
    copy = copied(model)
    if not _makes(model, tensor):
        return copy
    needed, kept = {tensor}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(name for name in _reads(node) if name not in cut)
    del copy.graph.node[:]
    copy.graph.node.extend(_without(node, cut) for node in reversed(kept))
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    for name, array in cut.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        copy.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    outputs = [value for value in model.graph.output if value.name == tensor]
    types = [value for value in model.graph.value_info if value.name == tensor]
    del copy.graph.output[:]
    copy.graph.output.extend(outputs or types)
    if not copy.graph.output:
        copy.graph.output.add(name=tensor)
    del copy.graph.value_info[:]
    return copy


def _makes(model: ModelProto, tensor: str) -> bool:
    return any(tensor in node.output for node in model.graph.node)


def _reads(node: NodeProto) -> list[str]:
    """What the node reads, in the graphs that it holds as well."""
    names = [name for name in node.input if name]
    for body in (inner for held in bodies(node) for inner in all_graphs(held)):
        names += [name for inner in body.node for name in inner.input if name]
        names += [value.name for value in body.output]
    return names


def _without(node: NodeProto, names: Collection[str]) -> NodeProto:
    """The node, with another name for each of its outputs that is given from outside."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [f"{name}/computed" if name in names else name for name in node.output]
    return copy
