"""Import of ONNX Runtime on demand, with its telemetry and its log off, and what to type where it is broken."""

from __future__ import annotations

import functools
import multiprocessing
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maskc.errors import InstallationWarning, UnavailableError
from maskc.results.environment import versions_of
from passes.errors import in_brief

#: the quietest of ONNX Runtime's log levels
FATAL = 4

# The distributions that hold it, which overwrite each other's files; the first one serves both GPUs and CPUs.
_BUILDS = tuple(f"onnxruntime{build}" for build in ("-gpu", "", "-directml", "-openvino", "-training", "-qnn"))


def import_onnxruntime() -> Any:
    """ONNX Runtime, told to keep its log to itself. Raises `UnavailableError` when it is not installed, or broken.

    It reports its use to its makers, under a number that it keeps in the user's cache folder, unless it is told not to
    before it is loaded. Whoever sets `ORT_DISABLE_TELEMETRY=0` has it report.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(FATAL)
    except (ImportError, AttributeError) as error:  # an empty module is what one distribution leaves of another
        raise UnavailableError(f"ONNX Runtime cannot be imported: {in_brief(error)}. {repair()}") from error
    _warn_of_several()
    return onnxruntime


def repair(wanted: str = "") -> str:
    """What to type where it is missing or broken, or where something is `wanted` in the place of what is installed."""
    installed = versions_of(_BUILDS)
    spec = find_spec("onnxruntime") if installed else None
    place = Path(spec.origin).parent if spec is not None and spec.origin else None
    if place and not any(place.parent.glob("onnxruntime*-info")):  # which pip puts beside what it installs
        return f"Rename {place}, which hides the installed one."
    if len(installed) > 1 or (installed and wanted):
        return f"Type `pip uninstall -y {' '.join(installed)}`, then `pip install {wanted or next(iter(installed))}`."
    if installed:
        return f"Type `pip install --force-reinstall --no-deps {next(iter(installed))}`."
    return "Type `pip install onnxruntime-gpu`, or `pip install onnxruntime` for CPUs alone."


@functools.cache
def _warn_of_several() -> None:
    """Warn, once and not in workers, of distributions that have overwritten each other."""
    installed = versions_of(_BUILDS)
    if len(installed) > 1 and multiprocessing.parent_process() is None:
        which = " and ".join(f"{name} {version}" for name, version in installed.items())
        warnings.warn(f"{which} have overwritten each other. {repair()}", InstallationWarning, stacklevel=2)
