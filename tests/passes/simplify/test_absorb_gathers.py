"""Gathers that put channels in order become the order of weights around them, on all ways that meet."""

import numpy as np
import onnx
import pytest

from tests.passes.text import compiled, model, operators

WEIGHTS = {"w": (4, 3, 1, 1), "u": (4, 3, 1, 1), "g": (4, 4, 1, 1), "one": (1, 3, 1, 1), "v": (2, 4, 1, 1)}
WEIGHTS |= {"flat": np.array([0, 4, 25]), "square": np.array([0, 4, 5, 5])}
WEIGHTS |= {"each": (4, 1, 1), "order": np.asarray([2, 0, 3, 1])}


def ordered(body: str, more: str = "", given: str = "") -> onnx.ModelProto:
    """Channels `o` in another order than those of `a`, which is an output and stays as it is."""
    body = f"a = Conv(x, w) o = Gather<axis=1>(a, order) {body} y = Conv(m, v)"
    signature = f"(float[N,3,5,5] x{given}) => (float[N,2,5,5] y, float[N,4,5,5] a{more})"
    return model(signature, body, constants=WEIGHTS)


@pytest.mark.parametrize(
    "body",
    [
        "m = Relu(o)",
        "s = Conv(x, u) m = Mul(o, s)",
        "s = Conv(x, u) m = Mul(s, o)",
        "s = Conv(x, u) t = Mul(s, each) m = Add(o, t)",
        "s = Conv(x, u) t = Sub(o, s) m = Mul(t, each)",
        "s = Conv(x, one) m = Mul(o, s)",  # one for all channels
        "q = Conv(o, g) s = Sigmoid(q) m = Mul(o, s)",  # both axes of the weights between
        "p = GlobalAveragePool(o) q = Conv(p, g) s = Sigmoid(q) m = Mul(o, s)",
        "m = MaxPool<kernel_shape=[1,1]>(o)",
        "c = Conv(x, u) s = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) m = Add(o, s)",
        "s = Conv(x, u) t = Conv(x, u) m = Max(o, s, t)",
        "r = Reshape(o, flat) l = Relu(r) m = Reshape(l, square)",
    ],
)
def test_the_order_is_taken_by_all_that_meet(body: str) -> None:
    assert "Gather" not in operators(compiled(ordered(body)))


@pytest.mark.parametrize(
    "source",
    [
        ordered("m = Mul(o, z)", given=", float[N,4,5,5] z"),
        ordered("s = Conv(x, u) m = Mul(o, s)", ", float[N,4,5,5] s"),
        ordered("m = Mul(o, a)"),
    ],
)
def test_it_stays_where_one_cannot_take_it(source: onnx.ModelProto) -> None:
    assert "Gather" in operators(compiled(source))


def test_rows_of_integer_weights_are_in_order_behind_steps_of_a_range_that_is_found() -> None:
    body = """a = Relu(x) o = Gather<axis=1>(a, order) q, s, z = DynamicQuantizeLinear(o)
        i = MatMulInteger(q, w, z) f = Cast<to=1>(i) y = Mul(f, s)"""
    weights = np.random.default_rng(0).integers(-90, 90, (4, 3), np.int8)
    source = model("(float[N,4] x) => (float[N,3] y, float[N,4] a)", body, constants=WEIGHTS | {"w": weights})
    assert "Gather" not in operators(compiled(source))
