"""`maskc compile` with several models: one that fails, or dies, is no other's business."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from maskc.compilation import workers
from maskc.errors import InputError, MaskcError
from tests.maskc import build
from tests.maskc.command import ROOT, files, maskc, refused


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two models and a file that is none; the working directory is the one above."""
    (tmp_path / "models").mkdir()
    build.save(build.mlp(), tmp_path / "models" / "a.onnx")
    build.save(build.mlp(hidden=8), tmp_path / "models" / "c.onnx")
    (tmp_path / "models" / "b.onnx").write_text("junk")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


@pytest.mark.slow
def test_outputs_are_next_to_each_or_in_a_directory(models: Path) -> None:
    assert maskc("compile", "models/a.onnx", "models/c.onnx").exit_code == 0
    assert files(models) == ["a.compiled.onnx", "a.onnx", "b.onnx", "c.compiled.onnx", "c.onnx"]
    assert maskc("compile", "models/a.onnx", "models/c.onnx", "-o", "new/small", "--jobs", 1).exit_code == 0
    small = models.parent / "new" / "small"
    assert files(small) == ["a.compiled.onnx", "c.compiled.onnx"]
    assert all((small / name).read_bytes() == (models / name).read_bytes() for name in files(small))


@pytest.mark.slow
def test_one_bad_model_does_not_stop_the_others(models: Path) -> None:
    result = maskc("compile", "models/a.onnx", "models/b.onnx", "models/nowhere.onnx", "models/c.onnx", "-o", "out")
    assert result.exit_code == 2
    assert files(models.parent / "out") == ["a.compiled.onnx", "c.compiled.onnx"]
    errors = sorted(result.stderr.splitlines())
    assert [line.split()[:2] for line in errors] == [["Error:", f"models/{name}.onnx"] for name in ("b", "nowhere")]
    assert "models/a.onnx → out/a.compiled.onnx: 412 → 196 FLOPs, 2.10×" in result.stdout
    assert "2 of 4 models failed." in result.stdout
    table = result.stdout.partition("\nModel ")[2]
    rows = [line.split() for line in table.splitlines() if line.startswith("models/")]
    assert [(row[0], row[-1]) for row in rows] == [
        ("models/a.onnx", "verified"),
        ("models/b.onnx", "failed"),
        ("models/c.onnx", "verified"),
        ("models/nowhere.onnx", "failed"),
    ]


@pytest.mark.slow
def test_a_directory_into_which_nothing_goes_is_not_left(models: Path) -> None:
    assert maskc("compile", "models/b.onnx", "models/nowhere.onnx", "-o", "new/out").exit_code == 2
    assert not (models.parent / "new").exists()


@pytest.mark.slow
def test_json_holds_a_report_or_an_error_for_each(models: Path) -> None:
    result = maskc("compile", "models/a.onnx", "models/b.onnx", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == told["exit_code"] == 2
    good, bad = told["models"]  # in the order in which they were given
    assert good["report"]["after"]["flops"] == 196 and good["error"] is None and good["exit_code"] == 0
    assert bad["report"] is None and bad["output"] is None and "b.onnx" in bad["error"] and bad["exit_code"] == 2


@pytest.mark.slow
def test_quiet_prints_errors_only(models: Path) -> None:
    result = maskc("compile", "models/a.onnx", "models/b.onnx", "-q")
    assert result.stdout == "" and result.stderr.startswith("Error: models/b.onnx ")


def test_nothing_takes_the_place_of_an_input_or_of_another_output(models: Path) -> None:
    assert maskc("compile", "models/a.onnx").exit_code == 0
    before = (models / "a.compiled.onnx").read_bytes()
    result = maskc("compile", "models/a.onnx", "models/a.compiled.onnx")
    refused(result, 2, "would overwrite models/a.compiled.onnx")
    (models / "more").mkdir()
    build.save(build.mlp(), models / "more" / "a.onnx")
    refused(maskc("compile", "models/a.onnx", "models/more/a.onnx", "-o", "out"), 2, "would be one file")
    refused(maskc("compile", "models/a.onnx", "models/a.onnx"), 2, "models/a.onnx is given twice")
    refused(maskc("compile", "models/a.onnx", "models/../models/a.onnx", "-o", "out"), 2, "is given twice, once as")
    assert (models / "a.compiled.onnx").read_bytes() == before and not (models.parent / "out").exists()


def test_what_is_for_one_model_only_is_refused(models: Path) -> None:
    two = ("models/a.onnx", "models/c.onnx")
    refused(maskc("compile", *two, "--report", "r.html"), 2, "--report", "for one model")
    refused(maskc("compile", *two, "-o", "small.onnx"), 2, "small.onnx", "directory")
    refused(maskc("compile", *two, "-o", "models/b.onnx"), 2, "models/b.onnx", "directory")
    refused(maskc("compile", *two, "--jobs", 0), 2, "1 or more")
    assert files(models) == ["a.onnx", "b.onnx", "c.onnx"]


@pytest.mark.slow
def test_rules_are_loaded_in_each_process(models: Path) -> None:
    (models / "rules.py").write_text("from pathlib import Path\nimport os\nPath(f'loaded.{os.getpid()}').touch()\n")
    assert maskc("compile", "models/a.onnx", "models/c.onnx", "--rules", "models/rules.py").exit_code == 0
    assert len(list(models.parent.glob("loaded.*"))) == 2


def half(number: int) -> int:
    """A task that does not always come to an end."""
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 2:
        raise InputError(f"{number} is odd.")
    if number > 10:
        raise ValueError("too large")
    return number // 2


def outcomes(tasks: Sequence[int], jobs: int) -> list[int | str]:
    found: dict[int, int | MaskcError] = dict(workers.each(half, tasks, jobs))
    return [outcome if isinstance(outcome, int) else str(outcome) for _, outcome in sorted(found.items())]


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_of_its_task_alone() -> None:
    four, odd, dead, unexpected = outcomes([8, 3, 0, 12], 3)
    assert four == 4 and odd == "3 is odd."
    assert "signal 9" in str(dead) and "--jobs" in str(dead)
    assert "ValueError: too large" in str(unexpected)


def test_files_of_the_working_directory_are_not_taken_for_modules_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("select", "signal", "pickle", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of a user')\n")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    assert outcomes([8], 1) == [4]
    assert dict(os.environ) == before


def test_a_script_without_a_main_guard_is_told_of_it(tmp_path: Path) -> None:
    """Its workers, which import it, end without a word, and without the script being run on."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom maskc.compilation import workers\nfrom maskc.errors import InputError\n"
        "try:\n    print(*workers.each(len, [[], []], 2))\nexcept InputError as error:\n    sys.exit(str(error))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where maskc need not be installed
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert re.fullmatch(r"Worker processes import the main module.* `if __name__ == .__main__.:`\.\n", run.stderr)
    assert not run.stdout
