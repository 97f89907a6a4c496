"""Compiles networks trained with channel masks into smaller dense ONNX models that compute the same function.

    import maskc

    result = maskc.compile("model_dir")  # or a .keras file, an .onnx file, a ModelProto
    result.save("model.onnx")
    assert maskc.verify("model_dir", "model.onnx").passed
    print(maskc.flops("model.onnx").flops)

Importing the package is cheap: numpy, onnx and ONNX Runtime are loaded by the first call that needs them, and
TensorFlow only for a model that TensorFlow wrote.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from maskc.errors import InputError, MaskcError, NotEquivalentError, UnavailableError
from maskc.version import __version__

if TYPE_CHECKING:
    from maskc.compilation.compile import compile, explain, flops
    from maskc.results.diff import diff
    from maskc.sweeps import sweep
    from maskc.verification.verify import verify

__all__ = [
    "InputError",
    "MaskcError",
    "NotEquivalentError",
    "UnavailableError",
    "__version__",
    "compile",
    "diff",
    "explain",
    "flops",
    "sweep",
    "verify",
]

_HOMES = {
    "compile": "maskc.compilation.compile",
    "diff": "maskc.results.diff",
    "explain": "maskc.compilation.compile",
    "flops": "maskc.compilation.compile",
    "sweep": "maskc.sweeps",
    "verify": "maskc.verification.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
