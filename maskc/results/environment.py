"""Where figures were found: versions, the libraries that were loaded, and the kind of machine."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from os import cpu_count

#: the version of maskc, which the models that it writes carry as well
__version__ = "0.1.0"

# What figures may depend on, beside maskc.
_LIBRARIES = ("numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "openvino", "tensorflow")


def versions() -> dict[str, str]:
    """Versions of Python and of what was loaded, by name."""
    # OpenVINO tells the number of its build as well, with dashes.
    loaded = {name: sys.modules[name].__version__.partition("-")[0] for name in _LIBRARIES if name in sys.modules}
    return {"python": platform.python_version()} | loaded


def machine() -> str:
    """The system, the instruction set and the number of cores."""
    return f"{platform.system()} {platform.machine()}, {cpu_count()} cores"


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
