"""What mkdocstrings shows as a reader needs it: `Example:` as Keras writes it, and defaults by their values."""

from __future__ import annotations

import ast
import contextlib
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Function, NameResolutionError, Object

ROOT = Path(__file__).parent.parent
_CONSTANT = re.compile(r"(\w+\.)*[A-Z][A-Z_]+")


class Examples(Extension):
    """Google's style knows `Examples:` only."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for everything that is documented."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


class Defaults(Extension):
    """A default that is a constant of a module is shown as the constant's value."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for everything that is documented."""
        for parameter in obj.parameters if isinstance(obj, Function) else ():
            name = str(parameter.default)
            if _CONSTANT.fullmatch(name):
                first, *rest = name.split(".")
                with contextlib.suppress(NameResolutionError):  # of another library
                    parameter.default = value(".".join([obj.resolve(first), *rest])) or parameter.default


def value(path: str) -> str | None:
    """A constant of this project by its path, `maskc.compilation.options.SECONDS`, as it is written; else None.

    Nothing is imported for that.
    """
    module, _, name = path.rpartition(".")
    file = ROOT / f"{module.replace('.', '/')}.py"
    for statement in ast.parse(file.read_text(encoding="utf-8")).body if file.exists() else ():
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            found = statement.value  # type: ignore[attr-defined]
            return ast.unparse(found) if isinstance(found, ast.Constant) else None
    return None
