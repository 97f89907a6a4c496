"""Convolutions of few filters that compute neighbouring positions at once."""

import math

import onnx
import pytest

from passes import count, shrink
from passes.model.graph_to_onnx import exported
from passes.sizes.prepare import prepared
from passes.targets.onnxruntime import space_to_depth_convolutions
from passes.targets.onnxruntime.processors import RATES
from tests.generators.builder import Network
from tests.generators.check import assert_same_function
from tests.generators.networks import network
from tests.generators.running import required_inputs, with_sizes
from tests.passes import text
from tests.passes.text import compiled, mask, model, random

AVX512 = RATES["avx512"]


def few(window: str, kernel: tuple[int, int], side: str = "61", batch: str = "1") -> onnx.ModelProto:
    """A convolution with 3 filters left of 8, behind one that leaves FLOPs to spend."""
    return model(
        f"(float[{batch},8,{side},62] x) => (float[{batch},Y,H,W] y) <float[64,8,1,1] u, float[8] b>",
        f"h = Conv(x, u)\n k = Mul(h, half)\n d = Conv<{window}>(k, w, b)\n c = Mul(d, three)\n y = Relu(c)",
        half=mask(*[1, 0] * 32),
        w=random(8, 64, *kernel, seed=1),
        three=mask(1, 0, 0, 1, 0, 1, 0, 0),
    )


def operators(source: onnx.ModelProto) -> list[str]:
    """Those of the model compiled for speed, in order, once it was checked."""
    result = compiled(source, align=AVX512)
    assert count(result.model).flops <= count(source).flops
    return text.operators(result)


@pytest.mark.parametrize(
    ("window", "kernel"),
    [
        ("pads=[1,1,1,1]", (3, 3)),
        ("pads=[0,19,0,19]", (1, 39)),
        ("pads=[5,0,2,1]", (7, 2)),
        ("pads=[2,2,2,2], strides=[2,1]", (5, 5)),
        ("strides=[1,2]", (3, 9)),
        ("strides=[3,3]", (12, 12)),
        ("pads=[2,2,2,2], dilations=[2,1]", (3, 5)),
    ],
)
@pytest.mark.parametrize("batch", ["1", "N"])
def test_what_neighbours_write_is_put_in_order(window: str, kernel: tuple[int, int], batch: str) -> None:
    found = operators(few(window, kernel, batch=batch))
    assert "Transpose" in found
    assert found.index("Relu") < found.index("Reshape", found.index("Relu")), (
        "the activation stays with its convolution"
    )


def test_its_weights_are_held_once() -> None:
    source = few("pads=[0,19,0,19]", (1, 39))
    fast, narrow = (count(shrink(source, align=align).model).params for align in (AVX512, None))
    assert fast < narrow + 500


def test_it_is_counted_with_the_filters_and_weights_that_it_has() -> None:
    """Its FLOPs are those of the file."""
    source = few("pads=[0,19,0,19]", (1, 39))
    (_, fast), (_, narrow) = ([n for n in shrink(source, align=a).report.after.nodes if n.macs] for a in (AVX512, None))
    assert (narrow.width, narrow.params) == (3, 3 * 32 * 39 + 3)
    assert fast.width == 3 and narrow.params < fast.params < narrow.params + 100, "its bias is held for each neighbour"
    assert fast.flops > narrow.flops


def test_what_cannot_be_unrolled_stays() -> None:
    assert "Transpose" not in operators(few("pads=[1,1,1,1]", (3, 3), side="H")), "a size is not known"
    assert "Transpose" not in operators(few("pads=[2,2,2,2], dilations=[2,2]", (3, 3)))
    assert "Transpose" not in operators(few('auto_pad="SAME_UPPER"', (3, 3)))


def test_none_takes_more_flops_than_its_source() -> None:
    source = model(
        "(float[1,32,64,64] x) => (float[1,2,64,64] y) <float[2,32,3,3] w>", "y = Conv<pads=[1,1,1,1]>(x, w)"
    )
    assert operators(source) == ["Conv"]


# -- everything that can be unrolled, whatever it takes ----------------------------------------------------------------

NEIGHBOURS = (2, 3, 4, 6)


def sized(drawn: Network, batch: bool) -> onnx.ModelProto:
    """The network at the largest sizes that it is to be tried at, but for the first of an input without `batch`."""
    inputs = [info.type.tensor_type.shape.dim for info in required_inputs(drawn.model)]
    first = set() if batch else {dims[0].dim_param for dims in inputs if len(dims)}
    return with_sizes(drawn.model, {name: sizes[-1] for name, sizes in drawn.symbols.items() if name not in first})


def unrolled(seeds: range, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many random networks have such convolutions, once all of them were unrolled and found to be the same."""
    monkeypatch.setattr(space_to_depth_convolutions, "_WORTH", -math.inf)
    monkeypatch.setattr(space_to_depth_convolutions, "_SHARE", -math.inf)
    changed = 0
    for seed in seeds:
        drawn = network(seed)
        source = sized(drawn, batch=seed % 3 > 0)
        graph = prepared(source)
        before = len(graph.nodes)
        monkeypatch.setattr(space_to_depth_convolutions, "_NEIGHBOURS", (NEIGHBOURS[seed % len(NEIGHBOURS)],))
        space_to_depth_convolutions.unroll(graph, AVX512, 10**18)
        if len(graph.nodes) > before:
            changed += 1
            try:
                assert_same_function(source, exported(graph, source), symbols=drawn.symbols, ranges=drawn.ranges)
            except Exception as error:
                error.add_note(f"network({seed})")
                raise
    return changed


@pytest.mark.slow
def test_random_networks_unrolled_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unrolled(range(150), monkeypatch) > 12


@pytest.mark.parametrize(
    ("first", "last"),
    [pytest.param(150, 650, marks=pytest.mark.slow), pytest.param(650, 5000, marks=pytest.mark.release)],
)
def test_many_random_networks_unrolled_by_force(first: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unrolled(range(first, last), monkeypatch) > (last - first) // 15
