"""Model import: ONNX files, SavedModel directories, Keras files and models in memory as ONNX graphs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from onnx import ModelProto

from maskc import progress
from maskc.errors import InputError
from maskc.frontend import onnx_file
from maskc.frontend.file_size import model_bytes
from passes.errors.arguments import shown

if TYPE_CHECKING:
    from maskc.frontend.tensorflow.convert import TensorFlowModel

__all__ = ["KERAS_SUFFIXES", "Model", "Source", "load", "read"]

# Keras's own format, and the HDF5 files of versions before it.
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


@runtime_checkable
class KerasModel(Protocol):
    """A `keras.Model`, as much as types can say without TensorFlow."""

    @property
    def layers(self) -> Any:
        """Its layers."""


@dataclass(frozen=True)
class Source:
    """A model as it was read.

    `model` is valid ONNX without local functions and with all weights in memory, but for those that were to stay in
    their files and are named there by absolute paths. `path` and `files` say
    where it was stored (None and empty for a model in memory); `notes` are for the user; `tensorflow` is the
    original of a model that was converted, to compare with.
    """

    model: ModelProto = field(repr=False)
    path: Path | None = None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    tensorflow: TensorFlowModel | None = field(default=None, repr=False)

    @property
    def bytes(self) -> int:
        """Size on disk, of all files; of a model in memory, the size of its ONNX file."""
        if self.files:
            return sum(file.stat().st_size for file in self.files)
        return model_bytes(self.model)

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return "the model" if self.path is None else str(self.path)


# What a model may be given as.
Model: TypeAlias = str | os.PathLike[str] | ModelProto | KerasModel | Source


def load(path: str | os.PathLike[str]) -> ModelProto:
    """Read a model as ONNX: an `.onnx` file, a SavedModel directory or a `.keras` or `.h5` file.

    Raises `InputError` when there is no usable model and `UnavailableError` when reading it needs TensorFlow
    and that is not installed.
    """
    return read(path).model


def read(model: Model, *, stay: bool = False, signature: str | None = None) -> Source:
    """Read a model together with what else is known about it; a `ModelProto` is checked and left untouched.

    With `stay`, the weights of an ONNX model that are large and in external files are left there. `signature` names the
    signature or function of a SavedModel to read. What has been read already is given back. Raises as `load` does, and
    for a signature of another model than a SavedModel.
    """
    if isinstance(model, Source):
        return model
    if not isinstance(model, (str, os.PathLike)):
        _check_signature("The model", signature)
    if isinstance(model, ModelProto):
        checked, notes = onnx_file.prepare(model)
        return Source(checked, notes=notes)
    if not isinstance(model, (str, os.PathLike)):
        return _converted(model)
    if not os.fspath(model):  # which Path takes for the working directory
        raise InputError("The name of the model is empty.")
    path = Path(model)
    with progress.stage(f"Reading {path}"):
        return _read(path, stay, signature)


def read_both(first: Model, second: Model, signature: str | None = None) -> tuple[Source, Source]:
    """Read two models to compare: `signature` is that of either or both, whichever are SavedModels."""
    one, other = (
        isinstance(model, (str, os.PathLike)) and (Path(model) / "saved_model.pb").is_file()
        for model in (first, second)
    )
    return (
        read(first, signature=signature if one or not other else None),
        read(second, signature=signature if other else None),
    )


def _check_signature(what: object, signature: str | None) -> None:
    """Raises InputError for a signature of a model that can have none."""
    if signature is not None:
        raise InputError(f"{what} is no SavedModel, and only these have signatures: leave out {signature!r}.")


def _converted(model: object) -> Source:
    """A Keras model in memory, whose package has been imported by whoever made it."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        raise InputError(f"A model is a path, an onnx.ModelProto or a keras.Model, and not {shown(model)}.")
    from maskc.frontend.tensorflow.keras import compilable

    with progress.stage("Converting the Keras model"):
        original = compilable(model)
        return Source(original.to_onnx(), notes=original.notes, tensorflow=original)


def warn_of_rest(model: object) -> None:
    """Warn where a `keras.Model` in memory has masks, and training has not come to prune all that it was to."""
    training, keras = (sys.modules.get(name) for name in ("maskc.train.mask_layer", "keras"))
    if training is not None and keras is not None and isinstance(model, keras.Model):
        training.warn_of_rest(model)


def _read(path: Path, stay: bool, signature: str | None) -> Source:
    file = locate(path)
    if not file.is_dir():
        _check_signature(path, signature)
    if file.is_dir() or file.suffix in KERAS_SUFFIXES:
        from maskc.frontend.tensorflow import keras, saved_model

        original = saved_model.read(file, signature=signature) if file.is_dir() else keras.read(file)
        parts = sorted(below for below in file.rglob("*") if below.is_file()) if file.is_dir() else [file]
        return Source(original.to_onnx(), path, tuple(parts), original.notes, original)
    proto, files, notes = onnx_file.read(file, stay=stay)
    return Source(proto, path, files, notes)


def locate(path: Path) -> Path:
    """The SavedModel directory or model file that a path means.

    A directory that is not a SavedModel means the only `.onnx` or Keras file in it. Raises `InputError`
    when there is none, or more than one.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Give an .onnx, .keras or .h5 file or a SavedModel directory.")
    if not path.is_dir() or (path / "saved_model.pb").is_file():
        return path
    if (path / "saved_model.pbtxt").is_file():
        raise InputError(f"{path} is a SavedModel in text form. Save it again in binary form.")
    models = sorted(file for file in path.iterdir() if file.suffix in (".onnx", *KERAS_SUFFIXES) and file.is_file())
    if len(models) == 1:
        return models[0]
    if not models:
        found = "is empty" if not any(path.iterdir()) else "holds no model"
        raise InputError(
            f"The directory {path} {found}. Give a SavedModel directory (with saved_model.pb) or an .onnx, "
            ".keras or .h5 file."
        )
    names = ", ".join([*(file.name for file in models[:5]), *[f"and {len(models) - 5} more"] * (len(models) > 5)])
    raise InputError(f"The directory {path} holds several models ({names}). Name the one to read.")
