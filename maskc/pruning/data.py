"""Data to prune by: batches of a model's inputs, from files, a loader or arrays, and a part held out to measure on."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import pickle
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import InputError, RunError, Terminated, UnavailableError, warn
from maskc.frontend import npz_files, stand_ins
from maskc.frontend.custom_rules import function_of
from maskc.progress import stage
from maskc.runtime.given_inputs import array_of, declared, fitted
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.runtime.random_inputs import Port, ports
from passes.errors import in_brief

Batch = dict[str, NDArray[Any]]
#: a path of an `.npz` or `.npy` file or of a directory of them, `loader.py:function`, a function that gives batches,
#: batches, arrays by input name, or the array of the only input
Given = (
    str
    | os.PathLike[str]
    | Callable[[], Iterable[Mapping[str, Any]]]
    | Iterable[Mapping[str, Any]]
    | Mapping[str, Any]
    | NDArray[Any]
)

#: gives arrays by input name, each time anew, each with what messages call it
Sources = Callable[[], Iterator[tuple[str, Mapping[str, Any]]]]

_BATCH = 8  # samples, where the model leaves it open
_BYTES = 2**20  # of such a batch
_EVERY = 5  # batch is held out
_COUNTED, _COUNTED_BYTES = 2_000_000, 2**38  # samples of an epoch, of no more bytes; more are as good as endless
_LONG, _LONGEST = 20.0, 1800.0  # seconds of counting after which it is said what for, and until which it goes on
_MEASURED, _MEASURED_BYTES = 10_000, 2**31  # samples held out that quality is measured on, of no more bytes
_AGAIN = 8  # batches held out that are looked for among those that are used
_SHARED = 0.25  # of their samples may be there by chance


@dataclass(frozen=True)
class Data:
    """Batches of a model's inputs, read again each time they are asked for.

    Every fifth is held out. Where a batch is all there is, it is both used and held out (`alone`).
    """

    _batches: Callable[[], Iterator[Batch]]
    _inputs: frozenset[str]
    alone: bool

    def used(self) -> Iterator[Batch]:
        """Those to prune and train by."""
        return map(self.of_inputs, self._part(held=False))

    def with_labels(self) -> Iterator[Batch]:
        """The same with all that they hold besides inputs."""
        return self._part(held=False)

    def held_out(self) -> Iterator[Batch]:
        """Those to measure quality on, of which there is an end."""
        return map(self.of_inputs, self.held_out_with_labels())

    def held_out_with_labels(self) -> Iterator[Batch]:
        """The same with all that they hold besides inputs."""
        return first(self._part(held=True), _MEASURED, _MEASURED_BYTES)

    def hold_out_none_of(self, used: Iterable[Batch]) -> bool:
        """Whether much of what is held out is among these, as of one batch, or where a function shuffles each time."""
        if self.alone:
            return True
        known = set(itertools.chain.from_iterable(map(_samples, used)))
        held = [each in known for batch in itertools.islice(self.held_out(), _AGAIN) for each in _samples(batch)]
        return sum(held) > _SHARED * len(held)

    def of_inputs(self, batch: Batch) -> Batch:
        """What the model reads of a batch."""
        return {name: array for name, array in batch.items() if name in self._inputs}

    def _part(self, held: bool) -> Iterator[Batch]:
        for number, batch in enumerate(self._batches()):
            if self.alone or (number % _EVERY == 1) == held:
                yield batch


def first(batches: Iterable[Batch], samples: int, size: int) -> Iterator[Batch]:
    """So many of the batches as have that many samples or bytes, and one in any case."""
    for batch in batches:
        yield batch
        samples -= samples_in(batch)
        size -= sum(array.nbytes for array in batch.values())
        if samples <= 0 or size <= 0:
            return


def _samples(batch: Batch) -> Iterator[bytes]:
    """A digest of each sample, or of a batch in which not all arrays have as many."""
    counts = {len(array) if array.ndim else 0 for array in batch.values()}
    parts = [slice(i, i + 1) for i in range(counts.pop())] if len(counts) == 1 else [...]
    for part in parts:
        content = [(name, array[part]) for name, array in sorted(batch.items())]
        yield hashlib.sha256(pickle.dumps(content)).digest()


def samples_in(batch: Mapping[str, NDArray[Any]]) -> int:
    """How many samples a batch has."""
    return max((len(array) for array in batch.values() if np.ndim(array)), default=1)


def counted(batches: Iterable[Mapping[str, NDArray[Any]]]) -> int:
    """How many samples there are. Raises InputError where there seems to be no end, or a late one."""
    count = size = 0
    begin = time.monotonic()
    due = begin + _LONG
    with stage("Counting samples", slow=True) as counting:
        for batch in batches:
            count += samples_in(batch)
            counting.advance(note=f"{count:,}")
            size += sum(array.nbytes for array in batch.values())
            if time.monotonic() > due:
                most = f"{_COUNTED:,} or {_LONGEST:g} seconds"
                warn(f"Counting samples for --epochs, up to {most}: for data without an end, give --minutes.")
                due = math.inf
            seconds = time.monotonic() - begin
            if count > _COUNTED or size > _COUNTED_BYTES or seconds > _LONGEST:
                seen = f"{min(count, _COUNTED):,} samples" + f" and {seconds:.0f} seconds" * (seconds > _LONGEST)
                raise InputError(
                    f"Epochs cannot be counted: data go on after {seen}. Give --minutes in place of --epochs."
                )
    return count


def data(given: Given, model: ModelProto) -> Data:
    """The data for a model, the first batch of which is checked.

    Raises InputError where they cannot be read, or do not fit the model's inputs.
    """
    inputs = ports(model)
    sources = _sources(given, inputs)
    seen: set[str] = set()

    def batches(parted: bool) -> Iterator[Batch]:
        found = 0
        for where, arrays in sources():
            batch = _batch(arrays, inputs, where)
            _say_if_whole(arrays, batch, seen)
            for part in _split(batch, inputs) if parted else [batch]:
                found += 1
                yield part
        if not found:
            raise InputError("There is nothing in the data: give a sample or more, again at each call.")

    names = frozenset(port.name for port in inputs)
    whole = next(batches(parted=False))
    part = next(_split(whole, inputs))
    # the first axis may be time, of which a model may need more
    parted = samples_in(part) == samples_in(whole) or _runs(model, part, names) or not _runs(model, whole, names)
    few = list(itertools.islice(batches(parted), 2))
    if next(_samples(few[0])) != next(_samples(part if parted else whole)):
        warn(
            "The data begin with another sample at each call. If they are shuffled, those that quality is measured on "
            "are pruned by as well: shuffle them once, or with a seed; of tf.data, reshuffle_each_iteration=False."
        )
    return Data(partial(batches, parted), names, alone=len(few) == 1)


def _runs(model: ModelProto, batch: Batch, names: Collection[str]) -> bool:
    """Whether the model runs on a batch."""
    try:
        OnnxRuntimeSession(model).run({name: batch[name] for name in names})
    except (RunError, UnavailableError):
        return False
    return True


def _sources(given: Given, inputs: Sequence[Port]) -> Sources:
    if isinstance(given, (str, os.PathLike)):
        text = os.fspath(given)
        if not text:  # which paths take for the present directory
            raise InputError("The data have no name. Give an .npz or .npy file, a directory, or loader.py:function.")
        if ".py:" in text:
            return _of_function(function_of(*path_and_name(text, "the data")), text, inputs)
        return _of_files(Path(text), inputs)
    if isinstance(given, np.ndarray) and len(inputs) == 1:
        given = {inputs[0].name: given}
    if isinstance(given, Mapping):
        return lambda: iter([("the data", given)])
    if callable(given):
        return _of_function(given, "the function for data", inputs)
    if isinstance(given, Iterator):
        raise InputError("Data are read several times: give a function that begins them again, or a list of batches.")
    return _of_function(lambda: given, "the data", inputs)


def path_and_name(text: str, what: str) -> tuple[Path, str]:
    """The file and the function of `loader.py:function`. Raises InputError for what is not of that form."""
    path, _, name = text.rpartition(":")
    if not (name.isidentifier() and path.endswith(".py")):
        raise InputError(f"A Python function for {what} is given as FILE.py:FUNCTION, and not as {text}.")
    return Path(path), name


def _of_function(function: Callable[[], Iterable[Mapping[str, Any]]], who: str, inputs: Sequence[Port]) -> Sources:
    def batches() -> Iterator[tuple[str, Mapping[str, Any]]]:
        try:
            given = function()
            one = isinstance(given, Mapping) or not isinstance(given, Iterable)
            for number, batch in enumerate([given] if one else given, 1):
                if not isinstance(batch, Mapping):
                    kind = type(batch).__name__
                    raise InputError(
                        f"Data are dictionaries of arrays by input name, as {{'{inputs[0].name}': array}}, and {who} "
                        f"gives {kind}."
                    )
                yield f"batch {number} of {who}", batch
        except (InputError, Terminated):
            raise
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {in_brief(error)}"
            raise InputError(f"Data cannot be read, since {who} failed: {reason}.") from error

    return batches


def _of_files(path: Path, inputs: Sequence[Port]) -> Sources:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
        if not files:
            raise InputError(f"The directory {path} has no .npz or .npy files.")
    elif not path.is_file():
        raise InputError(f"The data file {path} does not exist. Give an .npz or .npy file, or loader.py:function.")
    elif path.suffix not in (".npz", ".npy"):
        raise InputError(f"Data come from .npz or .npy files, or loader.py:function, and not from {path}.")
    else:
        files = [path]

    def arrays() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for file in files:
            try:
                if file.suffix == ".npz":
                    yield str(file), npz_files.read(file)
                else:
                    yield str(file), {inputs[0].name: np.load(file, allow_pickle=False)}
            except Exception as error:  # of any kind where it is damaged
                why = stand_ins.fault(file, "cannot be read as arrays; it may be damaged, or hold objects")
                raise InputError(f"{file} {why}.") from error

    if any(file.suffix == ".npy" for file in files) and len(inputs) != 1:
        names = ", ".join(f"'{port.name}'" for port in inputs)
        raise InputError(f"An .npy file holds one array, and the model has the inputs {names}: give .npz files.")
    return arrays


def _batch(given: Mapping[str, Any], inputs: Sequence[Port], where: str) -> Batch:
    """The arrays, those of inputs in the types that the model declares; raises InputError where they do not fit."""
    found = fitted(given, inputs, where)
    for name, array in found.items():
        if array.ndim and not len(array):  # along other axes there may be nothing yet, as in a cache
            raise InputError(f"The array '{name}' in {where} is empty.")
        if array.dtype.kind in "fc" and np.isnan(array).any():  # a mask that is added may hold infinity
            raise InputError(f"The array '{name}' in {where} holds NaN.")
    sizes = {port.name: port.type.shape[0] for port in inputs if port.type.shape}
    counts = {name: len(found[name]) for name in sizes}
    alike = len(set(sizes.values())) == 1 and all(isinstance(size, str) for size in sizes.values())
    if alike and len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise InputError(f"Inputs differ in how many samples there are in {where}: {told}.")
    return found | {name: array_of(given, name, inputs, where) for name in given if name not in found}


def _say_if_whole(given: Mapping[str, Any], batch: Batch, seen: set[str]) -> None:
    """Say of each array that was not seen before that whole numbers became floating point: it may need a scale."""
    for name in batch.keys() - seen:
        array = batch[name]
        seen.add(name)
        if array.dtype.kind == "f" and np.asarray(given[name]).dtype.kind in "iu":
            warn(
                f"The data of input '{name}' are whole numbers from {array.min():g} to {array.max():g}, and are taken "
                f"as {array.dtype} as they are. Scale them as for training, if that was done there."
            )


def _split(arrays: Batch, inputs: Sequence[Port]) -> Iterator[Batch]:
    """Batches of so many samples as the model takes, or of a few where it leaves that open."""
    ranked = [port for port in inputs if declared(port)]
    counts = {len(arrays[port.name]) for port in ranked}
    fixed = {size for port in ranked if isinstance(size := declared(port)[0], int)}
    if len(counts) != 1 or len(fixed) > 1:  # not all have the samples along their first axis
        yield arrays
        return
    count = counts.pop()
    most = max(1, min(_BATCH, count // _EVERY, _BYTES * count // sum(arrays[port.name].nbytes for port in ranked)))
    size = fixed.pop() if fixed else most
    for start in range(0, count, size):
        part = slice(start, start + size)
        yield {name: a[part] if a.ndim and len(a) == count else a for name, a in arrays.items()}
