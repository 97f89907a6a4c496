"""Files that scripts write: each is what its script would write now, and pages quote the records of benchmarks."""

import json
from collections.abc import Iterator

import onnx

from benchmarks import growth, large, page, record
from benchmarks.sections import compiled_models
from tests.lint.files import ROOT, read, script

COMPILE_TIME = {"growth": growth, "large": large}


def faults() -> Iterator[str]:
    """Files that are out of date, and operators of ONNX that the table lacks."""
    drawing, operators, schema = (script(f"docs/{name}.py") for name in ("rooms", "operators", "report_schema"))
    for script_, file, text in (
        ("rooms", drawing.PICTURE, drawing.picture()),
        ("operators", operators.PAGE, operators.page()),
        ("report_schema", schema.FILE, schema.text()),
        ("report_schema", schema.SWEEP_FILE, schema.sweep_text()),
    ):
        if file.read_text(encoding="utf-8") != text:
            yield f"{file.name} is out of date: run `python docs/{script_}.py`"
    cells = [line.removeprefix("| ").split(" | ")[0] for line in operators.page().splitlines()]
    named = {name.split(" ")[0] for cell in cells for name in cell.split(", ")}
    for schema_ in onnx.defs.get_all_schemas():
        if schema_.domain in ("", "ai.onnx.ml") and schema_.name not in named:
            yield f"docs/operators.md: {schema_.name} is missing"
    yield from _benchmarks()


def _benchmarks() -> Iterator[str]:
    """Sections of pages that are not what the record of their benchmark says."""
    folder = ROOT / "benchmarks" / "pages"
    records = {path.stem: json.loads(path.read_text()) for path in record.RESULTS.glob("*.json")}
    compile_time, results = read("benchmarks/pages/performance.md"), page.PAGE.read_text()
    quoted = [(results, name, make(records[name])) for name, make in page.PARTS if name in records]
    quoted += [(compile_time, name, module.section(records[name])) for name, module in COMPILE_TIME.items()]
    quoted.append(((folder / "compile-time.svg").read_text(), "growth", growth.chart(records["growth"]["results"])))
    quoted.append((compiled_models.PICTURE.read_text(), "dense", compiled_models.bars(records["dense"]["results"])))
    for text, name, section in quoted:
        if section not in text:
            yield f"benchmarks/pages: not what the record {name} says; run `python -m benchmarks {name}`"
