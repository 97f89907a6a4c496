"""Random inputs of a model, drawn by the types and shapes of its signature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from maskc.errors import UnavailableError
from maskc.frontend.graph_queries import HALF_TYPES, TensorType, type_of
from maskc.runtime.index_inputs import compared_numbers, entries_by_input

Inputs = dict[str, NDArray[Any]]

# How values are drawn, in the order in which samples take turns: a name, and the scale where it matters.
KINDS = ("gaussian", "uniform", "large", "zeros", "small", "one-hot", "saturating", "tiny")
_SCALES = {"gaussian": 1.0, "large": 10.0, "small": 0.01, "tiny": 1e-6}
_SATURATING = 50.0
_NEAR = 0.25  # share of the integers that are drawn near numbers that something is compared with; spread by defaults


@dataclass(frozen=True)
class Port:
    """An input of the graph: its name, type, and, for one that is used as an index, the number of entries.

    numbers: whole numbers that the graph compares something with, near which some integers are drawn. default: what it
    takes where a caller gives nothing, near which values are drawn.
    """

    name: str
    type: TensorType
    entries: int | None = None
    numbers: tuple[int, ...] = ()
    default: NDArray[Any] | None = field(default=None, compare=False)

    def near_default(self, rng: np.random.Generator) -> NDArray[Any]:
        """Random numbers near the default."""
        assert self.default is not None
        center = self.default.astype(np.float64)
        return np.asarray(center + _NEAR * np.where(center, center, 1) * rng.normal(size=center.shape))

    def integers(self, rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, far: int = 0) -> Any:
        """Random integers, some of them near numbers of the graph, which may be more, but are below `far`."""
        values = np.asarray(rng.integers(low, max(high, low + 1), shape))
        near = [n + off for n in self.numbers for off in (-1, 0, 1) if low <= n + off < max(high, far)]
        return np.where(rng.random(shape) < _NEAR, rng.choice(near, shape), values) if near else values

    def symbols(self) -> tuple[str, ...]:
        """Names of the sizes that the caller chooses; a first one without a name is the batch."""
        return tuple(key for key in self.keys() if isinstance(key, str))

    def keys(self) -> tuple[int | str, ...]:
        """The sizes, or the names of those that the caller chooses."""
        assert self.type.shape is not None
        own = ("batch" if axis == 0 else f"{self.name}[{axis}]" for axis in itertools.count())
        return tuple(name if dim is None else dim for dim, name in zip(self.type.shape, own, strict=False))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at the given sizes."""
        return tuple(sizes[key] if isinstance(key, str) else key for key in self.keys())


@dataclass(frozen=True)
class Plan:
    """Sizes that the reference accepts, and the ceiling on integers that are not known to be indices."""

    sizes: tuple[Mapping[str, int], ...]
    ceiling: int


def ports(model: ModelProto, *others: ModelProto) -> tuple[Port, ...]:
    """The inputs that a caller must give: those without a default among the initializers.

    others: models with which it is compared, whose numbers count as well. Raises `UnavailableError` for inputs that are
    not tensors or of unknown rank.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    limits = entries_by_input(model)
    numbers = tuple(sorted({number for each in (model, *others) for number in compared_numbers(each)}))
    found = []
    for value in model.graph.input:
        if value.name in defaults:
            continue
        type_ = type_of(value)
        if type_.shape is None:
            raise UnavailableError(
                f"Input '{value.name}' is not a tensor of known rank, and only models that take such can be compared."
            )
        found.append(Port(value.name, type_, limits.get(value.name), numbers))
    return tuple(found)


def generate(
    inputs: Sequence[Port], planned: Plan, samples: int, seed: int | Sequence[int]
) -> Iterator[tuple[str, Inputs]]:
    """Yield samples with a description each; sizes and kinds of values take turns independently."""
    rng = np.random.default_rng(seed)
    count = len(planned.sizes)
    period = math.lcm(len(KINDS), count)
    for i in range(samples):
        kind = KINDS[i % len(KINDS)]
        # Shifted once per period, every kind meets every size even when the two counts share a factor.
        sizes = planned.sizes[(i + i // period) % count]
        yield label(kind, sizes), draw(inputs, sizes, kind, rng, planned.ceiling)


def label(kind: str, sizes: Mapping[str, int]) -> str:
    """What messages call values of a kind at these sizes."""
    return ", ".join([kind, *(f"{name} {size}" for name, size in sizes.items())])


def smaller(ports: Sequence[Port], inputs: Inputs) -> Iterator[Inputs]:
    """The same values with smaller integers, where the graph does not say how many there are to choose from."""
    free = {port.name for port in ports if port.entries is None}

    def changed(low: int, high: int) -> Inputs:
        return {
            name: np.asarray(np.clip(array, low, high)) if name in free and array.dtype.kind in "iu" else array
            for name, array in inputs.items()
        }

    if any(name in free and array.dtype.kind in "iu" for name, array in inputs.items()):
        yield from itertools.starmap(changed, ((0, 2), (1, 2), (0, 1), (1, 1), (0, 0)))


def draw(inputs: Sequence[Port], sizes: Mapping[str, int], kind: str, rng: np.random.Generator, ceiling: int) -> Inputs:
    """One set of input arrays. Raises `UnavailableError` for a type that nothing can be drawn for."""
    return {port.name: _draw_one(port, port.shape(sizes), kind, rng, ceiling) for port in inputs}


def _draw_one(port: Port, shape: tuple[int, ...], kind: str, rng: np.random.Generator, ceiling: int) -> NDArray[Any]:
    elem_type = port.type.elem_type
    # The lowest ceiling is for models that take nothing but index 0 at the sizes tried.
    entries = port.entries if ceiling > 1 or port.entries is None else 1
    if elem_type == TensorProto.STRING:
        words = np.array(["", "a", "b", "word", "42"], dtype=object)
        return np.asarray(words[rng.integers(0, len(words), shape)], dtype=object)
    if elem_type == TensorProto.BOOL:
        return np.zeros(shape, np.bool_) if kind == "zeros" else rng.integers(0, 2, shape).astype(np.bool_)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        dtype = np.dtype(np.void)
    if dtype.kind == "c":
        return (_floats(kind, rng, shape) + 1j * _floats(kind, rng, shape)).astype(dtype)
    real = dtype.kind == "f" or elem_type in HALF_TYPES
    if port.default is not None:
        return port.default if kind == "zeros" else port.near_default(rng).astype(dtype)
    if entries is not None and (real or dtype.kind in "iu"):  # an index may travel as a float
        return _integers(port, entries, kind, rng, shape).astype(dtype)
    if real:
        return _floats(kind, rng, shape).astype(dtype)
    if dtype.kind in "iu":
        info, free = np.iinfo(dtype), ceiling > 2
        if dtype.itemsize <= 1 + free:  # images, sound and quantised data use the whole range
            return _integers(port, info.max + 1, kind, rng, shape, info.min).astype(dtype)
        high = ceiling * (4 if kind == "large" and free else 1)
        return _integers(port, high, kind, rng, shape, far=info.max * free).astype(dtype)
    raise UnavailableError(
        f"No random data can be made for input '{port.name}' of type {TensorProto.DataType.Name(elem_type).lower()}. "
        "Compare on real data with `maskc verify --inputs`."
    )


def _floats(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if kind == "zeros":
        return np.zeros(shape)
    if kind == "uniform":
        return rng.random(shape)
    if kind == "saturating":
        return rng.choice((-_SATURATING, _SATURATING), shape)
    if kind == "one-hot":
        return _one_hot(rng, shape)
    return np.asarray(rng.normal(0.0, _SCALES[kind], shape))


def _one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A 1 for one channel at each position, 0 for the others: axis 1 of rank 3 and more, else the last one."""
    if not shape:
        return np.ones(shape)
    axis = 1 if len(shape) > 2 else len(shape) - 1
    if shape[axis] == 0:
        return np.zeros(shape)
    hot = rng.integers(0, shape[axis], (*shape[:axis], 1, *shape[axis + 1 :]))
    values = np.zeros(shape)
    np.put_along_axis(values, hot, 1.0, axis)
    return values


def _integers(
    port: Port, high: int, kind: str, rng: np.random.Generator, shape: tuple[int, ...], low: int = 0, far: int = 0
) -> NDArray[Any]:
    return np.zeros(shape, np.int64) if kind == "zeros" else np.asarray(port.integers(rng, shape, low, high, far))
