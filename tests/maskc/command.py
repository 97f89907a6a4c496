"""Running the command line in a test."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto
from typer.testing import CliRunner, Result

from maskc.cli import app
from maskc.compilation import workers

ROOT = Path(__file__).parents[2]


def maskc(*arguments: Any) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(*arguments: Any) -> Result:
    """The command in this process, which must come to a good end."""
    result = maskc(*arguments)
    assert result.exit_code == 0, result.output
    return result


def reported(*arguments: Any) -> dict[str, Any]:
    """What the command, which must come to a good end, says as JSON."""
    report: dict[str, Any] = json.loads(succeeded(*arguments, "--json").stdout)
    return report


def process(*arguments: Any, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, or a piece of Python, as a process of its own."""
    command = [sys.executable, *(["-c", code] if code is not None else ["-m", "maskc"])]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
        timeout=300,
    )


def files(directory: Path) -> list[str]:
    """The names of what a directory holds, in order."""
    return sorted(path.name for path in directory.iterdir())


def each_here(call: Any, tasks: Any, jobs: int, rules: Any) -> Any:
    """In the place of workers: tasks are done in this process, which takes no second for each."""
    return ((index, workers.attempt(call, task)) for index, task in enumerate(tasks))


def full_disk(*_: object) -> None:
    """In the place of what writes."""
    raise OSError(28, "No space left on device")


# Several command lines, one after the other.
_IN_TURN = """
import json, sys
from typer.testing import CliRunner
from maskc.cli import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


def in_turn(*lines: Sequence[Any], first: str = "") -> list[subprocess.CompletedProcess[str]]:
    """Each of these command lines, in one process of their own, which may take long to start or be ended by them.

    `first` is Python that the process runs before.
    """
    words = [[str(word) for word in line] for line in lines]
    told = process(json.dumps(words), code=first + _IN_TURN)
    found = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(found) == len(lines), f"{words[len(found)]} ended the process ({told.returncode}): {told.stderr}"
    return [subprocess.CompletedProcess(line, *done) for line, done in zip(words, found, strict=True)]


def compiled(model: ModelProto, directory: Path, *options: Any) -> Result:
    """`maskc compile m.onnx`, in this process, of a model that is saved there."""
    source = directory / "m.onnx"
    source.write_bytes(model.SerializeToString())
    return maskc("compile", source, *options)


def refused(result: Result, code: int, *words: str) -> None:
    """Assert that it ended with this exit code and one or two plain sentences that hold the words."""
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert 1 <= len(re.findall(r"[.!?](?=\s|$)", lines[0])) <= 2, lines[0]
    assert lines[0].endswith((".", "?")), lines[0]
    for word in words:
        assert word in lines[0], lines[0]


def compile_refused(source: Path, *words: str, masks: Path | None = None) -> None:
    """Assert that compile, flops and verify all refuse the input, and that nothing was written."""
    there = sorted(source.parent.rglob("*"))
    extra = () if masks is None else ("--masks", masks)
    refused(maskc("compile", source, *extra), 2, *words)
    refused(maskc("flops", source, *extra), 2, *words)
    refused(maskc("verify", source, source, *extra), 2, *words)
    assert sorted(source.parent.rglob("*")) == there
