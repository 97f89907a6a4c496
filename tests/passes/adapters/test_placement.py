"""`adapters`: where constants are put back. All three choices are exact; they differ in what is computed and moved."""

import itertools

import numpy as np
import onnx
import pytest

from passes import Policy, shrink
from passes.adapters.price import only_at_ends
from passes.graph.tensors import bits, mask_of
from tests.generators import architectures
from tests.generators.check import assert_same_function
from tests.generators.form import assert_well_formed
from tests.generators.net import Masks
from tests.generators.networks import network
from tests.passes.text import compiled, model

NETWORKS = ("resnet", "resnext", "mobilenet3", "densenet", "vit", "swin", "dlrm", "branching", "quantised")


def adapters(source: onnx.ModelProto, result: onnx.ModelProto) -> list[str]:
    """Nodes of the result that move data computed from the inputs, where the source has none. Sizes are not data."""
    written = {name for node in source.graph.node for name in node.output}
    computed = {value.name for value in source.graph.input}
    found = []
    for node in result.graph.node:
        if node.op_type in ("Shape", "Size") or not computed.intersection(node.input):
            continue
        computed.update(node.output)
        if node.op_type in ("Pad", "Gather", "Concat") and node.output[0] not in written:
            found.append(f"{node.op_type} {node.name}")
    return found


def residual() -> onnx.ModelProto:
    return model(
        "(float[N,64,8,8] x) => (float[N,2,8,8] y)"
        " <float[8,64,1,1] wa, float[8,64,1,1] wb, float[2,8,1,1] wc, "
        "float[1,8,1,1] ma = {1, 1, 1, 1, 0, 0, 0, 1}, float[1,8,1,1] mb = {0, 0, 1, 1, 1, 1, 0, 1}>",
        "a = Conv(x, wa)\n am = Mul(a, ma)\n b = Conv(x, wb)\n bm = Mul(b, mb)\n s = Add(am, bm)\n y = Conv(s, wc)",
    )


@pytest.mark.parametrize(("adapters_are", "widths"), [("always", (5, 5, 7)), ("never", (7, 7, 7))])
def test_a_residual_sum(adapters_are: Policy, widths: tuple[int, ...]) -> None:
    source = residual()
    result = compiled(source, adapters=adapters_are)
    weights = {t.name: t.dims for t in result.model.graph.initializer}
    convolutions = [weights[n.input[1]] for n in result.model.graph.node if n.op_type == "Conv"]
    assert (convolutions[0][0], convolutions[1][0], convolutions[2][1]) == widths
    assert bool(adapters(source, result.model)) == (adapters_are == "always")


def test_a_producer_that_feeds_two_sums_computes_what_both_need() -> None:
    """Both sums, and what they feed in turn, then store the same channels; nothing is cut out either."""
    source = model(
        "(float[N,64] x) => (float[N,2] y, float[N,2] z)"
        " <float[64,4] wa, float[64,4] wb, float[64,4] wc, float[4,2] v, float[4] ma = {1, 0, 0, 0}, "
        "float[4] mb = {0, 1, 0, 0}, float[4] mc = {0, 0, 1, 0}>",
        "a = MatMul(x, wa)\n b = MatMul(x, wb)\n c = MatMul(x, wc)\n am = Mul(a, ma)\n bm = Mul(b, mb)\n"
        "cm = Mul(c, mc)\n s = Add(am, bm)\n t = Add(am, cm)\n y = MatMul(s, v)\n z = MatMul(t, v)",
    )
    result = compiled(source, adapters="never")
    assert adapters(source, result.model) == []
    weights = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    products = [weights[n.input[1]] for n in result.model.graph.node if n.op_type == "MatMul"]
    assert products == [(64, 3)] * 3 + [(3, 2)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_architectures(name: str) -> None:
    net = architectures.build(getattr(architectures, name), Masks(consistent=False))
    source = net.model()
    flops = {}
    for policy in ("auto", "always", "never"):
        result = shrink(source, adapters=policy)
        assert_same_function(source, result.model, ranges=net.ranges)
        assert_well_formed(source, result.model)
        flops[policy] = result.report.after.flops
        if policy == "never":
            assert adapters(source, result.model) == []
    assert flops["always"] <= flops["auto"] <= flops["never"] <= shrink(source).report.before.flops


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 20, 40])
def test_random_networks(first: int) -> None:
    for seed in range(first, first + 20):
        net = network(seed)
        for policy in ("always", "never"):
            result = shrink(net.model, adapters=policy)
            assert_same_function(net.model, result.model, symbols=net.symbols, ranges=net.ranges)
            if policy == "never":
                assert adapters(net.model, result.model) == [], f"network({seed})"


def test_what_nobody_computes_is_put_in_all_the_same_and_said() -> None:
    source = model(
        "(float[N,4] x) => (float[N,3] y) <float[4,3] wa, float[4,3] wb, float[3] none = {0, 0, 0}>",
        "a = MatMul(x, wa)\n am = Mul(a, none)\n s = Sigmoid(am)\n b = MatMul(x, wb)\n y = Mul(b, s)",
    )
    result = compiled(source, adapters="never")
    assert any("that are inserted because something reads them: s." in note for note in result.report.notes)
    assert shrink(source).report.notes == shrink(residual(), adapters="never").report.notes == ()


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, always, never"):
        shrink(residual(), adapters="sometimes")  # type: ignore[arg-type]


SIZE = 6
MASKS = [np.array(mask) for mask in itertools.product([False, True], repeat=SIZE)]


def test_bits_say_what_masks_do() -> None:
    for mask in [*MASKS, np.arange(70) % 3 == 0, np.zeros(0, bool)]:
        assert mask_of(bits(mask), mask.size).tolist() == mask.tolist()
        assert bits(mask).bit_count() == mask.sum()


def test_all_pairs_that_padding_or_cutting_the_ends_is_enough_for() -> None:
    for stored, required in itertools.product(MASKS, repeat=2):
        before, after = np.flatnonzero(stored).tolist(), np.flatnonzero(required).tolist()
        short, long = sorted((before, after), key=len)
        inside = any(long[start : start + len(short)] == short for start in range(len(long)))
        assert only_at_ends(bits(stored), bits(required)) == (inside and bool(short)), (before, after)
