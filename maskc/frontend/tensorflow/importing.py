"""TensorFlow imported on demand, with its log output silenced."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from maskc import progress
from maskc.errors import UnavailableError
from passes.errors import in_brief
from passes.graph.process_wide import process_wide, without_warnings

# Errors only; it is read when TensorFlow is loaded.
_LOG_LEVEL = "2"


def import_tensorflow() -> Any:
    """TensorFlow, imported without its chatter; `UnavailableError` when it or tf2onnx is not installed."""
    if "tensorflow" in sys.modules:
        with quiet_stderr():
            return _import()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _LOG_LEVEL)
    with progress.stage("Loading TensorFlow", slow=True), quiet_stderr():
        tensorflow = _import()
        tensorflow.config.list_logical_devices()  # the search for GPUs is what the chatter is about
    return tensorflow


def import_keras() -> Any:
    """Keras, on TensorFlow; `UnavailableError` where it runs on another backend, which may not even be installed."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    try:
        import_tensorflow()
        import keras
    except (ImportError, ValueError, UnavailableError):  # of the backend, or a name that is none
        if backend == "tensorflow":
            raise
    else:
        if (backend := keras.config.backend()) == "tensorflow":
            return keras
    raise UnavailableError(f"Keras runs on {backend} here, and maskc needs TensorFlow. Set KERAS_BACKEND=tensorflow.")


def _import() -> Any:
    try:
        import tensorflow
        import tf2onnx
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"Keras and TensorFlow models need {error.name or 'tensorflow'}, which is not installed. "
            "Type `pip install 'maskc[tensorflow]'`."
        ) from error
    except Exception as error:  # of whatever an installation lacks, or has of another version
        repair = "Type `pip install --force-reinstall 'maskc[tensorflow]'`."
        raise UnavailableError(f"TensorFlow cannot be imported: {in_brief(error)}. {repair}") from error
    logging.getLogger(tf2onnx.__name__).setLevel(logging.CRITICAL)
    return tensorflow


@process_wide
@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what TensorFlow and Keras say in passing through Python's logging and warnings."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "")]  # tf2onnx says some to the root
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with without_warnings():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@process_wide
@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep native code from writing to stderr, unless the user has chosen a lower log level of TensorFlow's.

    TensorFlow's libraries log to the file descriptor, in part before any log level can be set.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", _LOG_LEVEL) < _LOG_LEVEL:
        yield
        return
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (AttributeError, OSError, ValueError):
        yield  # there is no stderr to keep clean
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def reason(error: Exception) -> str:
    """What a layer objected to, out of the page that Keras and TensorFlow print around it."""
    if isinstance(error, import_tensorflow().errors.OpError):
        trace = r"\{\{.*?\}\}|\[\[.*|\[Op:.*|\x1b\[\d*m"
        lines = (re.sub(trace, "", line).strip() for line in str(error.message).splitlines())
        where = ("Graph execution error", "Detected at", "File ", "Stack trace", "Exception encountered")
        first = next((line for line in lines if line and not line.startswith(where)), type(error).__name__)
        return in_brief(ValueError(first))
    match = re.search(
        r"Exception encountered when calling (\w+)[\w.]*\(\)\.\s+(?:\x1b\[1m)?(.+?)(?:\x1b|$)", str(error), re.M
    )
    if not match:
        return in_brief(error)
    return f"layer {match.group(1)}: {in_brief(ValueError(match.group(2)))}"
