"""Draws docs/rooms.svg: the rooms of both packages, from the roof to the ground, and which imports which.

Run `python docs/rooms.py` after a change of rooms; `make lint` compares the file with what this would draw. The rooms
and their order are those of the contract in pyproject.toml, and an arrow is an import that does not follow from others
by way of a room in between.
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "rooms.svg"

WIDTH, ROW, BOX, TOP = 190, 36, 26, 58
STYLE = """\
.bg{fill:#ffffff}.h{fill:#1f2933;font-size:16px;font-weight:600}.n{fill:#1f2933;font-size:14px}
.room{fill:#eef2f6;stroke:#9aa5b1}.arrow{stroke:#2f7ed8;stroke-width:1.4;fill:none}
.tip{fill:#2f7ed8}
@media (prefers-color-scheme: dark){.bg{fill:#0d1117}.h,.n{fill:#e6edf3}
.room{fill:#21262d;stroke:#6e7681}}"""


def layers(package: str) -> list[list[str]]:
    """The rooms of a package by floor, the roof first, without its name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found = next(c["layers"] for c in contracts if c["type"] == "layers" and c["layers"][0].startswith(f"{package}."))
    return [[name.strip().removeprefix(f"{package}.") for name in row.replace("|", ":").split(":")] for row in found]


def imports(package: str, rooms: set[str]) -> dict[str, set[str]]:
    """By room, the other rooms that its files import, for types only and inside functions as well."""
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for room in rooms:
        path = ROOT / package / room
        for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
                    names = [f"{node.module}.{a.name}" for a in node.names]
                    found[room] |= {n.split(".")[1] for n in names if n.split(".")[1] in rooms - {room}}
    return found


def reduced(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others."""

    def reached(room: str) -> set[str]:
        found: set[str] = set()
        left = [room]
        while left:
            left += graph[left.pop()] - found
            found.update(left)
        return found

    return sorted(
        (room, below)
        for room, direct in graph.items()
        for below in direct
        if not any(below in reached(other) for other in direct - {below})
    )


def column(package: str, title: str, x: int) -> tuple[list[str], int]:
    """The parts of one package's stack, and the height that it takes."""
    floors = layers(package)
    rooms = [room for floor in floors for room in floor]
    place = {room: TOP + i * ROW for i, room in enumerate(rooms)}
    parts = [f'<text class="h" x="{x}" y="36">{escape(title)}</text>']
    for room, y in place.items():
        name = f"{room}/" if (ROOT / package / room).is_dir() else f"{room}.py"
        parts.append(f'<rect class="room" x="{x}" y="{y}" width="{WIDTH}" height="{BOX}" rx="5"/>')
        parts.append(f'<text class="n" x="{x + 12}" y="{y + 18}">{escape(name)}</text>')
    edge = x + WIDTH
    for room, below in reduced(imports(package, set(rooms))):
        start, end = place[room] + 17, place[below] + 9
        reach = edge + 10 + 9 * ((place[below] - place[room]) // ROW)
        parts.append(f'<path class="arrow" d="M{edge} {start} C{reach} {start} {reach} {end} {edge + 3} {end}"/>')
        parts.append(f'<path class="tip" d="M{edge} {end} l8 -4 v8 z"/>')
    return parts, TOP + len(rooms) * ROW


def picture() -> str:
    """The text of docs/rooms.svg."""
    left, height = column("maskc", "maskc: what people touch", 20)
    right, other = column("passes", "passes: the graph compiler", 380)
    width, height = 720, max(height, other) + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="system-ui, '
        '-apple-system, Segoe UI, Helvetica, Arial, sans-serif" aria-label="The rooms of maskc and passes, each above '
        'those that it imports">'
    )
    back = f'<rect class="bg" width="{width}" height="{height}"/>'
    return "\n".join([head, f"<style>\n{STYLE}\n</style>", back, *left, *right, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
