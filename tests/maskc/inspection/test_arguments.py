"""Wrong arguments of public functions and of commands: one or two sentences, and nothing written."""

import inspect
import itertools
import pickle
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import maskc as api
from maskc import progress
from maskc.cli import app
from maskc.pruning.sweeps import run
from maskc.regression import check as regress
from maskc.regression.findings import Limits
from maskc.results.measurements import Figures
from maskc.verification.certificate import Certificate
from passes.errors.arguments import shown
from tests.maskc import build
from tests.maskc.command import each_here, maskc

FUNCTIONS = {
    **{name: getattr(api, name) for name in ("compile", "diff", "explain", "flops", "recheck", "sweep", "verify")},
    "check": regress.check,
    "update": regress.update,
    "Limits": Limits,
}

# What an entry is called with beside the wrong argument.
GIVEN = {
    "diff": ("model.onnx", "model.onnx"),
    "recheck": ("model.onnx", "model.onnx", "proof.json"),
    "sweep": ("model.onnx", "out"),
    "verify": ("model.onnx", "model.onnx"),
    "check": ("flops.json",),
    "update": ("flops.json",),
    "Limits": (0.0,),
}


class NoPath:
    """Says that it is a path, and raises when it is asked which."""

    def __fspath__(self) -> str:
        raise RuntimeError


VALUES: tuple[Any, ...] = (
    *("loop.onnx", NoPath(), [NoPath()], "a\nb.onnx", {"x": NoPath()}, 10**400, 2**64, Fraction(1, 2)),
    *(np.timedelta64(3), {"x": [np.int8(1), np.int8(8)]}),
    *(None, True, 0, -1, 7, 2.5, -0.5, float("nan"), float("inf"), 1j, np.float32(1), np.int8(1)),
    *("", "x", "nowhere.onnx", "nowhere/x.onnx", "a\0b", "\ud800", "ä" * 300, "text.onnx", "text.npz", "text.json"),
    *("latin.json", "folder", "model.onnx", "masks.npz", b"model.onnx", Path("nowhere"), Path("folder")),
    *((), ("x",), [None], {}, {"x": 1}, {"x": "ab"}, {"x": (1, 2, 3)}, {"x": [-1, 8]}, {1: [1]}, {"c": [[1], [1, 2]]}),
    *({"c": object()}, {"x": None}, [{}], [{"align": []}], [{"x": 1}], set(), object(), print, Path, np.zeros(3)),
)

# Right, and more than there is time for; or a function that fails by itself.
LEFT_OUT = {("verify", "bench", "True"), ("sweep", "seconds", "7"), ("compile", "progress", repr(Path))}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, its masks and its baseline, and with files that are none; tasks are done here."""
    monkeypatch.chdir(tmp_path)
    model = build.save(build.mlp(), tmp_path / "model.onnx")
    np.savez("masks.npz", c=np.arange(16) % 2)
    assert maskc("compile", model, "-o", "small.onnx", "--certificate", "proof.json").exit_code == 0
    assert maskc("check", "--update", model).exit_code == 0
    for name in ("text.onnx", "text.npz", "text.json"):
        Path(name).write_text("neither")
    Path("latin.json").write_bytes("{'\xe4'}".encode("latin-1"))
    Path("folder").mkdir()
    Path("loop.onnx").symlink_to("loop.onnx")
    monkeypatch.setattr(run, "each", each_here)
    return tmp_path


def held(directory: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def restore(directory: Path, before: dict[Path, bytes | None]) -> None:
    for path in sorted(held(directory).keys() - before.keys(), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for path, data in before.items():
        if data is not None and (not path.is_file() or path.read_bytes() != data):
            path.write_bytes(data)


def is_told(text: str) -> bool:
    """Whether a message is one or two sentences."""
    return text.endswith((".", "?")) and len(re.findall(r"[.?](?= [A-Z`]|$)", text)) <= 2 and "\n" not in text


def test_a_message_is_one_line_whatever_names_and_values_are() -> None:
    error = api.InputError(f"a\nb\x1b[31m/{'x' * 5000}.onnx does not exist. Give another.")
    assert str(error).startswith(r"a\nb\x1b[31m/xx") and len(str(error)) < 260
    assert str(error).endswith("x.onnx does not exist. Give another.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert (
        shown([NoPath(), {"x": np.ones(3)}, "a\n", 10**5000]) == "[a NoPath, {'x': an array}, 'a\\n', a whole number]"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: regress.exit_code(3), "`outcomes` must be a sequence"),  # type: ignore[arg-type]
        (lambda: regress.exit_code([3]), "`outcomes` must be a sequence of Outcomes, and not [3]"),  # type: ignore[list-item]
        (lambda: Figures(1, 1, 1, 1).reduction_to(3), "`after` must be a Figures, and not 3"),  # type: ignore[arg-type]
        (lambda: Certificate(None, []).save("a.json", [], []), "`path` must be a path, and not 'a.json'"),  # type: ignore[arg-type]
        (lambda: progress.listening(3).__enter__(), "`listener` must be a function"),  # type: ignore[arg-type]
    ],
)
def test_what_is_returned_takes_no_wrong_arguments(call: Any, words: str) -> None:
    with pytest.raises((api.InputError, TypeError), match=re.escape(words)):
        call()


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each parameter with each value, and then some of them with two wrong values at once."""
    one = []
    for name, function in FUNCTIONS.items():
        parameters = list(inspect.signature(function).parameters)
        given = dict(zip(parameters, GIVEN.get(name, ("model.onnx",)), strict=False))
        one += [
            (name, {**given, parameter: value})
            for parameter, value in itertools.product(parameters, VALUES)
            if (name, parameter, repr(value)) not in LEFT_OUT
        ]
    yield from one
    rng = random.Random(0)
    for name, first in rng.sample(one, 300):
        second = rng.choice([arguments for other, arguments in one if other == name])
        yield name, first | second


@pytest.mark.slow
def test_functions(here: Path) -> None:
    before, raw, count = held(here), [], 0
    for name, arguments in calls():
        count += 1
        try:
            FUNCTIONS[name](**arguments)
        except api.MaskcError as error:
            if not is_told(str(error)):
                raw.append((name, arguments, str(error)))
            if held(here) != before:
                raw.append((name, arguments, "something was written"))
        except Exception as error:
            raw.append((name, arguments, repr(error)))
        restore(here, before)
    assert count >= 1500 and not raw, "\n".join(map(str, [len(raw), *raw]))


WORDS = (
    *("", "x", "-1", "0", "7", "2.5", "nan", "inf", "1e400", "1,2", "x=1", "x=1x8", "x=", "=1", "x=1xy"),
    *("nowhere.onnx", "loop.onnx", "nowhere/x.json", "text.onnx", "text.npz", "text.json", "latin.json", "folder"),
    *("model.onnx", "masks.npz", "ä" * 300),
    *("\udce4", "a\tb", "-", "--", "é", "out.onnx", "out.json", "out.html", "%", "5%", "0.5,0.25", "../x", "out.pb"),
)

# The arguments are right, and what they lead to fails.
CANDIDATES = {("--output", ""), ("--targets", "5%")}


def command_lines() -> Iterator[tuple[str, ...]]:
    """Each option of each command with each word, and each argument; candidates of a sweep may fail, and be written."""
    named = {"check": (), "sweep": ("model.onnx", "-o", "out", "--seconds", "0"), "explain": ("model.onnx",)}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if name in ("demo", "train", "version"):
            continue
        given = named.get(name, GIVEN.get(name, ("model.onnx",)))
        for parameter in command.params:
            flag = next((option for option in parameter.opts if option.startswith("--")), None)
            for word in WORDS if flag is None or not parameter.is_flag else ():
                if flag is None:
                    yield name, word, *given[1:]
                elif flag not in ("--timeout", "--memory", "--ray") and (flag, word) not in CANDIDATES:
                    yield name, *given, flag, word


@pytest.mark.slow
def test_commands(here: Path) -> None:
    before, raw = held(here), []
    for words in random.Random(0).sample([*command_lines()], 600):
        result = maskc(*words)
        told = result.stderr.strip().splitlines()
        if result.exit_code > 4 or (
            result.exit_code > 1 and (held(here) != before or not all(map(is_told, told[-1:])))
        ):
            raw.append((words, result.exit_code, told))
        restore(here, before)
    assert not raw, "\n".join(map(str, [len(raw), *raw]))
