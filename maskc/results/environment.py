"""Environment of a measurement: versions of libraries, kind of machine, time."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from os import cpu_count

#: the version of maskc, which the models that it writes carry as well
__version__ = "0.1.0"

# Modules that figures may depend on, and the distributions that they come from.
_LOADED = ("numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "openvino", "tensorflow")
_INSTALLED = (
    *("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorflow", "keras", "tf2onnx"),
)


def loaded_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that were loaded, by the names of their modules."""
    # OpenVINO tells the number of its build as well, with dashes.
    found = {name: getattr(sys.modules.get(name), "__version__", "").partition("-")[0] for name in _LOADED}
    return {"python": platform.python_version()} | {name: number for name, number in found.items() if number}


def installed_versions() -> dict[str, str]:
    """Versions of maskc, Python and the libraries that are installed, by the names of their distributions."""
    return {"maskc": __version__, "Python": platform.python_version()} | versions_of(_INSTALLED)


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of these distributions, by their names; those that are not installed are left out."""
    found = {}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> str:
    """The system, the instruction set and the number of cores."""
    return f"{platform.system()} {platform.machine()}, {cpu_count()} cores"


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
