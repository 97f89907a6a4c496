"""The cost model, against counts made by hand."""

import gc
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes import Policy, bind, count, coupling, flops_by_group, flops_by_mask, shrink
from passes.adapters.price import POLICIES
from passes.mask_savings import flops_saved
from passes.mask_savings.compiled_cost import CompiledCost, compiled_cost
from tests.generators.networks import network
from tests.marks import before_releases
from tests.passes.text import Array, mask, model, random

FIXTURES = Path(__file__).parents[3] / "fixtures"


def test_matrix_product_convolution_and_elementwise_operators() -> None:
    cost = count(
        model(
            "(float[N,3,8,8] x) => (float[N,5] y) <float[4,3,3,3] w, float[4] b, float[4,5] v, float[5] bias>",
            "c = Conv<pads=[1,1,1,1]>(x, w, b)\n r = Relu(c)\n g = GlobalAveragePool(r)\n f = Flatten(g)\n"
            "h = MatMul(f, v)\n y = Add(h, bias)",
        )
    )
    convolution = 4 * 64 * (2 * 27 - 1) + 4 * 64
    assert cost.flops == convolution + 4 * 64 + 4 * 64 + 5 * (2 * 4 - 1) + 5
    assert cost.macs == 4 * 64 * 27 + 20
    assert cost.params == 4 * 27 + 4 + 20 + 5
    assert [n.op for n in cost.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul", "Add"]


def test_every_weight_counts_at_the_first_node_that_reads_it() -> None:
    """A bias that is added is the Add's, a weight that is shared the first one's, a quantised one its reader's."""
    cost = count(
        model(
            "(float[N,4] x) => (float[N,4] y) <float scale = {0.1}, float[4] bias, float[4,4] w>",
            "wide = DequantizeLinear(q, scale)\n a = MatMul(x, wide)\n b = Add(a, bias)\n c = MatMul(b, w)\n"
            "d = MatMul(c, w)\n e = MatMul(d, wide)\n y = Relu(e)",
            q=random(4, 4).astype(np.int8),
        )
    )
    counted = {n.name.rpartition(" ")[2]: n.params for n in cost.nodes}
    assert counted == {"a": 16, "b": 4, "c": 16, "d": 0, "e": 0, "y": 0}
    assert cost.params == 16 + 4 + 16


def test_groups_divide_the_work() -> None:
    cost = count(model("(float[1,4,8,8] x) => (float[1,8,6,6] y)", "y = Conv<group=4>(x, w)", w=random(8, 1, 3, 3)))
    assert cost.macs == 8 * 36 * 9


def test_data_movement_is_free() -> None:
    cost = count(model("(float[N,4,8] x) => (float[N,8,4] y)", "y = Transpose<perm=[0,2,1]>(x)"))
    assert cost.flops == cost.macs == 0


def masked_network() -> onnx.ModelProto:
    """A residual block with a depthwise convolution; its masks are the graph inputs m1, m2 and m3."""
    return model(
        "(float[N,3,8,8] x, float[6] m1, float[6] m2, float[5] m3) => (float[N,2] y)"
        " <float[6,3,3,3] wa, float[6,1,3,3] wd, float[5,6,1,1] wc, float[5,2] v, int64[4] s = {1, -1, 1, 1}>",
        "a = Conv<pads=[1,1,1,1]>(x, wa)\n ar = Relu(a)\n m1r = Reshape(m1, s)\n am = Mul(ar, m1r)\n"
        "d = Conv<pads=[1,1,1,1], group=6>(am, wd)\n dr = Relu(d)\n m2r = Reshape(m2, s)\n dm = Mul(dr, m2r)\n"
        "sum = Add(am, dm)\n c = Conv(sum, wc)\n cr = Relu(c)\n m3r = Reshape(m3, s)\n cm = Mul(cr, m3r)\n"
        "g = GlobalAveragePool(cm)\n f = Flatten(g)\n y = MatMul(f, v)",
    )


def assert_worth_exactly(source: onnx.ModelProto, masks: dict[str, Array]) -> None:
    """The FLOPs at these masks, and without each further entry, are those of the compiled models."""
    total, savings = flops_by_mask(source, masks)
    assert total == shrink(bind(source, masks)).report.after.flops
    for name, values in masks.items():
        for entry in range(values.size):
            less = values.copy()
            less[entry] = 0
            after = shrink(bind(source, {**masks, name: less})).report.after.flops
            assert savings[name][entry] == total - after, (name, entry)


@pytest.mark.parametrize("seed", range(4))
def test_what_an_entry_is_worth_is_the_exact_difference(seed: int) -> None:
    source = masked_network()
    rng = np.random.default_rng(seed)
    masks = {n: (rng.random(k) < 0.75).astype(np.float32) for n, k in (("m1", 6), ("m2", 6), ("m3", 5))}
    assert_worth_exactly(source, masks)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_what_a_channel_of_a_head_or_behind_a_normalisation_is_worth(seed: int) -> None:
    source = model(
        "(float[N,T,6] x, float[8] m, float[8] mq, float[8] mk, float[8] mv) => (float[N,T,3] y)"
        " <float[6,8] w, float[8] scale, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,3] wo, "
        "int64[4] heads = {0, 0, 2, 4}, int64[3] together = {0, 0, 8}>",
        "a0 = MatMul(x, w)  a1 = Mul(a0, m)  a = LayerNormalization(a1, scale)"
        "  q0 = MatMul(a, wq)  q1 = Mul(q0, mq)  q2 = Reshape(q1, heads)  q = Transpose<perm=[0,2,1,3]>(q2)"
        "  k0 = MatMul(a, wk)  k1 = Mul(k0, mk)  k2 = Reshape(k1, heads)  k = Transpose<perm=[0,2,3,1]>(k2)"
        "  v0 = MatMul(a, wv)  v1 = Mul(v0, mv)  v2 = Reshape(v1, heads)  v = Transpose<perm=[0,2,1,3]>(v2)"
        "  s = MatMul(q, k)  p = Softmax(s)  o0 = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o0)"
        "  o = Reshape(o1, together)  y = MatMul(o, wo)",
    )
    rng = np.random.default_rng(seed)
    masks = {n: (rng.random(8) < 0.7).astype(np.float32) for n in ("m", "mq", "mk", "mv")}
    assert_worth_exactly(source, masks)


NAMES = [*sorted(path.stem for path in FIXTURES.glob("*.onnx")), *range(6), 1038, 100612, 100852]


@pytest.mark.parametrize("adapters", POLICIES)
@pytest.mark.parametrize("name", [*NAMES, *before_releases(*range(6, 30))])
def test_training_counts_what_the_compiled_file_has(name: str | int, adapters: Policy) -> None:
    """Fixtures, and random networks by their seeds: there is one order of passes, whether a file is written or not."""
    source = network(name).model if isinstance(name, int) else onnx.load(FIXTURES / f"{name}.onnx")
    assert compiled_cost(source, adapters).flops == shrink(source, adapters=adapters).report.after.flops


@pytest.mark.parametrize("scaled", ["Mul(sixth, r)", "Identity(r)"])
def test_masks_that_are_reshaped_or_scaled(scaled: str) -> None:
    """As a converter does, where it turns the layout or merges a mask with a factor of an activation."""
    source = model(
        "(float[N,3,8,8] x, float[32] m1, float[32] m2) => (float[N,4,6,6] y)"
        " <float[32,3,3,3] wa, float[32,32,1,1] wb, float[4,32,1,1] wc, int64[4] shape = {1, -1, 1, 1}>",
        f"c = Conv(x, wa)\n a = Relu(c)\n r = Reshape(m1, shape)\n s = {scaled}\n b = Mul(a, s)\n"
        "d = Conv(b, wb)\n e = Relu(d)\n q = Reshape(m2, shape)\n f = Mul(e, q)\n y = Conv(f, wc)",
        constants={"sixth": np.array(1 / 6)},
    )
    assert_worth_exactly(source, {name: np.arange(32) % 3 > 0 for name in ("m1", "m2")})


def test_evaluations_are_told_as_they_are_done() -> None:
    source = masked_network()
    sizes = {v.name: v.type.tensor_type.shape.dim[0].dim_value for v in source.graph.input if v.name.startswith("m")}
    masks = {name: np.ones(size) for name, size in sizes.items()}
    ends = np.cumsum([0, *sizes.values()])
    single = {name: np.arange(ends[i], ends[i + 1]) for i, name in enumerate(masks)}
    told: list[tuple[int, int]] = []
    flops_by_group(source, masks, single, coupling(source, sizes), watch=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, len(told)) for i in range(len(told))]


@pytest.mark.slow
def test_large_weights_are_let_go_between_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph's nodes and tensors hold each other; ten graphs of ResNet50 that wait to be collected are 2 GB."""
    monkeypatch.setattr("passes.mask_savings.compiled_cost._MANY", 1000)
    depth = 6
    body = "".join(f"a{i} = MatMul(h{i}, w{i})\n h{i + 1} = Mul(a{i}, m{i})\n" for i in range(depth))
    signature = ", ".join(["float[N,32] h0", *(f"float[32] m{i}" for i in range(depth))])
    weights = {f"w{i}": random(32, 32, seed=i) for i in range(depth)}
    source = model(f"({signature}) => (float[N,32] h{depth})", body, **weights)
    most = []
    original = flops_saved.compiled_cost

    def nodes() -> int:
        return sum(isinstance(thing, gs.Node) for thing in gc.get_objects())

    def counted(trial: onnx.ModelProto) -> CompiledCost:
        most.append(nodes() - before)
        return original(trial)

    monkeypatch.setattr(flops_saved, "compiled_cost", counted)
    gc.collect()
    before = nodes()
    gc.disable()
    try:
        flops_by_mask(source, {f"m{i}": np.ones(32) for i in range(depth)})
    finally:
        gc.enable()
    assert len(most) > depth
    assert max(most) <= 4 * 2 * depth


def test_bind_leaves_the_model_and_names_what_is_missing() -> None:
    source = masked_network()
    before = source.SerializeToString()
    with pytest.raises(LookupError, match=r"The model has no input .*; its inputs are"):
        bind(source, {"nothing": mask(1, rank=2)})
    bind(source, {"m1": np.ones(6)})
    assert source.SerializeToString() == before
