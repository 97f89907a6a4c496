"""Quantised networks: int8 weights are read and sliced as weights, and stay int8."""

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import onnx
import pytest

from passes import shrink
from passes.graph.construct import copied, take_apart
from passes.graph.tensors import values_of
from passes.sizes.prepare import prepared
from passes.weights.quantized import Quantized
from passes.weights.steps import Steps
from tests.generators.check import assert_same_function, check
from tests.passes.text import Array, compiled, mask, model, operators, random, weight


def int8(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-90, 90, size=shape).astype(np.int8)


def steps(*shape: int, seed: int = 1) -> Array:
    """Scales."""
    return np.random.default_rng(seed).uniform(0.004, 0.02, size=shape).astype(np.float32)


def types(result: onnx.ModelProto) -> dict[int, int]:
    """Elements of the initializers per type."""
    count: dict[int, int] = {}
    for tensor in result.graph.initializer:
        count[tensor.data_type] = count.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return count


KEEP = np.array([1, 0, 1, 1, 0, 1, 0, 1], np.float32)


def quantised(signature: str, body: str, opset: int = 13, **weights: Array) -> onnx.ModelProto:
    """A model with a mask `k` of 8 channels, and one scale `s` and zero point `z`, unless others are given."""
    return model(signature, body, opset, constants={"k": KEEP, "s": steps(), "z": np.int8(0)}, **weights)


@pytest.mark.parametrize("left", [10, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_of_a_product_are_cut_on_both_sides(axis: int | None, left: int) -> None:
    """Zero rows and columns of the int8 matrix, whatever the scales run along, and even if one is left."""
    q = int8(8, 12)
    q[:, left:] = 0
    size = {None: (), 0: (8,), 1: (12,)}[axis]
    source = quantised(
        "(float[N,8] x) => (float[N,5] y) <float[12,5] v>",
        f"""m = Mul(x, k) w = DequantizeLinear{"" if axis is None else f"<axis = {axis}>"}(q, s, z)
        h = MatMul(m, w) r = Relu(h) y = MatMul(r, v)""",
        q=q,
        s=steps(*size),
        z=np.zeros(size, np.int8),
    )
    result = compiled(source)
    assert weight(result, "DequantizeLinear", 0).shape == (5, left)
    assert weight(result, "DequantizeLinear", 0).dtype == np.int8
    assert weight(result, "DequantizeLinear", 1).size == {None: 1, 0: 5, 1: left}[axis]
    assert result.report.masked and not result.report.held


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", ["before", "behind"])
def test_masks_of_channels_that_stay_go_into_weights_of_few_bits(side: str, bias: bool) -> None:
    """Between an operator and its rounding they would keep it from being computed in integers."""
    text = {
        "before": "w = DequantizeLinear(q, s, z) a = Gemm(x, w{0}) m = Mul(a, k) y = MatMul(m, v)",
        "behind": "a = MatMul(x, u) f = QuantizeLinear(a, s, z) d = DequantizeLinear(f, s, z) m = Mul(d, k)"
        " w = DequantizeLinear(q, s, z) y = Gemm(m, w{0})",
    }[side].format(", b" if bias else "")
    size = (6, 8) if side == "before" else (8, 5)
    more = {"i": np.arange(size[1], dtype=np.int32), "zero": np.int32(0)} if bias else {}
    text = "b = DequantizeLinear(i, s, zero) " * bias + text
    parts = {"v": random(8, 5)} if side == "before" else {"u": random(6, 8)}
    source = quantised("(float[N,6] x) => (float[N,5] y)", text, q=int8(*size), **parts, **more)
    result = shrink(source, align=8)
    assert_same_function(source, result.model)
    assert "Mul" not in operators(result)
    stored = {
        tensor.data_type: onnx.numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer if tensor.dims
    }
    masked = (
        stored[onnx.TensorProto.INT8][:, KEEP == 0] if side == "before" else stored[onnx.TensorProto.INT8][KEEP == 0]
    )
    assert stored[onnx.TensorProto.INT8].shape == size and not masked.any()
    assert (onnx.TensorProto.INT32 in stored) == bias


def test_zero_point_is_what_is_zero() -> None:
    q = int8(8, 6)
    q[:, [1, 4]] = 7
    source = quantised(
        "(float[N,8] x) => (float[N,3] y) <float[6,3] v>",
        "w = DequantizeLinear(q, s, z) h = MatMul(x, w) y = MatMul(h, v)",
        q=q,
        z=np.int8(7),
    )
    assert weight(compiled(source), "DequantizeLinear", 0).shape == (8, 4)


def quantised_convolutions(group: int = 1, pads: int = 1, shift: float = 0.0) -> onnx.ModelProto:
    """conv, mask, a pair, conv with int8 weights and an int32 bias; `shift` is what masked channels hold."""
    sx, sw = np.float32(0.02), steps(10, seed=3)
    return quantised(
        "(float[N,3,9,8] x) => (float[N,10,H,W] y) <float[8,3,3,3] w1, int8 zx = {3}>",
        f"""a = Conv<pads = [1,1,1,1]>(x, w1) m = Mul(a, k) b = Add(m, c)
        p = QuantizeLinear(b, sx, zx) d = DequantizeLinear(p, sx, zx)
        w = DequantizeLinear<axis = 0>(q, sw, zw) bias = DequantizeLinear<axis = 0>(qb, sb, zb)
        y = Conv<group = {group}, pads = [{pads},{pads},{pads},{pads}]>(d, w, bias)""",
        k=KEEP.reshape(1, 8, 1, 1),
        c=((1 - KEEP) * shift).reshape(1, 8, 1, 1),
        sx=sx,
        q=int8(10, 8 // group, 3, 3),
        sw=sw,
        zw=np.zeros(10, np.int8),
        qb=np.random.default_rng(5).integers(-900, 900, 10).astype(np.int32),
        sb=(sx * sw).astype(np.float32),
        zb=np.zeros(10, np.int32),
    )


@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("shift", [0.0, 0.37])
def test_convolution_between_quantised_tensors(pads: int, shift: float) -> None:
    """Zeros go; other constants are whole steps, and so is what they add to the int32 bias."""
    result = compiled(quantised_convolutions(pads=pads, shift=shift))
    kept = 5 if pads == 0 or shift == 0 else 8
    assert weight(result, "DequantizeLinear", 0, which=1).shape == (10, kept, 3, 3)
    assert weight(result, "DequantizeLinear", 0, which=2).dtype == np.int32
    assert set(operators(result)) <= {"Conv", "QuantizeLinear", "DequantizeLinear", "Pad", "Gather"}


def test_grouped_convolution_with_a_scale_for_each_filter() -> None:
    result = compiled(quantised_convolutions(group=2))
    assert weight(result, "DequantizeLinear", 0, which=1).shape == (10, 3, 3, 3)


def test_a_bias_between_steps_becomes_single_precision() -> None:
    """What the constants add is no whole number of steps of this bias."""
    source = quantised(
        "(float[N,8] x) => (float[N,6] y) <float sb = {0.3}, int32 zb = {0}, int32[6] qb = {0, 1, 2, 3, 4, 5}>",
        """m = Mul(x, k) a = Add(m, c) w = DequantizeLinear(q, s, z) b = DequantizeLinear(qb, sb, zb)
        y = Gemm(a, w, b)""",
        c=(1 - KEEP) * 0.377,
        q=int8(8, 6),
    )
    result = compiled(source)
    assert weight(result, "DequantizeLinear", 0).shape == (5, 6)
    assert weight(result, "Gemm", 2).dtype == np.float32


def test_transposed_and_masked_weights_stay_int8() -> None:
    """Exporters put a Transpose behind the scale; a mask of the weight is a mask of its steps."""
    source = quantised(
        "(float[N,8] x) => (float[N,5] y) <float[16,5] v>",
        """w = DequantizeLinear<axis = 0>(q, s, z) t = Transpose<perm = [1, 0]>(w) u = Mul(t, k)
        h = MatMul(x, u) r = Relu(h) y = MatMul(r, v)""",
        q=int8(16, 8),
        s=steps(16),
        z=np.zeros(16, np.int8),
        k=(np.arange(16) % 4 != 1).astype(np.float32),
    )
    result = compiled(source)
    stored = weight(result, "DequantizeLinear", 0)
    assert (stored.shape, stored.dtype) == ((8, 12), np.dtype(np.int8))
    assert weight(result, "DequantizeLinear", 1).shape == (12,)


def test_weights_that_the_graph_quantises() -> None:
    """Training with fake quantisation leaves float weights behind a pair: the file holds their steps."""
    w = random(24, 24)
    w[:, 3::4] = 0
    source = quantised(
        "(float[N,24] x) => (float[N,5] y) <float[24,5] v>",
        "p = QuantizeLinear(w, s, z) d = DequantizeLinear(p, s, z) h = MatMul(x, d) y = MatMul(h, v)",
        w=w,
    )
    result = compiled(source)
    assert weight(result, "DequantizeLinear", 0).shape == (24, 18)
    assert weight(result, "DequantizeLinear", 0).dtype == np.int8


def in_blocks(size: int, keep: Iterable[int]) -> onnx.ModelProto:
    """A product with a weight of four blocks of rows that each have a scale; these rows are kept."""
    return quantised(
        f"(float[N,{4 * size}] x) => (float[N,6] y)",
        f"m = Mul(x, k) w = DequantizeLinear<axis = 0, block_size = {size}>(q, s, z) y = MatMul(m, w)",
        21,
        k=np.isin(np.arange(4 * size), [*keep]).astype(np.float32),
        q=int8(4 * size, 6),
        s=steps(4, 6),
        z=np.zeros((4, 6), np.int8),
    )


@pytest.mark.parametrize(("rows", "scales"), [(range(4, 12), 2), ((0, 3, 5, 6, 9, 10, 12, 15), 4)])
def test_blocks_of_scales(rows: Iterable[int], scales: int) -> None:
    """Whole blocks go with their scales; where each loses as much the blocks get smaller."""
    result = compiled(in_blocks(4, rows))
    assert weight(result, "DequantizeLinear", 0).shape == (8, 6)
    assert weight(result, "DequantizeLinear", 1).shape == (scales, 6)


@pytest.mark.parametrize("rows", [(0, 1, 2, 4, 5), (0, 4, 5, 6, 7, 9, 10)])
def test_no_block_is_shorter_than_others(rows: Iterable[int]) -> None:
    """The standard allows a last one that is; OpenVINO does not load it."""
    for node in compiled(in_blocks(4, rows)).model.graph.node:
        for block in (a.i for a in node.attribute if a.name == "block_size"):
            assert len([*rows]) % block == 0


def test_a_bias_of_which_one_block_is_left_has_one_scale() -> None:
    """ONNX Runtime takes no block size beside the scale of all."""
    source = model(
        "(float[N,5] x) => (float[N,6] y) <float[5,8] w, float[8,6] v, float[8] k = {0, 0, 0, 0, 1, 1, 1, 1}>",
        "b = DequantizeLinear<axis = 0, block_size = 4>(q, s) h = Gemm(x, w, b) m = Mul(h, k) y = MatMul(m, v)",
        21,
        q=int8(8),
        s=steps(2),
    )
    assert weight(compiled(source), "DequantizeLinear", 0).shape == (4,)


def test_steps_of_16_bits_are_exact_beside_a_scale_of_half_precision() -> None:
    found = Steps("q", np.uint16([65535, 0]), np.float16(2**-14), np.float32(65535)).values
    assert found.dtype == np.float16 and found.tolist() == [0, -4]


def test_blocks_that_are_cut_unevenly_go_as_well() -> None:
    """One scale for each element would be larger than what goes: each is stored once, for rows that say which."""
    result = compiled(in_blocks(16, {*range(64)} - {0, 1, 5}))
    assert weight(result, "Cast", 0).shape == (61, 6) and weight(result, "Cast", 0).dtype == np.int8
    assert weight(result, "GatherND", 0).shape == (4, 6)
    assert operators(result) == ["Gather", "Cast", "GatherND", "Mul", "MatMul"]
    again = shrink(result.model)
    assert again.model.ByteSize() <= 1.01 * result.model.ByteSize() and again.report.after == result.report.after


#: how exporters write weights w [48, 32] of few bits, from q: text, the type of q, and sizes
STORED = {
    "scale": ("c = Cast<to=1>(q) w = Mul(c, s)", np.int8, {"q": (48, 32), "s": (1, 32)}),
    "zero point": (
        "c = Cast<to=1>(q) f = Cast<to=1>(z) d = Sub(c, f) w = Mul(s, d)",
        np.uint8,
        {"q": (48, 32), "s": (48, 1), "z": (48, 1)},
    ),
    "in half precision": (
        "c = Cast<to=10>(q) g = Cast<to=10>(s) d = Mul(c, g) w = Cast<to=1>(d)",
        np.int8,
        {"q": (48, 32), "s": (32,)},
    ),
    "half precision": ("c = Cast<to=1>(q) w = Mul(c, s)", np.float16, {"q": (48, 32), "s": (32,)}),
    "joined": (
        "c = Cast<to=1>(q) d = Cast<to=1>(z) e = Concat<axis=0>(c, d) w = Mul(e, s)",
        np.int8,
        {"q": (24, 32), "z": (24, 32), "s": (1, 32)},
    ),
    "transposed": ("c = Cast<to=1>(q) d = Div(c, s) w = Transpose(d)", np.int8, {"q": (32, 48), "s": (32, 1)}),
    "blocks of inputs": (
        "c = Cast<to=1>(q) d = Mul(c, s) w = Reshape(d, shape)",
        ml_dtypes.int4,
        {"q": (6, 8, 32), "s": (6, 1, 32)},
    ),
    "blocks of outputs": (
        "c = Cast<to=1>(q) d = Mul(c, s) w = Reshape(d, shape)",
        ml_dtypes.uint4,
        {"q": (48, 4, 8), "s": (48, 4, 1)},
    ),
    "repeated scales": (
        "c = Cast<to=1>(q) e = Expand(s, wide) g = Reshape(e, shape) w = Mul(c, g)",
        np.int8,
        {"q": (48, 32), "s": (6, 1, 32)},
    ),
    "steps in blocks": (
        "w = DequantizeLinear<axis=0, block_size=8>(q, s, z)",
        ml_dtypes.uint4,
        {"q": (48, 32), "s": (6, 32), "z": (6, 32)},
    ),
    "steps in blocks of outputs": (
        "w = DequantizeLinear<axis=1, block_size=8>(q, s)",
        ml_dtypes.int4,
        {"q": (48, 32), "s": (48, 4)},
    ),
    "steps with narrow scales": (
        "g = Cast<to=1>(s) w = DequantizeLinear<axis=1>(q, g)",
        np.int8,
        {"q": (48, 32), "s": (32,)},
    ),
    "steps of floats": ("w = DequantizeLinear<axis=1>(q, s)", ml_dtypes.float8_e4m3fn, {"q": (48, 32), "s": (32,)}),
    **{
        f"{np.dtype(dtype)} alone": ("w = Cast<to=1>(q)", dtype, {"q": (48, 32)})
        for dtype in (np.int8, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)
    },
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", STORED)
def test_weights_stay_in_as_few_bits_as_they_are_stored_in(form: str, masked: bool) -> None:
    """No file grows, and a mask goes from what is stored, on both sides of a product and across blocks."""
    body, dtype, sizes = STORED[form]
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(1, 7, size=size).astype(dtype) for name, size in sizes.items()}
    if "s" in sizes:
        constants["s"] = steps(*sizes["s"]).astype(np.float16 if "narrow" in form else np.float32)
    inner, outer = (rng.integers(0, 2, size=size) if masked else np.ones(size) for size in (48, 32))
    masks = {"k": inner.astype(np.float32), "l": outer.astype(np.float32)}
    if "alone" in form:  # the zeros are in the weight
        constants["q"] *= np.outer(inner, outer).astype(dtype)
        masks = {"k": np.ones(48), "l": np.ones(32)}
    if "Reshape" in body:
        constants["shape"] = np.array([48, 32])
    if "Expand" in body:
        constants["wide"] = np.array([6, 8, 32])
    source = model(
        "(float[N,20] x) => (float[N,4] y) <float[20,48] u, float[32,4] v>",
        f"a = MatMul(x, u) b = Mul(a, k) {body} h = MatMul(b, w) r = Relu(h) t = Mul(r, l) y = MatMul(t, v)",
        opset=21,
        **masks,
        **constants,
    )
    result = compiled(source)
    assert result.model.ByteSize() <= source.ByteSize() * 1.01 + (0 if masked else 250)  # of names
    kept = int(inner.sum() * outer.sum())
    stored = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert types(result.model)[stored] in (kept, kept + constants.get("z", np.zeros(0)).size)
    assert result.report.after.macs == inner.sum() * (20 + outer.sum()) + outer.sum() * 4
    assert "Gather" not in operators(result) and not result.report.held
    assert shrink(result.model).model.ByteSize() <= result.model.ByteSize() + 100


def test_what_is_not_the_same_in_fewer_bits_stays() -> None:
    body = "c = Cast<to=1>(w) a = MatMul(x, c) y = MatMul(a, odd)"
    source = model("(float[N,24] x) => (float[N,24] y)", body, w=random(24, 24).astype(np.float16), odd=random(24, 24))
    kinds = {t.name: t.data_type for t in shrink(source).model.graph.initializer}
    assert kinds == {"w": onnx.TensorProto.FLOAT16, "odd": onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("each", [False, True])
def test_shared_int8_weight_is_stored_once(each: bool) -> None:
    """Also when every reader has a DequantizeLinear of its own."""
    source = quantised(
        "(float[N,40] x, float[N,40] x2) => (float[N,30] y)",
        f"""m = Mul(x, k) n = Mul(x2, l) w = DequantizeLinear(q, s, z) u = DequantizeLinear(q, s, z)
        a = MatMul(m, w) b = MatMul(n, {"u" if each else "w"}) y = Add(a, b)""",
        k=np.arange(40.0) % 2,
        l=(np.arange(40) % 3 > 0).astype(np.float32),
        q=int8(40, 30),
    )
    result = compiled(source)
    assert types(result.model)[onnx.TensorProto.INT8] <= 40 * 30 + 1


def test_channels_that_are_not_zero_after_quantisation() -> None:
    """A constant becomes the nearest step, and saturates."""
    body = "m = Mul(x, k) a = Add(m, c) p = QuantizeLinear(a, s, z) d = DequantizeLinear(p, s, z) y = MatMul(d, w)"
    scales = {"s": np.float32(0.02), "z": np.int8(-5)}
    for value in (0.0, 0.013, -0.4, 900.0):
        signature = "(float[N,8] x) => (float[N,4] y) <float[8,4] w>"
        source = quantised(signature, body, c=(1 - KEEP) * value, **scales)
        assert weight(compiled(source), "MatMul").shape == (5, 4)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int16"])
@pytest.mark.parametrize("value", [0.0, 0.1, 900.0])
def test_constants_in_steps_of_any_type(dtype: str, value: float) -> None:
    """They are the nearest number that the type has."""
    body = "m = Mul(x, k) a = Add(m, c) p = QuantizeLinear(a, s, z) d = DequantizeLinear(p, s, z) y = MatMul(d, w)"
    signature = "(float[N,8] x) => (float[N,4] y) <float[8,4] w>"
    scales = {"s": np.float32(0.5), "z": np.zeros((), dtype)}
    assert weight(compiled(quantised(signature, body, 21, c=(1 - KEEP) * value, **scales)), "MatMul").shape == (5, 4)


@pytest.mark.parametrize(
    "body",
    [
        """r = Abs(m) u = ReduceMax<axes = [-1]>(r) e = Add(u, one) f = Squeeze(e, first)
        p = QuantizeLinear<axis = 0>(m, f, zeros) d = DequantizeLinear<axis = 0>(p, f, zeros)""",
        "p, f, o = DynamicQuantizeLinear(m) d = DequantizeLinear(p, f, o)",
    ],
)
def test_zeros_stay_zero_in_steps_of_a_computed_scale(body: str) -> None:
    source = quantised(
        "(float[3,8] x) => (float[3,4] y) <float[8,4] w>",
        f"m = Mul(x, k) {body} y = MatMul(d, w)",
        one=np.ones(1, np.float32),
        first=np.array([1]),
        zeros=np.zeros(3, np.int8),
    )
    assert weight(compiled(source), "MatMul").shape == (5, 4)


def test_mask_helper_is_per_channel() -> None:
    source = quantised(
        "(float[N,8,4,4] x) => (float[N,4,4,4] y) <float[4,8,1,1] w>",
        "m = Mul(x, k) p = QuantizeLinear(m, s, z) d = DequantizeLinear(p, s, z) y = Conv(d, w)",
        k=mask(*KEEP.astype(int)),
        s=steps(8),
        z=np.zeros(8, np.uint8),
    )
    result = check(source)
    assert weight(result, "QuantizeLinear", 1).shape == (5,)  # type: ignore[arg-type]


def test_a_copy_of_a_graph_keeps_its_weights_when_the_graph_is_freed() -> None:
    q = int8(8, 12)
    source = quantised("(float[N,8] x) => (float[N,12] y)", "w = DequantizeLinear(q, s) y = MatMul(x, w)", q=q)
    graph = prepared(source)
    copy = copied(graph)
    take_apart(graph)
    (weights,) = (tensor for tensor in copy.tensors().values() if isinstance(tensor, Quantized))
    np.testing.assert_allclose(values_of(weights), q * steps(), rtol=1e-6)


def test_shifts_and_other_scales_stay_beside_weights_of_few_bits() -> None:
    """A bias between the steps would be one of floats, which runtimes round."""
    for more in ("y = Add(a, t)", "y = Mul(a, t)"):
        text = f"b = DequantizeLinear(i, s, zero) w = DequantizeLinear(q, s, z) a = Gemm(x, w, b) {more}"
        stored = {"q": int8(6, 8), "i": np.arange(8, dtype=np.int32), "zero": np.int32(0), "t": random(8)}
        source = quantised("(float[N,6] x) => (float[N,8] y)", text, **stored)
        assert [node.op_type for node in source.graph.node] == operators(shrink(source))
