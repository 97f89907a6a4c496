"""Inputs of every type and size are drawn, and judged by the precision that they have."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import maskc as api
from maskc.verification import recheck
from tests.maskc import build


def test_symbolic_sizes_are_found() -> None:
    body = "c = Conv<pads=[{}]>(x, k) y = ReduceMean<axes=[2,3], keepdims=0>(c)"
    model, wrong = (
        build.model("(float[b,3,h,w] x) => (float[b,4] y)", body.format(pads), k=(4, 3, 3, 3))
        for pads in ("1,1,1,1", "2,2,0,0")
    )
    assert api.verify(model, model).passed
    assert not api.verify(model, wrong).passed


@pytest.mark.parametrize(
    ("signature", "body", "weights"),
    [
        # Sizes that must fit each other.
        ("(float[n,k] x, float[k,3] y) => (float[n,3] z)", "z = MatMul(x, y)", {}),
        ("(float[n,k] x) => (float[m,24] z)", "z = Reshape(x, shape)", {"shape": np.array([-1, 24])}),
        # Numbers without axes, where the reference overflows, and where it refuses: arithmetic makes other objects of
        # arrays without axes.
        (
            "(float[n,3] x, float gain) => (float[n,3] y)",
            "s = Mul(x, gain) t = Mul(s, large) y = Exp(t)",
            {"large": np.array(100.0)},
        ),
        ("(float[n,2] x, int64 which) => (float[n] y)", "y = Gather<axis=1>(x, which)", {}),
    ],
    ids=["products", "reshapes", "overflows", "indices"],
)
def test_inputs_that_fit_are_found(signature: str, body: str, weights: dict[str, np.ndarray]) -> None:
    model = build.model(signature, body, **weights)
    assert api.verify(model, model).passed


@pytest.mark.parametrize("kind", ["int32", "float"])
def test_embeddings_get_indices_in_range(kind: str) -> None:
    body = "whole = Cast<to=7>(ids) vectors = Gather(table, whole) y = ReduceMean<axes=[1], keepdims=0>(vectors)"
    model = build.model(f"({kind}[n,t] ids) => (float[n,6] y)", body, table=(11, 6))
    assert api.verify(model, model).passed
    # Every row is looked up: a change to any one shows.
    for row in (0, 10):
        wrong = build.changed(model, "table", lambda t, row=row: t + (np.arange(11) == row)[:, None].astype("f"))
        assert not api.verify(model, wrong).passed


def test_integers_are_drawn_near_what_they_are_compared_with() -> None:
    """A token that ends a text is one of many, and pixels go up to 255."""
    text = "e = Gather(table, ids) m = Equal(ids, end) u = Unsqueeze(m, last) y = Where(u, none, e)"
    tokens = {"table": (5000, 4), "none": np.array(0.0), "end": np.array(103), "last": np.array([2])}
    pixels = {"none": np.array(0.0), "most": np.array(255.0), "small": np.array(1 / 255)}
    for signature, body, weights, name, other in (
        ("(int64[n,t] ids) => (float[n,t,4] y)", text, tokens, "end", 104),
        (
            "(int32[n,3,8,8] x) => (float[n,3,8,8] y)",
            "c = Cast<to=1>(x) l = Clip(c, none, most) y = Mul(l, small)",
            pixels,
            "most",
            40.0,
        ),
    ):
        model = build.model(signature, body, **weights)
        assert api.verify(model, model).passed
        wrong = build.changed(model, name, lambda was, other=other: np.full_like(was, other))
        assert not api.verify(model, wrong).passed


@pytest.mark.parametrize("kind", ["int16", "uint16"])
def test_sound_has_its_whole_range(kind: str) -> None:
    models = [
        build.model(
            f"({kind}[n,1,64] x) => (float[n,4,56] y)", f"{body} y = Conv(f, w)", w=(4, 1, 9), k=np.array(2.0**-15)
        )
        for body in ("c = Cast<to=1>(x) f = Mul(c, k)", "b = Cast<to=2>(x) c = Cast<to=1>(b) f = Mul(c, k)")
    ]
    assert api.verify(models[0], models[0]).passed and not api.verify(*models).passed


KINDS = "bool int8 uint8 int16 int32 int64 float16 double bfloat16 string float8e4m3fn"


@pytest.mark.parametrize("kind", KINDS.split())
def test_inputs_of_every_type(kind: str) -> None:
    model = build.model(f"({kind}[n,3] x) => ({kind}[n,3] y)", "y = Identity(x)", 19, ir=9)
    assert api.verify(model, model).passed


def product(kind: str, weights: Any) -> onnx.ModelProto:
    """x[n,8] → MatMul → y[n,5], with casts to the type of the weights where it is not that of the ends."""
    inner = onnx.numpy_helper.from_array(weights).data_type
    outer = onnx.TensorProto.DataType.Value(kind.upper())
    body = "y = MatMul(x, w)" if inner == outer else f"c = Cast<to={inner}>(x) h = MatMul(c, w) y = Cast<to={outer}>(h)"
    model = build.model(f"({kind}[n,8] x) => ({kind}[n,5] y)", body, checked=False)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return model


WEIGHTS = np.random.default_rng(0).normal(size=(8, 5))


@pytest.mark.parametrize("wrong", [False, True])
def test_bfloat16_that_cannot_be_run_is_compared_in_single_precision(wrong: bool) -> None:
    right, other = (product("bfloat16", (WEIGHTS * scale).astype(ml_dtypes.bfloat16)) for scale in (1.0, 1.5))
    result = api.verify(right, other if wrong else right)
    assert result.passed is not wrong
    assert any("bfloat16" in note for note in result.notes)


def test_half_precision_is_judged_as_such() -> None:
    model = product("float", WEIGHTS.astype(np.float16))
    result = api.verify(model, model)
    assert result.passed and result.outputs[0].rtol == 1e-3


def test_double_precision_is_judged_as_such() -> None:
    model = product("double", WEIGHTS)
    assert api.verify(model, model).outputs[0].rtol < 1e-12
    assert not api.verify(model, build.changed(model, "w", lambda w: w * (1 + 1e-9))).passed


def test_doubles_that_are_computed_from_singles_are_judged_as_singles() -> None:
    model = product("double", WEIGHTS.astype(np.float32))
    assert api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-7))).passed
    assert not api.verify(model, build.changed(model, "w", lambda w: w * np.float32(1 + 1e-4))).passed


def test_several_outputs_are_all_compared() -> None:
    model = build.mlp()
    model.graph.output.append(build.value("d", ["n", 16]))
    result = api.verify(model, build.changed(model, "w2", lambda w: w * np.float32(1.01)))
    assert {output.name: output.passed for output in result.outputs} == {"y": False, "d": True}


def test_a_reference_that_no_random_input_fits() -> None:
    parts = np.array([70, 7])
    model = build.model("(float[n,3] x) => (float[70,3] y, float[7,3] z)", "y, z = Split(x, parts)", parts=parts)
    with pytest.raises(api.InputError, match="--inputs"):
        api.verify(model, model)
    data = {"x": np.ones((77, 3), np.float32)}
    assert api.verify(model, model, inputs=data, samples=0).passed


def with_gain(body: str, gain: float = 2.0) -> onnx.ModelProto:
    """A model in which a caller may override a gain, as few of its weights; `fixed` is as large as the default."""
    signature = "(float[n,8] x, float[1] gain) => (float[n,6] y)"
    found = build.model(signature, body, w=(8, 6), v=(6, 6), fixed=np.array([2.0]))
    found.graph.initializer.append(build.constant("gain", [gain]))
    return found


def test_defaults_are_overridden(tmp_path: Path) -> None:
    body = "a = MatMul(x, w) b = Mul(a, gain) y = MatMul(b, v)"
    source, constant = with_gain(body), with_gain(body.replace("gain", "fixed"))
    real = {"x": np.ones((1, 8), np.float32), "gain": np.array([3.0], np.float32)}
    assert api.verify(source, source, inputs=real).passed
    assert api.verify(source, source, inputs={"x": real["x"]}).passed  # with the default
    assert not api.verify(source, constant).passed
    assert not api.verify(source, with_gain(body, gain=2.5)).passed  # with others, no value that is given tells

    paths = [tmp_path / name for name in ("source.onnx", "same.onnx", "proof.json")]
    for path in paths[:2]:
        onnx.save(source, path)
    assert api.verify(*paths[:2], certificate=paths[2]).passed
    assert api.recheck(*paths).count == 3
    given = json.loads(paths[2].read_text())["inputs"][0].keys()
    assert {"x", "gain"} == given
    alone = recheck.recheck(*(recheck.read(path, given) for path in paths[:2]), json.loads(paths[2].read_text()))
    assert {"x", "gain", "y"} <= alone.boundaries.keys()
