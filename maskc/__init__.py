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

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from maskc.errors import InputError, MaskcError, NotEquivalentError, UnavailableError
from maskc.results.environment import __version__

if TYPE_CHECKING:
    import passes
    from maskc.compilation.compile import compile, explain
    from maskc.inspection.diff import diff
    from maskc.inspection.flops import flops
    from maskc.pruning.prune import prune
    from maskc.pruning.sweeps import sweep
    from maskc.regression import check as regress
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
    "passes",
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
    "sweep": "maskc.pruning.sweeps",
    "verify": "maskc.verification.verify",
}


class _BesideThis(MetaPathFinder):
    """Finds `passes` in the clone that this is, whatever else on the path has that name."""

    CLONE = Path(__file__).parents[1]

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(self.CLONE)]) if name == "passes" else None


if not Path(__file__).with_name("passes").exists():  # a wheel has it inside, where nothing can stand before it
    if not Path(getattr(sys.modules.get("passes"), "__file__", None) or "/").is_relative_to(_BesideThis.CLONE):
        for name in [name for name in sys.modules if name.partition(".")[0] == "passes"]:
            del sys.modules[name]  # who has imported it keeps it
    sys.meta_path.insert(0, _BesideThis())


def __getattr__(name: str) -> object:
    if name == "passes":
        import passes

        return passes
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value: object = module if name == "regress" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
