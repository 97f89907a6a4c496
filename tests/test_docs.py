"""What the pages show works, to the letter: every code block is run, or is in the list of those that are not."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper

from maskc.cli import app
from passes.ops import base
from tests.documentation import PAGES, ROOT, Reader, blocks, comparable, markers, runs, session
from tests.maskc.command import maskc
from tests.passes import text

FIXTURES = ROOT / "fixtures"
RUN = [page for page in PAGES if any(map(runs, blocks(page)))]


def fixture(name: str) -> Callable[[Path], dict[str, Any]]:
    """This one of the repository's models, with masks."""

    def prepare(directory: Path) -> dict[str, Any]:
        shutil.copy(FIXTURES / f"{name}.onnx", directory / "model.onnx")
        return {}

    return prepare


def data(directory: Path) -> dict[str, Any]:
    """README.md: pictures and labels to train on, a model with masks and inputs, a Keras model, and a baseline."""
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(directory / "model.keras")
    rng = np.random.default_rng(0)
    source = text.model(
        "(float[N,3,H,W] x) => (float[N,4,H,W] y)",
        "h = Conv<pads = [1, 1, 1, 1]>(x, w)\n m = Mul(h, k)\n r = Relu(m)\n y = Conv(r, v)",
        w=text.random(8, 3, 3, 3),
        v=text.random(4, 8, 1, 1),
        k=text.mask(1, 0, 1, 1, 0, 0, 1, 1),
    )
    onnx.save(source, directory / "model.onnx")
    np.savez(directory / "masks.npz", r=np.array([1, 1, 1, 0, 1, 1, 1, 1]))
    np.savez(directory / "inputs.npz", x=rng.normal(size=(64, 3, 8, 8)).astype(np.float32))
    maskc("check", "--update", "model.onnx")
    return {"images": rng.normal(size=(192, 28, 28, 1)).astype(np.float32), "labels": rng.integers(0, 10, 192)}


def dense(directory: Path) -> dict[str, Any]:
    """tutorial-onnx.md: scikit-learn's network, and its masks, and a transformer."""
    for name in ("sklearn.onnx", "sklearn.masks.npz", "transformer.onnx"):
        shutil.copy(FIXTURES / name, directory)
    return {}


def repository(directory: Path) -> dict[str, Any]:
    """ci.md: a repository with two models."""
    (directory / "models").mkdir()
    shutil.copy(FIXTURES / "digits.onnx", directory / "models")
    shutil.copy(FIXTURES / "masknet.onnx", directory / "models" / "ranking.onnx")
    np.savez(directory / "masks.npz", **{"functional_1_1/mask_layer_4_1/mul:0": np.arange(96) > 0})
    subprocess.run(["git", "init", "-q", "."], check=True)
    return {}


def pictures(directory: Path) -> dict[str, Any]:
    """training.md: pictures and labels, in batches as well, and a loss."""
    import keras

    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(64, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"images": images, "labels": labels, "batches": [(images[:32], labels[:32])], "loss": loss}


def two(directory: Path) -> dict[str, Any]:
    """diff.md: a model and what it compiles to."""
    shutil.copy(FIXTURES / "resnet.onnx", directory)
    assert maskc("compile", "resnet.onnx", "--align", "none").exit_code == 0
    return {}


def compiled(directory: Path) -> dict[str, Any]:
    """verification.md: a model and what it compiles to."""
    fixture("mlp")(directory)
    assert maskc("compile", "model.onnx").exit_code == 0
    return {}


def unmasked(directory: Path) -> dict[str, Any]:
    """sweep.md: scikit-learn's network, and what it says of some data."""
    import onnxruntime

    shutil.copy(FIXTURES / "sklearn.onnx", directory / "model.onnx")
    images = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    np.save(directory / "labels.npy", session.run(None, {"X": images})[0])
    return {}


PREPARED = {
    "README.md": data,
    "api.md": fixture("mlp"),
    "ci.md": repository,
    "custom-operators.md": fixture("mlp"),
    "diff.md": two,
    "report.md": fixture("transformer"),
    "sweep.md": unmasked,
    "training.md": pictures,
    "tutorial-onnx.md": dense,
    "verification.md": compiled,
    "targets.md": fixture("cnn"),
    "widths.md": fixture("cnn"),
}


def unmask_channels() -> None:
    """Two channels of a mask of the digits become ones again."""
    path = Path("models/digits.onnx")
    digits = onnx.load(path)
    (mask,) = (t for t in digits.graph.initializer if t.name == "digits_1/mask_layer_1_2/Cast/ReadVariableOp:0")
    values = numpy_helper.to_array(mask).copy()
    values.reshape(-1)[np.flatnonzero(values == 0)[:2]] = 1
    mask.CopyFrom(numpy_helper.from_array(values, mask.name))
    onnx.save(digits, path)


def change_a_weight() -> None:
    """The largest weight of a compiled model grows by one percent."""
    changed = onnx.load("model.compiled.onnx")
    tensor = max(changed.graph.initializer, key=lambda t: np.prod(t.dims))
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[np.abs(values).argmax()] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(changed, "model.compiled.onnx")


EVENTS = {"two channels are unmasked": unmask_channels, "a weight is changed": change_a_weight}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory to work in; rules that a page registers are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTEST_PLUGINS", "maskc.pytest_plugin")  # as where maskc is installed
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base, "_RULES", dict(base._RULES))
    yield tmp_path
    for name in tmp_path.glob("*.py"):
        sys.modules.pop(name.stem, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[getattr(pytest.mark, m) for m in markers(page)]) for page in RUN]
)
def test_the_page_is_true(page: Path, directory: Path) -> None:
    names = PREPARED.get(page.name, lambda _: {})(directory)
    reader = Reader(directory, names, EVENTS)
    for block in blocks(page):
        if runs(block):
            reader.follow(block)
    if os.environ.get("UPDATE_DOCS"):
        reader.rewrite(page)


def test_what_is_compared() -> None:
    assert comparable("a  b\n", False) == comparable("a b", False)
    assert comparable("took 1.5 s, 3 ms", False) == comparable("took 17 s, 12.25 ms", False)
    assert comparable("error 1.25e-07", False) == comparable("error 0.00e+00", False)
    assert comparable("976,668 FLOPs", False) != comparable("976,669 FLOPs", False)
    assert comparable("976,668 FLOPs", True) == comparable("1,976,669 FLOPs", True)
    assert comparable("passed", True) != comparable("failed", True)


def test_a_session_has_commands_and_outputs() -> None:
    text = "$ one \\\n  more\nout\nput\n$ two\n"
    assert list(session(text)) == [("one \\\n  more", "out\nput\n"), ("two", "")]


def test_a_page_that_lies_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPDATE_DOCS", raising=False)
    page = tmp_path / "page.md"
    for content, complaint in {
        "```console\n$ echo 1\n2\n```": "prints\n1",
        "```console\n$ false\n```": "ended with 1",
        "```python\nprint(1)\n```\n<!-- printed -->\n```text\n2\n```": "prints\n1",
        "```sh\nfalse\ntrue\n```": "ended with 1",
        "<!-- exit code: 1 -->\n```sh\ntrue\n```": "ended with 0",
    }.items():
        page.write_text(content)
        reader = Reader(tmp_path, {}, {})
        *before, last = blocks(page)
        for block in before:
            reader.follow(block)
        with pytest.raises(AssertionError, match=complaint):
            reader.follow(last)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]* src=\"?https?:|<link[^>]* href=\"?https?:|@import|url\(https?:"
    )
    for file in tmp_path.rglob("*"):
        if file.suffix in (".html", ".css"):
            assert not loaded.search(file.read_text(encoding="utf-8")), file
    for name in ("api", "api-train", "api-passes"):
        signatures = re.sub("<[^>]*>", "", (tmp_path / f"{name}.html").read_text(encoding="utf-8"))
        assert not re.search(r" = [A-Z][A-Z_]+,?$", signatures, re.M), "defaults are shown by their values"
    assert (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    assert "K101" in (tmp_path / "reasons.html").read_text(encoding="utf-8")
    reference = (tmp_path / "cli.html").read_text(encoding="utf-8")
    for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"maskc {command}" in reference
    assert "list[Path]" not in reference and "x&gt;=" not in reference.lower(), "the reference is not in Python's words"
    assert ".md]" not in (tmp_path / "changelog.html").read_text(encoding="utf-8"), "links in links"
