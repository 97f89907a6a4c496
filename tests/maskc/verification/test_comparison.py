"""What `maskc verify` compares on, measures and allows: data, figures per output, latency."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.runtime import random_inputs
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.error_statistics import Statistics, distance
from maskc.verification.inputs import Sample, redrawn
from maskc.verification.output_errors import Pair, compare_outputs
from maskc.verification.output_tolerance import Tolerance, tolerance
from maskc.verification.recheck import Judgement
from maskc.verification.regions.search import Failure, Proof
from tests.maskc import build
from tests.maskc.command import maskc, process, refused


def row(body: str, **weights: Any) -> onnx.ModelProto:
    """A model of eight numbers for each example to as many."""
    return build.model("(float[n,8] x) => (float[n,8] y)", body, **weights)


# Data.


def test_a_directory_of_real_data(pair: tuple[Path, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, rows in (("a", 3), ("b", 4)):
        np.savez(data / f"{name}.npz", x=np.ones((rows, 8), np.float32))
    told = maskc("verify", *pair, "--inputs", data, "--samples", 0, "--json").stdout
    assert json.loads(told)["verification"]["samples"] == 2
    (data / "c.npz").write_bytes(b"no archive")
    refused(maskc("verify", *pair, "--inputs", data), 2, "c.npz")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(maskc("verify", *pair, "--inputs", empty), 2, "no .npz files")


def test_sizes_given_are_tried_where_the_compiled_model_takes_any() -> None:
    parts = np.array([70, 7])
    model = build.model(
        "(float[n,k] x) => (float[n,70] y, float[n,7] z)", "y, z = Split<axis=1>(x, parts)", parts=parts
    )
    with pytest.raises(api.InputError, match="--inputs"):
        api.verify(model, model)
    assert api.verify(model, model, shapes={"x": (2, 77)}).passed


def test_a_size_of_the_wrong_axis_shows_where_images_need_not_be_square() -> None:
    text = "s = Shape(x) n = Gather(s, n0) h = Gather(s, h0) w = Gather(s, w0) t = Concat<axis=0>(n, h, w)"
    text += " y = Expand(c, t)"
    right, wrong = (
        build.model("(float[n,2,h,w] x) => (float[n,h,w] y)", text, n0=[0], h0=[2], w0=[axis], c=np.float32([[[1.5]]]))
        for axis in (3, 2)
    )
    assert api.verify(right, right).passed
    assert not api.verify(right, wrong).passed


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5), (2, 3, 4, 4)])
def test_one_hot_values_have_one_channel_each(shape: tuple[int, ...]) -> None:
    port = random_inputs.Port("x", random_inputs.TensorType(onnx.TensorProto.FLOAT, shape))
    drawn = random_inputs.draw([port], {}, "one-hot", np.random.default_rng(0), 3)["x"]
    axis = 1 if len(shape) > 2 else -1
    assert (drawn.sum(axis=axis) == 1).all() and set(np.unique(drawn)) == {0, 1}


def test_saturating_values_are_smaller_where_the_reference_overflows() -> None:
    """exp(exp(50)) is infinite, and nothing could be compared there."""
    model, wrong = (row(f"e = {first}(x) y = Exp(e)") for first in ("Exp", "Softplus"))
    result = api.verify(model, model)
    assert result.passed and not result.notes and not api.verify(model, wrong).passed


def test_it_is_said_where_the_reference_makes_no_numbers_of_ordinary_values() -> None:
    model = row("m = Mul(x, many) y = Exp(m)", many=np.array(200.0))
    (note,) = api.verify(model, model).notes
    assert note.startswith("The reference gives infinity or NaN on ") and "positive values were compared" in note


def test_a_mask_of_whole_numbers_is_of_zeros_and_ones_where_others_overflow() -> None:
    body = "f = Cast<to=1>(m) r = Sub(one, f) a = Mul(r, low) e = Exp(a) y = Mul(x, e)"
    numbers = {"one": np.array(1.0), "low": np.array(-200.0)}
    model = build.model("(float[n,8] x, int64[n,8] m) => (float[n,8] y)", body, checked=False, **numbers)
    result = api.verify(model, model)
    assert result.passed and not any("is all that was compared there" in note for note in result.notes)


@pytest.mark.parametrize(
    "body",
    [
        "n = Neg(e) m = Sub(n, one) y = Log(m)",
        "p = Add(e, one) y = Div(p, zero)",
        "m = Mul(x, zero) y = Div(m, zero)",
        "y = Add(x, nan)",
        "y = Slice(x, none, none)",
    ],
)
def test_an_output_without_a_number_is_not_verified(tmp_path: Path, body: str) -> None:
    """A difference would not show in it, nor does a user want a network of which nothing comes out."""
    weights = {"one": np.array(1.0), "zero": np.array(0.0), "nan": np.full(8, np.nan), "none": np.array([0])}
    signature = "(float[n,8] x) => (float[?,8] y, float[n,8] e)"
    model = build.model(signature, f"e = Abs(x) {body}", checked=False, **weights)
    path = build.save(model, tmp_path / "m.onnx")
    done = maskc("verify", path, path)
    assert done.exit_code == 4, done.output
    assert "Nothing of output 'y' was compared" in done.stdout and "--inputs" in done.stdout
    assert "Inconclusive" in done.stdout and "'e'" not in done.stdout and "Verified" not in done.stdout
    done = maskc("compile", path, "-o", tmp_path / "o.onnx")
    assert done.exit_code == 0 and "Not verified: Nothing of output 'y'" in done.stderr + done.stdout


@pytest.mark.parametrize("body", ["a = Mul(x, big) y = Mul(a, big)", "l = Log(x) y = ReduceSum(l, axes)"])
def test_other_values_are_compared_where_the_reference_makes_no_number(body: str) -> None:
    """Far smaller ones where it overflows, and positive ones for a logarithm."""
    model = build.model("(float[n,8] x) => (float[n,?] y)", body, big=np.array(1e25), axes=np.array([1]))
    result = api.verify(model, model)
    assert result.passed and result.outputs[0].compared
    assert "positive values were compared" in result.notes[0]


def test_places_without_a_number_are_told() -> None:
    (note,) = api.verify(*[row("y = Add(x, some)", some=np.array([np.nan, *[0.0] * 7]))] * 2).notes
    assert note.startswith("12.5% of output 'y' is NaN or infinite")


def test_indices_are_drawn_again_within_their_ranges() -> None:
    signature = "(int64[n,3] i, int64[n] j, float[n] x) => (float[n,3,4] y, int64[n] z, float[n] e)"
    model = build.model(signature, "y = Gather(table, i) z = Identity(j) e = Exp(x)", table=(10, 4))
    ports, session = random_inputs.ports(model), OnnxRuntimeSession(model)
    inputs = {"i": np.zeros((32, 3), np.int64), "j": np.arange(7, 39), "x": np.zeros(32, np.float32)}
    given = [Sample("real", inputs, session.run(inputs))]
    first, second = redrawn(ports, given, session, 0)
    assert first["i"].shape == second["i"].shape == (32, 3)
    assert {int(i) for i in (*first["i"].flat, *second["i"].flat)} == set(range(10))
    assert (first["j"] == inputs["j"]).all(), "nobody knows the range of these"
    assert first["x"].std() > 0.5 and (first["x"] != second["x"]).any()


def test_what_is_drawn_again_runs_on_the_reference() -> None:
    """A sum of indices may lie beyond the table, and large numbers overflow."""
    body = "ids = Add(a, b) y = Gather(table, ids) m = Mul(x, many) z = Exp(m)"
    signature = "(int64[n] a, int64[n] b, float[n] x) => (float[n,6] y, float[n] z)"
    model = build.model(signature, body, table=(3, 6), many=np.array(200.0))
    ports, session = random_inputs.ports(model), OnnxRuntimeSession(model)
    inputs = {"a": np.zeros(64, np.int64), "b": np.ones(64, np.int64), "x": np.zeros(64, np.float32)}
    for again in redrawn(ports, [Sample("small", inputs, session.run(inputs))], session, 0):
        assert all(np.isfinite(array).all() for array in session.run(again).values())


def test_real_data_show_what_is_inside() -> None:
    model = row("y = Relu(x)")
    ports, session = random_inputs.ports(model), OnnxRuntimeSession(model)
    data = {label: {"x": np.full((2, 8), size, np.float32)} for label, size in (("uniform", 1), ("real data", 7))}
    samples = [Sample(label, inputs, session.run(inputs)) for label, inputs in data.items()]
    real, drawn = redrawn(ports, samples, session, 0)
    assert (real["x"] == 7).all() and (drawn["x"] != 1).all()


# Figures.


def test_figures_of_an_error() -> None:
    wanted = np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)
    got = np.array([[1.0, 2.5], [2.0, 3.0]], np.float32)
    found = distance(wanted, got)
    assert found is not None
    numbers = Statistics()
    numbers.add(found, wanted, got)
    assert (numbers.max_abs, numbers.mean_abs, numbers.max_rel, numbers.top1) == (2.0, 2.5 / 4, 0.5, 0.5)
    assert numbers.ulps == 2.0 / np.spacing(np.float32(4.0))


def test_figures_leave_out_what_is_not_finite() -> None:
    wanted = np.array([[np.nan, 2.0, np.inf]], np.float16)
    found = distance(wanted, wanted)
    assert found is not None
    numbers = Statistics()
    numbers.add(found, wanted, wanted)
    assert (numbers.max_abs, numbers.mean_abs, numbers.ulps) == (0, 0, 0)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_figures_of_equal_outputs_are_those_of_a_difference_of_nothing(kind: type) -> None:
    """They are had without copies in double precision. A negative zero is another number in bits only."""
    wanted = np.array([[np.nan, -2.0, np.inf], [0.0, 1.5, -np.inf]], kind)
    for got in (wanted.copy(), np.where(wanted == 0, -wanted, wanted)):
        found = distance(wanted, got)
        assert found is not None and (found.max_abs, found.scale, found.exact) == (0.0, 2.0, False)
        numbers = Statistics()
        numbers.add(found, wanted, got)
        assert numbers.histogram is not None
        assert (numbers.histogram.equal, numbers.histogram.counts, numbers.scale, numbers.top1) == (3, (), 2.0, 1.0)
    empty = np.zeros((0, 3), kind)
    nothing = distance(empty, empty)
    assert nothing is not None and (nothing.max_abs, nothing.scale) == (0.0, 0.0)


def test_sigmoids_near_zero_may_be_a_rounding_of_their_terms_off() -> None:
    """As of a detector that finds nothing: ONNX Runtime has 0 or a few times 2^-25 for numbers that are smaller."""
    model = row("a = Relu(x) s = Sigmoid(a) y = Identity(s)")
    assert Tolerance.of(model, None, 0.0).near_zero("y") == 2.0**-22
    assert Tolerance.of(model, None, 0.0).near_zero("a") == Tolerance.of(model, 1e-3, 0.0).near_zero("y") == 0
    wanted, got = ({"y": np.full((2, 8), value, np.float32)} for value in (0.0, 2.0**-23))
    samples = [Sample("", {}, wanted)]
    for source, passes in ((model, True), (row("y = Tanh(x)"), False)):
        pair = Pair("", lambda sample: sample.expected, lambda inputs: got, "", lambda *_: False)
        (error,), _, _ = compare_outputs([pair], samples, Tolerance.of(source, None, 0.0))
        assert error.passed == passes


def test_the_tolerance_grows_with_depth_up_to_a_limit() -> None:
    single = np.dtype(np.float32)
    assert tolerance(single, 1) == 8 * np.finfo(np.float32).eps
    assert tolerance(single, 4) == 2 * tolerance(single, 1)
    assert tolerance(single, 10**6) == 1e-5
    assert tolerance(np.dtype(np.float16), 1) == 1e-3
    assert tolerance(np.dtype(np.float64), 1) < 1e-14


# Latency.


def test_latency_side_by_side(pair: tuple[Path, Path]) -> None:
    result = maskc("verify", *pair, "--bench")
    assert result.exit_code == 0 and "median and quartiles of" in result.stdout
    latency = api.verify(*pair, bench=True).latency
    assert latency is not None and latency.runs >= 20 and latency.shapes == {"x": (1, 8)}
    for low, median, high in (latency.before, latency.after):
        assert 0 < low <= median <= high
    assert latency.speedup > 0
    assert api.verify(*pair).latency is None


def test_where_the_source_overflows_smaller_values_are_compared() -> None:
    """A channel of huge values that nothing reads: infinity times zero is up to the order of operations."""
    weights = {"huge": np.array([0, 3e38]), "none": np.zeros((2, 3)), "bias": (3,)}
    body = "a = Mul(x, huge) b = MatMul(a, none) y = Add(b, bias)"
    built = build.model("(float[n,2] x) => (float[n,3] y)", body, **weights)
    assert api.compile(built).report.verified


def test_what_kills_the_runtime_is_not_run(tmp_path: Path) -> None:
    """ONNX Runtime 1.31 ends the process at a recurrent layer that is given no examples."""
    body = "a = Reshape<allowzero=1>(x, none) y = LSTM<hidden_size=4>(a, w, r)"
    weights = {"w": (1, 16, 6), "r": (1, 16, 4), "none": np.array([5, 0, 6])}
    built = build.model("(float[0,6] x) => (float[5,1,0,4] y)", body, checked=False, **weights)
    done = process("compile", build.save(built, tmp_path / "m.onnx"), "-o", tmp_path / "o.onnx")
    assert done.returncode == 0 and "Warning: Not verified" in done.stderr and "ends the process at LSTM" in done.stderr


def test_a_region_that_differs_where_no_output_does_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is written, and nothing says that outputs differ."""

    def differs(proof: Proof) -> Failure:
        return Failure(next(iter(proof.regions.values())), Judgement(error=1.0))

    monkeypatch.setattr("maskc.verification.compare.first_failure", differs)
    onnx.save(build.mlp(), tmp_path / "mlp.onnx")
    done = maskc("compile", tmp_path / "mlp.onnx", "-o", tmp_path / "small.onnx")
    assert done.exit_code == 0 and (tmp_path / "small.onnx").exists()
    said = done.stdout + done.stderr
    assert "Not verified: The models first differ" in said and "Inconclusive" in said and "Failed" not in said
