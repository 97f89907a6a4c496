"""No figure stands anywhere without the sizes that it was counted at, and none was counted at size 1 unsaid."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.main import get_command

import passes
from maskc.cli import app
from maskc.report.wording import counted_at, sizes_in_brief
from maskc.results.measurements import Figures
from passes.sizes.cost_values import CountedAt
from passes.sizes.prepare import shaped
from passes.sizes.sum_over_nodes import of_graph
from tests.maskc import build
from tests.maskc.command import maskc, refused, succeeded

USUAL, BRIEF = "FLOPs at image 1x3x224x224 (n, h, w open)", "1x3x224x224"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a model and what it compiles to."""
    monkeypatch.chdir(tmp_path)
    build.save(build.segmentation(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(8, 3, 224, 224)).astype(np.float32))
    assert maskc("compile", "m.onnx", "-o", "small.onnx", "--no-verify").exit_code == 0
    return tmp_path


# What each command prints or writes that has figures; a new command needs an entry.
SAYS: dict[str, list[tuple[str, ...]]] = {
    "flops": [("m.onnx",), ("m.onnx", "--json")],
    "compile": [
        ("m.onnx", "-o", "c.onnx"),
        ("m.onnx", "-o", "c.onnx", "--json"),
        ("m.onnx", "-o", "c.onnx", "--report", "r.html", "--report", "r.json", "--no-bench"),
        ("m.onnx", "small.onnx", "-o", "both", "--jobs", "1"),
    ],
    "diff": [("m.onnx", "small.onnx"), ("m.onnx", "small.onnx", "--json")],
    "verify": [
        ("m.onnx", "small.onnx", "--samples", "2"),
        ("m.onnx", "small.onnx", "--samples", "2", "--json", "--report", "v.html"),
    ],
    "check": [
        ("--update", "m.onnx", "--jobs", "1"),
        *(("--update", "m.onnx", "--jobs", "1", "--format", word) for word in ("markdown", "json")),
    ],
    "prune": [("m.onnx", "--data", "x.npy", "--epochs", "0", "-o", "p.onnx")],
    "sweep": [("m.onnx", "-o", "s", "--targets", "0.5", "--seconds", "0", "--no-verify", "--jobs", "1")],
}
# These print no figures of a model that a user gives; those of training are tested with it.
WITHOUT = {"explain", "recheck", "train", "demo", "version"}


def test_every_command_is_tried() -> None:
    assert set(get_command(app).commands) == {*SAYS, *WITHOUT}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        pytest.param(
            name, each, marks=[pytest.mark.slow] * (name in ("sweep", "prune") or "both" in each)
        )  # start processes
        for name, some in SAYS.items()
        for each in some
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_commands_and_reports_say_the_sizes(models: Path, command: str, arguments: tuple[str, ...]) -> None:
    before = set(models.rglob("*"))
    result = succeeded(command, *arguments)
    texts = [path.read_text() for path in set(models.rglob("*")) - before if path.suffix in (".html", ".json")]
    for text in (result.stdout, *texts):
        said = text.replace(" ", "").replace("\n", "")
        assert USUAL in text or BRIEF in text or '"sizes":{"image":[1,3,224,224]}' in said, text
        figures = {*map(int, re.findall(r"\d+", text.replace(",", "")))}
        for model in ("m.onnx", "small.onnx"):
            assert of_graph(shaped(onnx.load(model))).flops not in figures, text


@pytest.mark.parametrize("command", ["flops", "compile", "diff", "verify", "check"])
def test_at_counts_at_other_sizes_and_fixes_none(models: Path, command: str) -> None:
    result = succeeded(command, *SAYS[command][0], "--at", "image=1x3x16x32")
    assert "1x3x16x32" in result.stdout and BRIEF not in result.stdout
    if command == "compile":
        dims = onnx.load("c.onnx").graph.input[0].type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == ["n", 3, "h", "w"]
        assert Path("c.onnx").read_bytes() == Path("small.onnx").read_bytes()


def test_reductions_are_those_at_the_sizes(models: Path) -> None:
    told = json.loads(maskc("compile", "m.onnx", "-o", "c.onnx", "--at", "image=1x3x64x64", "--json").stdout)
    before, after = (
        passes.count(passes.fix_sizes(onnx.load(f), {"image": (1, 3, 64, 64)})) for f in ("m.onnx", "c.onnx")
    )
    assert told["reduction"] == before.flops / after.flops
    assert sum(layer["flops_after"] for layer in told["layers"]) <= told["after"]["flops"] == after.flops


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--at", "image=1x3x16"), ("has 4 dimensions, and 3 sizes",)),
        (("--at", "image=1x4x16x16"), ("has size 3 and cannot become 4",)),
        (("--at", "picture=1x3x16x16"), ("no input 'picture'", "'image'")),
        (("--at", "image=1,3,height,16"), ("must be numbers, or `?`", "'height'")),
        (("--at", "1x3x16x16"), ("cannot be read", "NAME=1x3x224x224")),
        (("--at", "image=?x3x8x8", "--at", "image=?x3x9x9"), ("given twice",)),
    ],
)
@pytest.mark.parametrize("command", ["flops", "compile"])
def test_sizes_that_cannot_be_counted_at_are_refused(
    models: Path, command: str, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    refused(maskc(command, "m.onnx", *words), 2, *said)


def test_two_models_are_counted_at_the_same_sizes(models: Path) -> None:
    """One of fixed sizes says at which the other, which takes any, is to be counted."""
    fixed = passes.fix_sizes(onnx.load("small.onnx"), {"image": (1, 3, 40, 40)})
    build.save(fixed, models / "fixed.onnx")
    for pair in (("m.onnx", "fixed.onnx"), ("fixed.onnx", "m.onnx")):
        told = json.loads(maskc("diff", *pair, "--json").stdout)
        assert told["before"]["at"]["sizes"] == told["after"]["at"]["sizes"] == {"image": [1, 3, 40, 40]}


def test_names_of_sizes_give_the_terminal_no_commands(models: Path) -> None:
    model = onnx.load("m.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h\x1b[31m"
    build.save(model, models / "m.onnx")
    assert "h\\x1b[31m, w open" in maskc("flops", "m.onnx").stdout


def test_a_shape_that_is_fixed_is_what_is_counted_at(models: Path) -> None:
    result = maskc("flops", "m.onnx", "--shape", "image=?x3x20x20")
    assert "FLOPs at image 1x3x20x20 (n open)" in result.stdout
    result = maskc("flops", "m.onnx", "--shape", "image=2x3x20x?", "--at", "image=?x3x20x30")
    assert "FLOPs at image 2x3x20x30 (w open)" in result.stdout


@pytest.mark.parametrize(
    ("sentence", "at"),
    [
        ("", CountedAt()),
        ("FLOPs at x 1x8", CountedAt({"x": (1, 8)})),
        ("FLOPs at a, b 1x128, c scalar (n open)", CountedAt({"a": (1, 128), "b": (1, 128), "c": ()}, ("n",))),
        (
            "FLOPs at x 5 (sizes that no input determines count as 1, in 2 nodes; one round of each loop counts)",
            CountedAt({"x": (5,)}, (), 2, 1),
        ),
        (
            "FLOPs at a 1, b 2, c 3, d 4 and 2 more",
            CountedAt({name: (size,) for size, name in enumerate("abcdef", 1)}),
        ),
    ],
)
def test_the_sentence(sentence: str, at: CountedAt) -> None:
    assert counted_at(at) == counted_at(at, at) == sentence


def test_two_models_of_other_sizes_have_a_sentence_of_their_own() -> None:
    before, after = CountedAt({"x": (1, 8)}, ("n",)), CountedAt({"y": (2, 8)})
    assert counted_at(before, after) == "FLOPs at x 1x8 (n open) before, at y 2x8 after"
    assert sizes_in_brief(CountedAt({"x": (1, 8), "y": (1, 8), "z": (3,)}, (), 1)) == "1x8, 3, others 1"
    assert Figures(1, 1, 1, 1).at == CountedAt()
