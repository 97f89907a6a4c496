"""Sizes of rooms and files, and the page on architecture; lint-imports checks which room imports which."""

import re
from collections.abc import Iterator

from tests.lint.files import ROOT, SOURCES, read, script

ENTRIES = 16  # of a folder
OPERATORS = 28  # of passes/ops
LINES = 500  # of a file
ALONE = {"maskc/verification/recheck.py": 1700}  # of one that runs without the others


def faults() -> Iterator[str]:
    """Folders and files that are too large, rooms without a floor, and paths that the page on architecture invents."""
    for folder in sorted({path.parent for path in SOURCES}):
        entries = [path for path in folder.iterdir() if path.name not in ("__pycache__", "__init__.py", "py.typed")]
        if len(entries) > (OPERATORS if folder.name == "ops" else ENTRIES):
            yield f"{folder.relative_to(ROOT)}: {len(entries)} entries"
        if not (folder / "__init__.py").read_text().startswith('"""'):
            yield f"{folder.relative_to(ROOT)}/__init__.py: no docstring that says what the room knows"
    for path in SOURCES:
        lines = len(path.read_text().splitlines())
        if lines > ALONE.get(str(path.relative_to(ROOT)), LINES):
            yield f"{path.relative_to(ROOT)}: {lines} lines"
    drawing = script("docs/rooms.py")
    for package in ("maskc", "passes"):
        named = {room for floor in drawing.layers(package) for room in floor}
        folder = ROOT / package
        there = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
        for room in sorted(named ^ (there - {"__init__", "__main__"})):
            yield f"pyproject.toml: the contract of {package} and its folder do not agree on the room {room}"
    page = read("docs/architecture.md")
    paths = re.findall(r"`((?:passes|maskc|tests|docs)/[\w/.]+)`", page)
    inner = re.findall(r"`(\w+/\w+\.py)`", page)
    for path in [*(p for p in paths if not (ROOT / p).exists()), *(p for p in inner if not list(ROOT.glob(f"*/{p}")))]:
        yield f"docs/architecture.md: there is no {path}"
    if not paths:
        yield "docs/architecture.md: it names no file"
    yield from _of_graphs()


def _of_graphs() -> Iterator[str]:
    """Files beside `passes/graph` that make nodes and tensors themselves, or reach for what a constant stores."""
    for path in SOURCES:
        if path.parent == ROOT / "passes" / "graph":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"\bgs\.(Node|Constant|Variable|Variable\.empty)\(", line.replace("class ", "")):
                yield f"{path.relative_to(ROOT)}:{number}: makes a node or tensor; passes/graph/construct.py does"
            if re.search(r"\b(?!self\b)\w+\._values\b", line):
                yield f"{path.relative_to(ROOT)}:{number}: asks a constant for its `_values`; use `tensors.stored`"
