"""Batches to train on: in another order in each pass, larger where the model takes larger ones, some examples mixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.runtime.given_inputs import declared
from maskc.runtime.random_inputs import ports

Batch = Mapping[str, NDArray[np.generic]]

_POOL = 2**26  # bytes that are shuffled together
_EXAMPLES, _BYTES = 64, 2**20  # of a batch
_MIXED = 0.5  # of the examples


def shuffled(batches: Iterable[Batch], model: ModelProto, rng: np.random.Generator) -> Iterator[Batch]:
    """The examples of batches in another order; those of equal shapes together, where a model leaves their number open.

    Only so many are held at a time as fit in 64 MB.
    """
    joins = all(shape and shape[0] is None for shape in map(declared, ports(model)))
    pool: list[Batch] = []
    size = 0
    for batch in batches:
        pool.append(batch)
        size += sum(array.nbytes for array in batch.values())
        if size >= _POOL:
            yield from _drawn(pool, joins, rng)
            pool, size = [], 0
    yield from _drawn(pool, joins, rng)


def mixed(batch: Batch, model: ModelProto, rng: np.random.Generator) -> Batch:
    """A batch half of whose examples are means of two, if all inputs are floating-point numbers, else as it is.

    What a source makes of numbers between those of the data says more of it than the data do: a source that is sure of
    all that it was trained on says little there (Zhang et al. 2018, arXiv 1710.09412, mix examples and their labels).
    """
    inputs = {port.name: batch[port.name] for port in ports(model)}
    count = _examples(inputs)
    if count is None or any(array.dtype.kind != "f" for array in inputs.values()):
        return batch
    other, share = rng.permutation(count), rng.random(count) * (rng.random(count) < _MIXED)

    def mean(array: NDArray[np.generic]) -> NDArray[np.generic]:
        of_other = share.reshape(-1, *[1] * (array.ndim - 1)).astype(array.dtype)
        return np.asarray(array * (1 - of_other) + array[other] * of_other)

    return {**batch, **{name: mean(array) for name, array in inputs.items()}}


def _drawn(pool: Sequence[Batch], joins: bool, rng: np.random.Generator) -> Iterator[Batch]:
    alike: dict[object, list[Batch]] = {}
    for number, batch in enumerate(pool):
        key = [(name, array.shape[1:], array.dtype) for name, array in batch.items()]
        alone = not joins or _examples(batch) is None
        alike.setdefault(number if alone else str(key), []).append(batch)
    found = [part for group in alike.values() for part in (_joined(group, rng) if len(group) > 1 else group)]
    for number in rng.permutation(len(found)):
        yield found[number]


def _joined(batches: Sequence[Batch], rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of examples drawn from batches of equal shapes."""
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = rng.permutation(len(next(iter(arrays.values()))))
    each = sum(array.nbytes for array in arrays.values()) / len(order)
    size = max(len(next(iter(batches[0].values()))), min(_EXAMPLES, int(_BYTES / max(each, 1))))
    for start in range(0, len(order), size):
        yield {name: array[order[start : start + size]] for name, array in arrays.items()}


def _examples(batch: Batch) -> int | None:
    """How many there are, if all arrays say the same."""
    counts = {len(array) if array.ndim else None for array in batch.values()}
    return counts.pop() if len(counts) == 1 else None
