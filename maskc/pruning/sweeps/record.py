"""Record of a sweep, as values and as the file `sweep.json`.

The JSON Schema, `maskc/report/schema/sweep-1.json`, is made of the classes here by docs/report_schema.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskc.errors import InputError
from maskc.frontend import write_model_files
from maskc.results.json_values import parsed, plain, read_object
from maskc.results.measurements import Figures, Latency

# Raised when a key goes, changes its name or means something else; new keys may come without.
SCHEMA = 1

FILE = "sweep.json"

#: what reports and `dominated_by` call the source
SOURCE = "source"

# What an option of `maskc.compile` can be.
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Level:
    """One of the functions that are compiled: a model, with masks or without.

    `model` is its path and `masks` that of its masks, from the directory of the sweep; the masks are null where the
    model's own are all. `target` is the share of the source's FLOPs that masks were made for, null where they are
    somebody's. `key` is the SHA-256 of what it is made of. `error` says why there is none.
    """

    name: str
    model: str
    masks: str | None
    target: float | None
    key: str
    error: str | None = None


@dataclass(frozen=True)
class Point:
    """One candidate: a sparsity level compiled in one configuration.

    `options` are those of `maskc.compile`, and `output` is the compiled file, from the directory of the sweep. `key` is
    the SHA-256 of all that it is made of, and `sha256` that of the file. `figures` are those of the file and `share`
    its FLOPs over the source's. `latency` was measured in turns with the source, and `time` is its median over the
    source's. `quality` is what the measure of quality said. `dominated_by` names the candidate, or the source, that is
    as good and as fast, and better in one of both. `error` says what failed, with the exit code that stands for it.
    What was not found out is null.
    """

    name: str
    level: str
    options: dict[str, Value]
    output: str
    key: str
    sha256: str | None = None
    verified: bool = False
    figures: Figures | None = None
    share: float | None = None
    latency: Latency | None = None
    time: float | None = None
    quality: float | None = None
    dominated_by: str | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Origin:
    """The model that all is compared with, as it stands.

    `model` is its path from the directory of the sweep, or its name if it was in memory, `onnx` that of the ONNX file
    that was measured, and `sha256` that of its files.
    """

    model: str
    onnx: str
    sha256: str
    figures: Figures
    quality: float | None = None


@dataclass(frozen=True)
class Record:
    """The result of a sweep.

    `measure` says how quality was measured, null where it was not, and `lower_is_better` in which direction it is good.
    `provider` is what models were timed on (as for `maskc.verify`), `versions` are those of the libraries, `machine`
    says on what kind of machine.
    """

    schema: int
    maskc: str
    versions: dict[str, str]
    machine: str
    date: str
    provider: str
    measure: str | None
    lower_is_better: bool
    source: Origin
    levels: tuple[Level, ...]
    points: tuple[Point, ...]

    @property
    def exit_code(self) -> int:
        """The worst of the points'."""
        return max((point.exit_code for point in self.points), default=0)

    def to_json(self) -> dict[str, Any]:
        """The sweep as values that `json` can write."""
        return dict(plain(self))


def write(sweep: Record, directory: Path) -> None:
    """Write `sweep.json`, whole or not at all. Raises `InputError` when that fails."""
    write_model_files.write_text(directory / FILE, json.dumps(sweep.to_json(), indent=2, allow_nan=False) + "\n")


def read(directory: Path) -> Record | None:
    """The sweep that a directory holds, None if it holds none.

    Raises `InputError` where its file is of a newer maskc or not as it should be.
    """
    path = directory / FILE
    if not path.exists():
        return None
    advice = "Give another directory, or remove the file to start over."
    data = read_object(path, SCHEMA, "the record of a sweep", advice)
    try:
        found: Record = parsed(Record, data, "sweep")
    except ValueError as error:
        raise InputError(f"{path} is not as it should be: {error}. {advice}") from error
    return found
