"""Operators between quantised tensors that a mask kept ONNX Runtime from computing in integers."""

import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from passes import shrink
from passes.model.onnx_to_graph import imported
from passes.targets.onnxruntime.integer_kernels import merged
from tests.generators.form import assert_well_formed
from tests.passes.text import Array, loaded, model

KEPT = np.array([1, 1, 0, 1, 1, 0, 1, 1], np.float32)
STEP = 0.05

# Operators on `d`, quantised data, with their weights: `w` of few bits, each with its scale or all with one, or floats.
PER_TENSOR = "w = DequantizeLinear(i, si, zi)"
PER_CHANNEL = "w = DequantizeLinear<axis={axis}>(i, sc, zc)"
BIAS = "b = DequantizeLinear(ib, sb, zb)"
MATRICES = {
    "product": f"{PER_TENSOR} a = MatMul(d, w)",
    "product per channel": f"{PER_CHANNEL.format(axis=1)} a = MatMul(d, w)",
    "product and bias": f"{PER_TENSOR} p = MatMul(d, w) a = Add(p, fb)",
    "Gemm": f"{PER_TENSOR} {BIAS} a = Gemm(d, w, b)",
    "Gemm per channel": f"{PER_CHANNEL.format(axis=1)} a = Gemm(d, w)",
    "Gemm of floats": "a = Gemm(d, f, fb)",
    "moved": f"{PER_TENSOR} p = MatMul(d, w) t = Unsqueeze(p, one)"
    " u = Transpose<perm=[1,0,2]>(t) a = Squeeze(u, first)",
    "quantised before the mask": f"{PER_TENSOR} p = MatMul(d, w) q1 = QuantizeLinear(p, s2, z)"
    " a = DequantizeLinear(q1, s2, z)",
    "sum": "p = MatMul(d, f) q1 = QuantizeLinear(p, s, z) d1 = DequantizeLinear(q1, s, z) a = Add(d1, d1)",
}
IMAGES = {
    "convolution": f"{PER_TENSOR} a = Conv(d, w)",
    "convolution per channel": f"{PER_CHANNEL.format(axis=0)} {BIAS} a = Conv(d, w, b)",
    "convolution of floats": "a = Conv(d, f, fb)",
    "average": f"{PER_TENSOR} p = Conv(d, w) q1 = QuantizeLinear(p, s, z) d1 = DequantizeLinear(q1, s, z)"
    " a = AveragePool<kernel_shape=[2,2]>(d1)",
    "sigmoid": f"{PER_TENSOR} p = Conv(d, w) q1 = QuantizeLinear(p, s, z) d1 = DequantizeLinear(q1, s, z)"
    " a = Sigmoid(d1)",
}


def quantised(body: str, between: str, data: type, few: type, *, image: bool) -> onnx.ModelProto:
    """Quantised data, an operator, what is done `between` to its output a to make m, quantised again, a product."""
    rng = np.random.default_rng(3)
    shape = (8, 6, 1, 1) if image else (6, 8)
    zero = 128 if few is np.uint8 else 0
    kept = KEPT.reshape(8, 1, 1) if image else KEPT
    weights: dict[str, Array] = {
        "s": np.float32(STEP),
        "s2": np.float32(STEP * 0.9),
        "z": np.array(0 if data is np.int8 else 128, data),
        "least": np.array(-128 if data is np.int8 else 0, data),
        # Whole hundredths, so that values lie in the middle between two steps now and then.
        "i": (rng.integers(-90, 90, shape) + zero).astype(few),
        "si": np.float32(0.01),
        "zi": np.array(zero, few),
        "sc": np.full(8, 0.01, np.float32),
        "zc": np.full(8, zero, few),
        "f": rng.normal(size=shape).astype(np.float32),
        "fb": rng.normal(size=8).astype(np.float32),
        "ib": rng.integers(-900, 900, 8).astype(np.int32),
        "sb": np.float32(0.01 * STEP),
        "zb": np.array(0, np.int32),
        "one": np.array([1]),
        "first": np.array([0]),
        "keep": kept,
        "all": np.ones_like(kept),
        "single": np.float32(1),
        "nothing": np.zeros_like(kept),
        "flag": kept > 0,
        "kq": (kept * 127).astype(np.int8),
        "sk": np.float32(1 / 127),
        "none": np.float32(0),
        "v": rng.normal(size=(3, 8, 1, 1) if image else (8, 3)).astype(np.float32),
    }
    zero_point = "least" if "Relu" in between else "z"
    text = f"""q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) {body} {between}
    r = QuantizeLinear(m, s, {zero_point}) e = DequantizeLinear(r, s, {zero_point})
    y = {"Conv" if image else "MatMul"}(e, v)"""
    size = ("N,6,5,5", "N,3,H,W") if image else ("N,6", "N,3")
    return model(f"(float[{size[0]}] x) => (float[{size[1]}] y)", text, opset=19, constants=weights)


def run(source: onnx.ModelProto, data: Array, *, literally: bool = False) -> Array:
    """What ONNX Runtime computes as its options are, or with nothing fused."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if literally:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": data})[0])


def assert_same_by_default(source: onnx.ModelProto, result: onnx.ModelProto, *, literally: bool = False) -> None:
    shape = [size.dim_value or 64 for size in source.graph.input[0].type.tensor_type.shape.dim]
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(run(result, data), run(source, data, literally=literally), atol=STEP / 1000)


BETWEEN = {
    "Mul": "m = Mul(a, keep)",
    "Where": "m = Where(flag, a, none)",
    "Mul and Relu": "k = Mul(a, keep) m = Relu(k)",
    "Mul by ones": "m = Mul(a, all)",
    "Add of zeros": "m = Add(nothing, a)",
    "Mul by one": "k = Dropout(a) m = Mul(single, k)",
    "Mul of few bits": "k = DequantizeLinear(kq, sk) m = Mul(a, k)",
}
CASES = [
    *((name, "Where", np.uint8, np.int8) for name in (*MATRICES, *IMAGES)),
    *(
        (name, "Mul", data, few)
        for name in ("product", "convolution")
        for data, few in [(np.int8,) * 2, (np.uint8,) * 2]
    ),
    *((name, "Mul and Relu", np.uint8, np.int8) for name in ("Gemm", "convolution per channel")),
    *(
        (name, "Mul by ones", np.uint8, np.int8)
        for name in ("product per channel", "convolution", "quantised before the mask")
    ),
    ("convolution", "Add of zeros", np.uint8, np.int8),
    ("convolution", "Mul by one", np.uint8, np.int8),
    ("convolution of floats", "Mul", np.int8, np.int8),
    ("quantised before the mask", "Mul of few bits", np.int8, np.int8),
]


@pytest.mark.parametrize(("name", "between", "data", "few"), CASES)
def test_values_are_no_step_off(name: str, between: str, data: type, few: type) -> None:
    """At its defaults ONNX Runtime rounds as in the source, where a mask stood between an operator and its rounding."""
    source = quantised((MATRICES | IMAGES)[name], BETWEEN[between], data, few, image=name in IMAGES)
    result = shrink(source).model
    assert_well_formed(source, result)
    # A Mul goes into float weights in the source, and ONNX Runtime rounds these to integers.
    assert_same_by_default(source, result, literally=name == "convolution of floats")
    assert all(node.op_type not in ("Mul", "Where") for node in result.graph.node)


@pytest.mark.parametrize("name", ["product", "convolution", "Gemm"])
def test_what_the_source_computes_in_integers_stays(name: str, tmp_path: Path) -> None:
    """A mask in the weights: the result has the same integer kernels."""
    source = quantised((MATRICES | IMAGES)[name], "m = Relu(a)", np.uint8, np.int8, image=name in IMAGES)
    for tensor in source.graph.initializer:
        if tensor.name in ("i", "ib"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values *= KEPT.astype(values.dtype).reshape((8, 1, 1, 1) if name in IMAGES else (8,))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    result = shrink(source).model
    kernels = [[op for op in loaded(m, tmp_path) if op.startswith("Q")] for m in (source, result)]
    assert kernels[0] == kernels[1] and len(kernels[0]) == 2
    assert_same_by_default(source, result)


@pytest.mark.parametrize("name", ["product", "convolution per channel", "Gemm", "average"])
def test_masks_beside_a_file_leave_its_integer_kernels(name: str, tmp_path: Path) -> None:
    """Those that were given for a file that has none stand in the way of none when it runs."""
    plain, masked = (
        quantised((MATRICES | IMAGES)[name], between, np.uint8, np.int8, image=name in IMAGES)
        for between in ("m = Identity(a)", "[given] m = Mul(a, keep)")
    )
    results = [shrink(masked, given=names).model for names in (frozenset({"given"}), frozenset[str]())]
    kernels = [[op for op in loaded(model, tmp_path) if op.startswith("Q")] for model in (plain, *results)]
    assert kernels[0] == kernels[1] != kernels[2]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("moved", ["", "t = Unsqueeze(d, first) d2 = Squeeze(t, first)"])
def test_a_step_for_each_channel_is_not_multiplied_in_integers(axis: int, moved: str) -> None:
    """MatMulIntegerToFloat does not run with them, and a mask behind them kept the source from becoming one."""
    rng = np.random.default_rng(5)
    weights: dict[str, Array] = {
        "s": np.linspace(0.05, 0.06, (4, 8)[axis], dtype=np.float32),
        "z": np.full((4, 8)[axis], 128, np.uint8),
        "i": rng.integers(-90, 90, (8, 6)).astype(np.int8),
        "si": np.float32(0.01),
        "zi": np.array(0, np.int8),
        "keep": KEPT,
        "first": np.array([0]),
    }
    steps = f"<axis={axis}>"
    body = (
        f"q = QuantizeLinear{steps}(x, s, z) d = DequantizeLinear{steps}(q, s, z) {moved} "
        f"m = Mul({'d2' if moved else 'd'}, keep) w = DequantizeLinear(i, si, zi) y = MatMul(m, w)"
    )
    source = model("(float[4, 8] x) => (float[4, 6] y)", body, constants=weights)
    result = shrink(source).model
    assert "Mul" not in [node.op_type for node in result.graph.node]
    assert_same_by_default(source, result)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors have kernels for int8")
@pytest.mark.parametrize("few", [np.int8, np.uint8])
@pytest.mark.parametrize(
    "operator",
    [
        *("Conv(d, w4)", "MatMul(d, w)", "Add(d, w)", "Mul(d, e)", "Concat<axis=1>(d, e)", "Where(c, d, e)"),
        *("AveragePool<kernel_shape=[2,2]>(d)", "Sigmoid(d)", "Softmax<axis=1>(d)", "GlobalAveragePool(d)"),
    ],
)
def test_what_becomes_an_integer_operator(operator: str, few: type, tmp_path: Path) -> None:
    """Of int8 where nothing else reads data and result, or for some where both are read twice."""
    weights = {"s": np.float32(1 / 127), "z": np.array(0, few), "zw": np.array(0, np.int8), "c": np.ones(8, bool)}
    weights |= {"i": np.eye(8, dtype=np.int8), "i4": np.ones((8, 8, 1, 1), np.int8)}
    body = f"""
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) qe = QuantizeLinear(v, s, z)
        e = DequantizeLinear(qe, s, z) w = DequantizeLinear(i, s, zw) w4 = DequantizeLinear(i4, s, zw)
        p = {operator} qp = QuantizeLinear(p, s, z) dp = DequantizeLinear(qp, s, z) y = Tanh(dp)
    """
    more = {
        "data": ("a = Tanh(d)", "a"),
        "result": ("b = Tanh(dp)", "b"),
        "steps": ("f = DequantizeLinear(qp, s, z)", "f"),
    }
    more |= {"operand": ("g = Tanh(e)", "g"), "seen": ("", "dp")}
    for read in ((), ("data",), ("result",), ("data", "result"), ("steps",), ("data", "result", "operand"), ("seen",)):
        outputs = ", ".join(f"float[N,C,H,W] {name}" for name in ("y", *(more[each][1] for each in read)))
        text = body + " ".join(more[each][0] for each in read)
        source = model(f"(float[1,8,8,8] x, float[1,8,8,8] v) => ({outputs})", text, checked=False, constants=weights)
        kernels = [op for op in loaded(source, tmp_path) if op.startswith("QLinear")]
        assert bool(merged(imported(source), ())) == bool(kernels), read
