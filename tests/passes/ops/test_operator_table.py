"""docs/operators.md says what the rules say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx

DOCS = Path(__file__).parents[3] / "docs"


def page() -> str:
    spec = importlib.util.spec_from_file_location("operators_page", DOCS / "operators.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page())


def test_the_table_is_up_to_date() -> None:
    assert (DOCS / "operators.md").read_text(encoding="utf-8") == page(), "run `python docs/operators.py`"


def test_every_operator_is_in_the_table() -> None:
    lines = page().splitlines()
    cells = [line.removeprefix("| ").split(" | ")[0] for line in lines]
    named = {name.split(" ")[0] for cell in cells for name in cell.split(", ")}
    for schema in onnx.defs.get_all_schemas():
        if schema.domain in ("", "ai.onnx.ml"):
            assert schema.name in named, schema.name
