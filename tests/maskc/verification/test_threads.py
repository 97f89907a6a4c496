"""Several threads of one process compile and verify: each as if alone, and what is the process's stays as it was."""

import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import maskc
from tests.maskc import build
from tests.maskc.command import process

THREADS = 8

# Files are written as well, whose permissions follow from the process's mask.
FILES = """
import os, sys, threading
import maskc
os.umask(0o027)
def save(number):
    for turn in range(20):
        made.save(os.path.join(sys.argv[2], f"{number}-{turn}.onnx"))
made = maskc.compile(sys.argv[1])
threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(oct(os.umask(0)), sorted({oct(entry.stat().st_mode & 0o777) for entry in os.scandir(sys.argv[2])}))
"""


@pytest.mark.slow
def test_results_are_those_of_one_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [build.save(build.mlp(hidden=8 + 2 * number), tmp_path / f"{number}.onnx") for number in range(THREADS)]
    alone = [maskc.compile(model).model.SerializeToString(deterministic=True) for model in models]
    before = sys.stdout, sys.stderr, list(warnings.filters), logging.getLogger("tensorflow").level

    def work(number: int) -> None:
        for turn in range(2):
            made = maskc.compile(models[number], verify=True)
            assert made.model.SerializeToString(deterministic=True) == alone[number]
            assert maskc.verify(models[number], made.model, samples=2).passed
            print(f"thread {number}, turn {turn}")

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))
    assert (sys.stdout, sys.stderr, list(warnings.filters), logging.getLogger("tensorflow").level) == before
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [f"thread {number}, turn {turn}" for number in range(THREADS) for turn in range(2)]


def test_permissions_of_files_are_those_that_the_process_gives(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    result = process(source, tmp_path / "out", code=FILES)
    assert (result.stdout, result.stderr) == ("0o27 ['0o640']\n", "")


def test_a_session_that_cannot_be_made_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same for what is asked for shapes of operators that only ONNX Runtime knows."""
    import onnxruntime

    def fails(*arguments: Any, **more: Any) -> None:
        raise ValueError("'utf-8' codec can't decode byte 0xe5 in position 196")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fails)
    body = "a = com.microsoft.Sampler(x) y = Relu(a)"
    built = build.model("(float[n,4] x) => (float[n,4] y)", body, checked=False)
    maskc.compile(build.save(built, tmp_path / "m.onnx"), verify=False)
    assert capfd.readouterr().out == ""


def test_a_provider_that_fails_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime falls back to the CPU by itself, and prints that; then stdout is not what a command wrote."""
    import onnxruntime

    class Failing(onnxruntime.InferenceSession):  # type: ignore[misc]
        def _create_inference_session(self, providers: Any, *options: Any, **more: Any) -> None:
            if providers and providers[0][0] == "CUDAExecutionProvider":
                raise RuntimeError("there is no driver")
            super()._create_inference_session(["CPUExecutionProvider"], *options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Failing)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    with pytest.raises(maskc.UnavailableError, match="CUDA cannot be used"):
        maskc.verify(source, source, provider="cuda")
    assert capfd.readouterr().out == ""
