"""Compiles networks trained with channel masks into smaller dense ONNX models that compute the same function.

    >>> import maskc
    >>> result = maskc.compile("model.onnx")  # or a SavedModel directory, a .keras file, a ModelProto
    >>> result.save("small.onnx")
    >>> maskc.verify("model.onnx", "small.onnx").passed
    True
    >>> maskc.flops("small.onnx").flops < maskc.flops("model.onnx").flops
    True

Importing the package is cheap: numpy, onnx and ONNX Runtime are loaded by the first call that needs them, and
TensorFlow only for a model that TensorFlow wrote.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from maskc.errors import InputError, MaskcError, NotEquivalentError, UnavailableError
from maskc.results.environment import __version__

if TYPE_CHECKING:
    from maskc.compilation.compile import compile, explain
    from maskc.inspection.diff import diff
    from maskc.inspection.flops import flops
    from maskc.pruning.prune import prune
    from maskc.regression import check as regress
    from maskc.sweeps import sweep
    from maskc.verification.verify import recheck, verify

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
    "prune",
    "recheck",
    "regress",
    "sweep",
    "verify",
]

#: what is imported when it is first asked for, by the module that it is, or is a function of
_LAZY = {
    "compile": "maskc.compilation.compile",
    "diff": "maskc.inspection.diff",
    "explain": "maskc.compilation.compile",
    "flops": "maskc.inspection.flops",
    "prune": "maskc.pruning.prune",
    "recheck": "maskc.verification.verify",
    "regress": "maskc.regression.check",
    "sweep": "maskc.sweeps",
    "verify": "maskc.verification.verify",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value: object = module if name == "regress" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
