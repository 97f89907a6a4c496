"""Import of ONNX Runtime on demand, with its telemetry and its log switched off."""

from __future__ import annotations

import os
from typing import Any

from maskc.errors import UnavailableError
from passes.errors import in_brief

#: the quietest of ONNX Runtime's log levels
FATAL = 4


def import_onnxruntime() -> Any:
    """ONNX Runtime, told to keep its log to itself. Raises `UnavailableError` when it is not installed.

    It reports its use to its makers, under a number that it keeps in the user's cache folder, unless it is told not to
    before it is loaded. Whoever sets `ORT_DISABLE_TELEMETRY=0` has it report.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"ONNX Runtime cannot be imported: {in_brief(error)}. Install maskc again with its dependencies."
        ) from error
    onnxruntime.set_default_logger_severity(FATAL)
    return onnxruntime
