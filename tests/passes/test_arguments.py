"""Wrong arguments of the public functions of `passes`: a sentence, whatever they are."""

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import pytest

import passes
from passes.analysis.find_mask import EXAMPLE
from passes.errors import GraphError, in_brief
from passes.errors.arguments import typed

MODEL = onnx.parser.parse_model(EXAMPLE)
MASKED = onnx.parser.parse_model(
    """
    <ir_version: 8, opset_import: ["" : 17]>
    masked (float[N,2] x, float[3] mask) => (float[N,3] y)
    <float[2,3] w = {1,2,3,4,5,6}>
    { h = MatMul(x, w)  y = Mul(h, mask) }
    """
)
SHRUNK = passes.shrink(MODEL)
ONES, NUMBERS = {"mask": np.ones(3)}, {"mask": np.arange(3)}
COUPLING = passes.coupling(MASKED, {"mask": 3})

#: public functions with arguments that do
ENTRIES: dict[Callable[..., Any], dict[str, Any]] = {
    passes.shrink: {"model": MODEL, "options": None, "align": None, "adapters": "auto", "target": "any", "at": None},
    passes.report_with: {"model": MODEL, "shrunk": SHRUNK, "adapters": "never"},
    passes.find_mask: {"graph": MODEL, "tensor": "r"},
    passes.pruned_shape: {"graph": MODEL, "tensor": "r"},
    passes.bind: {"model": MASKED, "values": ONES},
    passes.fix_sizes: {"model": MODEL, "shapes": {"x": (1, 2)}},
    passes.count: {"model": MODEL, "at": None},
    passes.flops_by_mask: {"model": MASKED, "masks": ONES},
    passes.flops_by_group: {"model": MASKED, "masks": ONES, "groups": NUMBERS, "coupling": COUPLING},
    passes.coupled: {"model": MASKED, "masks": {"mask": 3}},
    COUPLING.group_of_each: {"masks": ONES, "groups": NUMBERS},
    passes.cost_model: {"model": MASKED, "masks": ONES, "groups": NUMBERS, "coupling": COUPLING},
}
WRONG: list[Any] = [
    *(None, 0, -1, 0.5, float("nan"), True, "x", "", b"x", [], [1], {}, {"a": 1}, (), object(), int, np.ones(3)),
    *({"mask": values} for values in (1, "x", None, np.ones(4), np.ones((3, 2)), np.full(3, -7), np.array(["a"] * 3))),
    *({"mask": values} for values in (np.full(3, -1), np.array(1.0), 2**40)),
    np.int64(2),
    *({1: 2}, {"x": "ab"}, {"x": (0.5, 2)}, {"x": [None]}, {"x": (1, 2)}, onnx.ModelProto()),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_wrong_arguments_are_refused_in_a_sentence(entry: Callable[..., Any]) -> None:
    """What is raised is raised by these packages, and not by what they call."""
    for name, wrong in ((name, wrong) for name in ENTRIES[entry] for wrong in WRONG):
        try:
            entry(**{**ENTRIES[entry], name: wrong})
        except (GraphError, LookupError, TypeError, ValueError) as error:
            raised = traceback.extract_tb(error.__traceback__)[-1]
            assert (raised.line or "").startswith("raise "), (name, wrong)
            assert str(error).endswith((".", "?")), error


def test_an_abbreviation_ends_no_sentence() -> None:
    assert in_brief(ValueError("Incompatible shapes: [2,4] vs. [1,3]. Call it so.")).endswith("[2,4] vs. [1,3]")


def test_what_may_be_given_is_said() -> None:
    with pytest.raises(TypeError, match="`masks` must be a mapping of names to arrays, and not 3"):
        passes.flops_by_mask(MASKED, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"count\(\) got an unexpected keyword argument 'att'"):
        passes.count(MODEL, att=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="There is no option 'alin'; there are adapters, "):
        passes.shrink(MODEL, alin=8)
    for names in (["Op"], passes.Op):
        with pytest.raises(TypeError, match="register takes names"):
            passes.register(names)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"classes that derive from passes\.Op"):
        passes.register("Op")(int)  # type: ignore[type-var]


def test_a_function_of_another_number_of_arguments_is_refused() -> None:
    @typed
    def called(rate: str | Callable[[int], float]) -> None:
        del rate

    for right in (len, abs, lambda x, y=0: x, lambda *x: x, int, "x"):
        called(right)
    for wrong in (lambda: 1, lambda x, y: x, lambda *, x: x):
        with pytest.raises(TypeError, match="`rate` must be a text or a function of one argument, and not a function"):
            called(wrong)


def test_what_says_nonsense_of_its_length_is_no_sequence() -> None:
    class Odd:
        def __len__(self) -> int:
            return -1

        def __iter__(self) -> Any:
            return iter([1])

    @typed
    def called(values: Iterable[int]) -> None:
        del values

    called(iter([1]))
    called(value for value in (1, 2))
    with pytest.raises(TypeError, match="`values` must be a sequence, and not an Odd"):
        called(Odd())
