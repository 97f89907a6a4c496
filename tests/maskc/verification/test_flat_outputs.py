"""Networks whose output hardly moves: what they compute is looked at inside, or it is said that nobody can tell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.errors import UndecidedError
from maskc.verification.flat_outputs.sensitivity import movement
from passes import shrink
from tests.generators.flat_networks import flat_network, mutants
from tests.maskc import build
from tests.maskc.command import maskc


def scores(scale: float, *, dead: bool = False) -> onnx.ModelProto:
    """x[n,8] → MatMul, Relu, mask over every second channel, MatMul, Softmax of scores of this scale → y[n,4]."""
    body = """
        [first] a = MatMul(x, w1)
        b = Add(a, shift)
        c = Relu(b)
        d = Mul(c, mask)
        [second] s = MatMul(d, w2)
        y = Softmax<axis=-1>(s)
    """
    weights = {"mask": np.tile([1.0, 0.0], 8), "shift": np.full(16, -1e6 if dead else 0.5)}
    w2 = scale * np.random.default_rng(0).normal(size=(16, 4))
    return build.model("(float[n,8] x) => (float[n,4] y)", body, w1=(8, 16), w2=w2, **weights)


def tripled(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = next(t for t in copy.graph.initializer if t.name.startswith(name))
    tensor.CopyFrom(onnx.numpy_helper.from_array(3 * onnx.numpy_helper.to_array(tensor), tensor.name))
    return copy


@pytest.mark.parametrize(("exact", "weight"), [(None, "w1"), (False, "w2"), (True, "w2")])
def test_a_kernel_three_times_as_large_is_noticed(exact: bool | None, weight: str) -> None:
    source = scores(1e-12)
    compiled = shrink(source).model
    assert api.verify(source, compiled, exact=exact).verdict == "verified"
    result = api.verify(source, tripled(compiled, weight), exact=exact)
    assert result.verdict == "failed" and result.parting is not None
    assert result.parting.node == {"w1": "first", "w2": "second"}[weight]
    assert "hardly moves" in result.reasons[0]


AGREES = "hardly moves with the inputs, so what its last operators read was compared as well; it agrees."


def saturated(ending: str, opset: int = 17) -> onnx.ModelProto:
    """x[n,4,4] → MatMul, mask over every second channel, MatMul, and this ending from h to y, which hardly moves."""
    body = f"a = MatMul(x, w1) b = Mul(a, mask) h = MatMul(b, w2) {ending}"
    parsed = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[n,4,4] x) => (float[n,K,L] y) {{ {body} }}'
    )
    weights = [build.weight("w1", 4, 8), build.constant("mask", np.tile([1.0, 0.0], 4)), build.weight("w2", 8, 4)]
    few = {"tiny": 1e-12, "far": 3000.0, "large": 20.0}
    constants = [build.constant(name, number) for name, number in few.items() if f" {name}" in ending]
    constants += [build.constant("axes", [0], np.int64)] if "axes)" in ending else []
    parsed.graph.initializer.extend([*weights, *constants])
    return parsed


TWO_HEADS = "p = Tanh(h) s = Add(h, far) q = Sigmoid(s) r = Sub(p, far) t = Tanh(r) y = Concat<axis=1>(q, t)"


@pytest.mark.parametrize(
    "ending", ["s = Add(h, far) y = Sigmoid(s)", "s = Mul(h, tiny) y = Softmax<axis=2>(s)", TWO_HEADS]
)
def test_what_a_saturated_operator_reads_shows_what_it_hides(ending: str) -> None:
    source = saturated(ending)
    compiled = shrink(source).model
    result = api.verify(source, compiled)
    assert result.verdict == "verified" and any(AGREES in note for note in result.notes), result
    assert api.verify(source, tripled(compiled, "w1")).verdict == "failed"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("y = Softmax<axis=2>(s)", "y = Softmax<axis=-1>(s)", True),
        ("y = Softmax<axis=2>(s)", "y = Softmax<axis=-2>(s)", False),
        (
            "t = Softmax<axis=2>(s) u = Unsqueeze<axes=[0]>(t) y = Squeeze<axes=[0]>(u)",
            "t = Softmax<axis=-1>(s) u = Unsqueeze(t, axes) y = Squeeze(u, axes)",
            True,
        ),
        ("t = Add(s, far) y = Clip(t, tiny, large)", "t = Add(s, far) y = Clip(t, far, large)", False),
    ],
)
def test_operators_that_are_written_in_another_way_are_tried(first: str, second: str, same: bool) -> None:
    """Of tiny scores a Softmax is the same over any axis of that size."""
    models = [saturated(f"s = Mul(h, tiny) {first}", 12), saturated(f"s = Mul(h, tiny) {second}")]
    result = api.verify(*models)
    assert any(AGREES in note for note in result.notes) == same, result


def test_an_output_that_depends_on_constants_alone() -> None:
    signature = "(float[n,8] x) => (float[2] y, float[n,4] z)"
    source = build.model(signature, "z = MatMul(x, w) y = Add(one, two)", w=(8, 4), one=(2,), two=(2,))
    assert api.verify(source, build.changed(source, "one", lambda x: x + 0)).passed


def test_a_branch_that_hardly_counts() -> None:
    """The output moves, but not with what the branch computes."""
    source = scores(1e-12)
    source.graph.node[-1].CopyFrom(onnx.helper.make_node("Add", ["s", "mean"], ["y"]))
    source.graph.node.insert(0, onnx.helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1]))
    compiled = shrink(source).model
    result = api.verify(source, compiled)
    assert result.passed and any("hardly move" in note for note in result.notes)
    assert api.verify(source, tripled(compiled, "w1")).verdict == "failed"


def test_a_constant_that_the_compiler_computed_may_be_rounded_once() -> None:
    """A fifth is, and the reference has no weights before it whose rounding would say as much."""
    signature, after = "(float[n,5] x) => (float[n,1] y)", "s = Mul(m, small) y = Add(s, one)"
    weights = {"small": np.array(1e-12), "one": np.array(1.0)}
    reference = build.model(signature, f"m = ReduceMean<axes=[1]>(x) {after}", **weights)
    weights |= {"fifth": np.array(0.2), "axes": np.array([1])}
    compiled = build.model(signature, f"parts = Mul(x, fifth) m = ReduceSum(parts, axes) {after}", **weights)
    assert not api.verify(reference, compiled).reasons
    assert api.verify(reference, build.changed(compiled, "fifth", lambda x: x * 1.000001)).verdict == "failed"


def test_ordinary_networks_are_not_looked_into() -> None:
    source = scores(1.0)
    result = api.verify(source, shrink(source).model)
    assert result.passed and not result.notes


def test_what_nothing_shows_is_not_verified(tmp_path: Path) -> None:
    """Behind units that are dead on all data no weight can be told from another."""
    source = build.save(scores(1.0, dead=True), tmp_path / "dead.onnx")
    done = maskc("compile", source)
    assert done.exit_code == 0 and "Not verified: Output 'y' hardly moves" in done.stderr
    assert "Inconclusive" in done.stdout
    compiled = tmp_path / "dead.compiled.onnx"
    for reason in ("", "--json"):
        done = maskc("verify", source, compiled, *([reason] if reason else []))
        assert done.exit_code == UndecidedError.exit_code
    found = json.loads(done.stdout)["verification"]
    assert found["verdict"] == "cannot tell" and not found["passed"] and found["undecided"]
    with pytest.raises(UndecidedError, match="hardly moves"):
        api.verify(source, compiled).raise_if_failed()


def test_outputs_that_depend_on_no_weights_are_as_they_are() -> None:
    """A shape and a constant do not move, and there is nothing that could be wrong."""
    signature = "(float[n,8] x) => (int64[2] y, float[n,4] z)"
    source = build.model(signature, "y = Shape(x) z = MatMul(x, w)", w=(8, 4))
    assert api.verify(source, shrink(source).model).passed


def test_one_sample_is_enough_to_see_movement() -> None:
    source = scores(1.0)
    assert api.verify(source, shrink(source).model, samples=1).passed


def test_it_is_said_when_double_precision_is_left_out() -> None:
    source = scores(1.0)
    compiled = shrink(source).model
    notes = api.verify(source, compiled, rtol=1e-5).notes
    assert notes == ("Not compared in double precision, because a tolerance is given; --exact forces it.",)
    assert not api.verify(source, compiled, exact=False).notes


def judge(seeds: range, broken: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """Verdicts on flat networks compiled, on mutants of the first `broken` of them, and what was missed."""
    correct, wrong, missed = Counter[str](), Counter[str](), []
    for seed in seeds:
        ending, source = flat_network(seed)
        compiled = shrink(source).model
        correct[api.verify(source, compiled).verdict] += 1
        for kind, mutant in mutants(source, compiled, seed) if seed < seeds.start + broken else ():
            try:
                verdict = api.verify(source, mutant).verdict
            except api.MaskcError:
                continue
            wrong[verdict] += 1
            if verdict == "verified":
                missed.append(f"{kind} of network {seed}, {ending}")
    return correct, wrong, missed


def judged(seeds: range, broken: int) -> None:
    correct, wrong, missed = judge(seeds, broken)
    assert not correct["failed"], correct
    assert wrong["verified"] <= 0.01 * wrong.total(), missed


def test_flat_networks_are_not_refused() -> None:
    judged(range(4), 0)


@pytest.mark.slow
def test_flat_networks_and_their_mutants() -> None:
    judged(range(100, 140), 10)


@pytest.mark.release
def test_many_flat_networks_and_their_mutants() -> None:
    judged(range(10_000, 11_000), 150)


def test_values_near_the_smallest_that_there_are() -> None:
    """What is allowed of them is rounded to zero."""
    tiny = np.float64(5e-324)
    assert movement([np.array([0.0, tiny]), np.array([tiny, 0.0])], 1e-5) == pytest.approx(1e5)
    assert movement([np.zeros(2), np.zeros(2)], 1e-5) == 0
