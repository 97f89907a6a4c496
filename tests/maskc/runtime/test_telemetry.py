"""ONNX Runtime reports nothing of what is run, and leaves nothing in the user's folders, unless it is told to."""

from pathlib import Path

import pytest

from tests.maskc import build
from tests.maskc.command import process

SAID = "import maskc, os; print(maskc.verify('{0}', '{0}').passed, os.environ['ORT_DISABLE_TELEMETRY'])"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def test_nothing_is_left_in_the_users_folders(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    result = process("compile", source, HOME=str(home))
    assert (result.returncode, result.stderr) == (0, "")
    assert list(home.rglob("*")) == []


def test_who_turns_it_on_keeps_it(tmp_path: Path, home: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    result = process(code=SAID.format(source), HOME=str(home), ORT_DISABLE_TELEMETRY="0")
    assert result.stdout == "True 0\n"
