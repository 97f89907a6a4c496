"""External data of ONNX models: checked to lie beside the model, shared, loaded or left in place."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import ModelProto, TensorProto, helper

from maskc.errors import InputError
from maskc.frontend import stand_ins
from maskc.frontend.graph_queries import all_tensors, is_external
from passes.errors import in_brief
from passes.model.outline import without_initializers
from passes.weights.streaming import LARGE, stored_bytes

# bytes: external data that are more in all stay in their files, and are read when they are asked for.
STAYS = 64 * 2**20

# bytes: smaller weights may be shapes, which are read as initializers, and would not be worth a node.
_LEAST = 1024


def external_files(model: ModelProto, path: Path) -> tuple[Path, ...]:
    """The external data files, each proved to lie in the model's directory before anything opens it."""
    directory = path.parent.resolve()
    files: dict[Path, None] = {}
    for tensor in all_tensors(model):
        if not is_external(tensor):
            continue
        try:
            str(path.resolve()).encode()
        except UnicodeEncodeError:  # a system takes any bytes
            raise InputError(
                f"{path}: ONNX finds no external data by a path that is no text in UTF-8. Rename it."
            ) from None
        location = _said(tensor).get("location", "")
        file = path.parent / location
        if _leaves(directory, location):
            raise InputError(
                f"{path}: the data of tensor '{tensor.name}' is at '{location}', outside the model's "
                "directory. Only files beside the model are read; move it there."
            )
        if missing := _missing(location, file):
            raise InputError(f"{path}: the data of tensor '{tensor.name}' {missing}.")
        _settle_extent(tensor, path, file)
        files[file] = None
    return tuple(files)


def _missing(location: str, file: Path) -> str | None:
    """The fault of a place of external data, and what to do; None if a file is there that ONNX reads."""
    if not location:
        return "are said to be in a file, and none is named. Export it again"
    try:
        if not file.is_file():
            return f"is missing: there is no file '{file}'. Keep the external data files beside the model"
        if file.is_symlink() or file.stat().st_nlink > 1:
            kind = "a symbolic link" if file.is_symlink() else "a file with other names (hard links)"
            return f"is in '{file}', which is {kind}, and ONNX reads only files of their own. Put a copy in its place"
    except OSError as error:
        return f"is missing: '{location[:60]}' is no name of a file ({error.strerror}). Export it again"
    return None


def _settle_extent(tensor: TensorProto, path: Path, file: Path) -> None:
    """Have the tensor say how long it is, which it may leave out, or say with 0; one of no elements is then in no file.

    Raises `InputError` where the file ends before the tensor does, or its length is not that of its shape.
    """
    said = _said(tensor)
    what = f"{path}: the data of tensor '{tensor.name}'"
    for key in ("offset", "length"):
        if not re.fullmatch(r"0*\d{1,18}", said.get(key, "0"), re.ASCII):
            raise InputError(
                f"{what} have '{said[key][:60]}' for their {key}, which is no number of bytes. Export it again."
            )
    try:
        needed = stored_bytes(tensor)
    except (KeyError, ValueError, TypeError):  # no such element type: reading it says so
        return
    offset, length = int(said.get("offset", 0)), int(said.get("length", 0)) or needed
    if length != needed:
        raise InputError(f"{what} are {length} bytes as the model says, and its shape needs {needed}. Export it again.")
    if offset + needed > file.stat().st_size:
        short = f"has {file.stat().st_size} bytes. The file is damaged or truncated; copy or export it again"
        raise InputError(f"{what} end beyond the end of '{file}', which {stand_ins.fault(file, short)}.")
    if not needed:  # a length of 0 is read as all of the file
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b""
    elif int(said.get("length", 0)) != needed:
        for entry in [entry for entry in tensor.external_data if entry.key == "length"]:
            tensor.external_data.remove(entry)
        tensor.external_data.add(key="length", value=str(needed))


def _said(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def relocate(tensor: TensorProto, location: str) -> None:
    """Have the tensor say that its data lie in this file."""
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location


def _leaves(directory: Path, location: str) -> bool:
    # Windows rules are applied everywhere, so that a model is refused or read alike on all systems.
    parts = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or parts.drive or parts.root or ".." in parts.parts:
        return True
    try:
        return not (directory / location).resolve().is_relative_to(directory)  # a symbolic link may lead out
    except (OSError, RuntimeError, ValueError):
        return True


def leave(model: ModelProto, path: Path) -> None:
    """Let large initializers say where they lie, whatever the working directory, if they are much in all."""
    stored = [t for t in model.graph.initializer if is_external(t) and stored_bytes(t) >= LARGE]
    if sum(map(stored_bytes, stored)) < STAYS:
        return
    for tensor in stored:
        relocate(tensor, str((path.parent / _said(tensor)["location"]).resolve()))


def load(model: ModelProto, path: Path, *, small: bool = False) -> None:
    """Read all external data of the model at `path` but those that were left. Raises `InputError` when that fails.

    With `small` only what may be shapes, which inference of shapes does not look up in files.
    """
    for tensor in all_tensors(model):
        said = _said(tensor)
        if not is_external(tensor) or Path(said.get("location", "")).is_absolute():
            continue
        if small and not 0 < int(said.get("length", 0)) < _LEAST:
            continue
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, os.fspath(path.parent))
            tensor.ClearField("external_data")  # as onnx does since 1.23
            tensor.ClearField("data_location")
        except Exception as error:
            raise InputError(
                f"{path}: the data of tensor '{tensor.name}' cannot be read: {in_brief(error)}."
            ) from error


def joined(model: ModelProto) -> ModelProto:
    """The model with one initializer for each place in a file; the others of that place are Identity nodes of it.

    So they keep their names, and what is read, cut and written is one tensor. Initializers that a caller may override
    stay. The model itself where nothing is shared.
    """
    given = {value.name for value in model.graph.input}
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for tensor in model.graph.initializer:
        said = _said(tensor)
        if not is_external(tensor) or int(said.get("length", 0)) < _LEAST or tensor.name in given:
            continue
        place = (said["location"], int(said.get("offset", 0)), tensor.data_type, tuple(tensor.dims))
        name = first.setdefault(place, tensor.name)
        if name != tensor.name:
            same[tensor.name] = name
    if not same:
        return model
    made = without_initializers(model)
    del made.graph.node[:]
    made.graph.node.extend(helper.make_node("Identity", [name], [other]) for other, name in same.items())
    made.graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if tensor.name not in same:
            made.graph.initializer.add().CopyFrom(tensor)  # one by one: messages end at 2 GB
    return made
