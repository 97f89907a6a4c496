"""Correspondence of two models of any origin: which tensor of the source a compiled one is taken for."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import maskc as api
from maskc.verification import recheck
from maskc.verification.regions.hidden_differences import first_failure
from maskc.verification.regions.search import prove
from passes import shrink
from passes.rewriting.origins import Origins
from tests.generators.architectures import build as build_architecture
from tests.generators.architectures import shufflenet
from tests.generators.exported import shufflenet_groups
from tests.generators.net import Masks
from tests.generators.networks import network
from tests.maskc import build
from tests.maskc.verification.networks import compared
from tests.passes.text import random


def test_constants_that_are_nearly_those_of_another_channel() -> None:
    """Without the compiler's word, restored channels are known by the constants in them."""
    rng = np.random.default_rng(0)
    shift, mask = rng.normal(size=8), np.array([1, 0, 1, 0, 1, 0, 1, 1.0])
    w, v = rng.normal(size=(4, 8)), rng.normal(size=(8, 3))
    shift[[1, 3, 5]] = 3.0, 0.0952, 0.0980  # the second is added to the result, the others are written
    body = "a = MatMul(x, w) m = Mul(a, mask) s = Add(m, shift) y = MatMul(s, v)"
    source = build.model("(float[n,4] x) => (float[n,3] y)", body, w=w, mask=mask, shift=shift, v=v)
    kept, written = np.flatnonzero(mask), [1, 5]
    restored = """
        a = MatMul(x, w) k = Add(a, shift) rows = Shape<end=1>(x) sizes = Concat<axis=0>(rows, two)
        fill = Expand(filled, sizes) all = Concat<axis=1>(k, fill) p = MatMul(all, v) y = Add(p, rest)
    """
    weights = {"w": w[:, kept], "shift": shift[kept], "v": v[[*kept, *written]], "rest": shift[3] * v[3]}
    filled = shift[written][None]
    compiled = build.model("(float[n,4] x) => (float[n,3] y)", restored, filled=filled, two=np.array([2]), **weights)
    proof = compared(source, compiled)
    assert proof.complete and proof.regions["fill"].boundary.slices[1].tolist() == written


def test_a_scale_that_moved_before_a_clip_behind_units_that_are_dead_on_the_data() -> None:
    rng = np.random.default_rng(0)
    w2, w3 = rng.normal(size=(8, 6)), rng.normal(size=(6, 3))
    w2[4:, :2], w2[:4, :2] = w2[4:, :2], 0  # of units that are dead alone
    mask, kept = np.array([1, 1, 1, 1, 0, 1.0]), np.array([0, 1, 2, 3, 5])
    first = "a = MatMul(x, w1) b = Add(a, shift) r = Relu(b) "
    body = first + "c = MatMul(r, w2) m = Mul(c, mask) h = HardSigmoid<alpha=0.2, beta=0.5>(m) y = MatMul(h, w3)"
    signature, shared = "(float[n,4] x) => (float[n,3] y)", {"w1": (4, 8), "shift": np.repeat([0.5, -30.0], 4)}
    source = build.model(signature, body, mask=mask, w2=w2 / 5, w3=w3, **shared)
    rest = first + "p = MatMul(r, w2) q = Add(p, half) h = Clip(q, zero, one) t = MatMul(h, w3) y = Add(t, rest)"
    weights = {"w2": w2[:, kept] / 25, "w3": w3[kept], "half": np.full(5, 0.5), "rest": 0.5 * w3[4]}
    compiled = build.model(signature, rest, zero=np.array(0.0), one=np.array(1.0), **weights, **shared)
    assert compared(source, compiled).complete and api.verify(source, compiled).verdict == "verified"


def test_a_sigmoid_near_zero_is_as_exact_as_the_runtime_makes_it() -> None:
    """It has steps there, and sums that are rounded otherwise are on others."""
    signature, rng = "(float[n,64] x) => (float[n,9] y)", np.random.default_rng(0)
    w, far = rng.normal(size=(64, 9)) / 8, np.full(9, -17.0)
    source = build.model(signature, "a = MatMul(x, w) b = Add(a, far) y = Sigmoid(b)", w=w, far=far)
    body = (
        "p = Gather<axis=1>(x, order) t = Transpose(p) c = MatMul(v, t) d = Add(c, far) s = Sigmoid(d) y = Transpose(s)"
    )
    order = rng.permutation(64)
    weights = {"v": w[order].T, "far": far[:, None], "order": order}
    assert compared(source, build.model(signature, body, **weights)).complete
    assert not compared(source, build.model(signature, body, **weights | {"far": far[:, None] / 1.2})).complete


def test_a_tensor_that_no_data_change_at_all() -> None:
    """All channels of a convolution are other numbers at its border than within, and one of them is kept."""
    verification = api.compile(network(9_000_141).model).report.verification
    assert verification is not None and verification.verdict == "verified", verification.reasons


def test_a_tensor_with_a_wrong_slice_is_still_that_of_its_name() -> None:
    """Along other axes few places are compared, at which nothing of the slice need be: it is no choice of these."""
    scale = np.linspace(1, 2, 64).reshape(1, 64, 1, 1)
    body = "m = Mul(x, k) y = Relu(m)"
    source = build.model("(float[n,64,4,t] x) => (float[n,64,4,t] y)", body, k=scale)
    for channel in range(64):
        wrong = build.changed(source, "k", lambda k, c=channel: np.where(np.arange(64).reshape(k.shape) == c, -k, k))
        proof = compared(source, wrong)
        assert not proof.complete and proof.checker.boundaries["m"].slices == {}


@pytest.mark.slow
def test_units_that_are_dead_in_a_run_look_like_masked_channels() -> None:
    """Random values tell them from each other."""
    for seed in (705, 1389, 1845, 4125):
        source = build_architecture(shufflenet, Masks(consistent=False, seed=seed), seed=seed // 100).model()
        assert api.verify(source, shrink(source).model).passed


@pytest.mark.slow
def test_what_a_concat_joins_is_what_the_source_joins() -> None:
    """Its slices look alike in a run where units are dead, in the middle as well."""
    source = build_architecture(shufflenet_groups, Masks(consistent=False, seed=447), seed=4).model()
    assert api.verify(source, shrink(source).model).passed


def test_a_constant_near_zero_is_as_exact_as_what_it_is_computed_of() -> None:
    """Channel 1 is 1e-5 behind numbers of about 1, and the compiled model writes it."""
    first = "c = Conv(x, k, b) n = BatchNormalization(c, scale, shift, mean, var) y = GlobalAveragePool(n)"
    k, scale, mean = np.ones((2, 3, 1, 1)), np.array([1.0, 0.7]), np.array([0.0, 0.1])
    k[1] = 0
    shift = np.array([0.0, -0.7 * (0.9 - 0.1) / np.sqrt(1.3 + 1e-5) + 1e-5])
    weights = {"scale": scale, "shift": shift, "mean": mean, "var": np.full(2, 1.3), "b": np.array([0.0, 0.9])}
    source = build.model("(float[n,3,4,4] x) => (float[n,2,1,1] y)", first, k=k, **weights)
    body = first.replace("y =", "g =") + " rows = Shape<start=0, end=1>(g) sizes = Concat<axis=0>(rows, ones) "
    body += "f = Expand(written, sizes) y = Concat<axis=1>(g, f)"
    kept = {name: each[:1] for name, each in weights.items()}

    def compiled(number: float) -> onnx.ModelProto:
        written = np.full((1, 1, 1, 1), number)
        signature = "(float[n,3,4,4] x) => (float[n,2,1,1] y)"
        return build.model(signature, body, k=k[:1], written=written, ones=np.ones(3, np.int64), **kept)

    (want,) = ReferenceEvaluator(source).run(None, {"x": np.zeros((1, 3, 4, 4), np.float32)})
    number = float(want[0, 1, 0, 0])
    assert 5e-6 < abs(number) < 2e-5
    assert compared(source, compiled(number + 6e-8)).complete
    assert not compared(source, compiled(number + 6e-6)).complete


def test_a_claim_that_a_larger_region_refutes_is_dropped() -> None:
    """A branch that is not taken in the run would make other numbers of a channel that is dead in it."""
    net = network(50_953)
    assert api.verify(net.model, shrink(net.model).model).passed


def test_heads_that_keep_other_channels_are_what_the_result_says() -> None:
    """Sparse weights of attention, of which the least is 7e-11, say it no more."""
    net = network(51_646)
    assert api.verify(net.model, shrink(net.model).model).passed


def test_a_bound_that_nothing_reaches_in_the_run() -> None:
    """One operator or two, of any names: what looks the same in the run is not the same."""
    w = np.random.default_rng(0).normal(size=(8, 16)) / 4
    weights = {"w": w, "v": (16, 4), "none": np.array(0.0), "most": np.array(4.0)}
    bodies = "t = Clip(h, none, most)", "r = Relu(h) m = Min(r, most)"
    one, two = (
        build.model(
            "(float[n,8] x) => (float[n,4] y)",
            f"h = MatMul(x, w) {body} y = MatMul({body[0] if i == 0 else 'm'}, v)",
            **weights,
        )
        for i, body in enumerate(bodies)
    )
    assert compared(one, two).complete and compared(two, one).complete
    assert not compared(one, build.changed(two, "most", lambda most: most / 2)).complete


def test_a_node_that_picks_other_channels_is_among_the_suspects() -> None:
    """What it holds is told by what it makes, so that what reads it differs, behind operators that hand it on."""
    kept, weights = np.array([0, 2, 5, 6]), np.random.default_rng(0).normal(size=(8, 3))
    signature, mask = "(float[n,8] x) => (float[n,3] y)", np.isin(np.arange(8), kept) * 1.0
    source = build.model(signature, "r = Relu(x) m = Mul(r, mask) y = MatMul(m, w)", mask=mask, w=weights)
    body = "few = Gather<axis=1>(x, index) r = Relu(few) y = MatMul(r, w)"
    right, wrong = (build.model(signature, body, index=index, w=weights[kept]) for index in (kept, [0, 2, 5, 7]))
    assert api.verify(source, right).passed
    found = api.verify(source, wrong).parting
    assert found is not None and {"few", "y"} == {*found.suspects}


@pytest.mark.parametrize("seed", [20_831, 40_959])
def test_what_else_random_networks_met(seed: int) -> None:
    """A vector of sizes that has another's name; and double precision, of which fresh values had but single."""
    verification = api.compile(network(seed).model).report.verification
    assert verification is not None and verification.verdict == "verified"


def test_a_name_that_steps_are_moved_before_is_no_fault() -> None:
    """As ONNX Runtime puts a pair of quantisation before a Reshape, which keeps its name and holds rounded numbers."""
    steps = {"scale": np.array(0.05, np.float32), "zero": np.array(128, np.uint8), "shape": np.array([-1, 6])}
    tail = "q = QuantizeLinear(r, scale, zero) d = DequantizeLinear(q, scale, zero) y = MatMul(d, w)"
    head = "(float[n,2,3] x) => (float[n,4] y)"
    before = build.model(head, f"r = Reshape(x, shape) {tail}", 17, w=random(6, 4), **steps)
    rounded = "p = QuantizeLinear(x, scale, zero) o = DequantizeLinear(p, scale, zero) r = Reshape(o, shape)"
    after = build.model(head, f"{rounded} {tail}", 17, w=random(6, 4), **steps)
    assert api.verify(before, after).passed
    coarser = build.changed(after, "scale", lambda scale: scale * np.float32(1.01))
    assert not api.verify(before, coarser).passed


def test_channels_in_another_order_in_each_head_are_no_fault_before_a_norm() -> None:
    """As of attention by cosines: the region of a norm holds a tensor of the source's name, and agrees."""
    body = """
        a = MatMul(x, u)
        c = Reshape(a, shape)
        l = ReduceL2<axes=[3]>(c)
        d = Div(c, l)
        e = MatMul(x, v)
        g = Reshape(e, shape)
        h = Transpose<perm=[0,2,1,3]>(d)
        i = Transpose<perm=[0,2,3,1]>(g)
        y = MatMul(h, i)
    """
    head, shape = "(float[n,4,6] x) => (float[n,2,4,4] y)", np.array([0, 0, 2, 5])
    u, v, order = random(6, 10), random(6, 10, seed=1), [1, 0, 2, 4, 3, 7, 5, 6, 9, 8]
    before = build.model(head, body, 17, u=u, v=v, shape=shape)
    after = build.model(head, body, 17, u=u[:, order], v=v[:, order], shape=shape)
    origins = Origins()
    origins.update(dict.fromkeys("acdeghi"))
    proof = prove(recheck.Graph(before), recheck.Graph(after), [{"x": random(2, 4, 6)}], origins)
    assert proof.complete and first_failure(proof) is None


def equalised(**changed: float) -> list[onnx.ModelProto]:
    """Two layers, and the same with a scale for each hidden channel moved from one into the other."""
    body = "h = MatMul(x, w) a = Add(h, b) r = Relu(a) m = Mul(r, mask) y = MatMul(m, v)"
    weights = {"w": random(6, 8), "b": random(8, seed=1), "v": random(8, 4, seed=2), "mask": np.eye(8)[::2].sum(0)}
    scales = np.geomspace(0.1, 10, 8).astype(np.float32)
    moved = {"w": weights["w"] * scales, "b": weights["b"] * scales, "v": weights["v"] / scales[:, None]}
    moved |= {name: moved[name] * np.float32(factor) for name, factor in changed.items()}
    signature = "(float[n,6] x) => (float[n,4] y)"
    return [build.model(signature, body, constants={**weights, **more}) for more in ({}, moved)]


def test_scales_that_an_equalisation_moved_between_layers() -> None:
    source, other = equalised()
    result = api.verify(source, other)
    assert result.passed and result.certificate is not None
    proof = result.certificate.proof
    assert {name for name in proof.regions if proof.checker.boundaries[name].factors} == {"h", "a", "r", "m"}
    assert api.verify(source, shrink(other).model).passed
    _, wrong = equalised(v=1.01)
    failed = api.verify(source, wrong)
    assert not failed.passed and failed.parting is not None


@pytest.mark.parametrize("at", ["sources", "factors"])
def test_scales_that_a_certificate_has_are_checked(at: str, tmp_path: Path) -> None:
    paths = [tmp_path / "source.onnx", tmp_path / "other.onnx"]
    for path, model in zip(paths, equalised(), strict=True):
        onnx.save(model, path)
    certificate = api.verify(*paths).certificate
    assert certificate is not None
    document = certificate.document(paths[:1], paths[1:])
    models = [recheck.read(path) for path in paths]
    recheck.recheck(models[0], models[1], document)
    said = document["boundaries"]["r"]
    said["factors"]["1"] = [each * 1.01 for each in said["factors"]["1"]] if at == "factors" else [1.0] * 8
    with pytest.raises(recheck.RefusedError):
        recheck.recheck(*[recheck.read(path) for path in paths], document)


def test_a_scale_that_only_steps_follow_is_not_taken_for_one_that_moved() -> None:
    """Of which few random values show anything."""
    body = "h = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(h)"
    source = build.model("(float[n,8] x) => (int64[n] y)", body, w=(8, 512))
    wrong = build.changed(source, "w", lambda w: w * np.linspace(1, 1.01, 512, dtype=np.float32))
    assert api.verify(source, source).passed
    assert not api.verify(source, wrong).passed
