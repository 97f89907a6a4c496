"""`.npz` files: read, and guarded against archives that unpack to more memory than there is."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

#: the array that holds what JSON can say of the others
STATE = "state"


def unpacked_bytes(path: Path) -> int:
    """Bytes of all arrays of the file in memory. Raises what zipfile and numpy raise for another."""
    with zipfile.ZipFile(path) as archive:
        return sum(_bytes(archive, entry) for entry in archive.infolist())


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays by name, in the file's order. Raises what numpy raises where they cannot be read."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def with_state(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """The arrays by name, and the state beside them. Raises what numpy and json raise where there are none."""
    arrays = read(path)
    return arrays, json.loads(arrays.pop(STATE).tobytes())


def _bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """The most that an entry takes: what is unpacked of it, or what its header says, which is allocated first."""
    if not entry.filename.endswith(".npy"):
        return entry.file_size
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    return max(entry.file_size, math.prod(shape) * dtype.itemsize)
