"""Integer operators shrink where channels lie at the zero point, and are exact everywhere else."""

import numpy as np
import onnx
import pytest

from passes.mask_savings.prunable_filters import filters
from tests.passes.text import Array, compiled, model, weight

KEEP = np.array([1, 0, 1, 1, 0, 1, 0, 1], np.float32)


def bytes_(*shape: int, seed: int = 0, signed: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    return rng.integers(-90, 90, shape).astype(np.int8) if signed else rng.integers(5, 250, shape).astype(np.uint8)


def quantised(
    data: str, output: str, noted: str, body: str, *, shift: float | None = None, **weights: Array
) -> onnx.ModelProto:
    """Data of 8 masked channels, perhaps shifted, as bytes `p` of step `s` around `z`, and then the body."""
    keep = KEEP.reshape(1, 8, 1, 1) if data.count(",") > 1 else KEEP
    head = "m = Mul(x, k) p = QuantizeLinear(m, s, z)"
    if shift is not None:
        head, weights = "m = Mul(x, k) a = Add(m, c) p = QuantizeLinear(a, s, z)", weights | {"c": (1 - keep) * shift}
    signature = f"(float[{data}] x) => (float[{output}] y) <float s = {{0.03}}, uint8 z = {{117}}, {noted}>"
    return model(signature, f"{head} {body}", 13, k=keep, **weights)


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_dynamic_quantisation_between_mask_and_product(shift: float) -> None:
    """Its scale is that of the whole tensor, which zeros do not change; other constants stay for its sake."""
    q = bytes_(8, 12, signed=True)
    q[:, [2, 5]] = 0
    source = model(
        "(float[N,8] x) => (float[N,5] y) <float sw = {0.01}, float[12,5] v>",
        """m = Mul(x, k) a = Add(m, c) p, s, z = DynamicQuantizeLinear(a) h = MatMulInteger(p, q, z)
        f = Cast<to = 1>(h) t = Mul(s, sw) g = Mul(f, t) r = Relu(g) y = MatMul(r, v)""",
        opset=13,
        k=KEEP,
        c=(1 - KEEP) * shift,
        q=q,
    )
    result = compiled(source)
    assert weight(result, "MatMulInteger").shape == (5 if shift == 0 else 8, 10)
    assert {held.code for held in result.report.held} == (set() if shift == 0 else {"K206"})
    assert weight(result, "MatMul").shape == (10, 5)


def test_constants_that_are_restored_ahead_of_dynamic_quantisation() -> None:
    """But for the channel that is zero."""
    source = model(
        "(float[N,8,5,5] x) => (float[N,6,1,1] y) <float sw = {0.01}, float[8,8,1,1] w>",
        """h = Conv(x, w) m = Mul(h, k) a = Add(m, c) g = GlobalAveragePool(a) p, s, o = DynamicQuantizeLinear(g)
        i = ConvInteger(p, q, o) f = Cast<to = 1>(i) t = Mul(s, sw) y = Mul(f, t)""",
        opset=13,
        k=KEEP.reshape(1, 8, 1, 1),
        c=np.array([0, 0, 0, 0, 0.7, 0, 0.9, 0]).reshape(1, 8, 1, 1),
        q=bytes_(6, 8, 1, 1, signed=True),
    )
    result = compiled(source, adapters="always")
    assert weight(result, "Conv").shape == (5, 8, 1, 1) and weight(result, "ConvInteger").shape == (6, 7, 1, 1)


@pytest.mark.parametrize("per_column", [False, True])
def test_product_with_zero_points(per_column: bool) -> None:
    """Zero is the zero point, on either side."""
    q = bytes_(8, 6)
    points = np.arange(6, dtype=np.uint8) + 100 if per_column else np.asarray(100, np.uint8)
    q[:, [1, 3]] = np.broadcast_to(points, 6)[[1, 3]]
    source = quantised(
        "N,8",
        "N,4",
        "float t = {0.001}, float[6,4] v",
        "h = MatMulInteger(p, q, z, zw) f = Cast<to = 1>(h) g = Mul(f, t) y = MatMul(g, v)",
        q=q,
        zw=points,
    )
    result = compiled(source)
    assert weight(result, "MatMulInteger").shape == (5, 4)
    assert weight(result, "MatMulInteger", 3).shape == ((4,) if per_column else ())


def test_constants_are_added_to_sums_of_integers() -> None:
    source = quantised(
        "N,8",
        "N,6",
        "float t = {0.001}, uint8 zw = {100}",
        "h = MatMulInteger(p, q, z, zw) f = Cast<to = 1>(h) y = Mul(f, t)",
        shift=0.7,
        q=bytes_(8, 6, seed=4),
    )
    assert weight(compiled(source), "MatMulInteger").shape == (5, 6)


def convolutions(shift: float, bias: bool, group: int = 1, border: int = 1) -> onnx.ModelProto:
    q = bytes_(6, 8 // group, 3, 3, seed=4, signed=True)
    q[[1, 4]] = 0
    b = np.array([100, 0, -300, 20, 0, 7], np.int32)
    return quantised(
        "N,8,7,7",
        f"N,3,{5 + 2 * border},{5 + 2 * border}",
        "float sy = {0.1}, uint8 zy = {128}, float[3,6,1,1] v",
        f"""h = QLinearConv<pads = {[border] * 4}, group = {group}>(p, s, z, q, sw, zw, sy, zy{", b" if bias else ""})
        d = DequantizeLinear(h, sy, zy) y = Conv(d, v)""",
        shift=shift,
        q=q,
        sw=np.linspace(0.01, 0.02, 6).astype(np.float32),
        zw=np.zeros(6, np.int8),
        **({"b": b} if bias else {}),
    )


@pytest.mark.parametrize(("shift", "border"), [(0.0, 1), (0.7, 1), (0.7, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_quantised_convolution(shift: float, border: int, bias: bool) -> None:
    """Filters of zeros without a bias write the zero point; constants go into an int32 bias, but for borders."""
    result = compiled(convolutions(shift, bias, border=border))
    assert weight(result, "QLinearConv", 3).shape == (4, 8 if shift and border else 5, 3, 3)
    assert weight(result, "QLinearConv", 4).shape == (4,)
    assert weight(result, "Conv").shape == (3, 4, 1, 1)


@pytest.mark.parametrize(("shift", "border"), [(0.0, 1), (0.7, 1), (0.7, 0)])
def test_groups_of_a_quantised_convolution(shift: float, border: int) -> None:
    """Each keeps as many channels as the fullest; what the constant ones added away from borders goes into the bias."""
    result = compiled(convolutions(shift, True, group=2, border=border))
    assert weight(result, "QLinearConv", 3).shape == (4, 4 if shift and border else 3, 3, 3)
    assert weight(result, "QLinearConv", 4).shape == weight(result, "QLinearConv", 8).shape == (4,)


def test_groups_of_a_quantised_convolution_are_divided_as_those_of_others_are() -> None:
    result = compiled(convolutions(0.0, True, group=2), adapters="always")
    shapes = [tuple(t.dims) for t in result.model.graph.initializer if len(t.dims) == 4]
    assert shapes[:2] == [(2, 3, 3, 3), (2, 2, 3, 3)]


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize(("each", "kept"), [(1, 4), (2, 10)])
def test_depthwise_convolutions(each: int, kept: int, integer: bool) -> None:
    """A masked channel goes in front of the filters and behind them; so does one whose only filter is zero."""
    q = bytes_(8 * each, 1, 3, 3, seed=4)
    q[2] = 100
    node = "h = QLinearConv<group = 8, pads = [1,1,1,1]>(p, s, z, q, sw, zw, sy, zy) d = DequantizeLinear(h, sy, zy)"
    if integer:
        node = "h = ConvInteger<group = 8, pads = [1,1,1,1]>(p, q, z, zw) d = Cast<to = 1>(h)"
    noted = "" if integer else "float sw = {0.01}, float sy = {0.3}, uint8 zy = {128}, "
    noted += f"uint8 zw = {{100}}, float[3,{8 * each},1,1] v"
    result = compiled(quantised("N,8,7,7", "N,3,7,7", noted, f"{node} t = Relu(d) y = Conv(t, v)", q=q))
    assert weight(result, "ConvInteger" if integer else "QLinearConv", 1 if integer else 3).shape == (kept, 1, 3, 3)
    assert weight(result, "Conv").shape == (3, kept, 1, 1)


@pytest.mark.parametrize(("step", "kept"), [(0.3, 5), (0.0006, 7)])
def test_depthwise_convolutions_with_a_bias(step: float, kept: int) -> None:
    """A masked channel is one level behind the filter, unless its sum lies in the middle of two."""
    source = quantised(
        "N,8,7,7",
        "N,3,7,7",
        f"float sw = {{0.01}}, int8 zw = {{0}}, float sy = {{{step}}}, uint8 zy = {{128}}, float[3,8,1,1] v",
        """h = QLinearConv<group = 8, pads = [1,1,1,1]>(p, s, z, q, sw, zw, sy, zy, b)
        d = DequantizeLinear(h, sy, zy) y = Conv(d, v)""",
        q=bytes_(8, 1, 3, 3, seed=4, signed=True),
        b=np.array([4001, -9, 31, 5, -7, 999, -30001, 3], np.int32),
    )
    result = compiled(source)
    assert weight(result, "QLinearConv", 3).shape == (kept, 1, 3, 3)
    assert weight(result, "Conv").shape == (3, kept, 1, 1)


def test_quantised_product() -> None:
    q = bytes_(8, 6, seed=2)
    q[:, [0, 5]] = 9
    source = quantised(
        "N,8",
        "N,4",
        "float sw = {0.01}, uint8 zw = {9}, float sy = {0.2}, uint8 zy = {30}, float[6,4] v",
        "h = QLinearMatMul(p, s, z, q, sw, zw, sy, zy) d = DequantizeLinear(h, sy, zy) y = MatMul(d, v)",
        q=q,
    )
    assert weight(compiled(source), "QLinearMatMul", 3).shape == (5, 4)


def test_integer_convolution() -> None:
    q = bytes_(6, 8, 3, 3)
    q[[2, 3]] = 128
    source = quantised(
        "N,8,7,7",
        "N,3,5,5",
        "uint8 zw = {128}, float t = {0.001}, float[3,6,1,1] v",
        "h = ConvInteger(p, q, z, zw) f = Cast<to = 1>(h) g = Mul(f, t) y = Conv(g, v)",
        q=q,
    )
    result = compiled(source)
    assert weight(result, "ConvInteger").shape == (4, 5, 3, 3)
    assert weight(result, "Conv").shape == (3, 4, 1, 1)


def test_zero_points_of_weights_that_are_computed() -> None:
    """Nothing is known of such weights: they are no filters, and all are kept."""
    source = model(
        "(float[N,8,5,5] x, uint8 zw) => (float[N,6,5,5] y)",
        "m = Mul(x, k) p, s, z = DynamicQuantizeLinear(m) i = ConvInteger(p, q, z, zw) y = Cast<to = 1>(i)",
        13,
        k=KEEP.reshape(1, 8, 1, 1),
        q=bytes_(6, 8, 1, 1),
    )
    assert weight(compiled(source), "ConvInteger").shape == (6, 8, 1, 1) and not filters(source)


def test_nothing_but_zeros_keeps_one_channel() -> None:
    source = model(
        "(float[N,8] x) => (float[N,6] y)",
        "m = Mul(x, k) p, s, z = DynamicQuantizeLinear(m) h = MatMulInteger(p, q, z) f = Cast<to = 1>(h) y = Mul(f, s)",
        opset=13,
        k=np.zeros(8, np.float32),
        q=bytes_(8, 6),
    )
    result = compiled(source)
    assert all(0 not in t.dims for t in result.model.graph.initializer)


DYNAMIC = """m = Mul(x, k) d, e, d0 = DynamicQuantizeLinear(m) w = Transpose<perm = [0, 2, 1]>(m)
    u, v, u0 = DynamicQuantizeLinear(w) h = MatMulInteger(d, u, d0, u0) f = Cast<to = 1>(h) i = Mul(e, v) g = Mul(f, i)
    p = Softmax(g) a, l, a0 = DynamicQuantizeLinear(p) o = MatMulInteger(a, d, a0, d0) q = Cast<to = 1>(o)
    j = Mul(l, e) r = Mul(q, j) y = MatMul(r, last)"""
STATIC = """m = Mul(x, k) d = QuantizeLinear(m, s, z) u = Transpose<perm = [0, 2, 1]>(d)
    h = QLinearMatMul(d, s, z, u, s, z, t, z) g = DequantizeLinear(h, t, z) p = Softmax(g) a = QuantizeLinear(p, b, c)
    o = QLinearMatMul(a, b, c, d, s, z, s, z) r = DequantizeLinear(o, s, z) y = MatMul(r, last)"""


@pytest.mark.parametrize("body", [DYNAMIC, STATIC])
def test_products_of_data_by_data(body: str) -> None:
    """In attention: channels at the zero points of both add nothing to its scores, and are zero in what it mixes."""
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=(8, 4)).astype(np.float32)
    stated = "float s = {0.03}, uint8 z = {117}, float t = {0.1}, float b = {0.004}, uint8 c = {0}"
    signature = f"(float[N,5,6] n) => (float[N,5,4] y) <{stated}>"
    result = compiled(model(signature, f"x = MatMul(n, first) {body}", 13, k=KEEP, first=first, last=last))
    assert not result.report.held
    assert [tuple(t.dims) for t in result.model.graph.initializer if len(t.dims) == 2] == [(6, 5), (5, 4)]


def test_a_constant_times_data() -> None:
    """Its channels are kept: only weights that come second are read as such."""
    source = model(
        "(float[N,6,8] x) => (float[N,4,8] y)",
        "m = Mul(x, k) d, e, z = DynamicQuantizeLinear(m) h = MatMulInteger(a, d, a0, z) y = Cast<to = 1>(h)",
        13,
        k=np.array([1, 0, 1, 0, 1, 1], np.float32).reshape(6, 1),
        a=bytes_(4, 6),
        a0=np.array(3, np.uint8),
    )
    assert (4, 6) in [tuple(tensor.dims) for tensor in compiled(source).model.graph.initializer]
