"""`--report`: which files are written and when, and the document as data."""

import copy
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

import maskc as api
from maskc.compilation.compile_report import CompileReport
from maskc.results.measurements import Figures
from maskc.verification.error_statistics import Statistics, distance
from passes.abstract_values.kept_reasons import REASONS
from passes.planning.masked_axes import Held, MaskedAxis
from tests.maskc import build
from tests.maskc.command import ROOT, files, full_disk, maskc, process, refused, succeeded

SCHEMA = json.loads((ROOT / "maskc" / "report" / "schema" / "report-1.json").read_text())


def valid(path: Path) -> Any:
    """The report in a file, which follows the schema and has nothing beside it."""
    told, strict = json.loads(path.read_text()), copy.deepcopy(SCHEMA)
    for definition in (strict, *strict["$defs"].values()):
        definition["additionalProperties"] = False
    jsonschema.Draft202012Validator(strict).validate(told)
    return told


# The schema.


def test_the_schema_is_one_and_every_key_is_documented() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    page = (ROOT / "docs" / "report.md").read_text()
    for definition in (SCHEMA, *SCHEMA["$defs"].values()):
        for key in definition["properties"]:
            assert f"`{key}`" in page, key
    assert f"`schema` is {SCHEMA['properties']['schema']['const']}" in page


# Documents.


def test_a_compilation_with_verification_and_latency(mlp: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    assert maskc("compile", mlp, "--report", file, "--bench").exit_code == 0
    told = valid(file)
    assert told["schema"] == 1 and told["command"] == "compile"
    assert (told["model"], told["output"]) == (str(mlp), str(tmp_path / "mlp.compiled.onnx"))
    assert told["after"]["bytes"] == (tmp_path / "mlp.compiled.onnx").stat().st_size
    assert told["versions"]["onnx"] == onnx.__version__ and "onnxruntime" in told["versions"]
    latency = told["latency"]
    assert latency["provider"] == "cpu" and latency["shapes"]["x"][1] == 8
    assert all(0 < low <= middle <= high for low, middle, high in (latency["before"], latency["after"]))
    (output,) = told["verification"]["outputs"]
    counted = output["histogram"]
    assert counted["equal"] + sum(counted["counts"]) == 4 * (1 + 2 + 5)


def test_a_compilation_without_verification_and_with_or_without_latency(mlp: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    assert maskc("compile", mlp, "--report", file, "--no-verify").exit_code == 0
    told = valid(file)
    assert told["verification"] is None and told["latency"] is None
    assert "onnxruntime" not in told["versions"] or told["channels"]["removed"] == 8
    assert maskc("compile", mlp, "--report", file, "--no-verify", "--bench").exit_code == 0
    told = valid(file)
    assert told["verification"] is None and told["latency"]["runs"] >= 3


def test_channels_that_stay(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    source = ROOT / "fixtures" / "transformer.onnx"
    succeeded("compile", source, "-o", tmp_path / "t.onnx", "--report", file, "--adapters", "auto")
    told = valid(file)
    assert told["channels"]["held"] == sum(len(held["channels"]) for held in told["held"]) > 0
    assert all(held["reason"] and held["advice"] and held["code"] in REASONS for held in told["held"])


def test_numbers_that_json_cannot_hold(tmp_path: Path) -> None:
    everything = CompileReport(
        maskc="0",
        model=None,
        before=Figures(1000, 500, 20, 4_321),
        after=Figures(0, 0, 0, 999),
        masked=(MaskedAxis("t", 1, 8, 4, 1, (0, 1, 2, 5)),),
        held=(Held("t", 1, (0, 1, 2), "sum", "Add", "reads another branch"),),
        seconds={"facts": math.inf},
    )
    assert everything.reduction == math.inf
    for name in ("r.json", "r.HTML"):
        everything.save(tmp_path / name)
    told = valid(tmp_path / "r.json")
    assert told["reduction"] is None and told["model"] is None and told["seconds"]["facts"] is None
    assert told["channels"] == {"masked": 4, "removed": 1, "held": 3}
    assert "all removed" in (tmp_path / "r.HTML").read_text()


def test_a_comparison_of_models_that_agree(mlp: Path, tmp_path: Path) -> None:
    assert maskc("compile", mlp).exit_code == 0
    file = tmp_path / "v.json"
    result = maskc("verify", mlp, tmp_path / "mlp.compiled.onnx", "--bench", "--report", file)
    assert result.exit_code == 0 and f"Report: {file}" in result.stdout
    told = valid(file)
    assert told["command"] == "verify" and told["masked"] is None and told["held"] is None
    assert [layer["width_after"] for layer in told["layers"]] == [8, 4]
    assert told["verification"]["passed"] and told["latency"]["runs"] >= 20


def test_a_comparison_is_printed_as_it_is_written(mlp: Path, tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    printed = json.loads(maskc("verify", mlp, mlp, "--json", "--report", file).stdout)
    assert printed | {"date": ""} == valid(file) | {"date": ""}


def test_a_comparison_of_models_that_differ_is_reported_too(mlp: Path, tmp_path: Path) -> None:
    api.compile(mlp).save(tmp_path / "small.onnx")
    small = onnx.load(tmp_path / "small.onnx")
    weight = next(item.name for item in small.graph.initializer if len(item.dims) == 2)
    build.save(build.changed(small, weight, lambda values: values * np.float32(1.01)), tmp_path / "broken.onnx")
    reports = [tmp_path / "v.json", tmp_path / "v.html"]
    result = api.verify(mlp, tmp_path / "broken.onnx", reports=reports)
    told = valid(reports[0])
    assert not result.passed and not told["verification"]["passed"]
    assert told["verification"]["reasons"] == list(result.reasons)
    assert told["verification"]["parting"]["node"]
    assert "Outputs differ" in reports[1].read_text()
    assert maskc("verify", mlp, tmp_path / "broken.onnx", "--report", reports[0]).exit_code == 1


# Files.


def test_both_at_once_and_from_python(mlp: Path, tmp_path: Path) -> None:
    result = maskc("compile", mlp, "--report", tmp_path / "a.html", "--report", tmp_path / "a.json", "--no-bench")
    assert result.exit_code == 0 and f"Report: {tmp_path / 'a.html'}" in result.stdout
    assert files(tmp_path) == ["a.html", "a.json", "mlp.compiled.onnx", "mlp.onnx"]
    assert valid(tmp_path / "a.json")["latency"] is None
    made = api.compile(mlp, verify=True).report
    made.save(tmp_path / "b.html")
    made.save(str(tmp_path / "b.json"))
    assert "Outputs match" in (tmp_path / "b.html").read_text()
    assert valid(tmp_path / "b.json")["output"] is None
    with pytest.raises(api.InputError, match="must end with"):
        made.save(tmp_path / "b.txt")


def test_a_page_has_the_latency_unless_told_otherwise(mlp: Path, tmp_path: Path) -> None:
    assert maskc("compile", mlp, "--report", tmp_path / "a.html").exit_code == 0
    assert "as fast" in (tmp_path / "a.html").read_text()
    assert maskc("compile", mlp, "--report", tmp_path / "a.html", "--no-bench").exit_code == 0
    assert "Latency was not measured" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("command", ["compile", "verify"])
def test_what_cannot_be_written_is_refused_before_any_work(mlp: Path, tmp_path: Path, command: str) -> None:
    missing = tmp_path / "missing.onnx"
    models = [mlp] if command == "compile" else [mlp, missing]
    for name in ("out.txt", "out", "report.htm"):
        refused(maskc(command, *models, "--report", tmp_path / name), 2, name, ".html", ".json")
    refused(maskc(command, *models, "--report", tmp_path / "no" / "r.html"), 2, "does not exist")
    (tmp_path / "dir.json").mkdir()
    refused(maskc(command, *models, "--report", tmp_path / "dir.json"), 2, "is a directory")
    assert files(tmp_path) == ["dir.json", "mlp.onnx"]


def test_what_is_read_is_not_written_over(mlp: Path, tmp_path: Path) -> None:
    before = mlp.read_bytes()
    for name in ("link.json", "link.html"):
        (tmp_path / name).symlink_to(mlp)
        refused(maskc("compile", mlp, "--report", tmp_path / name), 2, "input itself")
        refused(maskc("verify", mlp, mlp, "--report", tmp_path / name), 2, "input itself")
    masks = tmp_path / "masks.json"
    np.savez(tmp_path / "masks.npz", c=np.ones(16))
    (tmp_path / "masks.npz").rename(masks)
    (tmp_path / "masks.npz").symlink_to(masks)
    refused(maskc("compile", mlp, "--masks", tmp_path / "masks.npz", "--report", masks), 2, "input itself")
    refused(maskc("verify", mlp, mlp, "--inputs", tmp_path / "masks.npz", "--report", masks), 2, "input itself")
    assert mlp.read_bytes() == before


def test_a_failed_compilation_leaves_no_report(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert maskc("compile", tmp_path / "bad.onnx", "--report", tmp_path / "r.html").exit_code == 2
    assert files(tmp_path) == ["bad.onnx"]


def test_a_full_disk_leaves_the_report_that_was_there(
    mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.html"
    file.write_text("what was there")
    made = api.compile(mlp).report

    monkeypatch.setattr("maskc.frontend.write_model_files.os.fsync", full_disk)
    with pytest.raises(api.InputError, match="No space left on device"):
        made.save(file)
    assert file.read_text() == "what was there" and files(tmp_path) == ["mlp.onnx", "r.html"]


def test_a_model_that_cannot_be_run_has_a_report_and_one_warning(tmp_path: Path) -> None:
    source = build.save(build.custom(), tmp_path / "m.onnx")
    result = maskc("compile", source, "--report", tmp_path / "r.html", "--report", tmp_path / "r.json")
    assert result.exit_code == 0 and result.stderr.count("Warning") == 1
    assert valid(tmp_path / "r.json")["warnings"]
    page = (tmp_path / "r.html").read_text()
    assert "Not verified" in page and "com.example.Fancy" in page
    result = maskc("compile", source, "--no-verify", "--bench", "--json")
    assert re.search("Latency was not measured: .*Fancy", result.stderr)


def test_heavy_libraries_are_loaded_only_for_pages(mlp: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from maskc.cli import app
try:
    app(["compile", {str(mlp)!r}, "--report", {str(tmp_path / "r.json")!r}])
except SystemExit as end:
    assert not end.code, end.code
print(sorted({{"jinja2", "jsonschema", "tensorflow"}} & set(sys.modules)))
"""
    done = process(code=code)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_the_package_has_what_pages_and_schemas_are_made_of() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["maskc"]
    there = {path.relative_to(ROOT / "maskc") for path in (ROOT / "maskc" / "report").rglob("*.*")}
    needed = {path for path in there if path.suffix in (".j2", ".css", ".js", ".json")}
    assert len(needed) == 7
    assert all(any(path.match(pattern) for pattern in packaged) for path in needed), (needed, packaged)


# Statistics.


def add(statistics: Statistics, wanted: np.ndarray, got: np.ndarray) -> None:
    error = distance(wanted, got)
    assert error is not None
    statistics.add(error, wanted, got)


def test_the_histogram_counts_every_element_by_its_magnitude() -> None:
    statistics = Statistics()
    wanted = np.array([[1.0, 2.0, 4.0, 0.0, np.inf]])
    got = wanted + np.array([[0.0, 4e-3 * 1.5, 4e-7 * 1.5, 4e-7 * 1.5, 0.0]])
    for scale in (1.0, 100.0):  # relative to each sample's own scale
        add(statistics, scale * wanted, scale * got)
    found = statistics.histogram
    assert found is not None and found.equal == 2
    filled = {found.start + i * found.step: count for i, count in enumerate(found.counts) if count}
    assert filled == {-7.0: 4, -3.0: 2}
    assert found.counts[0] and found.counts[-1]


def test_histograms_of_what_is_equal_and_of_what_must_be() -> None:
    statistics = Statistics()
    assert statistics.histogram is None
    same = np.ones((2, 3), np.float32)
    add(statistics, same, same)
    assert statistics.histogram is not None and statistics.histogram.counts == () and statistics.histogram.equal == 6
    integers = Statistics()
    add(integers, np.arange(3), np.arange(3))
    assert integers.histogram is None


def test_errors_of_an_output_that_should_be_zero_are_in_the_last_bin() -> None:
    statistics = Statistics()
    add(statistics, np.zeros(2), np.array([0.0, 1e-30]))
    found = statistics.histogram
    assert found is not None and found.counts == (1,) and found.start + found.step == 2.0
