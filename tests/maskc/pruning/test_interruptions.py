"""Runs of `maskc prune` that are interrupted, or have no room to write."""

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from maskc.errors import InputError
from tests.maskc.command import files, process, refused, succeeded
from tests.maskc.command import maskc as command
from tests.maskc.pruning.networks import gemm, in_files


def test_an_interrupted_run_leaves_its_best_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = [*in_files(tmp_path), "--epochs", "3"]
    monkeypatch.chdir(tmp_path)
    saved: list[Any] = []

    def trained(ends: str, model: onnx.ModelProto, *_: Any, **given: Any) -> tuple[onnx.ModelProto, bool]:
        saved.append(given["saved"])
        given["keep"]({"position": np.array([7])})
        if ends == "fails":
            raise InputError("The disk is gone.")
        return model, ends == "is interrupted"

    def training(ends: str) -> None:
        monkeypatch.setattr("maskc.pruning.prune.fine_tuned", functools.partial(trained, ends))

    training("is interrupted")
    stopped = command(*begun)
    assert stopped.exit_code == 130 and "small.onnx is the best so far" in stopped.stderr
    assert files(tmp_path) == ["model.onnx", "small.onnx", "small.onnx.resume", "x.npy"]
    refused(command(*begun), 2, "small.onnx.resume is of a run that was interrupted. Go on with --resume")
    refused(command(*begun, "--seed", "1", "--resume"), 2, "of a run with other options")
    training("fails")
    refused(command(*begun, "--resume"), 2, "The disk is gone. ", "small.onnx is the result without training: --resume")
    training("ends")
    succeeded(*begun[:-1], "5", "--minutes", "2", "--resume")  # it may go on for longer, or not as long
    assert [None if given is None else int(given["position"][0]) for given in saved] == [None, 7, 7]
    assert files(tmp_path) == ["model.onnx", "small.onnx", "x.npy"]
    assert "small.onnx.resume to go on from, so the run starts over." in command(*begun, "--resume").stderr
    Path("small.onnx.resume").write_bytes(b"PK")
    refused(command(*begun, "--resume"), 2, "small.onnx.resume cannot be read")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    import resource

    words = in_files(tmp_path)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most[1]))
    try:
        result = command(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    refused(result, 2, "small.onnx cannot be written: File too large.")
    assert files(tmp_path) == ["model.onnx", "x.npy"]


STAGES = [
    *("Finding channels", "Observing layers", "Measuring sensitivity", "Choosing channels", "Refitting"),
    *("Compiling", "Comparing", "Measuring quality"),
]


# A signal as a stage begins.
SIGNALLED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from maskc import progress
from maskc.cli import main
tell, (number, title) = progress._tell, sys.argv[1:3]
def told(event):
    tell(event)
    if getattr(event, "title", None) == title and event.seconds is None:
        os.kill(os.getpid() if number == "9" else os.getppid(), int(number)); time.sleep(9)
progress._tell = told
del sys.argv[1:3]
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no second process")
@pytest.mark.parametrize(
    ("stage", "number"),
    [(stage, signal.SIGINT) for stage in STAGES]
    + [(stage, number) for stage in STAGES[::2] for number in (signal.SIGTERM, 9)],
)
def test_an_interruption_leaves_nothing_half_done(tmp_path: Path, stage: str, number: int) -> None:
    result = process(int(number), stage, *in_files(tmp_path), code=SIGNALLED)
    if number == 9:
        assert (result.returncode, "The process ended unexpectedly (SIGKILL)" in result.stderr) == (5, True)
    else:
        assert (result.returncode, result.stderr) == (128 + number, "Error: Interrupted.\n")
    assert files(tmp_path) == ["model.onnx", "x.npy"]


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no second process")
def test_an_interruption_ahead_of_the_search_leaves_nothing(tmp_path: Path) -> None:
    words = [*in_files(tmp_path), "--epochs", "40"]
    result = process(int(signal.SIGTERM), "Loading TensorFlow", *words, code=SIGNALLED)
    assert (result.returncode, result.stderr) == (128 + signal.SIGTERM, "Error: Interrupted.\n")
    assert files(tmp_path) == ["model.onnx", "x.npy"]


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no second process")
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("Training", signal.SIGINT),
        ("Training", signal.SIGTERM),
        ("Measuring quality", signal.SIGINT),
    ],
)
def test_an_interruption_while_training_leaves_the_best(tmp_path: Path, stage: str, number: int) -> None:
    """While there are steps, and after them."""
    words = [*in_files(tmp_path), "--epochs", "40"]
    there = "== title and (title != 'Measuring quality' or os.path.exists('small.onnx')) and"
    code = f"import os; os.chdir({str(tmp_path)!r})\n{SIGNALLED.replace('== title and', there)}"
    result = process(int(number), stage, *words, code=code)
    expected = 128 + number if stage == "Measuring quality" else 130
    assert (result.returncode, "nterrupted" in result.stderr) == (expected, True)
    assert onnx.load(tmp_path / "small.onnx").ByteSize() < gemm().ByteSize()
    assert {*files(tmp_path)} - {"small.onnx.resume"} == {"model.onnx", "small.onnx", "x.npy"}
