"""Every operator between two linear layers with masked channels, on the ONNX project's own node tests."""

from collections.abc import Iterable

import numpy as np
import pytest

from benchmarks.hostile import RANDOM
from tests.generators.check import check, describe
from tests.generators.node_cases import Case, cases, operators
from tests.generators.running import CannotRunError, Runner

# Random by nature; and one that tells a zero from a negative zero, which a mask makes of negative numbers.
LEFT_OUT = RANDOM | {"BitCast"}
# Nothing of these can be tried, and why.
NOTHING_TO_TRY = {
    "CausalConvWithState": "newer than ONNX Runtime",
    "ImageDecoder": "reads a file of bytes, and ONNX Runtime lacks it",
    "LinearAttention": "newer than ONNX Runtime",
    "RegexFullMatch": "of strings",
    "StringConcat": "of strings",
    "StringNormalizer": "of strings",
    "StringSplit": "of strings",
    "SwiGLU": "newer than ONNX Runtime",
}
OPERATORS = [op for op in operators() if op not in LEFT_OUT]


def runs(case: Case) -> bool:
    """Whether ONNX Runtime runs the source, with the same result each time.

    Where a linear layer follows, the result must also be finite: the compiler takes a zero weight as reading
    nothing, while zero times infinity is not a number in the source.
    """
    try:
        runner = Runner(case.model)
        first, second = runner(case.feeds), runner(case.feeds)
    except Exception:
        return False
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, np.ndarray)]
    if case.name.endswith("linear") and not all(np.isfinite(a).all() for a, _ in pairs if a.dtype.kind == "f"):
        return False
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def compile_all(selected: Iterable[Case]) -> int:
    """Checks each case that runs; how many did."""
    checked = 0
    for case in selected:
        if not runs(case):
            continue
        try:
            check(case.model, cases=[case.feeds], twice=False)
        except CannotRunError:
            continue
        except Exception as error:
            error.add_note(f"{case.name}\n{describe(case.model)}")
            raise
        checked += 1
    return checked


@pytest.mark.slow
@pytest.mark.parametrize("op", OPERATORS)
def test_operator(op: str) -> None:
    """All forms: masks on the last axis and on the second, shifted or not, other inputs constant or not."""
    checked = compile_all(cases(op, every=True))
    if op in NOTHING_TO_TRY:
        assert not checked, f"{op} can be tried after all"
        pytest.skip(NOTHING_TO_TRY[op])
    assert checked, f"no case of {op} runs"


@pytest.mark.slow
def test_function_bodies() -> None:
    """The node tests of operators written out as the functions that define them."""
    assert compile_all(cases("expanded", every=False)) > 100
