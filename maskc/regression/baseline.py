"""Baseline file of FLOPs and channels, which is committed and reviewed like code.

`flops.json` holds a `schema` number and an entry for each model, under its path from the file's directory. Models and
layers stand in a stable order with one value on a line, so that a review shows what changed. docs/ci.md lists the keys.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskc.errors import InputError
from maskc.frontend import write_model_files
from maskc.results.json_values import parsed, read_object
from passes.graph.tensors import MOST_SLICES

SCHEMA = 1


@dataclass(frozen=True)
class Options:
    """Options of compiling a model: a file of masks (its path from the baseline's directory), fixed sizes, adapters and
    the signature of a SavedModel.

    `shapes` holds sizes by input name, a number, a name or None for each dimension.
    """

    masks: str | None = None
    shapes: dict[str, list[int | str | None]] = field(default_factory=dict)
    adapters: str = "auto"
    signature: str | None = None


@dataclass(frozen=True)
class Counts:
    """FLOPs and multiply-accumulates, and the number of weights."""

    flops: int
    macs: int
    params: int


@dataclass(frozen=True)
class ChannelCounts:
    """Masked channels, counted once per tensor axis, and how many of them the compiled model does not compute."""

    masked: int
    removed: int


@dataclass(frozen=True)
class Entry:
    """The costs of one model when the baseline was written.

    `sha256` is that of the model's files and its masks, `verified` whether it was compared with the compiled model.
    `removed` are the masked channels that went and `held` those that stayed, by `tensor@axis`, written as `0-3, 7`.
    `widths` are the channels that each layer of the compiled model writes and `layer_flops` its FLOPs, by the name of
    the node. `at` are the sizes that FLOPs were counted at, by input, written as `1x224x224x3`.
    """

    maskc: str
    sha256: str
    options: Options
    verified: bool
    before: Counts
    after: Counts
    channels: ChannelCounts
    removed: dict[str, str]
    held: dict[str, str]
    widths: dict[str, int]
    layer_flops: dict[str, int]
    at: dict[str, str]

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The sizes that `at` lists. Raises ValueError where it lists none."""
        return {name: sizes(text) for name, text in self.at.items()}


@dataclass(frozen=True)
class Baseline:
    """A baseline file and its entries, by the model's path from the file's directory (with `/`)."""

    path: Path
    models: dict[str, Entry] = field(default_factory=dict)

    def key(self, model: Path) -> str:
        """The name of a model in the file."""
        return Path(os.path.relpath(model, self.path.parent)).as_posix()

    def file(self, key: str) -> Path:
        """The path of a model or mask file that the baseline names."""
        return Path(os.path.normpath(self.path.parent / key))

    def files(self) -> tuple[Path, ...]:
        """All models and mask files that the baseline names."""
        masks = [entry.options.masks for entry in self.models.values() if entry.options.masks is not None]
        return tuple(map(self.file, (*self.models, *masks)))

    def text(self) -> str:
        """The content of the file: the same entries always give the same text."""
        models = {key: dataclasses.asdict(self.models[key]) for key in sorted(self.models)}
        return json.dumps({"schema": SCHEMA, "models": models}, indent=2, ensure_ascii=False) + "\n"

    def write(self) -> bool:
        """Replace the file, whole or not at all, if it would change; whether it did.

        Raises `InputError` when it cannot be written.
        """
        data = self.text().encode()
        with write_model_files.written(self.path):
            if self.path.is_file() and self.path.read_bytes() == data:
                return False
            write_model_files.write_bytes(self.path, data)
        return True


def read(path: Path) -> Baseline:
    """Read a baseline. Raises `InputError` where it is missing, from a newer maskc, or not as it should be."""
    if path.is_dir():
        raise InputError(f"The baseline {path} is a directory. Give the name of the file.")
    if not path.is_file():
        raise InputError(
            f"There is no baseline {path}. Write it with `maskc check --update --baseline {path} MODEL...`."
        )
    advice = f"Mend it, or remove it and write it with `maskc check --update --baseline {path} MODEL...`."
    data = read_object(path, SCHEMA, "a baseline of maskc check, which has `schema` and `models`", advice)
    if not isinstance(data.get("models"), dict):
        raise InputError(f"{path} is not a baseline of maskc check: it needs `models`. {advice}")
    try:
        models: dict[str, Entry] = {key: parsed(Entry, value, key) for key, value in data["models"].items()}
        for entry in models.values():
            for text in (*entry.removed.values(), *entry.held.values()):
                _ranges(text)
            for text in entry.at.values():
                sizes(text)
        return Baseline(path, models)
    except ValueError as error:
        raise InputError(f"The baseline {path} is not as it should be: {error}. {advice}") from error


def sizes(text: str) -> tuple[int, ...]:
    """Sizes from text like `1x224x224x3`. Raises ValueError for anything else."""
    if text == "scalar":
        return ()
    parts = text.split("x")
    if not all(map(str.isdecimal, parts)):
        raise ValueError(f"`{text}` does not list sizes, like `1x224x224x3`")
    return tuple(map(int, parts))


def channels(text: str) -> NDArray[np.bool_]:
    """A mask of the channels in text like `0-3, 7`, up to the last of them. Raises ValueError for anything else."""
    found = _ranges(text)
    which = np.zeros(found[-1].stop if found else 0, np.bool_)
    for each in found:
        which[each.start : each.stop] = True
    return which


def _ranges(text: str) -> list[range]:
    """Ranges of channels from text, each after the one before it, so that they are no more than an axis has."""
    found: list[range] = []
    for part in text.split(", ") if text else ():
        first, _, last = part.partition("-")
        if not (first + last).isdecimal():
            raise ValueError(f"`{text[:60]}` does not list channels, like `0-3, 7`")
        found.append(range(int(first), int(last or first) + 1))
        if found[-1].stop > MOST_SLICES or (len(found) > 1 and found[-1].start < found[-2].stop):
            raise ValueError(f"`{text[:60]}` does not list channels in their order, below {MOST_SLICES:,}")
    return found
