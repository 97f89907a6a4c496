"""The pages of what was measured, and tables in them between two marks."""

from __future__ import annotations

from pathlib import Path

PAGES = Path(__file__).parent / "pages"


def put(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put the text between the marks of a page, lines of their own, in place of what is there."""
    before, rest = page.read_text().split(f"{marks[0]}\n")
    page.write_text(f"{before}{marks[0]}\n{text}\n{rest[rest.index(marks[1]) :]}")
