"""What the README shows works, to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.passes.text import mask, model, random

README = (Path(__file__).parent.parent / "README.md").read_text()


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_readme_shows_training_and_the_python_interface() -> None:
    assert [("PruningOptimizer" in b, "maskc.compile" in b) for b in python_blocks()] == [(True, False), (False, True)]
    assert "make test" in README and "make demo" in README


@pytest.mark.tensorflow
def test_the_training_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {"images": rng.normal(size=(64, 28, 28, 1)).astype(np.float32), "labels": rng.integers(0, 10, 64)}
    block = python_blocks()[0].replace("epochs=20", "epochs=8, verbose=0").replace("burn_in=100", "burn_in=2")
    exec(compile(block.replace("prune_every=10", "prune_every=4"), "README", "exec"), names)
    assert (tmp_path / "model_dir" / "saved_model.pb").exists()
    optimizer = names["optimizer"]
    assert optimizer.history, "nothing was pruned"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = model(
        "(float[N,3] x) => (float[N,2] y)",
        "h = MatMul(x, w)\n m = Mul(h, k)\n y = MatMul(m, v)",
        w=random(3, 4),
        v=random(4, 2),
        k=mask(1, 0, 1, 1, rank=2),
    )
    (tmp_path / "model.onnx").write_bytes(source.SerializeToString())
    exec(compile(python_blocks()[1], "README", "exec"), {})
    assert (tmp_path / "small.onnx").exists()
