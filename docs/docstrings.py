"""Lets mkdocstrings show the `Example:` of a docstring, as Keras writes it, as code."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Google's style knows `Examples:` only."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for everything that is documented."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
