"""Orders of channels that OpenVINO would put into weights the wrong way round."""

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.builder import Network
from tests.generators.check import assert_same_function
from tests.generators.in_openvino import assert_same_in_openvino
from tests.passes.text import model

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
    for compiled in models[: 1 + (models[0] != models[1])]:  # mostly they are one
        assert_same_in_openvino(Network(given), compiled)


@pytest.mark.openvino
def test_the_fault_is_there() -> None:
    """Once OpenVINO has none of it, `passes/targets/openvino/channel_orders.py` can go."""
    given = source()
    assert not assert_same_in_openvino(Network(given), shrink(given).model)
