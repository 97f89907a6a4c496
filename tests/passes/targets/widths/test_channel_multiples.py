"""Widths: which channels stay because a rounder width runs faster, and that nothing else changes."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest

import passes.targets.widths.fastest_plan
from passes import count, shrink
from passes.attention.expose_heads import understood
from passes.planning.planner import Planner, PlanOptions
from passes.rewriting.storage_plan import untouched
from passes.sizes.prepare import prepared
from passes.targets.cuda.target import TABLES as CUDA
from passes.targets.onnxruntime.processors import ANY, RATES
from passes.targets.widths.convolution_shape import ConvolutionShape
from passes.targets.widths.coupled_slices import CoupledSlices
from passes.targets.widths.estimated_time import Timing
from passes.targets.widths.plan_steps import Network, PlanSteps
from passes.targets.widths.rates import Rates
from tests.generators import architectures
from tests.generators.check import assert_same_function
from tests.generators.form import assert_explained, assert_well_formed
from tests.generators.net import Masks
from tests.generators.networks import network
from tests.passes.text import compiled, in_type, mask, model

AVX512, AVX2, ZEN4 = (RATES[name] for name in ("avx512", "avx2", "zen4"))
ALIGNS: tuple[int | Rates | str, ...] = (4, 16, *RATES.values(), "all")
NETWORKS = "resnet resnext mobilenet mobilenet3 shufflenet densenet inception yolo vit quantised".split()


def live(count_: int, size: int) -> np.ndarray:
    """A mask of an image's channels that keeps the last ones."""
    return mask(*(int(i >= size - count_) for i in range(size))).reshape(1, size, 1, 1)


def chain(
    first: int, second: int, *, size: int = 64, side: int = 28, batch: int | str = 1, relu: str = "{0}r = Relu({0}m)"
) -> onnx.ModelProto:
    """Three convolutions; so many channels of the two tensors between them are live."""
    return model(
        f"(float[{batch},16,{side},{side}] x) => (float[{batch},16,{side},{side}] y)"
        f" <float[{size},16,3,3] wa, float[{size},{size},3,3] wb, float[16,{size},3,3] wc>",
        f"a = Conv<pads=[1,1,1,1]>(x, wa)\n am = Mul(a, ma)\n {relu.format('a')}\n b = Conv<pads=[1,1,1,1]>(ar, wb)\n"
        f"bm = Mul(b, mb)\n {relu.format('b')}\n y = Conv<pads=[1,1,1,1]>(br, wc)",
        constants={"scale": np.float32(0.1), "zero": np.int8(0)},
        ma=live(first, size),
        mb=live(second, size),
    )


def widths(result: onnx.ModelProto) -> list[int]:
    """What the convolutions write."""
    weights = {t.name: t.dims for t in result.graph.initializer}
    return [int(weights[n.input[1]][0]) for n in result.graph.node if n.op_type == "Conv"]


def between(live_: int, size: int, side: int, wide: int, second: str, *window: int) -> onnx.ModelProto:
    """Two pointwise convolutions with a mask behind the first, and a `second` one of this window between them."""
    return model(
        f"(float[1,16,{side},{side}] x) => (float[1,16,{side},{side}] y)"
        f" <float[{size},16,1,1] wa, float[16,{wide},1,1] wc>",
        f"a = Conv(x, wa)\n am = Mul(a, ma)\n ar = Relu(am)\n b = {second}(ar, wb)\n br = Relu(b)\n y = Conv(br, wc)",
        wb=(wide, *window),
        ma=live(live_, size),
    )


DEPTHWISE = "Conv<pads=[1,1,1,1], group={}>"
CHOSEN = {
    "one more each, and kernels that hold channels in blocks take it": (chain(31, 31), AVX512, [32, 32]),
    "36 channels take as long as 48": (chain(33, 33), AVX512, [33, 33]),
    "which takes as long as 64": (chain(57, 57), AVX512, [60, 60]),
    "what is fast stays": (chain(32, 48), AVX512, [32, 48]),
    "20 channels are put into blocks of 16 and take as long as 32; 21 are not": (chain(20, 40), AVX512, [20]),
    "12 channels as they are go over what reads them once for each; in blocks they do not": (
        between(12, 24, 56, 96, "Conv", 24, 1, 1),
        AVX512,
        [16, 96, 16],
    ),
    "a depthwise convolution pays for a few more": (
        between(33, 64, 28, 64, DEPTHWISE.format(64), 1, 3, 3),
        AVX512,
        [36, 36, 16],
    ),
    "a large share of a tiny model": (between(29, 32, 4, 32, DEPTHWISE.format(32), 1, 3, 3), ZEN4, [32]),
    "weights that come from memory keep kernels on blocks waiting": (chain(363, 363, size=384, side=4), AVX512, [364]),
    "those that do not": (
        chain(363, 363, size=384, side=4),
        replace(AVX512, cached_weights=100_000),
        [363],
    ),
    "a tiny model that would run slower than its source, by a microsecond": (chain(61, 61, side=4), AVX512, [64, 64]),
    "few microseconds of one example": (chain(29, 31, side=8), AVX512, [29, 31]),
    "few microseconds where one may be the least of the batch": (chain(29, 31, side=8, batch="N"), AVX512, [32, 32]),
}


@pytest.mark.parametrize(("source", "align", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_what_the_table_says(source: onnx.ModelProto, align: Rates, expected: list[int]) -> None:
    assert widths(compiled(source, align=align).model)[: len(expected)] == expected


def test_nothing_is_kept_unless_asked_for() -> None:
    assert widths(shrink(chain(31, 57)).model)[:2] == [31, 57]


@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_grouped_convolution_keeps_whole_blocks_in_each_group(side: int) -> None:
    """14 of 16 channels of each of 10 groups: rounded up to a block, 140 are 144, and to one in each group 160."""
    kept = np.tile(np.arange(16) < 14, 10).astype(np.float32).reshape(1, -1, 1, 1)
    source = model(
        f"(float[1,16,{side},{side}] x) => (float[1,16,{side},{side}] y)"
        " <float[160,16,1,1] wa, float[160,16,3,3] wb, float[16,160,1,1] wc>",
        "a = Conv(x, wa)\n am = Mul(a, m)\n ar = Relu(am)\n"
        "b = Conv<pads=[1,1,1,1], group=10>(ar, wb)\n bm = Mul(b, m)\n br = Relu(bm)\n y = Conv(br, wc)",
        m=kept,
    )
    assert widths(shrink(source).model) == [140, 140, 16]
    assert widths(compiled(source, align=ZEN4).model) == [160, 160, 16]


@pytest.mark.parametrize("multiple", [2, 8, 16, 64])
def test_rounds_up_to_a_multiple_where_channels_are_there(multiple: int) -> None:
    result = shrink(chain(33, 50), align=multiple)
    expected = [-(-width // multiple) * multiple for width in (33, 50)]
    assert widths(result.model)[:2] == expected
    odd = shrink(chain(33, 50, size=51), align=multiple)
    assert widths(odd.model)[:2] == [
        width if width <= 51 else was for width, was in zip(expected, (33, 50), strict=True)
    ]


@pytest.mark.parametrize(("bits", "expected"), [(64, [34, 50]), (32, [36, 52]), (16, [40, 56]), (8, [48, 64])])
def test_gpus_want_multiples_by_the_size_of_elements(bits: int, expected: list[int]) -> None:
    """16 bytes, also of what is stored in 8 bits on its way from one layer to the next."""
    source = in_steps() if bits == 8 else in_type(chain(33, 50), f"float{bits}")
    assert widths(shrink(source, align=CUDA["cuda"]).model)[:2] == expected


def in_steps() -> onnx.ModelProto:
    """The chain of layers whose results are stored in 8 bits on the way."""
    steps = "{0}q = QuantizeLinear({0}f, scale, zero)\n {0}r = DequantizeLinear({0}q, scale, zero)"
    return chain(33, 50, relu=f"{{0}}f = Relu({{0}}m)\n {steps}")


def test_processors_want_four_numbers_of_8_bits() -> None:
    assert widths(shrink(in_steps(), align=AVX512).model)[:2] == [36, 52]


def test_all_channels_of_a_model_that_is_said_to_run_slower_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only multiples of 64 are fast here, and nothing is found that would be as fast as all channels are."""
    slow = 10 * AVX512.ns_per_im2col_mac
    picky = replace(
        AVX512, channels_per_block=64, channel_multiple=64, ns_per_im2col_mac=slow, ns_per_nchw_to_nchwc_mac=slow
    )
    monkeypatch.setattr(passes.targets.widths.fastest_plan, "fastest_widths", lambda *_: {})
    result = shrink(chain(40, 40), align=picky)
    assert widths(result.model)[:2] == [64, 64]
    assert {width.reason for width in result.report.widths} == {
        "kept, because the model with fewer channels is estimated to be slower"
    }


def test_says_which_layers_keep_channels_and_why() -> None:
    report = shrink(chain(31, 57), align=AVX512).report
    told = [(width.live, width.kept, width.total, width.reason) for width in report.widths]
    assert told == [
        (31, 32, 64, "kept for a channel count of 32, which runs faster than 31"),
        (57, 60, 64, "kept for a channel count of 60, which runs faster than 57"),
    ]
    held = {(item.tensor, item.channels): item for item in report.held}
    assert set(held) == {("am", (0,)), ("bm", (0, 1, 2))}
    for item in held.values():
        assert item.aligned
        assert "kept for a channel count of" in item.reason
        assert "--align none" in item.advice
    assert_explained(report)


def test_nothing_is_kept_or_said_where_nothing_is_masked() -> None:
    source = chain(64, 64)
    for align in ALIGNS:
        report = shrink(source, align=align).report  # type: ignore[arg-type]
        assert (report.widths, report.held) == ((), ())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("consistent", [pytest.param(True, marks=pytest.mark.slow), False])
def test_networks_stay_the_same_function(name: str, consistent: bool) -> None:
    masks = Masks(consistent=consistent, keep=0.4, seed=3)
    built = architectures.build(getattr(architectures, name), masks)
    source = built.model()
    for align in (4, AVX512):
        result = shrink(source, align=align)
        assert_same_function(source, result.model, ranges=built.ranges)
        assert_well_formed(source, result.model)
        assert_explained(result.report)
        again = shrink(source, align=align).model
        assert again.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_with_every_way_to_choose(seed: int) -> None:
    drawn = network(seed)
    align = ALIGNS[seed % len(ALIGNS)]
    result = shrink(drawn.model, align=align)  # type: ignore[arg-type]
    assert_same_function(drawn.model, result.model, symbols=drawn.symbols, ranges=drawn.ranges, seed=seed)
    assert_explained(result.report)
    assert result.report.after.flops <= result.report.before.flops
    assert count(result.model).flops == result.report.after.flops


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "densenet"])
@pytest.mark.parametrize("consistent", [True, False])
def test_no_plan_is_estimated_to_be_slower_than_without_or_with_all(name: str, consistent: bool) -> None:
    masks = Masks(consistent=consistent, keep=0.5, seed=1)
    source = architectures.build(getattr(architectures, name), masks).model()
    graph = prepared(source)
    found = understood(graph)[0]
    narrow = Timing(PlanSteps(Network(graph), Planner(graph, found).plan()), AVX512).total()
    everything = Timing(PlanSteps(Network(graph), untouched(graph)), AVX512).total()
    small = prepared(shrink(source, align=AVX512).model)
    time = Timing(PlanSteps(Network(small), untouched(small)), AVX512).total()
    assert time <= 1.001 * min(narrow, everything)


# -- the table -------------------------------------------------------------------------------------------------------

WORK = ConvolutionShape(kernel=(3, 3), strides=(1, 1), dilations=(1, 1), positions=(28, 28))


@pytest.mark.parametrize(
    ("table", "work", "read", "written", "form"),
    [
        (AVX512, WORK, 32, 33, "nchwc"),  # outputs are padded
        (AVX512, WORK, 36, 36, "nchwc"),
        (AVX512, WORK, 33, 32, "im2col"),
        (AVX512, WORK, 3, 33, "nchw_to_nchwc"),
        (AVX512, replace(WORK, nchwc=False), 32, 32, "im2col"),
        (AVX512, replace(WORK, groups=64, depthwise=True), 36, 36, "nchwc"),
        (AVX512, replace(WORK, groups=64, depthwise=True), 33, 33, "im2col"),
        (AVX512, replace(WORK, groups=4), 64, 128, "nchwc"),
        (AVX512, replace(WORK, groups=4), 80, 80, "im2col"),
        (AVX2, WORK, 12, 20, "nchwc"),  # what reads 12 fills two blocks of 8, where it would enter one of 16
        (AVX2, WORK, 9, 16, "im2col"),
        (AVX2, WORK, 7, 24, "nchw_to_nchwc"),
        (AVX2, replace(WORK, groups=20, depthwise=True), 20, 20, "nchwc"),
        (AVX2, replace(WORK, groups=18, depthwise=True), 18, 18, "im2col"),
        (AVX2, replace(WORK, groups=2), 16, 16, "nchwc"),
        (AVX2, replace(WORK, groups=2), 24, 24, "im2col"),
    ],
)
def test_how_a_convolution_runs(table: Rates, work: ConvolutionShape, read: int, written: int, form: str) -> None:
    """With AVX-512 in blocks of 16 channels, with AVX2 of 8."""
    assert table.form(work, read, written) == form


def test_a_width_within_a_block_takes_as_long_as_the_block() -> None:
    times = {width: AVX512.convolution(WORK, width, width) for width in (32, 33, 36, 48, 57, 64)}
    assert times[36] == times[48]
    assert times[32] < times[33] < times[36], "plainly done, 33 take less than 36 in blocks"
    assert times[64] < times[57]


def test_no_block_is_a_table_without_forms() -> None:
    forms = {ANY.form(WORK, read, written) for read, written in itertools.product((1, 16, 33), repeat=2)}
    assert forms == {"nchwc"}


def masked_sum() -> onnx.ModelProto:
    """Two convolutions that take long, masked differently and added: one restores what only the other has."""
    return model(
        "(float[1,32,28,28] x) => (float[1,32,28,28] y)"
        " <float[32,32,5,5] wa, float[32,32,5,5] wb, float[32,32,1,1] wc>",
        "a = Conv<pads=[2,2,2,2]>(x, wa) am = Mul(a, ma) b = Conv<pads=[2,2,2,2]>(x, wb) bm = Mul(b, mb)\n"
        "s = Add(am, bm) y = Conv(s, wc)",
        ma=mask(*(int(i % 3 > 0) for i in range(32))),
        mb=mask(*(int(i % 5 > 1) for i in range(32))),
    )


def adapters_of(source: onnx.ModelProto, rates: Rates) -> list[str]:
    result = compiled(source, align=rates)
    return [n.op_type for n in result.model.graph.node if n.op_type in ("Gather", "Pad", "Concat")]


def test_adapters_go_where_a_plan_without_them_is_faster() -> None:
    assert adapters_of(masked_sum(), ANY)
    assert not adapters_of(masked_sum(), replace(ANY, ns_per_adapted_element=1000.0))


def test_what_adapters_are_asked_for_is_not_undone_for_speed() -> None:
    """No more is computed than with adapters where they are faster, though all channels are said to be faster still."""
    dear = replace(ANY, ns_per_adapted_element=1000.0)
    asked, fast = (shrink(masked_sum(), adapters=p, align=dear).report for p in ("always", "auto"))
    assert asked.after.flops < fast.after.flops < asked.before.flops


def test_adapters_stay_only_where_they_are_faster_without_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.targets.widths.fastest_plan, "_DOUBT_OF_ADAPTERS", 9.0)
    assert not adapters_of(masked_sum(), ANY)


def test_a_slice_of_fewer_channels_is_no_adapter() -> None:
    """As of the gates of a recurrence over images, which are the parts of what one convolution makes."""
    bounds = {"start": [0], "middle": [32], "end": [64], "axis": [1]}
    source = model(
        "(float[1,3,8,8] x) => (float[1,2,8,8] y) <float[64,3,3,3] w, float[2,32,1,1] v>",
        "a = Conv<pads=[1,1,1,1]>(x, w) b = Slice(a, start, middle, axis) c = Slice(a, middle, end, axis)"
        " d = Sigmoid(b) e = Tanh(c) f = Mul(d, e) g = Mul(f, k) y = Conv(g, v)",
        constants={name: np.array(values) for name, values in bounds.items()},
        k=mask(*[0, 1] * 16).reshape(1, 32, 1, 1),
    )
    dear = replace(ANY, ns_per_adapted_element=1000.0)
    assert shrink(source, align=dear).report.after.macs == 64 * (32 * 27 + 16 * 2)


def test_long_networks_of_wide_layers_take_little_memory() -> None:
    """What stores its slices together, slice by slice, is looked at once, however many axes that are."""
    layers, width = 200, 4096
    steps = "\n".join(f"r{i + 1} = {('Tanh', 'Sin')[i % 2]}(r{i})" for i in range(layers))
    body = f"a = MatMul(x, w) r0 = Mul(a, k) {steps} y = MatMul(r{layers}, v)"
    keep = (np.arange(width) % 3 > 0).astype(np.float32)
    source = model("(float[N,4] x) => (float[A,B] y)", body, w=(4, width), k=keep, v=(width, 4))
    graph = prepared(source)
    planner = Planner(graph, understood(graph)[0])
    plan = planner.plan(PlanOptions())
    tracemalloc.start()
    try:
        found = CoupledSlices(graph, planner.facts, plan).found
        assert tracemalloc.get_traced_memory()[1] < 100 * width * 8
    finally:
        tracemalloc.stop()
    assert [len(coupling.slices_per_class) for coupling in found] == [layers + 2]
