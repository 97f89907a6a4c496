"""Inputs of every type and size are drawn, and judged by the precision that they have."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import maskc as api
from tests.maskc import build
from tests.maskc.build import node, value


def test_symbolic_sizes_are_found() -> None:
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("ReduceMean", "c", "y", axes=[2, 3], keepdims=0),
    ]
    model = build.model(
        nodes, [value("x", ["b", 3, "h", "w"])], [value("y", ["b", 4])], [build.weight("k", 4, 3, 3, 3)]
    )
    assert api.verify(model, model).passed
    wrong = onnx.ModelProto.FromString(model.SerializeToString())
    wrong.graph.node[0].attribute[0].ints[:] = [2, 2, 0, 0]
    assert not api.verify(model, wrong).passed


def test_sizes_that_must_fit_each_other_are_found() -> None:
    model = build.model(
        [node("MatMul", "x y", "z")],
        [value("x", ["n", "k"]), value("y", ["k", 3])],
        [value("z", ["n", 3])],
    )
    assert api.verify(model, model).passed
    model = build.model(
        [node("Reshape", "x shape", "z")],
        [value("x", ["n", "k"])],
        [value("z", ["m", 24])],
        [build.constant("shape", [-1, 24], np.int64)],
    )
    assert api.verify(model, model).passed


def test_numbers_without_axes_are_drawn_smaller() -> None:
    """Where the reference overflows, and where it refuses: arithmetic makes other objects of arrays without axes."""
    nodes = [node("Mul", "x gain", "s"), node("Mul", "s large", "t"), node("Exp", "t", "y")]
    model = build.model(nodes, [value("x", ["n", 3]), value("gain", [])], [value("y", ["n", 3])])
    model.graph.initializer.append(build.constant("large", 100.0, np.float32))
    assert api.verify(model, model).passed
    nodes = [node("Gather", "x which", "y", axis=1)]
    inputs = [value("x", ["n", 2]), value("which", [], TensorProto.INT64)]
    model = build.model(nodes, inputs, [value("y", ["n"])])
    assert api.verify(model, model).passed


def test_embeddings_get_indices_in_range() -> None:
    nodes = [
        node("Cast", "ids", "whole", to=TensorProto.INT64),
        node("Gather", "table whole", "vectors"),
        node("ReduceMean", "vectors", "y", axes=[1], keepdims=0),
    ]
    for kind in (TensorProto.INT32, TensorProto.FLOAT):
        model = build.model(
            nodes, [value("ids", ["n", "t"], kind)], [value("y", ["n", 6])], [build.weight("table", 11, 6)]
        )
        assert api.verify(model, model).passed
        # Every row is looked up: a change to any one shows.
        for row in (0, 10):
            wrong = build.changed(model, "table", lambda t, row=row: t + (np.arange(11) == row)[:, None].astype("f"))
            assert not api.verify(model, wrong).passed


@pytest.mark.parametrize(
    "kind",
    [
        "BOOL",
        "INT8",
        "UINT8",
        "INT16",
        "INT32",
        "INT64",
        "FLOAT16",
        "DOUBLE",
        "BFLOAT16",
        "STRING",
        "FLOAT8E4M3FN",
    ],
)
def test_inputs_of_every_type(kind: str) -> None:
    elem_type = getattr(TensorProto, kind)
    model = build.model(
        [node("Identity", "x", "y")],
        [value("x", ["n", 3], elem_type)],
        [value("y", ["n", 3], elem_type)],
        opset=19,
        ir_version=9,
    )
    assert api.verify(model, model).passed


@pytest.mark.parametrize("wrong", [False, True])
def test_bfloat16_that_cannot_be_run_is_compared_in_single_precision(wrong: bool) -> None:
    def layer(scale: float) -> onnx.ModelProto:
        weights = (np.random.default_rng(0).normal(size=(8, 5)) * scale).astype(ml_dtypes.bfloat16)
        return build.model(
            [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
            [value("x", ["n", 8], TensorProto.BFLOAT16)],
            [value("y", ["n", 5], TensorProto.BFLOAT16)],
            [onnx.numpy_helper.from_array(weights, "w")],
        )

    result = api.verify(layer(1.0), layer(1.5 if wrong else 1.0))
    assert result.passed is not wrong
    assert any("bfloat16" in note for note in result.notes)


def test_half_precision_is_judged_as_such() -> None:
    nodes = [
        node("Cast", "x", "half", to=TensorProto.FLOAT16),
        node("MatMul", "half w", "product"),
        node("Cast", "product", "y", to=TensorProto.FLOAT),
    ]
    model = build.model(
        nodes, [value("x", ["n", 8])], [value("y", ["n", 5])], [build.weight("w", 8, 5, dtype=np.float16)]
    )
    result = api.verify(model, model)
    assert result.passed and result.outputs[0].rtol == 1e-3


def test_double_precision_is_judged_as_such() -> None:
    model = build.model(
        [node("MatMul", "x w", "y")],
        [value("x", ["n", 8], TensorProto.DOUBLE)],
        [value("y", ["n", 5], TensorProto.DOUBLE)],
        [build.weight("w", 8, 5, dtype=np.float64)],
    )
    assert api.verify(model, model).outputs[0].rtol < 1e-12
    assert not api.verify(model, build.changed(model, "w", lambda w: w * (1 + 1e-9))).passed


def test_doubles_that_are_computed_from_singles_are_judged_as_singles() -> None:
    nodes = [
        node("Cast", "x", "single", to=TensorProto.FLOAT),
        node("MatMul", "single w", "product"),
        node("Cast", "product", "y", to=TensorProto.DOUBLE),
    ]
    ends = [value("x", ["n", 8], TensorProto.DOUBLE)], [value("y", ["n", 5], TensorProto.DOUBLE)]
    model = build.model(nodes, *ends, [build.weight("w", 8, 5)])
    assert api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-7))).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-4))).passed


def test_several_outputs_are_all_compared() -> None:
    model = build.mlp()
    model.graph.output.append(build.value("d", ["n", 16]))
    result = api.verify(model, build.changed(model, "w2", lambda w: w * np.float32(1.01)))
    assert {output.name: output.passed for output in result.outputs} == {"y": False, "d": True}


def test_a_reference_that_no_random_input_fits() -> None:
    model = build.model(
        [node("Reshape", "x shape", "y")],
        [value("x", ["n", 3])],
        [value("y", [7, 33])],
        [build.constant("shape", [7, 33], np.int64)],
    )
    with pytest.raises(api.InputError, match="--inputs"):
        api.verify(model, model)
    data = {"x": np.ones((77, 3), np.float32)}
    assert api.verify(model, model, inputs=data, samples=0).passed
