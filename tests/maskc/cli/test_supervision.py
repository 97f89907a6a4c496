"""A command can be ended whatever it is in, native code that hears of nothing included, and its end is always told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.maskc import build
from tests.maskc.command import ROOT, files, process

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no second process")]

# As at a terminal, wherever the tests run: shells and nohup have what they start in the background ignore these.
HEARS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
# What compiles is in native code, or dies in it, with a file half-written.
STUCK = f"""{HEARS}
import ctypes, os, sys, time
from pathlib import Path
import passes
from maskc.frontend import part_folders

def shrink(*arguments, **options):
    with part_folders.part_folder(Path("out.onnx")) as folder:
        (folder / "whole").write_bytes(b"half of it")
        print("begun", file=sys.__stdout__, flush=True)
        {{what}}

passes.shrink = shrink
from maskc.cli import main
main()
"""
NATIVE = "ctypes.PyDLL(None).usleep(60_000_000)"  # it holds Python's lock, so that no thread hears of anything either


def endless(rounds: int | None = None) -> onnx.ModelProto:
    """x[4] → Loop of so many rounds, or until the number of the round is 2⁶²."""
    body = f"""
        y = Loop({"rounds" if rounds else ""}, yes, x) <
            body = body (int64 i, bool on, float[4] state) => (bool still, float[4] next) {{
                still = Less(i, far)
                next = Sin(state)
            }}
        >
    """
    given = {"far": np.array(2**62), "yes": np.array(True)} | ({"rounds": np.array(rounds)} if rounds else {})
    return build.model("(float[4] x) => (float[4] y)", body, checked=False, **given)


def begun(directory: Path, what: str, *options: str) -> subprocess.Popen[str]:
    """A compilation that has come as far as to be stuck."""
    build.save(build.mlp(), directory / "m.onnx")
    return started(directory, STUCK.format(what=what), "compile", "m.onnx", "-o", "out.onnx", *options)


def started(directory: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    """A command in a process that says when it has begun."""
    made = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None and made.stdout.readline() == "begun\n", made.communicate()
    return made


def ended(process: subprocess.Popen[str], directory: Path) -> tuple[int, str]:
    """The exit code of a compilation, and what it says on stderr; nothing of what it was to write is left."""
    _, errors = process.communicate(timeout=60)
    assert files(directory) == ["m.onnx"]
    return process.returncode, errors


@pytest.mark.parametrize("told", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("what", [pytest.param(NATIVE, id="native"), pytest.param("time.sleep(60)", id="python")])
def test_a_signal_ends_it(tmp_path: Path, told: str, what: str) -> None:
    number = getattr(signal, told)
    stuck = begun(tmp_path, what)
    stuck.send_signal(number)
    assert ended(stuck, tmp_path) == (128 + number, "Error: Interrupted.\n")


def test_a_file_that_was_begun_before_a_signal_gives_no_more_time(tmp_path: Path) -> None:
    """Though the first process, which the system has not let run since, hears of both at once."""
    build.save(build.mlp(), tmp_path / "m.onnx")
    stopping = "    os.kill(os.getppid(), signal.SIGSTOP)\n    with part_folders"
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = STUCK.format(what=deaf).replace("    with part_folders", stopping)
    stuck = started(tmp_path, code, "compile", "m.onnx", "-o", "out.onnx")
    for number in (signal.SIGINT, signal.SIGCONT):
        stuck.send_signal(number)
    assert (*stuck.communicate(timeout=30), stuck.returncode) == ("", "Error: Interrupted.\n", 130)
    assert files(tmp_path) == ["m.onnx"]


GREEDY = "held = []\n        while True: held.append(bytearray(os.urandom(1) * 2**26)); time.sleep(0.02)"
MEMORY = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is looked up there")


@pytest.mark.parametrize(
    ("what", "option", "most", "words"),
    [
        pytest.param(NATIVE, "--timeout", "1.5", "1.5 seconds", id="native"),
        pytest.param("time.sleep(60)", "--timeout", "1.5", "1.5 seconds", id="python"),
        pytest.param(GREEDY, "--memory", "1", "1.0 GB of memory", id="memory", marks=MEMORY),
    ],
)
def test_what_it_may_take_is_over(tmp_path: Path, what: str, option: str, most: str, words: str) -> None:
    stuck = begun(tmp_path, what, option, most, "--json")
    output, errors = stuck.communicate(timeout=60)
    assert stuck.returncode == 6
    assert errors == f"Error: It took more than {words}. Give it more with {option}.\n"
    assert json.loads(output)["exit_code"] == 6
    assert files(tmp_path) == ["m.onnx"]


def test_a_loop_without_an_end(tmp_path: Path) -> None:
    source = build.save(endless(), tmp_path / "m.onnx")
    done = process("compile", source, "--timeout", "4")
    assert (done.returncode, "more than 4.0 seconds" in done.stderr) == (6, True)
    assert files(tmp_path) == ["m.onnx"]


def test_a_loop_of_too_many_rounds_is_not_run(tmp_path: Path) -> None:
    source = build.save(endless(2**20 + 1), tmp_path / "m.onnx")
    done = process("compile", source)
    said = "Not verified: The reference is not run: Loop 'y' has 1,048,577 rounds"
    assert done.returncode == 0 and said in " ".join(done.stderr.split())


def test_a_signal_ends_what_begins_again_after_a_crash(tmp_path: Path) -> None:
    again = "from maskc.runtime import isolation; isolation.suspected or os.kill(os.getpid(), signal.SIGSEGV)"
    stuck = begun(tmp_path, f"{again}; print('again', flush=True); {NATIVE}")
    assert stuck.stdout is not None and [stuck.stdout.readline() for _ in range(2)] == ["begun\n", "again\n"]
    stuck.send_signal(signal.SIGINT)
    assert ended(stuck, tmp_path) == (130, "Error: Interrupted.\n")


def test_it_dies(tmp_path: Path) -> None:
    stuck = begun(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    code, errors = ended(stuck, tmp_path)
    assert code == 5 and errors.startswith("Error: The process ended unexpectedly (SIGSEGV)")


def empty(body: str) -> onnx.ModelProto:
    """x[0,6] → … → y[5,1,0,4]."""
    weights = {"w": (1, 16, 6), "r": (1, 16, 4), "flat": np.array([5, 0, 6]), "shape": np.array([5, 1, 0, 4])}
    return build.model("(float[0,6] x) => (float[5,1,0,4] y)", body, checked=False, **weights)


# ONNX Runtime 1.31 ends the process at a recurrent layer without examples, which is then not seen before.
UNSEEN = "from maskc.runtime import onnxruntime_session\nonnxruntime_session.why_fatal = lambda model: None\n"
LAYER = "a = Reshape<allowzero=1>(x, flat) b = Relu(a) [rnn] c = LSTM<hidden_size=4>(b, w, r) y = Tanh(c)"


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another"])
def test_where_the_runtime_crashes_the_node_is_named(tmp_path: Path, others: int) -> None:
    """The model is written all the same, as the compiler needs no runtime."""
    (tmp_path / "rules.py").write_text(UNSEEN)
    models = [build.save(empty(LAYER), tmp_path / "m.onnx"), build.save(build.mlp(), tmp_path / "n.onnx")][: 1 + others]
    done = process("compile", *models, "--rules", tmp_path / "rules.py")
    told = " ".join(done.stderr.split())
    assert done.returncode == 0 and "Not verified: ONNX Runtime crashes (SIGABRT) at LSTM 'rnn'. Try another" in told
    assert all(source.with_suffix(".compiled.onnx").exists() for source in models)


@pytest.mark.parametrize(("wrong", "code"), [(0, 2), (1, 1)], ids=["reference", "compiled"])
def test_a_model_at_which_the_runtime_crashes_is_not_verified(tmp_path: Path, wrong: int, code: int) -> None:
    """Where it is the compiled one alone, that is a difference."""
    pair = [build.save(empty(LAYER), tmp_path / "m.onnx"), tmp_path / "n.onnx"]
    build.save(empty("y = Reshape<allowzero=1>(x, shape)"), pair[1])
    done = process("verify", *(pair[::-1] if wrong else pair), code=f"{UNSEEN}\nfrom maskc.cli import main\nmain()")
    assert (done.returncode, "crashes (SIGABRT) at LSTM 'rnn'" in done.stdout + done.stderr) == (code, True)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up there")
def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    stuck = begun(tmp_path, "time.sleep(60)")
    (second,) = Path(f"/proc/{stuck.pid}/task/{stuck.pid}/children").read_text().split()
    stuck.kill()
    stuck.communicate(timeout=30)  # its pipes are closed by the end of both
    deadline = time.monotonic() + 30
    while Path(f"/proc/{second}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{second}").exists()


@MEMORY
def test_memory_of_processes_that_it_starts_counts(tmp_path: Path) -> None:
    code = "held = bytearray(b'a' * 2**30); import time; time.sleep(60)"
    stuck = begun(tmp_path, f"import subprocess; subprocess.run([sys.executable, '-c', {code!r}])", "--memory", "1")
    code, errors = ended(stuck, tmp_path)
    assert (code, "1.0 GB of memory" in errors) == (6, True)


def test_in_time_and_memory_enough_nothing_is_said(tmp_path: Path) -> None:
    done = process("compile", build.save(build.mlp(), tmp_path / "m.onnx"), "--memory", "8", "--timeout", "300")
    assert (done.returncode, done.stderr) == (0, "")


WRITES = """
        from maskc.frontend.write_model_files import write_bytes
        def write(number, frame):
            with part_folders.part_folder(Path("checkpoint")) as made:
                time.sleep({})
            Path("checkpoint").write_bytes(b"whole")
            sys.exit(130)
        signal.signal(signal.SIGINT, write)
        print("hears", flush=True)
        time.sleep(60)"""


def writing(directory: Path, seconds: int) -> subprocess.Popen[str]:
    """A compilation that, told to end, writes a file for so long."""
    stuck = begun(directory, WRITES.format(seconds))
    assert stuck.stdout is not None and stuck.stdout.readline() == "hears\n"
    return stuck


def test_a_file_that_it_begins_when_told_to_end_is_finished(tmp_path: Path) -> None:
    """As the checkpoint of a training run, which may take longer than it has to end."""
    stuck = writing(tmp_path, 2)
    stuck.send_signal(signal.SIGINT)
    stuck.communicate(timeout=30)
    assert (stuck.returncode, (tmp_path / "checkpoint").read_bytes()) == (130, b"whole")


def test_who_tells_it_again_does_not_wait_for_that(tmp_path: Path) -> None:
    stuck = writing(tmp_path, 30)
    stuck.send_signal(signal.SIGINT)
    time.sleep(1.5)
    began = time.monotonic()
    stuck.send_signal(signal.SIGINT)
    code, _ = ended(stuck, tmp_path)
    assert (code, time.monotonic() - began < 5) == (130, True)


@pytest.mark.parametrize("command", ["train", "demo"])
def test_training_is_ended_in_native_code_too(tmp_path: Path, command: str) -> None:
    """Where TensorFlow is, or hangs, while it is imported."""
    code = f"""{HEARS}
import sys, types
stuck = types.ModuleType("maskc.frontend.tensorflow.importing")
def import_tensorflow():
    print("begun", flush=True)
    import ctypes; {NATIVE}
stuck.import_tensorflow = import_tensorflow
sys.modules[stuck.__name__] = stuck
from maskc.cli import main
main()
"""
    train = "--model m --features f --data d -o run --pruning.flops_target 1"
    arguments = {"train": train.split(), "demo": []}
    stuck = started(tmp_path, code, command, *arguments[command])
    began = time.monotonic()
    stuck.send_signal(signal.SIGINT)
    stuck.communicate(timeout=30)
    assert (stuck.returncode, time.monotonic() - began < 5) == (130, True)
