"""`maskc sweep`: which points there are, what is found of them, what is taken up again, and what is worth having."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

import maskc as api
import passes
from maskc import frontend
from maskc.errors import InputError
from maskc.frontend import write_model_files
from maskc.pruning.sweeps import pareto, run, sweep_report, work
from maskc.pruning.sweeps.record import Level, Origin, Point, Record
from maskc.pruning.sweeps.sweep_report import charts, page
from maskc.results.measurements import Figures, Latency
from tests.maskc import build
from tests.maskc.command import ROOT, each_here, full_disk, maskc, refused, succeeded
from tests.maskc.compilation.test_large import scattered
from tests.passes.text import model as written

# The sum of all weights, which takes the place of an evaluation: it is quick, and not the same for any two models.
EVALUATE = """
import sys, onnx
from onnx import numpy_helper
weights = [numpy_helper.to_array(t) for t in onnx.load(sys.argv[1]).graph.initializer]
print("the quality is")
print(sum(abs(w).sum() for w in weights if w.dtype.kind == "f"))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model without masks in the working directory, a file of masks for it, and a program that rates models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rate.py").write_text(EVALUATE)
    np.savez(tmp_path / "mine.masks.npz", c=np.tile([1, 1, 0, 1], 4))
    return build.save(build.mlp(masked=False), tmp_path / "model.onnx")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "each", each_here)


RATE = f"{shlex.quote(sys.executable)} rate.py {{model}}"


def recorded(directory: str) -> Any:
    return json.loads(Path(directory, "sweep.json").read_text())


def test_targets_are_reached_and_masks_are_written_beside_the_models(model: Path) -> None:
    succeeded("sweep", model, "--targets", "0.6,0.3", "--align", "none", "--seconds", 0, "-o", "out")
    total = passes.count(onnx.load(model)).flops
    for target in (0.6, 0.3):
        flops = passes.count(onnx.load(f"out/flops-{target}.align-none.onnx")).flops
        assert flops <= target * total
        masks = f"out/flops-{target}.masks.npz"
        succeeded("compile", model, "--masks", masks, "--align", "none", "-o", "again.onnx")
        assert Path("again.onnx").read_bytes() == Path(f"out/flops-{target}.align-none.onnx").read_bytes()
    for point, target in zip(recorded("out")["points"], (0.6, 0.3), strict=True):
        assert (point["name"], point["verified"], point["latency"]) == (f"flops-{target} align=none", True, None)
        assert point["share"] == passes.count(onnx.load(f"out/{point['output']}")).flops / total


@pytest.mark.usefixtures("here")
def test_the_record_is_as_its_schema_says(model: Path) -> None:
    assert maskc("sweep", model, "--targets", "0.5", "--seconds", 0.05, "--quality", RATE).exit_code == 0
    schema = json.loads((ROOT / "maskc" / "report" / "schema" / "sweep-1.json").read_text())
    jsonschema.validate(recorded("model.sweep"), schema)
    (point,) = recorded("model.sweep")["points"]
    assert point["latency"]["runs"] >= 20 and point["quality"] > 0
    assert point["time"] == point["latency"]["after"][1] / point["latency"]["before"][1]


@pytest.mark.slow
def test_levels_by_masks_and_by_models_in_several_ways(model: Path) -> None:
    build.save(build.mlp(), Path("other.onnx"))
    options = ("--masks", "mine.masks.npz", "--adapters", "auto,never", "--seconds", 0, "-o", "out", "--json")
    told = json.loads(maskc("sweep", model, "other.onnx", *options).stdout)
    assert [(p["level"], p["options"]["adapters"]) for p in told["points"]] == [
        (level, adapters) for level in ("model", "other", "mine") for adapters in ("auto", "never")
    ]
    flops = [point["figures"]["flops"] for point in told["points"]]
    assert flops[0] == flops[1] > flops[4] > flops[2] == flops[3]
    assert told == recorded("out")


@pytest.mark.usefixtures("here")
def test_what_is_there_already_is_not_done_again(model: Path) -> None:
    base = ("sweep", model, "-o", "out", "--quality", RATE, "--targets")
    assert maskc(*base, "0.5", "--seconds", 0.05).exit_code == 0
    first, written = recorded("out")["points"][0], Path("out/flops-0.5.onnx").stat().st_mtime_ns
    Path("rate.py").write_text("print(-1)")  # whoever is rated again has this
    assert maskc(*base, "0.5,0.25", "--seconds", 0.05).exit_code == 0
    again, new = recorded("out")["points"]
    assert again == first | {"dominated_by": again["dominated_by"]}
    assert Path("out/flops-0.5.onnx").stat().st_mtime_ns == written
    assert new["name"] == "flops-0.25" and new["quality"] == -1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("change", ["the model", "an option", "the masks", "the file"])
def test_what_has_changed_is_done_again(model: Path, change: str) -> None:
    base = ["sweep", model, "-o", "out", "--masks", "mine.masks.npz", "--seconds", 0]
    assert maskc(*base).exit_code == 0
    before = Path("out/mine.onnx").stat().st_mtime_ns
    if change == "the model":
        build.save(build.changed(onnx.load(model), "w1", lambda weights: weights * 2), model)
    elif change == "an option":
        base.append("--no-verify")
    elif change == "the masks":
        np.savez("mine.masks.npz", c=np.tile([1, 0, 0, 1], 4))
    else:
        Path("out/mine.onnx").write_bytes(Path("out/mine.onnx").read_bytes()[:-1])
    assert maskc(*base).exit_code == 0
    assert Path("out/mine.onnx").stat().st_mtime_ns > before
    assert recorded("out")["points"][0]["verified"] is (change != "an option")
    onnx.checker.check_model("out/mine.onnx")


@pytest.mark.usefixtures("here")
def test_a_point_that_fails_does_not_stop_the_others(model: Path) -> None:
    np.savez("wrong.npz", nothing=np.ones(3))
    masks = ("--masks", "wrong.npz", "--masks", "mine.masks.npz")
    result = maskc("sweep", model, "--targets", "0.5,0.0001", *masks, "--seconds", 0)
    assert result.exit_code == 2
    errors = {point["name"]: point["error"] for point in recorded("model.sweep")["points"]}
    assert errors["flops-0.5"] is None and errors["mine"] is None
    assert "no tensor 'nothing'" in errors["wrong"] and "0.0001 of the FLOPs" in errors["flops-0.0001"]
    assert sorted(result.stderr.splitlines()) == sorted(f"Error: {n}: {e}" for n, e in errors.items() if e)


def test_where_all_layers_are_inside_a_branch_that_is_said(tmp_path: Path) -> None:
    both = "yes () => (float[n,4] t) { t = MatMul(x, w) }, else_branch = no () => (float[n,4] e) { e = MatMul(x, v) }"
    body = f"y = If (q) <then_branch = {both}>"
    nested = written("(float[n,8] x, bool q) => (float[n,4] y)", body, w=(8, 4), v=(8, 4))
    result = maskc("sweep", build.save(nested, tmp_path / "m.onnx"), "--targets", "0.5", "--seconds", 0)
    assert result.exit_code == 2 and "Layers in an If, Loop or Scan keep theirs." in result.stderr
    assert "Nothing more is pruned" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('good')", "must print a number last, and not 'good'"),
        ("print()", "must print a number last, and not 'nothing'"),
        ("print(float('nan'))", "printed nan"),
        ("raise SystemExit('no data here')", "ended with 1: no data here"),
    ],
)
def test_a_command_that_gives_no_quality_is_told_before_anything_is_compiled(
    model: Path, program: str, words: str
) -> None:
    Path("rate.py").write_text(program)
    refused(maskc("sweep", model, "--targets", "0.5", "-o", "out", "--quality", RATE), 2, words)
    assert not list(Path("out").glob("*.onnx"))


def test_bad_arguments_are_refused_and_leave_nothing_behind(model: Path) -> None:
    Path("bad.onnx").write_text("junk")
    for arguments, words in {
        ("bad.onnx",): "not an ONNX file",
        ("nowhere.onnx",): "does not exist",
        ("model.onnx", "--targets", "half"): "not a fraction, such as 0.01 or 1%",
        ("model.onnx", "--targets", "1.5"): "above 0 and up to 1",
        ("model.onnx", "--targets", "0.5,0.5"): "given twice",
        ("model.onnx", "--masks", "nowhere.npz"): "nowhere.npz does not exist",
        ("model.onnx", "--adapters", "some"): "auto, always, never",
        ("model.onnx", "--align", "none,some"): "whole number",
        ("model.onnx", "--quality", "rate"): "{model}",
        ("model.onnx", "--jobs", "0"): "1 or more",
        ("model.onnx", "--seconds", "-1"): "0 or more",
        ("model.onnx", "--seconds", "nan"): "0 or more",
        ("model.onnx", "--seconds", "inf"): "0 or more",
        ("model.onnx", "-o", "bad.onnx"): "not a directory",
    }.items():
        refused(maskc("sweep", *arguments), 2, words)
    assert not list(Path().glob("*.sweep"))


def test_what_is_refused_once_the_model_was_read_leaves_no_directory(model: Path) -> None:
    Path("rate.py").write_text("raise SystemExit('no data here')")
    Path("deep").mkdir()
    for arguments, words in {
        ("--masks", "mine.masks.npz", "--masks", "mine.npz"): "would have the same name",
        ("--masks", "mine.masks.npz", "--quality", RATE): "no data here",
    }.items():
        Path("mine.npz").write_bytes(Path("mine.masks.npz").read_bytes())
        refused(maskc("sweep", model, "-o", "deep/er/out", *arguments), 2, words)
        assert not list(Path("deep").iterdir())


def test_masks_are_written_whole_or_not_at_all(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_model_files, "write_arrays", full_disk)
    refused(maskc("sweep", model, "--targets", "0.5", "-o", "out"), 2, "flops-0.5.masks.npz cannot be written", "space")
    assert not Path("out").exists()


def test_a_record_that_is_none_is_not_overwritten(model: Path) -> None:
    Path("out").mkdir()
    for text, words in {
        "[]": "not the record of a sweep",
        "{": "cannot be read as JSON",
        '{"schema": 2}': "has schema 2",
        '{"schema": 1}': "needs exactly the keys",
    }.items():
        Path("out/sweep.json").write_text(text)
        refused(maskc("sweep", model, "-o", "out", "--seconds", 0), 2, words)
        assert Path("out/sweep.json").read_text() == text


@pytest.mark.usefixtures("here")
def test_the_table_and_the_page_say_what_is_dominated(model: Path) -> None:
    Path("rate.py").write_text("import sys\nprint(0.5 if 'flops' in sys.argv[1] else 1)")
    levels = ("--masks", "mine.masks.npz", "--targets", "0.9,0.3")
    result = maskc("sweep", model, *levels, "--seconds", 0, "--quality", RATE)
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if line[:1].isdigit()}
    assert rows["mine"].rstrip().endswith("best")
    assert rows["flops-0.9"].rstrip().endswith("dominated by 1") and rows["flops-0.3"].rstrip().endswith("best")
    text = Path("model.sweep/sweep.html").read_text()
    assert text.count('class="dominated"') == 1 and text.count('class="best"') == 2 and "dominated by 1" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "not measured" not in text + result.stdout


@pytest.mark.usefixtures("here")
def test_nobody_takes_an_unmeasured_quality_for_a_good_one(model: Path) -> None:
    """And levels that come to the same file are one candidate, of which the others are no rivals."""
    result = succeeded("sweep", model, "--targets", "0.55,0.5,0.3", "--seconds", 0.05)
    assert "Note: Quality was not measured. Pruned candidates compute other outputs" in result.stdout
    assert "<strong>Quality was not measured.</strong>" in Path("model.sweep/sweep.html").read_text()
    first, twin, other = result.stdout.splitlines()[3:6]
    assert twin.rstrip().endswith("same model as 1") and "dominated" not in first + other
    source = result.stdout.splitlines()[2].split()
    assert float(source[3]) > 0, "its time, which the others are divided by"
    same = succeeded("sweep", model, "--align", "none,auto", "--seconds", 0)
    assert "not measured" not in same.stdout + Path("model.sweep/sweep.html").read_text()
    assert "Note: Nothing is pruned. " in same.stdout
    masked = build.save(build.mlp(), Path("masked.onnx"))
    assert "Note: Nothing more is pruned. " in succeeded("sweep", masked, "--targets", "0.9", "--seconds", 0).stdout


def figures(flops: int) -> Figures:
    return Figures(flops, flops // 2, flops, flops)


def point(name: str, time: float | None, quality: float | None, level: str = "a", flops: int = 10) -> Point:
    return Point(name, level, {}, name, "", figures=figures(flops), share=flops / 100, time=time, quality=quality)


def dominated(points: list[Point], quality: float | None = 1.0, lower: bool = False) -> dict[str, str | None]:
    source = Origin("m", "m", "", figures(100), quality)
    return {p.name: p.dominated_by for p in pareto.marked(points, source, lower)}


def test_a_point_is_dominated_by_one_that_is_no_worse_and_no_slower() -> None:
    points = [point("a", 0.5, 0.9), point("b", 0.6, 0.8), point("c", 0.4, 0.7), point("d", 0.5, 0.9)]
    assert dominated(points) == {"a": None, "b": "a", "c": None, "d": None}
    assert dominated([point("a", 1.1, 1.0)]) == {"a": "source"}
    assert dominated([point("a", 0.5, 0.9), point("b", 0.4, 0.8)], lower=True) == {"a": "b", "b": None}


def test_fewer_flops_are_not_dominated_within_the_noise_of_the_times() -> None:
    def timed(name: str, time: float, spread: float, flops: int) -> Point:
        latency = Latency((1.0, 1.0, 1.0), (time - spread, time, time + spread), 9, {}, 1 / time)
        return dataclasses.replace(point(name, time, 0.9, flops=flops), latency=latency)

    for spread, expected in ((0.05, None), (0.001, "b")):
        points = [timed("a", 0.52, spread, 10), timed("b", 0.5, spread, 20)]
        assert dominated(points) == {"a": expected, "b": None}
        points = [timed("a", 0.52, spread, 20), timed("b", 0.5, spread, 10)]
        assert dominated(points) == {"a": "b", "b": None}, "more FLOPs"


def test_a_point_without_quality_is_not_best() -> None:
    source = Origin("m", "m", "", figures(100), 1.0)
    points = pareto.marked([point("a", 0.5, 0.9), point("b", 0.1, 0.0)], source, False)
    sweep = Record(1, "", {}, "", "", "cpu", "accuracy", False, source, (), points)
    said = {item.name: sweep_report.verdict(item, sweep)[0] for item in points}
    assert said == {"a": "best, not verified", "b": "no quality left, not verified"}
    kinds = [[dot.kind for dot in chart.dots] for chart in sweep_report.charts(sweep)]
    assert kinds and all(sorted(found) == ["best", "dominated", "source"] for found in kinds)
    losses = dataclasses.replace(sweep, lower_is_better=True)
    assert "no quality" not in sweep_report.verdict(points[1], losses)[0]


def test_it_is_said_which_candidates_have_more_flops_than_asked_for() -> None:
    levels = (Level("half", "m", "n", 0.5, ""), Level("all", "m", None, None, ""))
    points = [point("a", 0.5, 0.9, "half"), point("b", 0.5, 0.9, "half"), point("c", 0.9, 0.9, "all")]
    points = [dataclasses.replace(each, share=share) for each, share in zip(points, (0.5, 0.56, 0.9), strict=True)]
    source = Origin("m", "m", "", figures(100), 1.0)
    sweep = Record(1, "", {}, "", "", "cpu", "accuracy", False, source, levels, tuple(points))
    told = "b has more FLOPs than asked for: channels are kept where that is faster. With --align none they go."
    assert sweep_report.above(sweep) == told
    assert not sweep_report.above(dataclasses.replace(sweep, points=tuple(points[::2])))


def test_without_quality_points_of_one_level_are_compared_by_time_or_by_flops() -> None:
    points = [point("a", 0.5, None), point("b", 0.6, None), point("c", 0.9, None, "other")]
    assert dominated(points, None) == {"a": None, "b": "a", "c": None}
    untimed = [point("a", None, None, flops=20), point("b", None, None, flops=10)]
    assert dominated(untimed, None) == {"a": "b", "b": None}


@pytest.mark.usefixtures("here")
def test_in_python_with_a_model_in_memory_and_a_function(tmp_path: Path) -> None:
    calls = []

    def quality(path: Path) -> float:
        calls.append(path.name)
        return float(path.stat().st_size)

    model, policies = build.mlp(masked=False), [{}, {"adapters": "always"}]
    targets = list(np.array([0.5], np.float32))
    result = api.sweep(model, tmp_path / "out", targets=targets, policies=policies, quality=quality, seconds=0)
    assert [p.name for p in result.points] == ["flops-0.5", "flops-0.5 adapters=always"]
    assert calls == ["source.onnx", "flops-0.5.onnx", "flops-0.5.adapters-always.onnx"]
    assert all(p.quality == (tmp_path / "out" / p.output).stat().st_size for p in result.points)
    with pytest.raises(InputError, match="'speed' is none of them"):
        api.sweep(model, tmp_path / "out", policies=[{"speed": 1}])
    with pytest.raises(InputError, match="must be more than 0, and not 'x'"):
        api.sweep(model, tmp_path / "out", policies=[{"align_seconds": "x"}])
    assert all(chart.dots for chart in charts(result)) and "flops-0.5" in page(result)


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a Ray cluster of one node, which ends with the test."""
    pytest.importorskip("ray", reason="ray is not installed")
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"),
                *("--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=80000000"),
                *("--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={directory}"),
            ],
            # whether this user has a token for clusters is not what is tested
            env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[str]) -> str:
    """What the head says of where it is, once it has started."""
    assert process.stdout is not None
    told, end = [], time.monotonic() + 240
    for line in process.stdout:
        told.append(line)
        if "--address='" in line:
            return line.split("--address='")[1].split("'")[0]
        if time.monotonic() > end:
            break
    raise AssertionError("".join(told))


@pytest.mark.slow
def test_on_a_ray_cluster_it_comes_to_the_same(model: Path, head: str) -> None:
    np.savez("wrong.npz", nothing=np.ones(3))
    Path("rules.py").write_text("import maskc\n")
    base = ("sweep", model, "--targets", "0.5", "--masks", "wrong.npz", "--adapters", "auto,never", "--seconds", 0)
    assert maskc(*base, "-o", "here").exit_code == 2
    result = maskc(*base, "-o", "there", "--ray", head, "--rules", "rules.py")
    assert result.exit_code == 2 and "wrong" in result.stderr, result.stderr
    here, there = recorded("here")["points"], recorded("there")["points"]
    told = ("name", "figures", "sha256", "verified", "error", "exit_code")
    assert [{key: p[key] for key in told} for p in here] == [{key: p[key] for key in told} for p in there]
    files = [{p.name: p.read_bytes() for p in Path(d).glob("*.onnx")} for d in ("here", "there")]
    assert files[0] == files[1] and len(files[0]) == 2


def test_files_travel_under_the_names_that_the_model_gives_them(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    scattered(build.mlp(), tmp_path / "real")
    link = tmp_path / "link"
    link.symlink_to("real")
    files = frontend.read(link / "m.onnx").files
    assert set(work._content(files, link)) == {"m.onnx", "weights", "inner/more weights"}


def test_ray_that_is_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    refused(maskc("sweep", model, "--ray", "127.0.0.1:1"), 3, "No Ray cluster answers at 127.0.0.1:1")
    monkeypatch.setattr(work.importlib.util, "find_spec", lambda name: None)
    refused(maskc("sweep", model, "--ray", "auto"), 3, "maskc[ray]")


@pytest.mark.slow
def test_widths_that_are_measured_are_measured_alone_and_here(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    each = run.each

    def noted(call: Any, tasks: Any, jobs: int, rules: Any) -> Any:
        rounds.append((jobs, [task.options.align for task in tasks]))
        return each(call, tasks, jobs, rules)

    monkeypatch.setattr(run, "each", noted)
    options = [{"align": "measure", "align_seconds": 0.1}, {"align": 4}, {"align": "none"}]
    result = api.sweep(model, "out", masks=["mine.masks.npz"], policies=options, seconds=0, jobs=2)
    assert rounds == [(2, [4, "none"]), (1, ["measure"])] and result.exit_code == 0
