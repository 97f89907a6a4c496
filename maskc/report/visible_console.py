"""A console of rich's for text that others chose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from maskc.report.visible import visible, visible_lines


class VisibleConsole(Console):
    """Shows control characters as escapes, and finds no markup, emoji or numbers to highlight in strings.

    A string that is printed, or is a cell of a table, is one line; a `Text` may have several.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich's text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is to be printed as rich's segments."""
        if isinstance(renderable, Text) and (shown := visible_lines(renderable.plain)) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = shown
        return super().render(renderable, options)
