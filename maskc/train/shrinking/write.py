"""`maskc compile` for formats of TensorFlow: a Keras file with masks in, the smaller model out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import passes
from maskc import progress
from maskc.errors import InputError
from maskc.frontend.part_folders import part_folder
from maskc.frontend.tensorflow import saved_model
from maskc.frontend.tensorflow.importing import quiet, quiet_stderr
from maskc.frontend.tensorflow.keras import load, to_onnx
from maskc.frontend.write_model_files import put_in_place, written
from maskc.results.totals import Figures
from maskc.train.mask_layer import mask_layers
from maskc.train.shrinking.shrink import shrink
from passes.errors import in_brief

KERAS_FILES = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        output: the file or directory.
        format: "keras", "saved_model" or "tflite".
        before, after: of the model with masks and of the smaller one; parameters are the weights of Keras's layers,
            without those of masks.
    """

    output: Path
    format: str
    before: Figures
    after: Figures

    def to_json(self) -> dict[str, Any]:
        """Returns FLOPs, parameters and bytes before and after."""
        return {
            name: {"flops": figures.flops, "params": figures.params, "bytes": figures.bytes}
            for name, figures in (("before", self.before), ("after", self.after))
        }


def compile_to(path: Path, output: Path, format: str, verify: bool = True) -> Written:
    """Loads a Keras model, and writes the smaller one; see `shrink`.

    Raises:
        InputError: if the file is none of Keras's, cannot be loaded or shrunk, or the output cannot be written.
        NotEquivalentError: if the outputs differ, which is a fault of maskc; then nothing is written.
    """
    if path.suffix.lower() not in KERAS_FILES:
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
    with progress.stage("Writing"), written(output):
        output = output.absolute()
        output.parent.mkdir(parents=True, exist_ok=True)
        with part_folder(output) as part:
            _WRITERS[format](small, part / output.name)
            if format == "saved_model":
                put_in_place(part / output.name, output)
            else:
                (part / output.name).replace(output)
    return Written(output, format, _figures(model, path), _figures(small, output))


def _figures(model: Any, path: Path) -> Figures:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    cost = passes.count(to_onnx(model, any_batch=True))
    masks = {id(weight) for layer in mask_layers(model) for weight in layer.weights}
    params = sum(int(np.prod(weight.shape)) for weight in model.weights if id(weight) not in masks)
    return replace(Figures.from_cost(cost, sum(file.stat().st_size for file in files)), params=params)


def _write_keras(model: Any, path: Path) -> None:
    model.save(path)


def _write_tflite(model: Any, path: Path) -> None:
    saved = path.with_name("saved_model")
    saved_model.write(model, saved)
    try:
        with quiet(), quiet_stderr():
            converted = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    except Exception as error:
        raise InputError(f"TensorFlow cannot convert the model {model.name!r} to TFLite: {in_brief(error)}.") from error
    path.write_bytes(converted)


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "keras": _write_keras,
    "saved_model": saved_model.write,
    "tflite": _write_tflite,
}
