"""The checks themselves: each kind of damage to a compiled model makes one of them fail."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from maskc.frontend.graph_queries import copied
from passes.pipeline.report import Report
from passes.planning.masked_axes import Held, MaskedAxis
from passes.sizes.cost_values import Cost
from tests.double_precision.evaluator import Evaluator, has_double, to_double, widen
from tests.generators import check as checks
from tests.generators import form
from tests.generators.networks import network
from tests.passes import text


def small() -> ModelProto:
    """Conv, BatchNormalization, Relu, mean, Gemm: no masks, nothing to remove."""
    body = """
        y1 = Conv<pads=[1,1,1,1]>(x, w, b)
        y2 = BatchNormalization(y1, scale, shift, mean, var)
        y3 = Relu(y2)
        y4 = GlobalAveragePool(y3)
        y5 = Flatten(y4)
        y = Gemm(y5, v, c)
    """
    weights = {"w": (4, 3, 3, 3), "b": (4,), "scale": (4,), "shift": (4,), "mean": (4,), "v": (4, 5), "c": (5,)}
    return text.model("(float[N,3,6,6] x) => (float[N,5] y)", body, **weights, var=np.linspace(0.5, 1, 4))


@dataclass
class Result:
    model: ModelProto
    report: Report


def cost(model: ModelProto) -> Cost:
    """Stands in for the real count: so many operations per node."""
    return Cost(len(model.graph.node), len(model.graph.node), len(model.graph.initializer))


def compiler(damage: Callable[[ModelProto], None]) -> Callable[[ModelProto], Result]:
    """A compiler that copies the model and then damages the copy."""

    def shrink(model: ModelProto) -> Result:
        copy = copied(model)
        damage(copy)
        return Result(copy, Report(cost(model), cost(copy), (), (), {}))

    return shrink


Change = Callable[[np.ndarray], np.ndarray]


def edited(
    edits: dict[str, str], more: dict[str, np.ndarray], changes: dict[str, Change]
) -> Callable[[ModelProto], None]:
    """Edits of the graph's text, more initializers, and changes of those there."""

    def damage(model: ModelProto) -> None:
        weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer} | more
        del model.graph.initializer[:]
        text = onnx.printer.to_text(model)
        for old, new in edits.items():
            assert old in text, text
            text = text.replace(old, new)
        model.CopyFrom(onnx.parser.parse_model(text))
        for name, values in weights.items():
            values = changes[name](values) if name in changes else values
            model.graph.initializer.append(numpy_helper.from_array(values, name))

    return damage


MEAN = "y4 = GlobalAveragePool (y3)"
FACTORS = {  # the second is less than single precision could tell from rounding
    "a weight by a little": lambda w: w * w.dtype.type(1 + 4e-5),
    "a weight by very little": lambda w: w * w.dtype.type(1 + 1e-9) if w.dtype == np.float64 else w,
}
DAMAGES = {
    "no bias": edited({"(x, w, b)": "(x, w)"}, {}, {}),
    **{name: edited({}, {}, {"v": factor}) for name, factor in FACTORS.items()},
    "no padding": edited({"[1, 1, 1, 1]": "[0, 0, 0, 0]"}, {}, {}),
    "an output of another name": edited({"] y)": "] z)", "y = Gemm": "z = Gemm"}, {}, {}),
    "a fixed batch": edited({"[N,3,": "[1,3,"}, {}, {}),
    "a dead initializer": edited({}, {"unread": np.zeros(3, np.float32)}, {}),
    "a dead node": edited({MEAN: MEAN.replace("y3", "y2")}, {}, {}),
    "ones": edited({MEAN: f"m = Mul (ones, y3) {MEAN.replace('y3', 'm')}"}, {"ones": np.ones((4, 1, 1), "f")}, {}),
    "an Identity": edited({MEAN: f"i = Identity (y3) {MEAN.replace('y3', 'i')}"}, {}, {}),
    "more work": edited(
        {MEAN: f"t = ReduceSum <keepdims = 0> (map) s = Add (y3, t) {MEAN.replace('y3', 's')}"},
        {"map": np.zeros((1, 4, 60, 60), np.float32)},
        {},
    ),
    "another opset": edited({": 17": ": 18"}, {}, {}),
    "another type": edited({}, {}, {"c": lambda w: w.astype(np.float64 if w.dtype == np.float32 else np.float32)}),
}


def use(monkeypatch: pytest.MonkeyPatch, shrink: Callable[[ModelProto], Result]) -> None:
    monkeypatch.setattr(checks, "shrink", shrink)
    monkeypatch.setattr(checks, "count", cost)


def test_a_faithful_copy_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiler(lambda model: None))
    checks.check(small())


def test_an_index_that_the_caller_may_replace_picks_another_channel() -> None:
    body = "a = Gather<axis=1>(x, at)\n y = MatMul(a, w)"
    checks.check(text.model("(float[N,1] x, int64[1] at) => (float[N,2] y)", body, at=np.array([0]), w=(1, 2)))


def test_nobody_tells_the_shape_of_what_an_unknown_operator_and_a_branch_after_it_write() -> None:
    branches = ", ".join(f"{b}_branch = {b} () => (float[5,3] {b}) {{ {b} = Neg(a) }}" for b in ("then", "else"))
    source = text.model("(float[N,3] x, bool p) => (float[M,3] y)", f"a = custom.Op(x)\n y = If(p) <{branches}>")
    assert "y" not in form.inferred_shapes(source)


def test_a_shape_that_is_falsely_noted_and_that_optimisers_believe_keeps_no_model_from_being_compared() -> None:
    body = "a = Sub(x, s)\n p = MatMul(a, w)\n y = Add(p, b)"
    noted = "<float[5,3,4] a, float[3,4] s, float[4,2] w, float[2] b>"
    checks.assert_same_function(*[text.model(f"(float[N,3,4] x) => (float[N,3,2] y) {noted}", body, checked=False)] * 2)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_noticed(damage: Callable[[ModelProto], None], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiler(damage))
    with pytest.raises(Exception):  # noqa: B017 - an assertion, or whatever the checker or a runtime says of the model
        checks.check(small())


def test_a_changed_argument_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shrink(model: ModelProto) -> Result:
        result = compiler(lambda m: None)(model)
        model.producer_name += "."
        return result

    use(monkeypatch, shrink)
    with pytest.raises(AssertionError, match="argument"):
        checks.check(small())


def test_two_results_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def tick(model: ModelProto) -> None:
        calls.append(1)
        model.doc_string = str(len(calls))

    use(monkeypatch, compiler(tick))
    with pytest.raises(AssertionError, match="twice"):
        checks.check(small())


def test_an_unexplained_channel_is_noticed() -> None:
    nothing = Cost(0, 0, 0)
    axis = MaskedAxis("y3", 1, 4, 2, 1)
    held = Held("y3", 1, (0,), "node", "Add", "the other branch is live")
    checks.assert_explained(Report(nothing, nothing, (axis,), (held,), {}))
    with pytest.raises(AssertionError, match="explained"):
        checks.assert_explained(Report(nothing, nothing, (axis,), (), {}))


def test_the_evaluator_agrees_with_onnx_runtime() -> None:
    """In numpy and double, what ONNX Runtime gives in single precision, for networks of every kind."""
    compared = 0
    for seed in range(120):
        net = network(seed)
        if not net.sharp or net.model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16:
            continue
        feeds = checks.random_feeds(net.model, 0, {n: s[0] for n, s in net.symbols.items()}, net.ranges)
        try:
            expected = checks.Runner(net.model)(feeds)
        except checks.CannotRunError:
            continue
        if not has_double(net.model):
            continue
        actual = Evaluator(to_double(net.model))(widen(feeds))
        for wanted, got in zip(expected, actual, strict=True):
            assert wanted.shape == got.shape, seed
            if wanted.dtype.kind == "f":
                np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-3 * np.abs(wanted).max() + 1e-6)
        compared += 1
    assert compared > 80
