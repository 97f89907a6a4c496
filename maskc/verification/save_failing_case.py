"""The region in which two models differ, as two small models with the same inputs, and data to show it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from maskc.frontend import write_model_files
from maskc.frontend.graph_queries import rename_tensors
from maskc.runtime.random_inputs import Inputs
from maskc.verification.recheck import NUMPY, Checker, Region, Slices


def write(directory: Path, inputs: Inputs, failing: tuple[Checker, Region] | None) -> tuple[Path, ...]:
    """Write the sides of a region, `expected.onnx` and `compiled.onnx`, which read tensors of the source, and data.

    The data are in `input.npz`, alone where no region fails: then inputs on which whole outputs differ. Returns the
    files. Raises `InputError` when they cannot be written.
    """
    models, values = ([], inputs) if failing is None else _sides(*failing)
    names = [*("expected.onnx", "compiled.onnx")[: len(models)], "input.npz"]
    with write_model_files.written(f"The directory {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, model in zip(names, models, strict=False):
            write_model_files.write_model(model, directory / name)
        write_model_files.write_arrays(directory / names[-1], values)
    return tuple(directory / name for name in names)


def _sides(checker: Checker, region: Region) -> tuple[list[ModelProto], Inputs]:
    """A model of each side of a region, and values for both."""
    held = {name: checker.boundaries[name] for name in region.compiled_reads}
    sources = sorted({*region.source_reads, *(boundary.source for boundary in held.values())})
    types = {name: checker.types[name] for name in sources}
    name, target = region.boundary.source, region.target
    expected = checker.source.part(region.source, {n: types[n] for n in region.source_reads}, [name])
    rename_tensors(expected.graph, {target: f"{target}·whole"})  # as it is the name of what is left of it
    made = f"{name}·" if not region.source else f"{name}·whole" if name == target else name
    _gather(expected, made, region.boundary.slices, target, len(expected.graph.node))
    compiled = checker.compiled.part(region.compiled, {n: checker.types[b.source] for n, b in held.items()}, [target])
    for leaf, boundary in held.items():
        _begin_with(compiled, leaf, boundary.source, boundary.slices)
    values = {f"{source}·": checker.fresh(source, 0) for source in sources}
    output = helper.make_tensor_value_info(target, NUMPY[checker.types[name]], None)
    for model in (expected, compiled):
        del model.graph.input[:], model.graph.output[:]
        model.graph.input.extend(
            helper.make_tensor_value_info(input_, NUMPY[array.dtype], array.shape) for input_, array in values.items()
        )
        model.graph.output.append(output)
    return [expected, compiled], values


def _begin_with(model: ModelProto, leaf: str, source: str, slices: Slices) -> None:
    """Let what the model reads as `leaf` be slices of the source's tensor."""
    for node in model.graph.node:
        node.input[:] = [f"{leaf}·held" if name == f"{leaf}·" else name for name in node.input]
    _gather(model, f"{source}·", slices, f"{leaf}·held", 0)


def _gather(model: ModelProto, name: str, slices: Slices, result: str, place: int) -> None:
    """Put nodes at this place that take slices of a tensor."""
    nodes = []
    for axis, index in slices.items():
        indices, output = f"{result}·{axis}", f"{result}·along{axis}"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(index, np.int64), indices))
        nodes.append(helper.make_node("Gather", [name, indices], [output], axis=axis))
        name = output
    nodes.append(helper.make_node("Identity", [name], [result]))
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
