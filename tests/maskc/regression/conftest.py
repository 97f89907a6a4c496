"""What tests of `maskc check` work on."""

from pathlib import Path

import pytest

from tests.maskc import build
from tests.maskc.command import maskc


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two models and their baseline, and the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    build.save(build.mlp(), tmp_path / "models" / "a.onnx")
    build.save(build.mlp(hidden=12), tmp_path / "models" / "b.onnx")
    assert maskc("check", "--update", "models/a.onnx", "models/b.onnx", "--jobs", "1").exit_code == 0
    return tmp_path
