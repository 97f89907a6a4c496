"""The demo: all of it once."""

import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import save
from rich.console import Console

import maskc
from maskc.cli.demo import run as demo_run
from maskc.cli.demo.run import measure
from tests.maskc import build


def test_importing_the_demo_is_cheap() -> None:
    code = "import sys, maskc.cli.demo.run; sys.exit(any(m in sys.modules for m in ('tensorflow', 'sklearn', 'keras')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_measures_what_the_file_does(tmp_path: Path) -> None:
    """A model that says 0 for half of the images and 1 for the others."""
    path = tmp_path / "model.onnx"
    weight = np.array([[1.0, 0], [0, 1]])
    save(build.model("(float[batch,2] x) => (float[batch,2] y)", "y = MatMul(x, weight)", weight=weight), path)
    images = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    figures = measure({"only": path}, images, np.array([0, 1, 1, 1]))["only"]
    assert figures.accuracy == 0.75
    assert (figures.flops, figures.params) == (6, 4)
    assert figures.bytes == path.stat().st_size
    assert figures.latency > 0


@pytest.mark.slow
@pytest.mark.tensorflow
def test_whole_demo(tmp_path: Path) -> None:
    screen = io.StringIO()
    demo = demo_run.run(tmp_path / "new" / "folder")
    demo_run.show(demo, Console(file=screen, width=100))
    for shown in ("accuracy", "FLOPs", "parameters", "size", "latency", f"{demo.compiled.flops:,}"):
        assert shown in screen.getvalue()
    assert demo.optimizer_flops == demo.compiled.flops == maskc.flops(demo.compiled_model).flops
    assert demo.compiled.accuracy == demo.masked.accuracy and maskc.verify(demo.model, demo.compiled_model).passed
    assert demo.trained.accuracy > 0.97
    # Of 599 images a few more or fewer are chance, which the processor's rounding throws: three standard errors.
    errors = [figures.accuracy * (1 - figures.accuracy) / 599 for figures in (demo.trained, demo.compiled)]
    assert demo.compiled.accuracy >= demo.trained.accuracy - 3 * math.sqrt(sum(errors))
    assert 5 * demo.compiled.flops <= demo.trained.flops
    assert demo.compiled.params < demo.trained.params / 5
