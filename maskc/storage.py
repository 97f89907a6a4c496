"""Writing models: whole or not at all, and the same bytes every time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from onnx import ModelProto, TensorProto, external_data_helper

from maskc.errors import InputError
from maskc.frontend.onnx_file import PROTOBUF_LIMIT
from maskc.graphs import all_tensors, tensor_bytes

# Below protobuf's limit by what the graph beside its weights may take.
EMBEDDED_LIMIT = PROTOBUF_LIMIT - 64 * 2**20

# Tensors smaller than this stay in the model when the others go to a file of their own.
_MIN_EXTERNAL = 1024
_ALIGNMENT = 4096

NOT_A_FILE = "it is not a file that could be replaced"


def embeds(model: ModelProto, limit: int = EMBEDDED_LIMIT) -> bool:
    """Whether the model with its weights fits in one file."""
    return sum(tensor_bytes(tensor) for tensor in all_tensors(model)) < limit


def serialized(model: ModelProto) -> bytes:
    """The bytes of a model that fits in one file; the same model always gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def write_model(model: ModelProto, path: Path, limit: int = EMBEDDED_LIMIT) -> int:
    """Write a model so that `path` is the old file or the whole new one at every moment; returns bytes
    written.

    Weights that do not fit in an ONNX file go to one beside it, `<name>.<hash>.data`. The hash of its content
    is in its name, so an existing model never finds new weights under the name it knows. Data files that an
    earlier model of this name used are removed at the end. Raises `InputError` when writing fails.
    """
    try:
        earlier = _data_files(path)
        if embeds(model, limit):
            data, weights = serialized(model), None
        else:
            model, weights = _write_weights(model, path)
            data = serialized(model)
        try:
            write_bytes(path, data)
        except BaseException:
            if weights is not None and weights not in earlier:
                weights.unlink()
            raise
        for stale in earlier:
            if stale != weights:
                stale.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error
    return len(data) + (weights.stat().st_size if weights else 0)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by a new one with this content, or leave it as it is."""
    with _replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its place when the block ends, and goes away if it raises."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, NOT_A_FILE)  # a device or a pipe would be gone
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; what takes their place has the permissions that open() gives.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _write_weights(model: ModelProto, path: Path) -> tuple[ModelProto, Path]:
    """Write the large tensors to a file beside `path`; returns a model that refers to it, and the file."""
    copy = ModelProto()
    copy.CopyFrom(model)
    large = [
        tensor for tensor in all_tensors(copy) if tensor.HasField("raw_data") and len(tensor.raw_data) >= _MIN_EXTERNAL
    ]
    digest = hashlib.sha256()
    for tensor in large:
        digest.update(len(tensor.raw_data).to_bytes(8, "little"))
        digest.update(tensor.raw_data)
    weights = path.with_name(f"{path.name}.{digest.hexdigest()[:16]}.data")
    with _replacing(weights) as file:
        for tensor in large:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            length, offset = len(tensor.raw_data), file.tell()
            file.write(tensor.raw_data)
            external_data_helper.set_external_data(tensor, weights.name, offset, length)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    return copy, weights


def _data_files(path: Path) -> list[Path]:
    """Data files that `write_model` made for a model of this name."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    return [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]
