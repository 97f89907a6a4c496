"""What is written for OpenVINO, and for any runtime."""

import math

import numpy as np
import onnx
import pytest

from passes import count, shrink
from passes.targets import registry
from passes.targets.openvino.processors import PROCESSORS
from passes.targets.widths.convolution_shape import ConvolutionShape
from tests.generators.builder import Network
from tests.generators.check import assert_same_function
from tests.generators.in_openvino import assert_same_in_openvino
from tests.passes import text
from tests.passes.text import compiled, mask, model, random

GATE = "e = Exp(c)\n d = HardSigmoid<alpha=0.3, beta=0.4>(e)\n"


def operators(source: onnx.ModelProto, target: str) -> list[str]:
    return text.operators(compiled(source, target, registry.table(target, "avx512")))


def gated(opset: int = 17) -> onnx.ModelProto:
    """A gate that no weights take, and a mask that makes room for more FLOPs."""
    return model(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[16,3,1,1] w>",
        f"b = Conv(x, w)\n m = Mul(b, k)\n c = Conv(m, v)\n {GATE} y = Mul(c, d)",
        opset,
        v=random(4, 16, 1, 1, seed=2) / 4,
        k=(np.arange(16) < 8).astype(np.float32).reshape(1, 16, 1, 1),
    )


def test_a_hard_sigmoid_is_decomposed_for_openvino_alone() -> None:
    assert operators(gated(), "openvino") == ["Conv", "Conv", "Exp", "Mul", "Add", "Clip", "Mul"]
    for target in ("any", "onnxruntime", "cuda"):
        assert operators(gated(), target) == ["Conv", "Conv", "Exp", "HardSigmoid", "Mul"]


def test_it_stays_where_there_are_no_flops_to_spare() -> None:
    source = model("(float[N,4] x) => (float[N,4] d)", GATE.replace("(c)", "(x)"))
    assert operators(source, "openvino") == ["Exp", "HardSigmoid"]
    assert count(shrink(source, target="openvino").model).flops == count(source).flops


def test_it_stays_where_clip_has_its_bounds_as_attributes() -> None:
    assert "HardSigmoid" in operators(gated(opset=10), "openvino")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "any"])
@pytest.mark.parametrize(("channels", "adapters"), [(320, 2), (16, 0)])
def test_where_branches_meet_channels_are_restored_if_they_take_longer_to_compute(
    target: str, channels: int, adapters: int
) -> None:
    """Measured in both runtimes: 1.1 and 1.2 times as fast from 96 channels, and 0.7 and 0.9 times from 16."""
    source = model(
        f"(float[1,{channels},28,28] x) => (float[1,16,28,28] y)"
        f" <float[64,{channels},1,1] wa, float[64,{channels},1,1] wb, float[16,64,1,1] wc>",
        "a = Conv(x, wa)\n am = Mul(a, first)\n b = Conv(x, wb)\n bm = Mul(b, last)\n"
        " s = Add(am, bm)\n y = Conv(s, wc)",
        first=mask(*[1] * 32, *[0] * 32),
        last=mask(*[0] * 32, *[1] * 32),
    )
    found = operators(source, target)
    assert found.count("Pad") + found.count("Gather") == adapters


def narrow(live: int) -> onnx.ModelProto:
    """A tensor with so many live channels, read by a convolution of a window of one position."""
    return model(
        "(float[1,16,56,56] x) => (float[1,16,56,56] y)"
        " <float[24,16,1,1] wa, float[96,24,1,1] wb, float[16,96,1,1] wc>",
        "a = Conv(x, wa)\n am = Mul(a, ma)\n b = Conv(am, wb)\n br = Relu(b)\n y = Conv(br, wc)",
        ma=mask(*[0] * (24 - live), *[1] * live).reshape(1, 24, 1, 1),
    )


@pytest.mark.parametrize(("target", "kept"), [("onnxruntime", [16, 16]), ("openvino", [12, 8]), ("any", [16, 8])])
def test_wider_layers_are_no_faster_in_openvino(target: str, kept: list[int]) -> None:
    """For any runtime one is widened where ONNX Runtime wins much more than it costs OpenVINO."""
    found = []
    for live in (12, 8):
        source = narrow(live)
        result = shrink(source, target=target, align=registry.table(target, "zen4")).model
        assert_same_function(source, result)
        found.append(result.graph.initializer[0].dims[0])
    assert found == kept


READ = ConvolutionShape(kernel=(3, 3), strides=(1, 1), dilations=(1, 1), positions=(28, 28))


@pytest.mark.parametrize(("processor", "part"), [("zen4", 1.0), ("avx2", 1.7)])
def test_convolutions_of_openvino_read_channels_and_write_vectors(processor: str, part: float) -> None:
    rates = PROCESSORS[processor]
    vector = rates.channels_per_block

    def without_touching(read: int, written: int) -> float:
        touched = math.prod(READ.positions) * (read + written) * rates.ns_per_touched_element
        return rates.convolution(READ, read, written) - rates.ns_per_node - touched

    one = without_touching(1, vector)
    assert without_touching(24, vector) == pytest.approx(24 * one)
    assert without_touching(24, 3 * vector) == pytest.approx(72 * one)
    assert without_touching(24, 2 * vector + 1) == pytest.approx(24 * (2 + part) * one)
    assert rates.form(READ, 16, 16) == "im2col"


OPEN, FIXED = "(float[N,3,H,W] x) => (float[N,{},Y,X] y)", "(float[N,3,5,7] x) => (float[N,{},Y,X] y)"
UPSCALED = "a = ConvTranspose<strides=[2,2]>(x, w, b)"


def upscaled(body: str, signature: str = OPEN, filters: int = 4, opset: int = 17, side: int = 2) -> onnx.ModelProto:
    weights = {"w": random(3, filters, side, side), "b": random(filters, seed=1), "k": random(filters, 1, 1, seed=2)}
    return model(signature.format(filters), body, opset, constants=weights)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (upscaled(f"{UPSCALED} y = Relu(a)"), "Conv Relu DepthToSpace"),
        (upscaled(f"{UPSCALED} y = Relu(a)", opset=10), "Conv Relu DepthToSpace"),
        (upscaled(f"{UPSCALED} c = Sigmoid(a) y = Tanh(c)"), "Conv Sigmoid Tanh DepthToSpace"),
        (upscaled(f"{UPSCALED} c = Relu(a) y = PRelu(c, k)"), "Conv Relu DepthToSpace PRelu"),
        (upscaled(f"{UPSCALED.replace(', b', '')} y = Relu(a)"), "Conv Relu DepthToSpace"),
        (upscaled(f"{UPSCALED} y = Relu(a)".replace("2,2", "3,3"), side=3), "Conv Relu DepthToSpace"),
        (upscaled(f"{UPSCALED} y = Sigmoid(a)", FIXED, filters=1), "Conv Sigmoid DepthToSpace"),
        (upscaled(UPSCALED.replace("a =", "y ="), filters=1), "Conv DepthToSpace"),
    ],
)
def test_windows_that_do_not_overlap_are_channels(source: onnx.ModelProto, expected: str) -> None:
    assert operators(source, "openvino") == expected.split()
    assert count(shrink(source, target="openvino").model).flops <= count(source).flops
    assert "ConvTranspose" in operators(source, "any")


@pytest.mark.parametrize(
    "source",
    [
        upscaled(UPSCALED.replace("a =", "y =")),
        upscaled(f"{UPSCALED} y = Relu(a)", FIXED),
        upscaled(f"{UPSCALED} y = PRelu(a, k)"),
        upscaled(f"{UPSCALED} y = Relu(a)", side=3),
        upscaled(f"{UPSCALED} y = Relu(a)".replace("2,2", "2,1")),
        upscaled(f"{UPSCALED} y = Relu(a)".replace("=[2,2]", "=[2,2], pads=[1,0,0,0]")),
        upscaled(f"{UPSCALED} y = Relu(a)".replace("=[2,2]", "=[2,2], output_padding=[1,1]")),
        upscaled(f"{UPSCALED} y = Relu(a)".replace("=[2,2]", "=[2,2], dilations=[2,2]")),
        upscaled(f"{UPSCALED} y = Relu(a) z = Exp(a)", OPEN.replace("y)", "y, float[N,4,Y,X] z)")),
    ],
)
def test_other_transposed_convolutions_stay(source: onnx.ModelProto) -> None:
    assert "ConvTranspose" in operators(source, "openvino")


def test_no_gather_reads_padded_steps() -> None:
    """It ends the process of OpenVINO."""
    body = """
        q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)  p = Pad(d, ends)
        g = Gather<axis=1>(p, places)  r = Add(g, e)  c = Conv(r, w)  m = Mul(c, k)  y = Conv(m, v)
    """
    places, ends = np.array([0, 6, 1, -1, 2, 3, 6, 4, 5]), np.array([0, 0, 0, 0, 0, 1, 0, 0])
    numbers = {"scale": np.float32(0.05), "zero": np.int8(3), "ends": ends, "places": places}
    weights = {"w": random(8, 9, 1, 1), "v": random(4, 8, 1, 1), "k": mask(1, 0, 1, 0, 1, 0, 1, 0)}
    source = model("(float[N,6,4,4] x, float[N,9,4,4] e) => (float[N,4,4,4] y)", body, **numbers, **weights)
    for target in ("any", "openvino"):
        assert operators(source, target)[2:5] == ["Gather", "Mul", "Add"]
    assert operators(source, "onnxruntime")[2:5] == ["Pad", "Gather", "Add"]


def test_steps_of_what_is_padded_are_its_own() -> None:
    """OpenVINO would write those of the padded channels over the others."""
    body = """
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  h = MatMul(d, w)
        p = QuantizeLinear(h, t, z)  e = DequantizeLinear(p, t, z)  a = Pad(e, ends)  y = Softmax(a)
    """
    numbers = {"s": np.float32(0.05), "t": np.float32(0.1), "z": np.uint8(128), "ends": np.array([0, 0, 0, 1])}
    source = model("(float[N,6] x) => (float[N,4] y)", body, w=random(6, 3), **numbers)
    for target in ("any", "openvino"):
        made = shrink(source, target=target).model
        (pad,) = (node for node in made.graph.node if node.op_type == "Pad")
        (dequantised,) = (node for node in made.graph.node if pad.input[0] in node.output)
        assert dequantised.op_type == "DequantizeLinear"
        assert all(sum(name in node.input for node in made.graph.node) == 1 for name in dequantised.input[1:])
        assert_same_function(source, made)


# Orders of channels, which OpenVINO computes wrongly.


ORDER = np.array([4, 0, 3, 1, 5, 2])  # a cycle of three, and another that meets it nowhere


def source(between: str = "r = Relu(g)\n", order: np.ndarray = ORDER, reader: str = "Conv(r, w)") -> onnx.ModelProto:  # type: ignore[type-arg]
    """A Gather of channels, and convolutions that share so many weights that the order cannot go into them."""
    return model(
        "(float[N,6,8,8] x) => (float[N,512,P,Q] y, float[N,512,8,8] z)"
        " <float[512,6,1,1] w, float[1,6,1,1] k, float[6,1,3,3] v, float[512,3,1,1] u, "
        "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>",
        f"g = Gather<axis=1>(x, order)\n {between} y = {reader}\n z = Conv(x, w)",
        order=order,
    )


def gathers(given: onnx.ModelProto, target: str = "any") -> int:
    result = shrink(given, target=target).model
    assert_same_function(given, result)
    return sum(node.op_type == "Gather" for node in result.graph.node)


def test_an_order_becomes_two_where_a_convolution_comes_after_it() -> None:
    for target in ("any", "openvino"):
        assert gathers(source(), target) == 2
    assert gathers(source(), "onnxruntime") == 1


@pytest.mark.parametrize("order", [np.arange(6)[::-1].copy(), np.array([1, 0, 2, 3, 5, 4])], ids=["reverse", "swaps"])
def test_an_order_that_is_its_own_inverse_stays(order: np.ndarray) -> None:  # type: ignore[type-arg]
    assert gathers(source(order=order)) == 1


def test_an_order_that_no_convolution_takes_stays() -> None:
    """A sum with what is in its own order, or a grouped convolution, keeps it where it is."""
    assert gathers(source("r = Add(g, x)\n")) == 1
    assert gathers(source(reader="Conv<group=2>(r, u)")) == 1


@pytest.mark.slow
@pytest.mark.openvino
@pytest.mark.parametrize(
    "between",
    [
        "r = Relu(g)\n",
        "r = Mul(g, k)\n",
        "r = Conv<group=6, pads=[1,1,1,1]>(g, v)\n",
        "r = Pad(g, pads)\n",
        "r = Transpose<perm=[0,1,3,2]>(g)\n",
        "a = Tanh(g)\n b = Relu(g)\n r = Add(a, b)\n",
        "r = AveragePool<kernel_shape=[2,2]>(g)\n",
    ],
    ids=["relu", "mul", "depthwise", "pad", "transpose", "branches", "pool"],
)
@pytest.mark.parametrize("order", [ORDER, ORDER - 6, np.roll(np.arange(6), 1)], ids=["cycles", "negative", "rotation"])
def test_openvino_computes_what_the_source_says(between: str, order: np.ndarray) -> None:  # type: ignore[type-arg]
    given = source(between, order)
    models = [shrink(given, target=target).model for target in ("any", "openvino")]
    for result in models[: 1 + (models[0] != models[1])]:  # mostly they are one
        assert_same_in_openvino(Network(given), result)


@pytest.mark.openvino
def test_the_fault_is_there() -> None:
    """Once OpenVINO has none of it, `passes/targets/openvino/channel_orders.py` can go."""
    given = source()
    assert not assert_same_in_openvino(Network(given), shrink(given).model)
