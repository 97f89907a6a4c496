"""Samples for comparing two models: real data, then data drawn from the signature of the graph."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import InputError, NotComparableError, RunError
from maskc.frontend import npz_files, stand_ins
from maskc.runtime import accepted_sizes, random_inputs
from maskc.runtime.given_inputs import fitted
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import Session
from maskc.runtime.tensor_sizes import TensorSizes
from maskc.verification.input_output_signature import listed

# How labels of samples begin: what is given, what is drawn first, and that at which any network may overflow.
_REAL, _GAUSSIAN, _EXTREME = "real data", "gaussian", ("saturating", "large")
# What is tried in place of values of which the reference makes no numbers: smaller ones, then positive ones, for a
# logarithm or a root.
_INSTEAD: tuple[Callable[[NDArray[Any]], Any], ...] = (
    *(functools.partial(np.multiply, factor) for factor in (0.1, 0.01, 0.001, 1e-8, 1e-16)),
    np.abs,
)

# Of the arrays in all files together.
_MOST_BYTES = 2**31

# So many numbers of input show enough of a model.
_ENOUGH = 512

Arrays = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Sample:
    """Inputs, a description of them, and what the reference makes of them.

    `instead`: the values are others than were drawn, because the reference made no numbers of those.
    """

    label: str
    inputs: Inputs
    expected: Outputs
    instead: bool = False


def read_inputs(path: Path) -> dict[str, Arrays]:
    """Arrays by input name, from an `.npz` file or every one in a directory, each under what to call it.

    Raises `InputError` when a file cannot be read, or a directory has none.
    """
    files = {f"real data of {file.name}": file for file in sorted(path.glob("*.npz"))}
    if not path.is_dir():
        files = {"real data": path}
        if not path.is_file():
            raise InputError(f"The input file {path} does not exist.")
    if not files:
        raise InputError(f"The directory {path} has no .npz files.")
    size = 0
    for file in files.values():
        with contextlib.suppress(Exception):  # of any kind where it is damaged, which reading says better
            size += npz_files.unpacked_bytes(file)
    if size > _MOST_BYTES:
        raise InputError(
            f"The inputs in {path} take {size:,} bytes, and {_MOST_BYTES:,} is the most. Give fewer examples."
        )
    return {label: _read(file) for label, file in files.items()}


def _read(path: Path) -> Arrays:
    try:
        return npz_files.read(path)
    except Exception as error:
        why = stand_ins.fault(path, "cannot be read; it must be an .npz file of arrays")
        raise InputError(f"The input file {path} {why}.") from error


def drawn(
    ports: Sequence[random_inputs.Port],
    given: Mapping[str, Arrays],
    expected: Session,
    count: int,
    seed: int,
    tried: Mapping[str, int],
    inside: TensorSizes | None = None,
) -> Iterator[Sample]:
    """Real data first, then random samples, each with what the reference makes of it.

    The first random ones are Gaussian, one of each size that the reference accepts: these are the runs by which it was
    asked. `tried` are symbolic sizes to try beside those that are found, `inside` is as for `accepted_sizes.plan`.
    Raises `InputError` when the given data do not fit the reference and `NotComparableError` when no random data does.
    """
    for label, arrays in given.items():
        real = _fitted(ports, arrays, label)
        try:
            yield Sample(label, real, expected.run(real))
        except RunError as error:
            raise InputError(f"The reference cannot be run on the given inputs ({label}): {error}") from error
    if count == 0:
        if not given:
            raise InputError("There is nothing to compare on: give a number of samples above 0, or real data.")
        return
    ran: list[tuple[Inputs, Outputs]] = []
    planned = accepted_sizes.plan(
        ports, lambda inputs: ran.append((inputs, expected.run(inputs))), seed, tried, inside, count
    )
    for sizes, (inputs, outputs) in zip(planned.sizes, ran, strict=True):
        yield _finite(Sample(random_inputs.label(_GAUSSIAN, sizes), inputs, outputs), ports, expected)
    for label, inputs in random_inputs.generate(ports, planned, count - len(ran), [seed, 1]):
        yield _finite(_accepted(ports, label, inputs, expected), ports, expected)


def one_sample(model: ModelProto, session: Session) -> Inputs:
    """Random inputs that a model runs on, to time it with. Raises `NotComparableError` when there are none."""
    ports = random_inputs.ports(model)
    return next(drawn(ports, {}, session, 1, 0, {}, TensorSizes(model, ports))).inputs


def _accepted(ports: Sequence[random_inputs.Port], label: str, inputs: Inputs, expected: Session) -> Sample:
    """The sample, or one with smaller integers if the reference refuses it."""
    try:
        return Sample(label, inputs, expected.run(inputs))
    except RunError as error:
        for other in random_inputs.smaller(ports, inputs):
            with contextlib.suppress(RunError):
                return Sample(label, other, expected.run(other))
        raise NotComparableError(
            f"The reference fails on random data ({label}): {error} Compare on real data with `maskc verify --inputs`."
        ) from error


def _finite(sample: Sample, ports: Iterable[random_inputs.Port], expected: Session) -> Sample:
    """The sample, or one of defaults or other values of which the reference makes more numbers that are finite.

    Where it overflows, what becomes of channels that are zero is up to the order of operations: infinity times zero.
    """
    tried = [(_not_finite(sample.expected.values()), sample)]
    defaults = {port.name: port.default for port in ports if port.default is not None}
    if tried[0][0] and defaults:
        inputs = {**sample.inputs, **defaults}
        sample = Sample(sample.label, inputs, expected.run(inputs))
        tried.append((_not_finite(sample.expected.values()), sample))
    for inputs in itertools.chain(random_inputs.smaller([*ports], sample.inputs), _instead(sample.inputs)):
        if not tried[-1][0]:
            break
        with contextlib.suppress(RunError):  # of integers that may not be so small
            found = Sample(sample.label, inputs, expected.run(inputs), instead=True)
            tried.append((_not_finite(found.expected.values()), found))
    return min(tried, key=lambda one: one[0])[1]


def _instead(inputs: Inputs) -> Iterator[Inputs]:
    """The same integers, with other numbers."""
    for changed in _INSTEAD:
        yield {
            name: np.asarray(changed(array), array.dtype) if array.dtype.kind in "fc" else array
            for name, array in inputs.items()
        }


def _not_finite(arrays: Iterable[NDArray[Any]]) -> int:
    return sum(array.size - int(np.isfinite(array).sum()) for array in arrays if array.dtype.kind in "fc")


def _fitted(ports: Sequence[random_inputs.Port], given: Arrays, label: str) -> Inputs:
    """The given arrays in the types that the model declares; `label` is what messages call them."""
    defaults = {port.name: port.default for port in ports if port.default is not None}
    result = fitted({**defaults, **given}, ports, f"the {label}")
    unknown = [name for name in given if name not in result]
    if unknown:
        raise InputError(
            f"There is an array '{unknown[0]}' in the {label}, which is no input. The model's inputs are "
            f"{listed(result)}."
        )
    return result


def notes_on(data: Sequence[Sample]) -> list[str]:
    """Sentences if all data have one batch size, or are not what was drawn."""
    leading = {array.shape[0] for sample in data for array in sample.inputs.values() if array.ndim}
    notes = ["Only one batch size could be compared."] if len(data) > 1 and len(leading) == 1 else []
    ordinary = [sample for sample in data if not sample.label.startswith(_EXTREME)]
    instead = sum(sample.instead for sample in ordinary)
    if instead:
        notes.append(
            f"The reference gives infinity or NaN on {instead} of {len(data)} samples, in whose place smaller or "
            "positive values were compared."
        )
    for name in data[0].expected:
        arrays = [sample.expected[name] for sample in ordinary if name in sample.expected]
        if 0 < (missing := _not_finite(arrays)) < (count := sum(array.size for array in arrays)):
            notes.append(
                f"{missing / count:.1%} of output '{name}' is NaN or infinite in the reference. That it is so in the "
                "compiled model, too, is all that was compared there."
            )
    return notes


def redrawn(
    ports: Sequence[random_inputs.Port], samples: Sequence[Sample], expected: Session, seed: int
) -> list[Inputs]:
    """Inputs on which to see what is inside a model: Gaussian numbers, and indices of any entry that there is.

    The first two have the sizes of two samples, as unlike as there are and the first not very small. They are these
    where such are real data or Gaussian already, and where the reference cannot be run on what was drawn. If their
    sizes are not the same, a third has those of the first, so that what no data change is seen, and other integers of
    those that are there.
    """
    by_name = {port.name: port for port in ports}
    indices = {name: port for name, port in by_name.items() if port.entries is not None}
    real = [sample for sample in samples if sample.label.startswith(_REAL)]
    others = [sample for sample in samples if sample not in real] or real
    elements = {sample: sum(array.size for array in sample.inputs.values()) for sample in others}
    enough = {sample: elements[sample] >= min(_ENOUGH, max(elements.values())) for sample in others}
    shows = {sample: _shows(sample, indices) for sample in samples}
    first = real[0] if real else min(filter(enough.__getitem__, others), key=elements.__getitem__)
    new = {sample: sample is not first and shows[sample] for sample in others}
    second = max(others, key=lambda sample: (_unlike(first, sample), enough[sample], new[sample], -elements[sample]))
    rng = np.random.default_rng([seed, 2])
    taken = ((first, real or shows[first]), (second, new[second]))
    found = [like.inputs if as_it_is else _redrawn(like, by_name, expected, rng) for like, as_it_is in taken]
    if not _unlike(first, second):
        return found
    third = _redrawn(first, by_name, expected, rng, integers=True)
    differs = any(not np.array_equal(array, found[0][name]) for name, array in third.items())
    return [*found, third] if differs else found


def _shows(sample: Sample, indices: Mapping[str, random_inputs.Port]) -> bool:
    """Whether a sample is Gaussian, with any index: some models take 0 alone at some sizes."""
    some = all(sample.inputs[name].any() for name, port in indices.items() if (port.entries or 0) > 1)
    return some and sample.label.startswith(_GAUSSIAN)


def _unlike(one: Sample, other: Sample) -> int:
    """How many sizes of two samples are not the same."""
    return sum(
        n != m
        for name, array in one.inputs.items()
        for n, m in zip(array.shape, other.inputs[name].shape, strict=False)
    )


def _redrawn(
    like: Sample,
    ports: Mapping[str, random_inputs.Port],
    expected: Session,
    rng: np.random.Generator,
    *,
    integers: bool = False,
) -> Inputs:
    inputs = dict(like.inputs)
    for name, array in inputs.items():
        port = ports[name]
        if port.default is not None:
            inputs[name] = port.near_default(rng).astype(array.dtype)
        elif port.entries is not None:
            inputs[name] = np.asarray(port.integers(rng, array.shape, 0, port.entries or 1), array.dtype)
        elif array.dtype.kind == "f":
            inputs[name] = rng.normal(size=array.shape).astype(array.dtype)
        elif integers and array.size:
            inputs[name] = rng.choice(array.reshape(-1), array.shape)
    with contextlib.suppress(RunError):
        return _finite(Sample(like.label, inputs, expected.run(inputs)), ports.values(), expected).inputs
    return like.inputs
