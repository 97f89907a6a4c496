"""Checkpoint files of a training run: weights, optimizer state, metrics and position."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskc.errors import InputError
from maskc.frontend import npz_files
from maskc.frontend.write_model_files import write_arrays, written
from maskc.train.running.replicas import is_chief

_NAME = re.compile(r"step-(\d+)\.npz")


def save(path: Path, model: Any, state: dict[str, Any]) -> None:
    """Writes the weights (masks, signals and the state of random layers among them), the optimizer and its history,
    the metrics, and `state`, which JSON must be able to hold.

    Of several workers all must call this, since they collect what the metrics hold, and the first one writes.

    Raises InputError if the file cannot be written.
    """
    arrays: dict[str, Any] = {}
    # Optimizers first: one that decides between steps may still have a mask to change.
    for index, store in enumerate(map(_saved, _optimizers(model))):
        arrays.update({f"optimizer/{index}/{key}": _array(value) for key, value in store.items()})
    arrays.update({f"weight/{index}": _array(variable) for index, variable in enumerate(_variables(model))})
    if not is_chief(model.distribute_strategy):
        return
    with written(f"The checkpoint {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays, state)


def restore(path: Path, model: Any) -> dict[str, Any]:
    """Puts everything back into a model that is built and compiled, and returns the `state`.

    Raises InputError if the file cannot be read, or is of another model or optimizer.
    """
    arrays, state = _read(path)
    variables, optimizers = _variables(model), list(_optimizers(model))

    def under(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    weights, stores = under("weight/").values(), [under(f"optimizer/{index}/") for index in range(len(optimizers))]
    fits = [array.shape for array in weights] == [tuple(variable.shape) for variable in variables]
    if not fits or [store.keys() for store in stores] != [_saved(optimizer).keys() for optimizer in optimizers]:
        raise InputError(
            f"The checkpoint {path} is of another model or optimizer: give another directory, or start without "
            "resuming."
        )
    for variable, array in zip(variables, weights, strict=True):
        variable.assign(array.astype(variable.dtype))
    for optimizer, store in zip(optimizers, stores, strict=True):
        optimizer.load_own_variables(store)
    return state


def state(path: Path) -> dict[str, Any]:
    """Returns the `state` in a checkpoint. Raises InputError if it cannot be read."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return npz_files.with_state(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"The checkpoint {path} cannot be read: remove it, or start without resuming.") from error


def latest(directory: Path) -> Path | None:
    """Returns the last checkpoint in a directory, or None."""
    paths = _numbered(directory)
    return paths[-1] if paths else None


def name(step: int) -> str:
    """Returns the name of the checkpoint after so many updates."""
    return f"step-{step:08d}.npz"


def clear(directory: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints."""
    paths = _numbered(directory)
    for path in paths[: len(paths) - keep]:
        path.unlink()


def _numbered(directory: Path) -> list[Path]:
    steps = [(int(match[1]), path) for path in directory.glob("*.npz") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(steps)]


def _variables(model: Any) -> list[Any]:
    return [*model.variables, *model.metrics_variables]


def _optimizers(model: Any) -> Iterator[Any]:
    """The optimizer of the model, and those that it wraps."""
    optimizer = model.optimizer
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _saved(optimizer: Any) -> dict[str, Any]:
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    return store


def _array(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    # bfloat16 is not numpy's own, and float32 holds all of its values.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
