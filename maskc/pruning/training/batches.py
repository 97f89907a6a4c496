"""Batches to train on: in another order in each pass, and larger where the model takes larger ones."""

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
    for part in np.array_split(order, -(-len(order) // size)):  # into equal ones: a small batch would be filled up
        yield {name: array[part] for name, array in arrays.items()}


def _examples(batch: Batch) -> int | None:
    """How many there are, if all arrays say the same."""
    counts = {len(array) if array.ndim else None for array in batch.values()}
    return counts.pop() if len(counts) == 1 else None
