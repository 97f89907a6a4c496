"""External data files: weights are written one after another, so that no more than one is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import onnx

#: bytes: where a tensor may begin, so that it can be mapped into memory
ALIGNMENT = 4096


class Store:
    """A file of weights, which tensors that are put there then name as where they lie.

    A block is written, and counted into the hash of the content, while the next one is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w+b")
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.clear()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *failure: object) -> None:
        self._writer.shutdown()
        self._file.close()

    def clear(self) -> None:
        """Forget all that was put here."""
        self._wait()
        self._file.seek(0)
        self._file.truncate()
        self._end, self._digest = 0, hashlib.sha256()

    def put(self, tensor: onnx.TensorProto, data: Iterable[bytes | memoryview]) -> None:
        """Write the data of the tensor, and let it name the place. Raises OSError when writing fails."""
        self._write(bytes(-self._end % ALIGNMENT))
        offset = self._end
        for part in data:
            self._write(part)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", str(self.path)), ("offset", offset), ("length", self._end - offset)):
            tensor.external_data.add(key=key, value=str(value))

    def flush(self) -> None:
        """Have all of it in the file."""
        self._wait()
        self._file.flush()

    @property
    def digest(self) -> str:
        """The hash of the content, in hexadecimal digits."""
        self._wait()
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._wait()
        self._end += len(data)
        self._pending = self._writer.submit(self._take, data)

    def _take(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
