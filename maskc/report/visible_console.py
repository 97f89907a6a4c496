"""Rich console that shows control characters as escapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from maskc.errors import visible, visible_lines
from maskc.report.word_wrap import fitted


class VisibleConsole(Console):
    """Shows control characters as escapes, and finds no markup, emoji or numbers to highlight in strings.

    A string that is printed, or is a cell of a table, is one line; a `Text` may have several.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False} | options)

    def print(self, *objects: Any, **how: Any) -> None:
        """As in rich, but in a terminal what is printed with `soft_wrap` breaks between words."""
        if how.get("soft_wrap") and self.is_terminal:
            objects = tuple(map(self._fitted, objects))
        super().print(*objects, **how)

    def _fitted(self, item: Any) -> Any:
        if isinstance(item, str):
            return Text(fitted(visible(item), self.width))
        if isinstance(item, Text) and not item.spans:
            return Text(fitted(visible_lines(item.plain), self.width), style=item.style)
        return item

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich's text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments of an object."""
        if isinstance(renderable, Text) and (shown := visible_lines(renderable.plain)) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = shown
        return super().render(renderable, options)
