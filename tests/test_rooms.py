"""The rooms stay small and the page about them true; `make lint` checks which room imports which."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FILES = [path for package in ("maskc", "passes") for path in (ROOT / package).rglob("*.py")]
FOLDERS = sorted({path.parent for path in FILES})


def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_room_is_taken_in_at_a_glance(folder: Path) -> None:
    entries = [path for path in folder.iterdir() if path.name not in ("__pycache__", "__init__.py", "py.typed")]
    assert len(entries) <= (28 if folder.name == "ops" else 16)
    assert (folder / "__init__.py").read_text().startswith('"""'), "a room says what it knows"


def test_no_file_is_long() -> None:
    assert [path for path in FILES if len(path.read_text().splitlines()) > 500] == []


def test_every_room_has_its_floor() -> None:
    rooms = drawing()
    for package in ("maskc", "passes"):
        named = {room for floor in rooms.layers(package) for room in floor}
        there = {
            path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert there - {"__init__", "__main__"} == named


def test_the_drawing_is_up_to_date() -> None:
    rooms = drawing()
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture(), "run `python docs/rooms.py`"


def test_architecture_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:passes|maskc|tests|docs)/[\w/.]+)`", page)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
    inner = re.findall(r"`(\w+/\w+\.py)`", page)
    assert [path for path in inner if not list(ROOT.glob(f"*/{path}"))] == []
