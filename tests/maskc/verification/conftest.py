"""What tests of comparing models share."""

from pathlib import Path

import pytest

import maskc
from tests.maskc import build


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The perceptron and what it is compiled to."""
    reference = build.save(build.mlp(), tmp_path / "mlp.onnx")
    maskc.compile(reference).save(tmp_path / "small.onnx")
    return reference, tmp_path / "small.onnx"
