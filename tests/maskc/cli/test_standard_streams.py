"""Pipes that nobody reads any more, and streams that were closed before: the exit code still tells the outcome."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.maskc import build
from tests.maskc.command import ROOT

pytestmark = pytest.mark.slow

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def unread(*arguments: Any, streams: tuple[str, ...]) -> int:
    """The exit code of the command, whose streams are pipes without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "maskc", *map(str, arguments)]
    try:
        return subprocess.run(command, env=ENVIRONMENT, check=False, **dict.fromkeys(streams, writer)).returncode
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("streams", "options"), [(("stdout",), ()), (("stdout", "stderr"), ("-v",))], ids=["one", "both, with steps"]
)
def test_nobody_reads(tmp_path: Path, streams: tuple[str, ...], options: tuple[str, ...]) -> None:
    source, output = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    assert unread("compile", source, "-o", output, *options, streams=streams) == 0
    other = build.save(build.changed(build.mlp(), "w2", lambda w: w * 2), tmp_path / "other.onnx")
    assert unread("verify", source, other, streams=streams) == 1
    assert unread("verify", source, tmp_path / "none.onnx", streams=streams) == 2


def test_nobody_reads_the_json(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    assert unread("compile", source, "--json", streams=("stdout",)) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    source, output = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    command = ["sh", "-c", f'exec "$0" -m maskc compile "$1" -o "$2" -v {closed}', sys.executable, source, output]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert build.run(output, x=[[1.0] * 8])["y"].shape == (1, 4)
