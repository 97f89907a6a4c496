"""Input sizes that a model accepts, found by running it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from onnx import TensorProto

from maskc.errors import NotComparableError, RunError
from maskc.runtime.random_inputs import Inputs, Plan, Port, draw, smaller
from maskc.runtime.tensor_sizes import TensorSizes

_BATCHES = (1, 2, 5)

# What integers that are not known to be indices stay below, the first that is accepted.
_CEILINGS = (3, 2, 1)
_INTEGERS = frozenset(kind for name, kind in TensorProto.DataType.items() if "INT" in name)

# Values tried for symbolic sizes other than the batch until the reference accepts one, the last for windows on sound,
# and then beside it: an odd one, the smallest, and one more; where it accepts none of these, larger by as much.
_SIZES = (64, 32, 16, 128, 224, 256, 8, 48, 28, 20, 7, 3, 2, 1, 512, 1024, 4096, 16000)
_MORE_SIZES = (17, 1, 2, 33, 96, 24, 10)
_EXTRA_SIZES = 3
# By how many quarters sizes are multiplied that are to be unlike their neighbours.
_QUARTERS = ((4, 3, 2), (4, 6, 8))
# Values of sizes of which one is the sum of two: of what is new and of the past; the others may be heads.
_SUMMED = (16, 4, 8, 1)
_MAX_TRIES = 80
# Larger sizes that are tried, each of which takes longer, before a model is said to take none.
_MOST_REFUSED = 3

# Elements of all inputs together: more take gigabytes, in double precision, and minutes for all samples.
_MAX_ELEMENTS = 2**24
# Examples, as the first axis of a matrix counts them: more show nothing else, and take minutes.
_MAX_EXAMPLES = 2**20
# Elements of a tensor inside: several may be held at a time.
_MAX_INSIDE = 2**28
# And where smaller sizes are accepted.
_MANY_INSIDE = 2**26


def plan(
    inputs: Sequence[Port],
    run: Callable[[Inputs], object],
    seed: int,
    tried: Mapping[str, int] | None = None,
    inside: TensorSizes | None = None,
    most: int | None = None,
) -> Plan:
    """Find sizes that the model accepts by running it: batches of 1, 2 and 5, other sizes at up to four values.

    It runs once without an error for each that is found, of which there are at most `most`, on Gaussian values.
    `tried` are values for symbols by name, which come first where the model accepts them. The model is not run
    where a tensor `inside` it has too many elements, nor, beside other sizes, where an image is smaller than a window.

    Raises `NotComparableError` when none is found.
    """
    search = _Search(inputs, run, seed, inside)
    sizes, ceiling = search.first(tried or {})
    found = itertools.chain([sizes], search.wide(sizes, ceiling), search.beside(sizes, ceiling))
    return Plan(tuple(itertools.islice(found, most)), ceiling)


class _Search:
    """The sizes of a model's inputs: those of the batch, and others."""

    def __init__(
        self, inputs: Sequence[Port], run: Callable[[Inputs], object], seed: int, inside: TensorSizes | None
    ) -> None:
        self._inputs, self._run, self._seed, self._inside = inputs, run, seed, inside
        self._symbols = list(dict.fromkeys(symbol for port in inputs for symbol in port.symbols()))
        leading = {port.symbols()[0] for port in inputs if port.type.shape and not isinstance(port.type.shape[0], int)}
        self._batches = [symbol for symbol in self._symbols if symbol in leading]
        self._others = [symbol for symbol in self._symbols if symbol not in leading]
        # what is drawn for other types is the same
        drawn = any(port.entries is not None or port.type.elem_type in _INTEGERS for port in inputs)
        self._ceilings = _CEILINGS if drawn else _CEILINGS[:1]
        self._large: list[tuple[Mapping[str, int], int]] = []
        self._failure: RunError | None = None

    def first(self, tried: Mapping[str, int]) -> tuple[Mapping[str, int], int]:
        """The first sizes that are accepted, and the ceiling. Raises `NotComparableError` where there are none."""
        asked = {name: size for name, size in tried.items() if name in self._symbols}
        wanted = itertools.product([dict.fromkeys(self._symbols, 1) | asked] if asked else (), self._ceilings)
        attempts = [(_MAX_INSIDE, wanted), (_MANY_INSIDE, self._candidates()), (_MAX_INSIDE, self._large)]
        for most, candidates in attempts:
            for candidate, ceiling in candidates:
                for sizes in self._agreeing(candidate, asked):
                    if self._accepts(sizes, ceiling, most):
                        return sizes, ceiling
        raise _none_found(str(self._failure).rstrip("."))

    def wide(self, sizes: Mapping[str, int], ceiling: int) -> Iterator[Mapping[str, int]]:
        """Larger ones, where some weights of a window see only padding at these."""
        if self._inside is None or self._inside.windows_fit(sizes, padded=False):
            return
        refused = 0
        for names, size in itertools.product((self._others, self._symbols), sorted(_SIZES)):
            if refused < _MOST_REFUSED and all(size >= sizes[name] for name in names):  # what leads may be time
                candidate = self._agreeing({**sizes, **dict.fromkeys(names, size)})[0]
                fits = candidate != sizes and self._inside.windows_fit(candidate, padded=False)
                if fits and self._accepts(candidate, ceiling, _MANY_INSIDE):
                    yield candidate
                    return
                refused += fits

    def beside(self, sizes: Mapping[str, int], ceiling: int) -> Iterator[Mapping[str, int]]:
        """Other sizes that are accepted: of the batch, then of the others, smaller ones first.

        The first are unlike each other where they can be, as a size may be taken of the wrong axis of a square image.
        """
        known = [sizes]
        batches = [dict.fromkeys(self._batches, size) for size in _BATCHES]
        for batch in [each for each in batches if not each.items() <= sizes.items()] or [{}]:
            for others in (*(self._unlike(sizes) if len(known) == 1 else ()), sizes):
                candidate = self._agreeing({**others, **batch})[0]
                if candidate not in known and self._accepts(candidate, ceiling, _MANY_INSIDE):
                    known.append(candidate)
                    yield candidate
                    break
        if self._others:
            more = self._beyond(dict.fromkeys(self._others, 0), sizes, known, ceiling)
            first = next(more, None)
            yield from self._beyond(sizes, sizes, known, ceiling) if first is None else itertools.chain([first], more)

    def _unlike(self, sizes: Mapping[str, int]) -> Iterator[Mapping[str, int]]:
        """The same but for the sizes beside the batch, of which neighbours differ: smaller ones first."""
        for quarters in _QUARTERS if len(self._others) > 1 else ():
            found = {name: sizes[name] * quarters[i % len(quarters)] // 4 for i, name in enumerate(self._others)}
            if min(found.values()) > 1:
                yield {**sizes, **found}

    def _beyond(
        self, least: Mapping[str, int], sizes: Mapping[str, int], known: Sequence[Mapping[str, int]], ceiling: int
    ) -> Iterator[Mapping[str, int]]:
        """The first few that are accepted of sizes which exceed `least` by as much."""
        changed = ({**sizes, **{name: least[name] + size for name in self._others}} for size in _MORE_SIZES)
        candidates = (self._agreeing(candidate)[0] for candidate in changed)
        new = (c for c in candidates if c not in known and (self._inside is None or self._inside.windows_fit(c)))
        return itertools.islice((c for c in new if self._accepts(c, ceiling, _MANY_INSIDE)), _EXTRA_SIZES)

    def _candidates(self) -> Iterator[tuple[dict[str, int], int]]:
        for batch, ceiling in itertools.product(_BATCHES if self._batches else (1,), self._ceilings):
            for values in dict.fromkeys(itertools.islice(_values(len(self._others)), _MAX_TRIES)):
                yield dict.fromkeys(self._batches, batch) | dict(zip(self._others, values, strict=True)), ceiling
        no_batches = [size for size in _SIZES if self._batches and size not in _BATCHES]
        for size, ceiling in itertools.product(no_batches, self._ceilings):
            yield dict.fromkeys(self._symbols, size), ceiling

    def _agreeing(self, sizes: Mapping[str, int], keep: Collection[str] = ()) -> list[Mapping[str, int]]:
        """Sizes such that those which operands have in common are the same, where any do, and as they are."""
        fitting = sizes if self._inside is None else self._inside.agreeing(sizes, keep)
        return [sizes] if fitting == sizes else [fitting, sizes]

    def _accepts(self, sizes: Mapping[str, int], ceiling: int, most: int) -> bool:
        """Whether the model runs at these sizes; at the lowest ceiling, with smaller integers as well."""
        if too_many := _too_many(self._inputs, sizes):
            return self._failed(RunError(too_many))
        elements = 0 if self._inside is None else self._inside.largest(sizes)
        if elements > _MAX_INSIDE:
            text = f"a tensor in it has {elements:,} elements, and up to {_MAX_INSIDE:,} are computed"
            return self._failed(RunError(text))
        if elements > most:
            self._large.append((sizes, ceiling))
            return False
        drawn = draw(self._inputs, sizes, "gaussian", np.random.default_rng(self._seed), ceiling)
        for values in (drawn, *(smaller(self._inputs, drawn) if ceiling == 1 else ())):
            try:
                self._run(values)
                return True
            except RunError as error:
                self._failed(error)
        return False

    def _failed(self, error: RunError) -> bool:
        """Take note of the first failure, which is the one that is told."""
        self._failure = self._failure or error
        return False


def _values(count: int) -> Iterator[tuple[int, ...]]:
    """Sizes for `count` symbols: all alike first, since most are related, then one a sum or all others 1, then all."""
    yield from ((size,) * count for size in _SIZES[: len(_SIZES) if count else 1])
    if count > 1:
        for size, place in itertools.product(_SUMMED, range(count)):
            yield tuple(2 * size if index == place else size for index in range(count))
        for size, place in itertools.product(_SIZES, range(count)):
            yield tuple(size if index == place else 1 for index in range(count))
        for values in itertools.product(_SIZES, repeat=count):
            if len(set(values)) > 1:
                yield values


def check_size(inputs: Sequence[Port]) -> None:
    """Raise `NotComparableError` where even with all open sizes 1 there are more elements than are drawn."""
    if too_many := _too_many(inputs, dict.fromkeys((s for port in inputs for s in port.symbols()), 1)):
        raise _none_found(too_many)


def _none_found(why: str) -> NotComparableError:
    return NotComparableError(
        f"No random input was found that the reference accepts ({why}). "
        "Compare on real data with `maskc verify --inputs`."
    )


def _too_many(inputs: Sequence[Port], sizes: Mapping[str, int]) -> str:
    """A clause on inputs with more elements than are drawn; "" for others."""
    shapes = [port.shape(sizes) for port in inputs]
    elements = sum(math.prod(max(1, size) for size in shape) for shape in shapes)
    if elements > _MAX_ELEMENTS:
        return f"its inputs have {elements:,} elements, and up to {_MAX_ELEMENTS:,} are drawn"
    examples = max((shape[0] for shape in shapes if len(shape) > 1), default=0)
    if examples > _MAX_EXAMPLES:
        return f"its inputs hold {examples:,} examples, and up to {_MAX_EXAMPLES:,} are drawn"
    return ""
