"""The checks themselves: each kind of damage to a compiled model makes one of them fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from passes.pipeline.report import Report
from passes.planning.explanation import Held, MaskedAxis
from passes.sizes.cost_values import Cost
from tests.double_precision.evaluator import Evaluator, has_double, to_double, widen
from tests.generators import check as checks
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
        copy = ModelProto()
        copy.CopyFrom(model)
        damage(copy)
        return Result(copy, Report(cost(model), cost(copy), (), (), {}))

    return shrink


def set_weights(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def drop_bias(model: ModelProto) -> None:
    del model.graph.node[0].input[2]
    del model.graph.initializer[1]


def scale_by_a_little(model: ModelProto) -> None:
    set_weights(model, "v", lambda w: w * w.dtype.type(1 + 4e-5))


def scale_by_very_little(model: ModelProto) -> None:
    """Less than single precision could tell from rounding."""
    set_weights(model, "v", lambda w: w * w.dtype.type(1 + 1e-9) if w.dtype == np.float64 else w)


def forget_padding(model: ModelProto) -> None:
    model.graph.node[0].attribute[0].ints[:] = [0, 0, 0, 0]


def rename_output(model: ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "z"


def fix_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def leave_dead_initializer(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unread"))


def leave_dead_node(model: ModelProto) -> None:
    model.graph.node[2].CopyFrom(helper.make_node("Relu", ["y2"], ["y3"]))
    del model.graph.node[3]
    model.graph.node.insert(3, helper.make_node("GlobalAveragePool", ["y2"], ["y4"]))


def leave_ones(model: ModelProto) -> None:
    ones = numpy_helper.from_array(np.ones((4, 1, 1), np.float32), "ones")
    model.graph.initializer.append(ones)
    model.graph.node.insert(3, helper.make_node("Mul", ["ones", "y3"], ["y3b"]))
    model.graph.node[4].input[0] = "y3b"


def leave_identity(model: ModelProto) -> None:
    model.graph.node.insert(3, helper.make_node("Identity", ["y3"], ["y3b"]))
    model.graph.node[4].input[0] = "y3b"


def grow(model: ModelProto) -> None:
    set_weights(model, "b", lambda w: w)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 4, 60, 60), np.float32), "map"))
    model.graph.node.insert(3, helper.make_node("ReduceSum", ["map"], ["total"], keepdims=0))
    model.graph.node.insert(4, helper.make_node("Add", ["y3", "total"], ["y3b"]))
    model.graph.node[5].input[0] = "y3b"


def raise_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 18


def break_types(model: ModelProto) -> None:
    set_weights(model, "c", lambda w: w.astype(np.float64 if w.dtype == np.float32 else np.float32))


DAMAGES = (
    drop_bias,
    scale_by_a_little,
    scale_by_very_little,
    forget_padding,
    rename_output,
    fix_batch,
    leave_dead_initializer,
    leave_dead_node,
    leave_ones,
    leave_identity,
    grow,
    raise_opset,
    break_types,
)


def use(monkeypatch: pytest.MonkeyPatch, shrink: Callable[[ModelProto], Result]) -> None:
    monkeypatch.setattr(checks, "shrink", shrink)
    monkeypatch.setattr(checks, "count", cost)


def test_a_faithful_copy_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiler(lambda model: None))
    checks.check(small())


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_is_noticed(damage: Callable[[ModelProto], None], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiler(damage))
    noticed = False
    try:
        checks.check(small())
    except Exception:  # a failed assertion, or whatever the checker or a runtime says of the model
        noticed = True
    assert noticed


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
