"""What must hold for a model of any kind, however broken: a result that is right, or an error in a sentence.

`Attempts` tries models in a process of its own, so that one which crashes, hangs or takes all memory is a finding too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from maskc.frontend.graph_queries import all_nodes, all_tensors

#: seconds and bytes that no model may take
SECONDS = 60.0
BYTES = 4 * 10**9
# Bytes that the process may take at all, so that a finding does not become the end of the machine.
_ALLOWED = 20 * 2**30

# Weights from here on overflow where something is added to them.
_HUGE = 1e37
# Elements of the inputs on which both models are run here.
_MOST_ELEMENTS = 2**20

Kind = Literal[
    "compiled and equal",
    "compiled, not compared",
    "refused",
    "refused, and runs",
    "raw error",
    "wrong",
    "died",
    "slow",
    "large",
    "rubbish",
]
#: operators that draw numbers
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
#: what must not be
FAULTS: tuple[Kind, ...] = ("raw error", "wrong", "died", "slow", "large", "rubbish")


@dataclass(frozen=True)
class Case:
    """A model's bytes, those of an `.npz` file of masks, and inputs on which it runs, if they are known."""

    model: bytes
    masks: bytes | None = None
    feeds: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: its kind, a sentence on it, and the time and memory that it took."""

    kind: Kind
    said: str = ""
    seconds: float = 0.0
    bytes: int = 0

    @property
    def reason(self) -> str:
        """The sentence without names and numbers, the same for like cases."""
        return re.sub(r"'[^']*'|`[^`]*`|\"[^\"]*\"|-?\d[\d,.e+]*|/\S+", "#", self.said)[:110]


def attempt(case: Case, directory: Path) -> Ended:
    """Compile and verify a case in this process, look at what was written, and compare the outputs again."""
    from maskc import frontend
    from maskc.compilation.compile import compile_file
    from maskc.compilation.options import VERIFY, CompileOptions
    from maskc.errors import MaskcError, NotEquivalentError

    source, output = directory / "m.onnx", directory / "out.onnx"
    source.write_bytes(case.model)
    masks = None if case.masks is None else directory / "masks.npz"
    if masks is not None and case.masks is not None:
        masks.write_bytes(case.masks)
    before = {path.name for path in directory.iterdir()}
    _forget_peak()
    held = resident()  # by what this process did before, a thousand other tests for instance
    began = time.monotonic()
    try:
        report = compile_file(source, output, CompileOptions(masks=masks, verify=VERIFY))
        found = Ended("compiled, not compared", "; ".join(w for w in report.warnings if "ot verified" in w))
    except NotEquivalentError as error:
        stated = _odd(frontend.read(source).model) or is_stated(str(error))
        found = Ended("refused" if stated else "wrong", str(error))
    except MaskcError as error:
        found = Ended("refused", str(error))
    except Exception as error:
        found = Ended("raw error", f"{type(error).__name__} in {_place(error)}: {error}")
    seconds, peak = time.monotonic() - began, max(_peak() - held, 0)
    made = {path.name for path in directory.iterdir()} - before
    if made != ({output.name} if found.kind == "compiled, not compared" else set()):
        found = Ended("rubbish", f"{sorted(made)} after: {found.said}")
    if found.kind == "compiled, not compared" and (case.feeds or not found.said):
        found = _compared(source, masks, output, case.feeds) or found
    if found.kind == "refused" and "would be" not in found.said and _runs(source, masks):
        found = Ended("refused, and runs", found.said)
    if found.kind not in FAULTS and (seconds > SECONDS or peak > BYTES):
        found = Ended("slow" if seconds > SECONDS else "large", found.said)
    return Ended(found.kind, found.said, round(seconds, 3), peak)


def is_stated(error: str) -> bool:
    """Whether models are said to differ for what the source does on its own.

    Channels that are not read any more spread no NaN, ONNX Runtime broadcasts what has no elements in its own way, and
    believes false annotations where it optimizes, and false shapes of outputs where it reuses memory.
    """
    stated = "of the reference holds NaN", "of the reference has no elements", "without ONNX Runtime's optimizations"
    return any(words in error for words in (*stated, "of the reference is ["))


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    where = ""
    while frame is not None:
        name = frame.tb_frame.f_code.co_filename
        if "/maskc/" in name or "/passes/" in name:
            where = f"{Path(name).name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return where


def _compared(source: Path, masks: Path | None, output: Path, feeds: tuple[dict[str, Any], ...]) -> Ended | None:
    """Whether both files give the same outputs in ONNX Runtime; None where the source does not run on what is drawn.

    Where inputs are given, a model that ONNX Runtime does not run is run in onnx's own evaluator.
    """
    import onnx

    from maskc import frontend
    from maskc.frontend.mask_files import apply_masks
    from maskc.runtime.random_inputs import ports
    from maskc.runtime.tensor_sizes import TensorSizes
    from tests.generators.check import assert_same_function
    from tests.generators.running import CannotRunError, Runner, random_feeds

    try:
        wanted = frontend.read(source).model
        wanted = wanted if masks is None else apply_masks(wanted, masks)
        compiled = onnx.load(output)
        if feeds:
            return _compared_on(feeds, wanted, compiled)
        if _odd(wanted):  # a channel that is not read any more no longer spreads what is not a number
            return None
        if any(node.op_type in RANDOM for node in all_nodes(wanted)):  # from seeds that follow the order of nodes
            return None
        cases, taken = [], ports(wanted)
        inside = TensorSizes(wanted, taken)
        for size in (2, 3, 1, 8, 32):
            sizes = {symbol: size for port in taken for symbol in port.symbols()}
            if _elements(wanted, size) > _MOST_ELEMENTS or not inside.windows_fit(sizes):
                continue
            drawn = random_feeds(wanted, 7 * size, sizes)
            with contextlib.suppress(Exception):
                outputs = Runner(wanted, optimize=False)(drawn)
                # 0 times infinity is NaN, but for channels that are gone: verification says where it comes to that.
                if not any(np.isnan(array).any() for array in outputs if np.asarray(array).dtype.kind == "f"):
                    cases.append(drawn)
        if not cases:
            return None
    except Exception:  # what is drawn, or its type, is not for the source
        return None
    try:
        assert_same_function(wanted, compiled, cases=cases, optimize=False)
    except CannotRunError:
        return None
    except AssertionError as error:
        return Ended("wrong", str(error).split("\n")[0])
    except Exception as error:
        if "MLDataType" in str(error):  # bfloat16, which ONNX Runtime does not take from numpy
            return None
        return Ended("wrong", f"the compiled model does not run: {error}")
    return Ended("compiled and equal")


def _compared_on(feeds: Any, wanted: ModelProto, compiled: ModelProto) -> Ended | None:
    """The same on given inputs, in the first runtime that the source runs in."""
    from onnx.reference import ReferenceEvaluator

    from tests.generators.running import Runner

    runtimes: dict[str, Callable[[ModelProto], Callable[[dict[str, Any]], Any]]] = {
        "ONNX Runtime": Runner,
        "onnx's evaluator": lambda model: partial(ReferenceEvaluator(model).run, None),
    }
    for name, runtime in runtimes.items():
        try:
            run = runtime(wanted)
            expected, repeated = ([run(fed) for fed in feeds] for _ in range(2))
        except Exception:  # what it does not run
            continue
        if not all(map(_alike, expected, repeated)):  # it draws random numbers
            return None
        again = runtime(compiled)
        for fed, outputs in zip(feeds, expected, strict=True):
            for value, left, right in zip(wanted.graph.output, outputs, again(fed), strict=True):
                if not _alike(left, right):
                    return Ended("wrong", f"output {value.name} differs in {name}")
        return Ended("compiled and equal")
    return None


def _alike(left: Any, right: Any) -> bool:
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(_alike, left, right))
    if left is None or right is None:
        return left is right
    one, other = np.asarray(left), np.asarray(right)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind in "fc":
        return bool(np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True))
    return bool(np.array_equal(one, other))


def _runs(source: Path, masks: Path | None) -> bool:
    """Whether ONNX Runtime takes a model that was refused, for another reason than its masks.

    In a process of its own, as some models that are not valid end it.
    """
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1] == 0
    ran = False
    with contextlib.suppress(BaseException):
        signal.alarm(20)
        ran = masks is None and _run_once(source)
    os._exit(0 if ran else 1)


def _run_once(source: Path) -> bool:
    from tests.generators.running import Runner, random_feeds

    model = ModelProto.FromString(source.read_bytes())
    if _elements(model, 2) > _MOST_ELEMENTS:
        return False
    Runner(model, optimize=False)(random_feeds(model, 0))
    return True


def _odd(model: ModelProto) -> bool:
    """Whether weights are no numbers, or so large that sums of a few of them are none, or variances below zero."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in all_tensors(model)}
    variances = [n.input[4] for n in all_nodes(model) if n.op_type == "BatchNormalization" and len(n.input) > 4]
    below = any((arrays[name] < 0).any() for name in variances if name in arrays)
    return below or any(a.dtype.kind == "f" and not (np.abs(a) < _HUGE).all() for a in arrays.values())


def _elements(model: ModelProto, size: int) -> int:
    total = 0
    for value in model.graph.input:
        count = 1
        for dim in value.type.tensor_type.shape.dim:
            count *= dim.dim_value if dim.dim_value > 0 else size
        total += count
    return total


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # Linux
        Path("/proc/self/clear_refs").write_text("5")


def resident(field: str = "VmRSS") -> int:
    """Bytes of memory that this process takes now, on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _peak() -> int:
    """The most memory since it was forgotten; where a system cannot forget, since the process began."""
    return resident("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Attempts:
    """Tries cases that `make` gives by number, one after the other, in a process that is started again if it ends."""

    def __init__(self, make: Callable[[int], Case]) -> None:
        self._make = make
        self._process: Any = None
        self._line: Connection | None = None

    def __call__(self, number: int) -> Ended:
        """How the case of this number ended."""
        if self._process is None:
            self._start()
        assert self._line is not None
        began = time.monotonic()
        self._line.send(number)
        try:
            if self._line.poll(4 * SECONDS):
                ended: Ended = self._line.recv()
                return ended
            said = f"no end after {time.monotonic() - began:.0f} s"
            kind: Kind = "slow"
        except (EOFError, ConnectionResetError):
            self._process.join()
            said, kind = f"the process ended with {self._process.exitcode}", "died"
        self.close()
        return Ended(kind, said, round(time.monotonic() - began, 3))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._line, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self._make), daemon=True)
        self._process.start()
        theirs.close()


def _serve(line: Connection, make: Callable[[int], Case]) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_ALLOWED, _ALLOWED))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError):
        while True:
            number = line.recv()
            with tempfile.TemporaryDirectory() as directory:
                line.send(attempt(make(number), Path(directory)))


def onnx_test_models() -> Iterator[tuple[str, ModelProto, tuple[dict[str, Any], ...]]]:
    """The models of onnx's backend tests that need no download, each with its name and inputs on which it runs."""
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if case.model is not None:
                names = [value.name for value in case.model.graph.input]
                yield case.name, case.model, tuple(_fed(names, inputs) for inputs, _ in case.data_sets or ())
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            assert case.model_dir is not None
            folder = Path(case.model_dir)
            model = ModelProto.FromString((folder / "model.onnx").read_bytes())
            yield case.name, model, tuple(_stored(model, each) for each in sorted(folder.glob("test_data_set_*")))


def _fed(names: list[str], inputs: Any) -> dict[str, Any]:
    """What is fed to the inputs of these names; those that are omitted stand for nothing."""
    given = inputs if isinstance(inputs, dict) else dict(zip(names, inputs, strict=False))
    return {name: value for name, value in given.items() if value is not None}


def _stored(model: ModelProto, folder: Path) -> dict[str, Any]:
    held = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in held]
    found: dict[str, Any] = {}
    for number, value in enumerate(values):
        data = (folder / f"input_{number}.pb").read_bytes()
        if value.type.HasField("tensor_type"):
            found[value.name] = numpy_helper.to_array(TensorProto.FromString(data))
    return found
