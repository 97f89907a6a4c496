"""Outputs that hardly move: faults that no output shows are found region by region."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.runtime.session import load
from maskc.verification.compare_regions import compare_regions, differs_on, graph_of
from maskc.verification.error_statistics import distance
from maskc.verification.inputs import Sample
from maskc.verification.output_rounding import RoundedWeights
from maskc.verification.regions.checker import Checker
from passes import shrink
from passes.rewriting.origins import Origins
from tests.generators.flat_networks import flat_network, mutants
from tests.maskc import build


def scores(scale: float, *, dead: bool = False) -> onnx.ModelProto:
    """x[n,8] → MatMul, Relu, mask over every second channel, MatMul, Softmax of scores of this scale → y[n,4]."""
    edits = {"y = MatMul(d, w2)": "s = MatMul(d, w2) y = Softmax<axis=-1>(s)"}
    w2 = scale * np.random.default_rng(0).normal(size=(16, 4))
    return build.mlp(edits=edits, b1=np.full(16, -1e6 if dead else 0.5), w2=w2)


def tripled(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    stored = next(t.name for t in model.graph.initializer if t.name.startswith(name))
    return build.changed(model, stored, lambda w: 3 * w)


@pytest.mark.parametrize(
    ("weight", "node", "dead"), [("w1", "first", False), ("w2", "second", False), ("w1", "first", True)]
)
def test_a_fault_that_no_output_shows_is_refused(weight: str, node: str, dead: bool) -> None:
    """Behind scores that are all but equal, or units that are dead on all data."""
    source = scores(1e-12, dead=dead)
    compiled = shrink(source).model
    assert api.verify(source, compiled).verdict == "verified"
    result = api.verify(source, tripled(compiled, weight))
    assert result.verdict == "failed" and result.parting is not None
    assert result.parting.node == node and result.outputs[0].passed
    assert f"computed by MatMul '{node}'" in result.reasons[0]


def test_a_branch_that_hardly_counts() -> None:
    """The output moves, but not with what the branch computes."""
    source = scores(1e-12)
    source.graph.node[-1].CopyFrom(onnx.helper.make_node("Add", ["s", "mean"], ["y"]))
    source.graph.node.insert(0, onnx.helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1]))
    compiled = shrink(source).model
    assert api.verify(source, compiled).passed
    assert api.verify(source, tripled(compiled, "w1")).verdict == "failed"


@pytest.mark.parametrize("second", [1.0, 1.5])
def test_a_fault_on_some_data_behind_one_that_rounding_may_make(second: float) -> None:
    body = "a = Mul(x, one) b = Mul(x, two) y = Concat<axis=1>(a, b)"
    source = build.model("(float[n,8] x) => (float[n,16] y)", body, one=np.array(1.0), two=np.array(1.0))
    other = build.model("(float[n,8] x) => (float[n,16] y)", body, one=np.array(1.005), two=np.array(second))
    inputs = {"x": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}
    proof = compare_regions(source, source, [inputs], Origins(), 0).proof
    known = proof.checker
    checker = Checker(known.source, graph_of(other), known.boundaries, known.claims, known.seen)
    failure = differs_on(replace(proof, checker=checker), source, inputs)
    assert (failure.region.target if failure else "") == ("b" if second > 1 else "")


def test_a_weight_that_counts_a_millionth_behind_many_roundings() -> None:
    body = "t0 = MatMul(x, w)" + "".join(f" t{i + 1} = Neg(t{i})" for i in range(99)) + " y = Neg(t99)"
    weights = np.random.default_rng(0).normal(size=(17, 16)).astype(np.float32)
    weights[16] = 0
    weights[16, 0] = 1e-3
    off = weights.copy()
    off[16, 0] *= np.float32(1.01)
    model, wrong = (build.model("(float[n,17] x) => (float[n,16] y)", body, w=w) for w in (weights, off))
    assert api.verify(model, model).passed
    assert not api.verify(model, wrong).passed


def test_weights_behind_heavy_cancellation() -> None:
    """A hundred millions are added and taken away again: of the product before, outputs show nothing."""
    body = "a = MatMul(x, w) b = Add(a, far) c = Sub(b, far) d = Add(c, x) y = Relu(d)"
    model = build.model("(float[n,8] x) => (float[n,8] y)", body, w=(8, 8), far=np.array(1e8))
    assert api.verify(model, model).passed
    assert not api.verify(model, tripled(model, "w")).passed


def test_nothing_but_rounding_is_left_of_a_mean_behind_a_normalisation_over_the_batch() -> None:
    """What is no larger than the rounding of the terms that cancelled is compared with that."""
    body = """
        a = Conv<pads=[1,1,1,1]>(x, w)  b = Mul(a, masked)  c = Conv<pads=[1,1,1,1]>(b, v)
        mean = ReduceMean<axes=[0,2,3]>(c)  d = Sub(c, mean)  squares = Mul(d, d)
        variance = ReduceMean<axes=[0,2,3]>(squares)  e = Add(variance, least)  spread = Sqrt(e)
        f = Div(d, spread)  g = GlobalAveragePool(f)  h = Flatten(g)  y = MatMul(h, last)
    """
    weights = {"w": (32, 3, 3, 3), "v": (16, 32, 3, 3), "last": (16, 5), "least": np.array(1e-3)}
    masked = np.tile([1.0, 0.0], 16).reshape(32, 1, 1)
    source = build.model("(float[n,3,16,16] x) => (float[n,5] y)", body, masked=masked, **weights)
    compiled = shrink(source).model
    assert api.verify(source, compiled).verdict == "verified"
    assert api.verify(source, tripled(compiled, "last")).verdict == "failed"
    x = {"x": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    sample, explains = Sample("", x, load(source).run(x)), RoundedWeights(source, "cpu", 0).explains
    for off, is_explained in ((1e-6, True), (1e-3, False)):
        error = distance(sample.expected["y"], sample.expected["y"] + np.float32(off))
        assert error is not None and explains("y", error, sample) is is_explained


@pytest.mark.slow
def test_flat_networks_and_their_mutants() -> None:
    judged(range(100, 120), 20)


@pytest.mark.release
def test_many_flat_networks_and_their_mutants() -> None:
    judged(range(10_000, 11_000), 150)


def judged(seeds: range, broken: int) -> None:
    """Assert that networks are verified, and that of the mutants of the first `broken` of them 1% at most are.

    Behind units that are dead on all data nothing shows, as docs/verification.md says.
    """
    missed, count = [], 0
    for seed in seeds:
        ending, source = flat_network(seed)
        compiled = shrink(source).model
        assert api.verify(source, compiled).verdict == "verified", (seed, ending)
        for kind, wrong in (
            mutants(source, compiled, seed) if seed < seeds.start + broken and ending != "dead units" else ()
        ):
            try:
                verdict = api.verify(source, wrong).verdict
            except api.MaskcError:
                continue
            count += 1
            if verdict == "verified":
                missed.append((seed, ending, kind))
    assert len(missed) <= 0.01 * count, missed
