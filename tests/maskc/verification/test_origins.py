"""Origins: what the compiler says that tensors hold is true, and enough to prove what it made."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from maskc.verification.compare_regions import compare_regions, graph_of
from maskc.verification.recheck import Array, Boundary, stream
from maskc.verification.regions import search
from passes import shrink
from passes.rewriting.origins import Origin
from tests.generators import architectures
from tests.generators.net import Masks
from tests.generators.running import all_sizes, random_feeds
from tests.maskc import build
from tests.maskc.verification.networks import EVERY_SECOND


@pytest.mark.parametrize(
    "end",
    [
        "e = Relu(d) f = Add(e, bias) y = Conv(f, v)",
        "g = GlobalAveragePool(d) a = Conv(g, u) p = Mul(d, a) y = Conv(p, v)",
    ],
)
@pytest.mark.parametrize("sizes", [("n", "h", "i"), ("1", "12", "10")])
def test_what_the_compiler_says_is_enough(monkeypatch: pytest.MonkeyPatch, end: str, sizes: tuple[str, ...]) -> None:
    """Removed channels that differ at a border, and channels in another order, without a search by values."""
    weights = {"w": (8, 3, 3, 3), "k": (8, 1, 3, 3), "u": (8, 8, 1, 1), "v": (4, 8, 1, 1), "bias": (1, 8, 1, 1)}
    body = f"c = Conv(x, w) m = Mul(c, mask) b = Add(m, bias) d = Conv<pads=[1,1,1,1], group=8>(b, k) {end}"
    weights = {name: shape for name, shape in weights.items() if f" {name})" in body}
    batch, height, smaller = sizes
    signature = f"(float[{batch},3,{height},{height}] x) => (float[{batch},4,{smaller},{smaller}] y)"
    source = build.model(signature, body, mask=EVERY_SECOND[:8].reshape(8, 1, 1), **weights)
    assert is_proved_as_said(source, monkeypatch)


HEADS = """
    s = MatMul(q, k) a = Softmax<axis=-1>(s) r = MatMul(a, v) t = Transpose<perm=[0,2,1,3]>(r)
    z = Reshape(t, merged) y = MatMul(z, wo)
"""


def test_heads_that_keep_other_channels_are_proved_as_the_compiler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the projections and the result each head has its own: nothing there is a slice of the source's tensor."""
    body = f"""
        q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) v1 = Mul(v0, keep)
        q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v2 = Reshape(v1, heads)
        q = Transpose<perm=[0,2,1,3]>(q1) k = Transpose<perm=[0,2,3,1]>(k1) v = Transpose<perm=[0,2,1,3]>(v2) {HEADS}
    """
    weights: dict[str, Any] = dict.fromkeys(("wq", "wk", "wv", "wo"), (16, 16))
    weights |= {"heads": np.array([0, 0, 2, 8]), "merged": np.array([0, 0, 16])}
    weights["keep"] = np.array([1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0, 1.0])
    source = build.model("(float[n,h,16] x) => (float[n,h,16] y)", body, **weights)
    assert shrink(source).origins["v2"] is None and is_proved_as_said(source, monkeypatch)


def test_parts_of_one_product_are_proved_as_the_compiler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, keys and values get a product each, whose tensors have names that the source has not."""
    body = f"""
        p = MatMul(x, wqkv) b = Add(p, bias) m = Mul(b, keep) h = Reshape(m, heads) u = Transpose<perm=[2,0,3,1,4]>(h)
        q = Gather<axis=0>(u, i0) k0 = Gather<axis=0>(u, i1) v = Gather<axis=0>(u, i2)
        k = Transpose<perm=[0,1,3,2]>(k0) {HEADS}
    """
    weights: dict[str, Any] = {"wqkv": (16, 48), "bias": (48,), "wo": (16, 16), "merged": np.array([0, 0, 16])}
    weights |= {"heads": np.array([0, 0, 3, 2, 8]), **{f"i{i}": np.array(i) for i in range(3)}}
    weights["keep"] = np.tile([1, 1, 0, 0, 1, 0, 1, 0.0], 6)
    source = build.model("(float[n,h,16] x) => (float[n,h,16] y)", body, **weights)
    assert {"p", "b", "m"} == {o.source for name, o in shrink(source).origins.items() if o and o.source != name}
    assert is_proved_as_said(source, monkeypatch)


@pytest.mark.parametrize("seed", range(3))
def test_heads_that_are_filled_up_are_proved_as_the_compiler_says(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """What fills them up is stored, and constant before the norm: no unit needs to be taken for dead, as in a run."""
    body = f"""
        q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) m = Mul(v0, keep) f = Flatten<axis=2>(m)
        b = BatchNormalization(f, scale, bias, mean, variance) v1 = Reshape(b, rows)
        q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v2 = Reshape(v1, heads)
        q = Transpose<perm=[0,2,1,3]>(q1) k = Transpose<perm=[0,2,3,1]>(k1) v = Transpose<perm=[0,2,1,3]>(v2) {HEADS}
    """
    weights: dict[str, Any] = dict.fromkeys(("wq", "wk", "wv", "wo"), (16, 16))
    weights |= dict.fromkeys(("scale", "bias", "mean"), (16,)) | {"variance": np.linspace(1, 3, 16)}
    weights |= {"rows": np.array([-1, 9, 16]), "heads": np.array([0, 9, 2, 8]), "merged": np.array([0, 9, 16])}
    weights["keep"] = np.random.default_rng(seed).permutation(np.arange(16) % 3 > 0).astype(float)
    source = build.model("(float[n,9,16] x) => (float[n,9,16] y)", body, **weights)
    assert "Mul" not in {node.op_type for node in shrink(source).model.graph.node}
    monkeypatch.setattr(search, "observe", once(search.observe))
    assert is_proved_as_said(source, monkeypatch)


def test_heads_that_are_filled_up_are_no_slices_of_the_source() -> None:
    """What a head keeps less than another is zero there, where the source has the bias: so nothing is said of it."""
    body = f"""
        q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) m = Mul(v0, keep) v1 = Add(m, bias)
        q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v2 = Reshape(v1, heads)
        q = Transpose<perm=[0,2,1,3]>(q1) k = Transpose<perm=[0,2,3,1]>(k1) v = Transpose<perm=[0,2,1,3]>(v2) {HEADS}
    """
    weights: dict[str, Any] = dict.fromkeys(("wq", "wk", "wv", "wo"), (16, 16)) | {"bias": (16,)}
    weights |= {"heads": np.array([0, 0, 2, 8]), "merged": np.array([0, 0, 16])}
    weights["keep"] = np.array([1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0.0])
    source = build.model("(float[n,h,16] x) => (float[n,h,16] y)", body, **weights)
    assert said_wrongly(source) == [] and shrink(source).origins["z"] is None


@pytest.mark.parametrize("network", [architectures.bert, architectures.gpt, architectures.vit])
def test_what_the_compiler_says_is_true(network: Callable[..., None]) -> None:
    net = architectures.build(network, Masks(consistent=False, seed=15), seed=3)
    assert said_wrongly(net.model(), net.ranges) == []


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which may be called once only."""
    calls = iter([function])
    return lambda *arguments, **named: next(calls)(*arguments, **named)


def said_wrongly(source: onnx.ModelProto, ranges: Mapping[str, tuple[int, int]] | None = None) -> list[str]:
    """The tensors of the compiled model that are not the slices of the source's which the compiler says they are."""
    made = shrink(source)
    feeds = random_feeds(source, 0, all_sizes(source, {"n": (2,), "h": (5,), **architectures.SYMBOLS})[0], ranges or {})
    values: list[dict[str, Array]] = []
    for model in (source, made.model):
        values.append({})
        stream(graph_of(model), [feeds], lambda name, arrays: values[-1].update({name: arrays[0]}))
    wrong = []
    for name in values[1]:
        origin = made.origins.get(name, Origin(name))
        if origin is not None and origin.source in values[0]:
            want = Boundary(origin.source, origin.slices).cut(values[0][origin.source])
            if want.shape != values[1][name].shape or not np.allclose(want, values[1][name], 1e-3, 1e-4):
                wrong.append(name)
    return wrong


def is_proved_as_said(source: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a model is proved with the boundaries that the compiler says, without a search by values."""
    made, places = shrink(source), ({"n": 1, "h": 12}, {"n": 2, "h": 9}, {"n": 1, "h": 12})
    feeds = [random_feeds(source, seed, each) for seed, each in enumerate(places)]
    monkeypatch.setattr(search, "by_value", lambda *_: pytest.fail("tensors were compared by their values"))
    return compare_regions(source, made.model, feeds, made.origins, 0).proof.complete
