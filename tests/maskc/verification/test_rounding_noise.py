"""Functions that magnify rounding are allowed what rounding does to the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import maskc as api
from tests.maskc import build
from tests.maskc.build import node, value


def stepped() -> onnx.ModelProto:
    """A network whose outputs are rounded to steps of 1/256, so that a tiny error may become a whole step."""
    nodes = [
        node("MatMul", "x w1", "hidden"),
        node("MatMul", "hidden w2", "smooth"),
        node("Add", "smooth far", "rounded"),
        node("Sub", "rounded far", "y"),
    ]
    weights = [build.weight("w1", 8, 64), build.weight("w2", 64, 512), build.constant("far", 2.0**15)]
    return build.of_nodes(nodes, [value("x", ["n", 8])], [value("y", ["n", 512])], weights)


def summed_otherwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with the hidden channels in another order."""
    order = np.random.default_rng(0).permutation(64)
    return build.changed(build.changed(model, "w1", lambda w: w[:, order]), "w2", lambda w: w[order])


def test_steps_are_allowed_the_noise_of_the_reference() -> None:
    model = stepped()
    result = api.verify(model, summed_otherwise(model))
    assert result.passed, result.reasons
    assert any(output.noise for output in result.outputs)
    assert any("rounding" in note for note in result.notes)


def ranged(factor: float = 1.0) -> onnx.ModelProto:
    """x[n,64] → Log of the squares, brought to the range from 0 to 1, which silence does not have, and a MatMul."""
    nodes = [
        node("MatMul", "x w1", "h"),
        node("Mul", "h h", "squares"),
        node("Add", "squares tiny", "powers"),
        node("Log", "powers", "logs"),
        node("Mul", "logs same", "scaled"),
        node("ReduceMin", "scaled", "low", axes=[1]),
        node("Sub", "scaled low", "above"),
        node("ReduceMax", "above", "range", axes=[1]),
        node("Equal", "range nothing", "silent"),
        node("Where", "silent one range", "divisor"),
        node("Div", "above divisor", "ratio"),
        node("MatMul", "ratio w2", "y"),
    ]
    weights = [
        build.weight("w1", 64, 64),
        build.weight("w2", 64, 4),
        build.constant("tiny", 1e-10),
        build.constant("same", np.tile(np.array([1.0, factor], np.float32), 32)),
        build.constant("nothing", 0.0),
        build.constant("one", 1.0),
    ]
    return build.of_nodes(nodes, [value("x", ["n", 64])], [value("y", ["n", 4])], weights)


def test_silence_that_is_divided_by_its_range_is_allowed_the_rounding_of_a_logarithm() -> None:
    """All powers are the same there, and all logarithms but for how they are rounded."""
    model = ranged()
    last_place = 1 + float(np.finfo(np.float32).eps)
    result = api.verify(model, ranged(last_place), exact=False)
    assert result.passed, result.reasons
    assert not api.verify(model, ranged(1.001), exact=False).passed


def test_noise_does_not_hide_a_difference() -> None:
    model = stepped()
    assert not api.verify(model, build.changed(model, "w2", lambda w: w * np.float32(1.01))).passed


def test_classes_may_flip_only_where_the_reference_flips() -> None:
    nodes = [node("MatMul", "x w", "scores"), node("ArgMax", "scores", "y", axis=1, keepdims=0)]
    ends = [value("x", ["n", 8])], [value("y", ["n"], TensorProto.INT64)]
    model = build.of_nodes(nodes, *ends, [build.weight("w", 8, 5)])
    assert api.verify(model, model).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w[:, ::-1])).passed


def test_saturated_outputs_are_compared_at_their_own_scale() -> None:
    nodes = [node("MatMul", "x w", "scores"), node("Sub", "scores far", "low"), node("Sigmoid", "low", "y")]
    ends = [value("x", ["n", 8])], [value("y", ["n", 5])]
    model = build.of_nodes(nodes, *ends, [build.weight("w", 8, 5), build.constant("far", 30)])
    assert api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-7))).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1.01))).passed


def test_nans_must_be_where_they_were() -> None:
    nodes = [node("Sub", "x shift", "d"), node("Log", "d", "y")]
    ends = [value("x", ["n", 8])], [value("y", ["n", 8])]
    model = build.of_nodes(nodes, *ends, [build.constant("shift", [0.0] * 8)])
    assert api.verify(model, model).passed
    result = api.verify(model, build.changed(model, "shift", lambda s: s + 1))
    assert not result.passed and "NaN" in result.reasons[0]


def variance(*, stable: bool, factor: float = 1.0) -> onnx.ModelProto:
    """x[n,64] → Add of 1,000 → its variance, as the mean square less the squared mean, or in the way that is stable."""
    nodes = [node("Add", "x far", "h"), node("ReduceMean", "h", "mean", axes=[1])]
    if stable:
        nodes += [node("Sub", "h mean", "d"), node("Mul", "d d", "dd"), node("ReduceMean", "dd", "v", axes=[1])]
    else:
        nodes += [node("Mul", "h h", "hh"), node("ReduceMean", "hh", "power", axes=[1])]
        nodes += [node("Mul", "mean mean", "squared"), node("Sub", "power squared", "v")]
    nodes.append(node("Mul", "v factor", "y"))
    weights = [build.constant("far", 1000.0), build.constant("factor", factor)]
    return build.of_nodes(nodes, [value("x", ["n", 64])], [value("y", ["n", 1])], weights)


def test_what_the_reference_gives_in_double_precision_is_right_where_it_is_off_itself() -> None:
    result = api.verify(variance(stable=False), variance(stable=True), exact=False)
    assert result.passed, result.reasons
    assert any("distance from double precision" in note for note in result.notes)
    assert not api.verify(variance(stable=False), variance(stable=True, factor=1.01), exact=False).passed
    assert not api.verify(variance(stable=True), variance(stable=False), exact=False).passed


@pytest.mark.parametrize("opset", [13, 18])
def test_a_mean_of_thousands_of_equal_numbers_may_be_exact(opset: int) -> None:
    """The kernel's sum of them is off, and nothing has a double form here that would show it."""
    nodes = [
        node("Conv", "x k b", "c"),
        node("Celu", "c", "a"),
        node("GlobalAveragePool", "a", "m"),
        node("Flatten", "m", "f"),
        node("MatMul", "f w", "y"),
    ]
    means = [0.7, 0.1, 0.3]
    weights = [build.constant("k", np.zeros((3, 2, 1, 1))), build.constant("b", means), build.weight("w", 3, 4)]
    built = build.of_nodes(nodes, [value("x", [1, 2, 128, 128])], [value("y", [1, 4])], weights, opset=opset)
    exact = build.of_nodes(
        [node("Mul", "x none", "z"), node("ReduceSum", "z axes", "s", keepdims=0), node("Add", "s mean", "y")],
        [value("x", [1, 2, 128, 128])],
        [value("y", [1, 4])],
        [
            *(build.constant("none", 0.0), build.constant("axes", [1, 2, 3], np.int64)),
            build.constant("mean", np.array([means]) @ numpy_helper.to_array(weights[2]).astype(np.float64)),
        ],
        opset=opset,
    )
    result = api.verify(built, exact, samples=2)
    assert result.equivalent, result.reasons
    assert not api.verify(built, build.changed(exact, "mean", lambda mean: mean * 1.01), samples=2).equivalent
