"""Inputs to compare two models on, drawn from the signature of the graph."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.errors import NotComparableError, RunError, UnavailableError
from maskc.frontend.graph_queries import HALF_TYPES, TensorType, all_nodes, tensor_types, type_of

Inputs = dict[str, NDArray[Any]]

BATCHES = (1, 2, 5)

# Values tried for symbolic sizes other than the batch until the reference accepts one, the last for windows on sound,
# and then beside it: an odd one, the smallest, and one more; where it accepts none of these, larger by as much.
_SIZES = (64, 32, 16, 128, 224, 256, 8, 48, 7, 3, 2, 1, 512, 1024, 4096, 16000)
_MORE_SIZES = (17, 1, 2, 33, 96, 24, 10)
_EXTRA_SIZES = 3
_MAX_TRIES = 60

# Elements of all inputs together: more take gigabytes, in double precision, and minutes for all samples.
_MAX_ELEMENTS = 2**24
# Examples, as the first axis of a matrix counts them: more show nothing else, and take minutes.
_MAX_EXAMPLES = 2**20
# Elements of a tensor inside: several may be held at a time.
_MAX_INSIDE = 2**28
# And where smaller sizes are accepted.
_MANY_INSIDE = 2**26

# How values are drawn, in the order in which samples take turns: a name, and the scale where it matters.
KINDS = ("gaussian", "uniform", "large", "zeros", "small", "one-hot", "saturating", "tiny")
_SCALES = {"gaussian": 1.0, "large": 10.0, "small": 0.01, "tiny": 1e-6}
_SATURATING = 50.0

# Operators that hand indices on to where they are used, or shift them within their range.
_INDEX_STEPS = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Expand", "Flatten", "Identity", "Max", "Min", "Mod", "Mul", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)


@dataclass(frozen=True)
class Port:
    """An input of the graph: its name, type, and, for one that is used as an index, the number of entries."""

    name: str
    type: TensorType
    entries: int | None = None

    def symbols(self) -> tuple[str, ...]:
        """Names of the sizes that the caller chooses; a first one without a name is the batch."""
        assert self.type.shape is not None
        return tuple(self._symbol(axis) for axis, dim in enumerate(self.type.shape) if not isinstance(dim, int))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at the given sizes."""
        assert self.type.shape is not None
        return tuple(
            dim if isinstance(dim, int) else sizes[self._symbol(axis)] for axis, dim in enumerate(self.type.shape)
        )

    def _symbol(self, axis: int) -> str:
        assert self.type.shape is not None
        name = self.type.shape[axis]
        if isinstance(name, str):
            return name
        return "batch" if axis == 0 else f"{self.name}[{axis}]"


class Inside(Protocol):
    """What is known of a model's tensors at given sizes by symbol; `tensor_sizes.TensorSizes` for instance."""

    def largest(self, sizes: Mapping[str, int]) -> int:
        """The elements of the largest tensor."""

    def windows_fit(self, sizes: Mapping[str, int]) -> bool:
        """Whether each window fits its input."""


@dataclass(frozen=True)
class Plan:
    """Sizes that the reference accepts, and the ceiling on integers that are not known to be indices."""

    sizes: tuple[Mapping[str, int], ...]
    ceiling: int


def ports(model: ModelProto) -> tuple[Port, ...]:
    """The inputs that a caller must give: those without a default among the initializers.

    Raises `UnavailableError` for inputs that are not tensors or of unknown rank.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    limits = _index_limits(model)
    found = []
    for value in model.graph.input:
        if value.name in defaults:
            continue
        type_ = type_of(value)
        if type_.shape is None:
            raise UnavailableError(
                f"Input '{value.name}' is not a tensor of known rank, and only models that take such can be compared."
            )
        found.append(Port(value.name, type_, limits.get(value.name)))
    return tuple(found)


def check_size(inputs: Sequence[Port]) -> None:
    """Raise `NotComparableError` where even with all open sizes 1 there are more elements than are drawn."""
    if too_many := _too_many(inputs, dict.fromkeys((s for port in inputs for s in port.symbols()), 1)):
        raise NotComparableError(
            f"No random input was found that the reference accepts ({too_many}). Give real data with --inputs."
        )


def _too_many(inputs: Sequence[Port], sizes: Mapping[str, int]) -> str:
    """What is said of inputs with more elements than are drawn; "" where there are not."""
    shapes = [port.shape(sizes) for port in inputs]
    elements = sum(math.prod(max(1, size) for size in shape) for shape in shapes)
    if elements > _MAX_ELEMENTS:
        return f"its inputs have {elements:,} elements, and up to {_MAX_ELEMENTS:,} are drawn"
    examples = max((shape[0] for shape in shapes if len(shape) > 1), default=0)
    if examples > _MAX_EXAMPLES:
        return f"its inputs hold {examples:,} examples, and up to {_MAX_EXAMPLES:,} are drawn"
    return ""


def plan(
    inputs: Sequence[Port],
    run: Callable[[Inputs], object],
    seed: int,
    tried: Mapping[str, int] | None = None,
    inside: Inside | None = None,
) -> Plan:
    """Find sizes that the model accepts by running it: batches of 1, 2 and 5, other sizes at up to four values.

    `tried` are values for symbols by name, which come first where the model accepts them. The model is not run
    where a tensor `inside` it has too many elements, nor, beside other sizes, where an image is smaller than a window.

    Raises `NotComparableError` when none is found.
    """
    symbols = list(dict.fromkeys(symbol for port in inputs for symbol in port.symbols()))
    leading = {port.symbols()[0] for port in inputs if port.type.shape and not isinstance(port.type.shape[0], int)}
    batches = [symbol for symbol in symbols if symbol in leading]
    others = [symbol for symbol in symbols if symbol not in leading]
    failure: RunError | None = None

    def accepts(sizes: Mapping[str, int], ceiling: int, most: int) -> bool:
        nonlocal failure
        if too_many := _too_many(inputs, sizes):
            failure = failure or RunError(too_many)
            return False
        if inside is not None and (elements := inside.largest(sizes)) > most:
            if elements > _MAX_INSIDE:
                failure = failure or RunError(
                    f"a tensor in it has {elements:,} elements, and up to {_MAX_INSIDE:,} are computed"
                )
            return False
        drawn = draw(inputs, sizes, "gaussian", np.random.default_rng(seed), ceiling)
        for values in (drawn, *(smaller(inputs, drawn) if ceiling == 1 else ())):
            try:
                run(values)
            except RunError as error:
                failure = failure or error
            else:
                return True
        return False

    def first(most: int) -> tuple[dict[str, int], int] | None:
        for batch, ceiling in itertools.product(BATCHES if batches else (1,), (3, 2, 1)):
            fixed = dict.fromkeys(batches, batch)
            for values in itertools.islice(_values(len(others)), _MAX_TRIES):
                sizes = fixed | dict(zip(others, values, strict=True))
                if accepts(sizes, ceiling, most):
                    return sizes, ceiling
        return None

    asked = {name: size for name, size in (tried or {}).items() if name in symbols}
    start: tuple[Mapping[str, int], int] | None = None
    if asked:
        wanted = dict.fromkeys(symbols, 1) | asked
        start = next(((wanted, ceiling) for ceiling in (3, 2, 1) if accepts(wanted, ceiling, _MAX_INSIDE)), None)
    start = start or first(_MANY_INSIDE) or first(_MAX_INSIDE)
    if start is None:
        assert failure is not None
        raise NotComparableError(
            f"No random input was found that the reference accepts ({str(failure).rstrip('.')}). "
            "Give real data with --inputs."
        )
    sizes, ceiling = start
    accepted: list[Mapping[str, int]] = [sizes]
    for batch in BATCHES if batches else ():
        candidate = {**sizes, **dict.fromkeys(batches, batch)}
        if candidate not in accepted and accepts(candidate, ceiling, _MANY_INSIDE):
            accepted.append(candidate)

    def beyond(least: Mapping[str, int]) -> list[Mapping[str, int]]:
        """The first few that are accepted of sizes which exceed these by as much."""
        candidates = ({**sizes, **{name: least[name] + size for name in others}} for size in _MORE_SIZES)
        new = (c for c in candidates if c not in accepted and (inside is None or inside.windows_fit(c)))
        return [*itertools.islice((c for c in new if accepts(c, ceiling, _MANY_INSIDE)), _EXTRA_SIZES)]

    if others:
        accepted += beyond(dict.fromkeys(others, 0)) or beyond(sizes)
    return Plan(tuple(accepted), ceiling)


def generate(inputs: Sequence[Port], planned: Plan, samples: int, seed: int) -> Iterator[tuple[str, Inputs]]:
    """Yield samples with a description each; sizes and kinds of values take turns independently."""
    rng = np.random.default_rng(seed)
    count = len(planned.sizes)
    period = math.lcm(len(KINDS), count)
    for i in range(samples):
        kind = KINDS[i % len(KINDS)]
        # Shifted once per period, every kind meets every size even when the two counts share a factor.
        sizes = planned.sizes[(i + i // period) % count]
        stated = ", ".join(f"{name} {size}" for name, size in sizes.items())
        yield f"{kind}{f', {stated}' if stated else ''}", draw(inputs, sizes, kind, rng, planned.ceiling)


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
    if dtype.kind == "f" or elem_type in HALF_TYPES:
        if entries is not None:  # an index that travels as a float
            return _integers(0, entries, kind, rng, shape).astype(dtype)
        return _floats(kind, rng, shape).astype(dtype)
    if dtype.kind in "iu":
        if entries is not None:
            return _integers(0, entries, kind, rng, shape).astype(dtype)
        if dtype.itemsize == 1:  # images and quantised data use the whole range
            info = np.iinfo(dtype)
            return _integers(info.min, info.max + 1, kind, rng, shape).astype(dtype)
        return _integers(0, ceiling * (4 if kind == "large" and ceiling > 2 else 1), kind, rng, shape).astype(dtype)
    raise UnavailableError(
        f"No random data can be made for input '{port.name}' of type "
        f"{TensorProto.DataType.Name(elem_type).lower()}. "
        "Give real data with --inputs."
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


def _integers(low: int, high: int, kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    if kind == "zeros":
        return np.zeros(shape, np.int64)
    return np.asarray(rng.integers(low, max(high, low + 1), shape))


def _values(count: int) -> Iterator[tuple[int, ...]]:
    """Sizes for `count` symbols: all alike first, since most are related, then every combination."""
    yield from ((size,) * count for size in _SIZES[: len(_SIZES) if count else 1])
    if count > 1:
        for values in itertools.product(_SIZES, repeat=count):
            if len(set(values)) > 1:
                yield values


def _index_limits(model: ModelProto) -> dict[str, int]:
    """For each input that picks entries from a table: how many entries there are to pick from."""
    types = tensor_types(model)
    small = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if np.prod(tensor.dims) == 1
    }
    origins: dict[str, frozenset[str]] = {
        value.name: frozenset({value.name}) for value in model.graph.input if value.name not in small
    }
    limits: dict[str, int] = {}
    nothing: frozenset[str] = frozenset()
    for node in all_nodes(model):
        index, entries = _picked(node, types, small)
        if entries:
            for name in origins.get(index, nothing):
                limits[name] = min(entries, limits.get(name, entries))
        if node.op_type in _INDEX_STEPS or node.op_type in ("Gather", "GatherElements"):
            # What a table of indices holds is an index as well, but what picks from it is not.
            carried = node.input[:1] if node.op_type.startswith("Gather") else node.input
            origin = nothing.union(*(origins.get(name, nothing) for name in carried))
            for name in node.output:
                origins[name] = origin
    return limits


def _picked(
    node: NodeProto, types: Mapping[str, TensorType], small: Mapping[str, NDArray[Any]]
) -> tuple[str, int | None]:
    """The index input of a node that picks from a table, and the table's number of entries, if known."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    size: int | str | None = None
    shape = types[node.input[0]].shape if node.input and node.input[0] in types else None
    if node.op_type in ("GatherND", "ScatterND") and len(node.input) >= 2 and node.input[1] in types:
        # The last axis of the indices has a place along each of the table's first axes; the shortest holds for all.
        deep = (types[node.input[1]].shape or (None,))[-1]
        first = attributes.get("batch_dims", 0)
        sizes = shape[first : first + deep] if shape is not None and isinstance(deep, int) else ()
        return node.input[1], min((size for size in sizes if isinstance(size, int)), default=None)
    if node.op_type in ("Gather", "GatherElements", "ScatterElements", "Scatter") and len(node.input) >= 2:
        axis = attributes.get("axis", 0)
        if shape is not None and -len(shape) <= axis < len(shape):
            size = shape[axis]
        return node.input[1], size if isinstance(size, int) else None
    if node.op_type == "OneHot" and len(node.input) == 3 and node.input[1] in small:
        return node.input[0], int(small[node.input[1]].ravel()[0])
    return "", None
