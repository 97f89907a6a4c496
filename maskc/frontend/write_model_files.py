"""Atomic writing of models, the same bytes every time, with large weights in a file beside."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from onnx import ModelProto, TensorProto, numpy_helper

from maskc.errors import InputError, MaskcError
from maskc.frontend.external_data import STAYS, relocate
from maskc.frontend.graph_queries import all_tensors, array_of, copied, has_external, is_external, tensor_bytes
from maskc.frontend.npz_files import STATE
from maskc.frontend.onnx_file import PROTOBUF_LIMIT
from maskc.frontend.part_folders import part_folder
from passes.model.outline import without_initializers
from passes.weights.external_file import Store

# Below protobuf's limit by what the graph beside its weights may take.
EMBEDDED_LIMIT = PROTOBUF_LIMIT - 64 * 2**20

# Tensors smaller than this stay in the model when the others go to a file of their own.
_MIN_EXTERNAL = 1024

NOT_A_FILE = "it is not a file that could be replaced"


def embeds(model: ModelProto, limit: int | None = None) -> bool:
    """Whether the model with its weights is written as one file.

    `limit` are bytes of weights: by default what one file may hold, or little where weights stayed in files of their
    own.
    """
    if limit is None:
        limit = STAYS if has_external(model) else EMBEDDED_LIMIT
    return sum(tensor_bytes(tensor) for tensor in all_tensors(model)) < limit


def serialized(model: ModelProto) -> bytes:
    """The bytes of a model that fits in one file; the same model always gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def inlined(model: ModelProto) -> ModelProto:
    """The model with all weights in memory: itself, if they are."""
    if not has_external(model):
        return model
    copy = copied(model)
    for tensor in all_tensors(copy):
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(array_of(tensor), tensor.name))
    return copy


@contextlib.contextmanager
def store_beside(path: Path) -> Iterator[Store]:
    """A file beside `path` for the weights of a model on its way there; it goes away if it is not made use of."""
    path = followed(path)
    with written(path), part_folder(path) as folder, Store(folder.resolve() / "weights") as store:
        yield store


def write_model(
    model: ModelProto, path: Path, limit: int | None = None, store: Store | None = None, keep: Iterable[Path] = ()
) -> int:
    """Write a model so that `path` is the old file or the whole new one at every moment; returns bytes written.

    Weights that do not fit in an ONNX file go to one beside it, `<name>.<hash>.data`. The hash of its content
    is in its name, so an existing model never finds new weights under the name it knows. Data files that an
    earlier model of this name used are removed at the end, but for those to `keep`. `store` is one from `store_beside`
    that holds weights of the model already, and becomes that file. `limit` is that of `embeds`. A symbolic link stays,
    and the file that it leads to is written. Raises `InputError` when writing fails.
    """
    path = followed(path)
    with written(path):
        earlier = _data_files(path)
        if embeds(model, limit):
            data, weights = serialized(inlined(model)), None
        elif store is None:
            with store_beside(path) as empty:
                return write_model(model, path, limit, empty, keep)
        else:
            model, weights = _write_weights(model, path, store)
            data = serialized(model)
        try:
            write_bytes(path, data)
        except BaseException:
            if weights is not None and weights not in earlier:
                weights.unlink()
            raise
        for stale in earlier:
            if stale != weights and not any(file.exists() and stale.samefile(file) for file in keep):
                stale.unlink()
    return len(data) + (weights.stat().st_size if weights else 0)


@contextlib.contextmanager
def written(what: object) -> Iterator[None]:
    """A block in which a failure of the system becomes an `InputError`: what cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written: {error.strerror or error}.") from error


def write_text(path: Path, text: str, what: str = "") -> None:
    """Write a file, whole or not at all. Raises `InputError`, which says `what` it was, when that fails."""
    with written(f"{what}{path}"):
        write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by a new one with this content, or leave it as it is."""
    _replace(path, lambda file: file.write(data))


def write_arrays(path: Path, arrays: Mapping[str, Any], state: Any = None) -> None:
    """Replace a file by an `.npz` file, or leave it as it is; `npz_files.with_state` reads what it has of a state."""
    said: dict[str, Any] = {} if state is None else {STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}

    def write(file: BinaryIO) -> None:  # which numpy.savez cannot where an array has the name of one of its arguments
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in (said | dict(arrays)).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array(entry, np.asanyarray(array), allow_pickle=False)

    _replace(path, write)


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path = followed(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, NOT_A_FILE)  # a device or a pipe would be gone
    with part_folder(path) as folder:
        part = folder / "whole"
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def followed(path: Path) -> Path:
    """The file that is to be written: the one that a symbolic link leads to, and else the path itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def make_directory(path: Path) -> None:
    """Make a directory, and those around it. Raises `InputError` when that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The directory {path} cannot be made: {error.strerror or error}.") from error


@contextlib.contextmanager
def not_left_empty(directory: Path) -> Iterator[None]:
    """Remove the directory, and those around it, that are made within if nothing is put there."""
    there = {each for each in (directory, *directory.parents) if each.exists()}
    try:
        yield
    finally:
        for each in (directory, *directory.parents):
            if each not in there:
                with contextlib.suppress(OSError):  # it is not empty, or was never made
                    each.rmdir()


def _is_large(tensor: TensorProto) -> bool:
    return tensor.HasField("raw_data") and len(tensor.raw_data) >= _MIN_EXTERNAL


def _write_weights(model: ModelProto, path: Path, store: Store) -> tuple[ModelProto, Path]:
    """Have the large tensors in a file beside `path`; returns a model that refers to it, and the file."""
    copy = without_initializers(model)
    for tensor in model.graph.initializer:
        added = copy.graph.initializer.add()
        if _is_large(tensor):  # a copy in memory is what there may be no room for
            added.MergeFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
            added.MergeFrom(TensorProto(doc_string=tensor.doc_string, metadata_props=tensor.metadata_props))
            store.put(added, [tensor.raw_data])
        else:
            added.CopyFrom(tensor)
    for tensor in filter(_is_large, all_tensors(copy)):
        store.put(tensor, [tensor.raw_data])
    store.flush()
    with store.path.open("rb") as file:
        os.fsync(file.fileno())
    weights = path.with_name(f"{path.name}.{store.digest[:16]}.data")
    for tensor in filter(is_external, all_tensors(copy)):
        relocate(tensor, weights.name)
    store.path.replace(weights)
    return copy, weights


def _data_files(path: Path) -> list[Path]:
    """Data files that `write_model` made for a model of this name."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    return [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]


@contextlib.contextmanager
def in_the_making(path: Path) -> Iterator[Path]:
    """A place for a file or directory that is put at `path` when the block ends, and goes away where that fails.

    Directories around it are made. A failure of the system becomes an `InputError`. Messages of errors in the block
    name `path` in place of what is in the making.
    """
    with written(path):
        whole = path.absolute()
        whole.parent.mkdir(parents=True, exist_ok=True)
        with part_folder(whole) as folder:
            part = folder / path.name
            try:
                yield part
            except MaskcError as error:
                error.args = (str(error).replace(str(part), str(path)),)
                raise
            _put_in_place(part, whole)


def _put_in_place(part: Path, path: Path) -> None:
    """Put a new file or directory in the place of the old one, which stays if that fails."""
    if not part.is_dir() or not path.exists():
        part.replace(path)
        return
    old = part.with_suffix(".old")
    path.rename(old)
    try:
        part.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def digest(files: Iterable[Path]) -> str:
    """The SHA-256 of the contents of these files, in this order, as hexadecimal digits."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
