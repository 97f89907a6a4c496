"""`maskc compile` to the formats of TensorFlow: .keras, SavedModel and TFLite."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import passes
from maskc import progress
from maskc.errors import InputError, NotEquivalentError
from maskc.frontend import KERAS_SUFFIXES
from maskc.frontend.tensorflow.keras import load, to_onnx
from maskc.frontend.write_model_files import in_the_making
from maskc.results.measurements import Figures
from maskc.train.mask_layer import mask_layers
from maskc.train.models import saved_model
from maskc.train.shrinking import tflite
from maskc.train.shrinking.shrink import shrink
from maskc.train.shrinking.tflite import Quantize, Run
from maskc.verification.inputs import read_inputs

# What a float32 TFLite model may differ by, whose kernels sum in other orders, as a share of the scale.
_CLOSE = 1e-4


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        output: the file or directory.
        format: "keras", "saved_model" or "tflite".
        before, after: of the model with masks and of the smaller one; parameters are the weights of Keras's layers,
            without those of masks.
        run: of a TFLite file, how it runs.
    """

    output: Path
    format: str
    before: Figures
    after: Figures
    run: Run | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns FLOPs, parameters and bytes before and after, and how a TFLite file runs."""
        run = {} if self.run is None else {"run": asdict(self.run)}
        return run | {
            name: {"flops": figures.flops, "params": figures.params, "bytes": figures.bytes}
            for name, figures in (("before", self.before), ("after", self.after))
        }


def compile_to(
    path: Path,
    output: Path,
    format: str,
    verify: bool = True,
    quantize: Quantize = "none",
    data: Path | None = None,
) -> Written:
    """Loads a Keras model, and writes the smaller one; see `shrink`.

    Args:
        path: a `.keras` or HDF5 file.
        output: what is written, whole or not at all: a file, or a directory for a SavedModel.
        format: "keras", "saved_model" or "tflite".
        verify: whether outputs are compared before anything is written. A TFLite file is run in any case.
        quantize: of TFLite; see `converted`.
        data: an `.npz` file with examples for each input, by name or in order, which int8 measures ranges on.

    Raises:
        InputError: if the file is none of Keras's, cannot be loaded or shrunk, or the output cannot be written.
        NotEquivalentError: if the outputs differ, which is a fault of maskc; then nothing is written.
    """
    if path.suffix.lower() not in KERAS_SUFFIXES:
        raise InputError(
            f"{path} has no Keras layers that could be made smaller: {format} is written of a .keras file. Any model "
            "can be written as ONNX."
        )
    if format == "saved_model" and output.exists() and not (output / "saved_model.pb").is_file():
        raise InputError(f"{output} is something else than an earlier SavedModel: give a directory that is new.")
    if format != "saved_model" and output.suffix != f".{format}":
        raise InputError(f"The name of what is written as {format} must end with .{format}, unlike {output}.")
    if output.is_dir() and format != "saved_model":
        raise InputError(f"{output} is a directory: give the name of a file.")
    with progress.stage("Loading"):
        model = load(path)
    with progress.stage("Shrinking"):
        small = shrink(model, verify=verify)
    run = None
    with progress.stage("Writing"), in_the_making(output) as part:
        if format == "tflite":
            small_file, run = _tflite(model, small, quantize, data, verify)
            part.write_bytes(small_file)
        elif format == "keras":
            small.save(part)
        else:
            saved_model.write(small, part)
    return Written(output, format, _figures(model, path), _figures(small, output), run)


def _tflite(model: Any, small: Any, quantize: Quantize, data: Path | None, verify: bool) -> tuple[bytes, Run]:
    examples = [] if data is None else _examples(model, data)
    before, after = (tflite.converted(each, quantize, examples) for each in (model, small))
    run = tflite.compared(model, before, after, examples)
    if verify and quantize == "none" and run.error > _CLOSE:
        raise NotEquivalentError(
            f"TensorFlow's TFLite model of {model.name!r} differs from it by {run.error:.1e} of the scale of its "
            "outputs. Nothing was written."
        )
    return after, run


def _examples(model: Any, path: Path) -> list[NDArray[Any]]:
    arrays = next(iter(read_inputs(path).values()))
    names = [tensor.name for tensor in model.inputs]
    if set(names) <= set(arrays):
        return [np.asarray(arrays[name]) for name in names]
    if len(arrays) == len(names):
        return [np.asarray(array) for array in arrays.values()]
    raise InputError(f"{path} holds {', '.join(arrays)}, and the model's inputs are {', '.join(names)}.")


def _figures(model: Any, path: Path) -> Figures:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    cost = passes.count(to_onnx(model, any_batch=True))
    masks = {id(weight) for layer in mask_layers(model) for weight in layer.weights}
    params = sum(int(np.prod(weight.shape)) for weight in model.weights if id(weight) not in masks)
    return replace(Figures.from_cost(cost, sum(file.stat().st_size for file in files)), params=params)
