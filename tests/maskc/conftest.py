"""What tests of commands and of reading models share."""

from pathlib import Path
from typing import Any

import pytest

import maskc as api
from tests.maskc import build
from tests.maskc.command import maskc


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """The perceptron, in a file."""
    return build.save(build.mlp(), tmp_path / "mlp.onnx")


@pytest.fixture
def pair(mlp: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The perceptron and what it is compiled to."""
    api.compile(mlp).save(tmp_path / "small.onnx")
    return mlp, tmp_path / "small.onnx"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two models and their baseline, and the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    build.save(build.mlp(), tmp_path / "models" / "a.onnx")
    build.save(build.mlp(hidden=12), tmp_path / "models" / "b.onnx")
    assert maskc("check", "--update", "models/a.onnx", "models/b.onnx", "--jobs", "1").exit_code == 0
    return tmp_path


@pytest.fixture(scope="session")
def tf() -> Any:
    from maskc.frontend.tensorflow.importing import import_tensorflow

    return import_tensorflow()


@pytest.fixture(scope="module")
def keras(tf: Any) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    return keras
