"""Processes that are told to end in the middle of writing leave nothing behind."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskc.frontend.part_folders import part_folder
from tests.maskc import build
from tests.maskc.command import maskc, process
from tests.maskc.compilation.test_large import files, scattered

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# Weights stay in files, however few; while the first is being written, a process is sent a signal.
SIGNALLED = """
import os, signal, time
from maskc.frontend import external_data, write_model_files
from passes.weights import streaming
from passes.weights.external_file import Store

def put(store, tensor, data):
    os.kill({process}, {signal})
    time.sleep(60)

external_data.STAYS = write_model_files.STAYS = 1
external_data.LARGE = streaming.LARGE = 65
Store.put = put
"""

# Files are written and folders removed again, and at some moment of each time a signal comes.
ANY_MOMENT = """
import random, signal, sys, time
from pathlib import Path
from maskc.frontend.part_folders import part_folder

class Told(BaseException):
    pass

def tell(number, frame):
    raise Told

directory = Path(sys.argv[1])
signal.signal(signal.SIGALRM, tell)
for _ in range(1500):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 6e-4))
        with part_folder(directory / "m.onnx") as folder:
            (folder / "half").write_bytes(b"of it")
        end = time.monotonic() + 1
        while time.monotonic() < end:  # until it comes, if not where Python ignores it, as in the end of an object
            pass
    except Told:
        pass
    assert list(directory.iterdir()) == []
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows ends processes without a word"),
]


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Processes inherit that signals are ignored, by whom `nohup` or a shell's background started; so not here."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def models(directory: Path, *names: str) -> list[Path]:
    made = []
    for name in names:
        (directory / name).mkdir()
        made.append(scattered(build.mlp(hidden=64), directory / name).rename(directory / name / f"{name}.onnx"))
    return made


# Other signals are told by who supervises a process, which here nobody does.
TOLD = {signal.SIGINT: "Error: Interrupted.\n"}


def compiled(directory: Path, *sources: Path, to: int, whom: str) -> subprocess.CompletedProcess[str]:
    """Two models side by side, each of which sends the signal to a process while it is written."""
    rules = directory / "rules.py"
    rules.write_text(SIGNALLED.format(process=whom, signal=to))
    return process("compile", *sources, "-o", directory / "out", "--jobs", 2, "--no-verify", "--rules", rules)


@pytest.mark.parametrize("told", SIGNALS)
def test_one_model(tmp_path: Path, told: int) -> None:
    (source,) = models(tmp_path, "a")
    code = SIGNALLED.format(process="os.getpid()", signal=int(told)) + "from maskc.cli import main\nmain()"
    result = process("compile", source, "-o", tmp_path / "out.onnx", "--no-verify", code=code)
    assert (result.returncode, result.stderr) == (128 + told, TOLD.get(told, ""))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("told", SIGNALS[:2])
def test_several_models(tmp_path: Path, told: int) -> None:
    result = compiled(tmp_path, *models(tmp_path, "a", "b"), to=int(told), whom="os.getppid()")
    assert (result.returncode, result.stderr) == (128 + told, TOLD.get(told, ""))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_whenever_a_signal_comes(tmp_path: Path) -> None:
    result = process(tmp_path, code=ANY_MOMENT)
    assert (result.returncode, result.stderr) == (0, "")


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    result = compiled(tmp_path, *models(tmp_path, "a", "b"), to=int(signal.SIGKILL), whom="os.getppid()")
    assert result.returncode == 5 and "ended unexpectedly (SIGKILL)" in result.stderr
    deadline = time.monotonic() + 60
    while any((tmp_path / "out").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_worker_that_is_told_to_end(tmp_path: Path) -> None:
    """It fails, alone and in a sentence."""
    result = compiled(tmp_path, *models(tmp_path, "a", "b"), to=int(signal.SIGTERM), whom="os.getpid()")
    assert result.returncode == 5
    assert sorted(line.split(":")[0] for line in result.stderr.splitlines()) == ["Error", "Error"]
    assert "Traceback" not in result.stderr and "exit code 143" in result.stderr
    assert files(tmp_path / "out") == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (source,) = models(tmp_path, "a")
    code = SIGNALLED.format(process="os.getpid()", signal=int(signal.SIGKILL)) + "from maskc.cli import app\napp()"
    for _ in range(2):
        assert process("compile", source, "-o", tmp_path / "out.onnx", code=code).returncode == -signal.SIGKILL
        assert [file.suffix for file in tmp_path.glob(".out.onnx.*")] == [".part"]
    assert maskc("compile", source, "-o", tmp_path / "out.onnx").exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "out.onnx"]


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    with part_folder(tmp_path / "out.onnx") as folder:
        (folder / "whole").write_bytes(b"half of it")
        assert process("compile", source, "-o", tmp_path / "out.onnx").returncode == 0
        assert (folder / "whole").read_bytes() == b"half of it"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]
