"""What is folded, and that nothing of the masks is left."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from maskc.frontend.graph_queries import copied
from passes import shrink
from tests.generators.check import assert_same_function
from tests.passes.text import Array, compiled, model, operators, random, weight

BATCH_NORMALISATION = {
    "s": np.linspace(0.5, 1.5, 4),
    "b": np.linspace(-1, 1, 4),
    "mu": np.linspace(0.1, 0.4, 4),
    "var": np.linspace(0.5, 2, 4),
}
OF_CASES = {**BATCH_NORMALISATION, "last": np.int64(1)}


CASES = {
    "mask and batch normalisation behind a convolution": (
        "(float[N,3,8,8] x) => (float[N,2,8,8] y)"
        " <float[4,3,3,3] w, float[2,4,1,1] v, float[1,4,1,1] k = {1, 0, 1, 1}>",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n bn = BatchNormalization(c, s, b, mu, var)\n r = Relu(bn)\n"
        "m = Mul(r, k)\n y = Conv(m, v)",
        "Conv Relu Conv",
    ),
    "scale and shift behind a matrix product": (
        "(float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] bias>",
        "h = MatMul(x, w)\n a = Add(h, bias)\n bn = BatchNormalization(a, s, b, mu, var)\n y = Relu(bn)",
        "MatMul Add Relu",
    ),
    "through a transpose": (
        "(float[N,3,8,8] x) => (float[N,8,8,4] y) <float[4,3,1,1] w>",
        "c = Conv(x, w)\n t = Transpose<perm=[0,2,3,1]>(c)\n m = Mul(t, s)\n y = Add(m, b)",
        "Conv Transpose",
    ),
    "someone else reads the convolution": (
        "(float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] c) <float[4,3,1,1] w, float[1,4,1,1] scale>",
        "c = Conv(x, w)\n s1 = Mul(c, scale)\n y = Add(s1, scale)",
        "Conv Mul Add",
    ),
    "along rows, not columns": (
        "(float[4,3] x) => (float[4,4] y) <float[3,4] w, float[4,1] rows>",
        "h = MatMul(x, w)\n y = Mul(h, rows)",
        "MatMul Mul",
    ),
    "behind an addend of rows, as many as columns": (
        "(float[4,3] x) => (float[4,4] y) <float[3,4] w, float[4,1] rows, float[4] scale>",
        "h = Gemm(x, w, rows)\n y = Mul(h, scale)",
        "Gemm Mul",
    ),
    "behind an addend of columns, in a matrix": (
        "(float[4,3] x) => (float[4,4] y) <float[3,4] w, float[1,4] bias, float[4] scale>",
        "h = Gemm(x, w, bias)\n y = Mul(h, scale)",
        "Gemm",
    ),
    "behind a constant of all positions": (
        "(float[N,3,4,4] x) => (float[N,2,4,4] y)"
        " <float[4,3,1,1] w, float[1,4,4,4] map, float[2,4,1,1] v, float[1,4,1,1] k = {1, 0, 1, 1}>",
        "c = Conv(x, w)\n p = Add(c, map)\n m = Mul(p, k)\n bn = BatchNormalization(m, s, b, mu, var)\n"
        "r = Relu(bn)\n y = Conv(r, v)",
        "Conv Add Relu Conv",
    ),
    "along an axis on which that is the same, which would become larger": (
        "(float[N,4,4,4] x) => (float[N,4,4,4] y) <float[4,4,1,1] w, float[1,1,4,4] map, float[4,1,1] scale>",
        "c = Conv(x, w)\n p = Add(c, map)\n y = Mul(p, scale)",
        "Conv Add Mul",
    ),
    "nodes that make more of initializers": (
        "(float[N,96] x) => (float[N,96] y) <float[96,2] up, float[2,96] down>",
        "w = MatMul(up, down)  v = Mul(w, w)  y = MatMul(x, v)",
        "MatMul Mul MatMul",
    ),
    "a constant that was data, for two readers, of which the first makes as much of it": (
        "(float[3,40] x, float[3,40] u) => (float[3,40] y, float[3,40] z) <float[3,40] b, float[1] zero = {0}>",
        "m = Mul(x, zero)  c = Add(m, b)  a = CumSum(c, last)  y = Add(a, u)  l = ReduceMax(c)  z = Mul(l, u)",
        "Add Mul",
    ),
    "a border of no width": (
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) <int64[8] pads = {0, 0, 0, 0, 0, 0, 0, 0}>",
        'p = Pad<mode="reflect">(x, pads)  y = Relu(p)',
        "Relu",
    ),
    "a choice that broadcasts": (
        "(float[N,3] x, float[4,1,3] z) => (float[4,N,3] y) <bool[3] all = {1, 1, 1}>",
        "y = Where(all, x, z)",
        "Where",
    ),
}


@pytest.mark.parametrize(("signature", "body", "expected"), CASES.values(), ids=CASES)
def test_what_is_folded_and_what_is_not(signature: str, body: str, expected: str) -> None:
    assert operators(compiled(model(signature, body, constants=OF_CASES))) == expected.split()


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mask_that_chooses_is_gone_with_what_it_masked(swapped: bool) -> None:
    """What is left of the condition is all true, or all false where zeros are chosen by it."""
    condition = np.array([1, 0, 1, 1], bool).reshape(4, 1, 1)
    source = model(
        "(float[N,3,8,8] x) => (float[N,2,8,8] y) <float[4,3,3,3] w, float[2,4,1,1] v, float[1] zero = {0}>",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n bn = BatchNormalization(c, s, b, mu, var)\n"
        f"m = Where(k, {'zero, bn' if swapped else 'bn, zero'})\n r = Relu(m)\n y = Conv(r, v)",
        k=~condition if swapped else condition,
        **BATCH_NORMALISATION,
    )
    assert operators(compiled(source)) == ["Conv", "Relu", "Conv"]


def test_shared_weights_are_cut_for_each_of_their_readers() -> None:
    result = compiled(
        model(
            "(float[N,4] x) => (float[N,4] y, float[N,4] z) <float[4,4] w, float[4] k = {1, 0, 0, 1}>",
            "a = MatMul(x, w)\n am = Mul(a, k)\n y = MatMul(am, w)\n b = MatMul(x, w)\n z = Relu(b)",
        )
    )
    shapes = sorted(weight(result, "MatMul", which=i).shape for i in range(3))
    assert shapes == [(2, 4), (4, 2), (4, 4)]


def test_shared_layers_that_keep_other_channels_take_no_more_parameters() -> None:
    """The vectors of such a layer are gathered by the indices that its matrix is gathered by."""
    rng, layers = np.random.default_rng(0), 6
    keeps = {f"k{i}": rng.permutation(np.repeat((0, 1), 96)).astype(np.float32) for i in range(layers)}
    lines = [
        f"a{i} = MatMul(x{i}, w) b{i} = Add(a{i}, bias) m{i} = Mul(b{i}, k{i})"
        f" r{i} = Relu(m{i}) x{i + 1} = MatMul(r{i}, v)"
        for i in range(layers)
    ]
    weights = {"w": (16, 192), "bias": (192,), "v": (192, 16)}
    result = compiled(
        model(
            f"(float[N,16] x0) => (float[N,16] x{layers})",
            "\n".join(lines),
            **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in weights.items()},
            **keeps,
        )
    )
    assert result.report.after.flops <= 0.51 * result.report.before.flops
    assert result.report.after.params == 2 * 16 * 192 + 192


def test_int8_weights_behind_dequantisation_stay_int8() -> None:
    source = model(
        "(float[N,4] x) => (float[N,3] y) <float scale = {0.1}, int8 zero = {0}, float[4] k = {1, 1, 0, 1}>",
        "w = DequantizeLinear(q, scale, zero)\n m = Mul(x, k)\n y = MatMul(m, w)",
        q=np.arange(12, dtype=np.int8).reshape(4, 3),
    )
    assert "DequantizeLinear" in operators(compiled(source))


def test_zero_points_of_their_own_stay_so() -> None:
    """Where 8-bit products are to be exact ONNX Runtime makes int8 uint8, and fails on what two nodes share.

    If a weight has more than seven bits.
    """
    source = model(
        "(float[N,6] x) => (float[N,5] y) <int8[8] z1 = {0,0,0,0,0,0,0,0}, int8[8] z2 = {0,0,0,0,0,0,0,0}, "
        "float[8] scale1, float[8] scale2, float[8] k = {1, 0, 1, 1, 0, 0, 1, 1}>",
        """w = DequantizeLinear<axis=1>(p, scale1, z1) a = MatMul(x, w) m = Mul(a, k)
           v = DequantizeLinear<axis=0>(q, scale2, z2) y = MatMul(m, v)""",
        p=np.arange(-48, 48, 2, np.int8).reshape(6, 8) * np.int8(2),
        q=np.arange(-40, 40, 2, np.int8).reshape(8, 5) * np.int8(3),
    )
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    ort.InferenceSession(compiled(source).model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_statistics_of_their_own_stay_so() -> None:
    """ONNX Runtime writes the mean of the batch into that which it reads, and so into what shares it."""
    source = model(
        "(float[N,3] x) => (float[N,2] y) <float[3,4] w, float[4] scale, float[4] zero = {0, 0, 0, 0}, "
        "float[4] mean = {0, 0, 0, 0}, float[4] var = {1, 1, 1, 1}, float[4,2] v>",
        "a = MatMul(x, w) b, m, n = BatchNormalization<training_mode=1>(a, scale, zero, mean, var) y = MatMul(b, v)",
    )
    result = compiled(source).model
    normal = next(node for node in result.graph.node if node.op_type == "BatchNormalization")
    assert len({*normal.input}) == 5


def test_no_gather_is_left_that_takes_all_channels_in_order() -> None:
    """A shuffle of which one channel is left, twice (`compiled` looks for such Gathers)."""
    source = model(
        "(float[N,3,4,4] x) => (float[N,1,4,4] y, float[N,3,4,4] z)"
        " <float[2,3,1,1] w, float[1,2,1,1] v, float[3,2,1,1] u, float[1,2,1,1] k = {1, 0}, "
        "int64[4] shuffle = {0, 2, 1, 3}, int64[2] halves = {2, 2}>",
        "c = Conv(x, w)  m = Mul(c, k)  p = Concat<axis=1>(m, m)  g = Gather<axis=1>(p, shuffle)"
        "  a, b = Split<axis=1>(g, halves)  y = Conv(a, v)  z = Conv(b, u)",
    )
    compiled(source)


def test_a_split_with_one_part_left_is_gone() -> None:
    source = model(
        "(float[N,4] x) => (float[N,2] y) <float[4,6] w, float[6] k = {1, 0, 1, 0, 0, 0}, int64[2] halves = {3, 3}, "
        "float[3,2] v, float[3,2] u>",
        "a = MatMul(x, w)  m = Mul(a, k)  p, q = Split<axis=1>(m, halves)  b = MatMul(p, v)  c = MatMul(q, u)"
        "  y = Add(b, c)",
    )
    assert "Split" not in [node.op_type for node in compiled(source).model.graph.node]


def test_half_precision_takes_no_scale_that_it_cannot_hold() -> None:
    """Scaled, the shift is infinite, or the weights are as small as the steps between the smallest numbers."""
    large = half("a = MatMul(x, w)\n b = Add(a, shift)\n y = Mul(b, scale)", np.eye(4), shift=[-300.0] * 4, scale=300.0)
    assert_same_function(large, compiled(large).model, cases=[{"x": np.float16([[299, 300, 301, 299.5]])}])
    small = half("a = MatMul(x, w)\n b = Mul(a, scale)\n y = Relu(b)", random(4, 4) * 1e-3, scale=1e-3)
    case = {"x": (random(8, 4, seed=1) * 1000).astype(np.float16)}
    assert_same_function(small, compiled(small).model, cases=[case], rtol=1e-3)


def half(body: str, weights: Array, **numbers: float | list[float]) -> onnx.ModelProto:
    """A model of half precision."""
    signature = "(float16[N,4] x) => (float16[N,4] y)"
    return model(signature, body, **{k: np.float16(v) for k, v in {"w": weights, **numbers}.items()})


CHANNELS = 96  # more than may be stored twice without a thought
SCALES = (np.arange(CHANNELS) % 3 == 0) * random(CHANNELS, seed=5)

NORMALISED = {
    "weight normalisation": """
        norm = ReduceL2<axes=[1,2,3]>(v)  unit = Div(v, norm)  w = Mul(unit, g)""",
    "weight standardisation": """
        mean = ReduceMean<axes=[1,2,3]>(v)  d = Sub(v, mean)  q = Mul(d, d)  var = ReduceMean<axes=[1,2,3]>(q)
        e = Add(var, eps)  s = Sqrt(e)  u = Div(d, s)  w = Mul(u, g)""",
    "training batch normalisation": """
        rows = Reshape(v, flat)  mean = ReduceMean<axes=[0,2], keepdims=0>(rows)
        n, m0, v0 = BatchNormalization<training_mode=1, momentum=1.0>(rows, factor, zero, mean, factor)
        w = Reshape(n, whole)""",
    "an update of low rank": """
        u = MatMul(up, down)  f = Reshape(u, whole)  w0 = Add(v, f)  w = Mul(w0, g)""",
}


@pytest.mark.parametrize("form", NORMALISED)
def test_weights_that_are_made_of_others_are_computed_though_these_are_read_twice(form: str) -> None:
    given = {
        "v": random(CHANNELS, 4, 3, 3),
        "g": SCALES.reshape(-1, 1, 1, 1),
        "factor": SCALES,
        "zero": np.zeros(CHANNELS),
        "eps": np.float32(1e-5),
        "flat": np.asarray([1, CHANNELS, 36]),
        "whole": np.asarray([CHANNELS, 4, 3, 3]),
        "up": random(CHANNELS, 2, seed=6),
        "down": random(2, 36, seed=7),
    }
    source = model(
        f"(float[N,4,8,8] x) => (float[N,3,8,8] y) <float[3,{CHANNELS},1,1] p>",
        f"{NORMALISED[form]}  c = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(c)  y = Conv(r, p)",
        constants=given,
    )
    result = compiled(source)
    assert operators(result) == ["Conv", "Relu", "Conv"]
    assert weight(result, "Conv").shape[0] == np.count_nonzero(SCALES)


def test_what_nodes_make_of_initializers_that_others_read_stays() -> None:
    source = model(
        "(int64[N] x) => (float[N,96] y) <float[96,96] w, float[96] k>",
        "t = Mul(w, k)  e = Gather(w, x)  y = MatMul(e, t)",
    )
    result = compiled(source)
    assert result.report.after.params <= result.report.before.params


def test_a_shape_of_which_only_the_batch_is_open_is_not_computed() -> None:
    """As PyTorch writes a GroupNorm: behind a narrowed tensor, inference no longer knew what the shape was."""
    source = model(
        "(float[B,3,8,8] x) => (float[B,5,8,8] y)"
        " <float[4,3,1,1] w, float[1,4,1,1] k = {1, 0, 1, 1}, float[5,8,1,1] u, int64[3] rows = {0, 2, -1}, "
        "float[8,1,1] factor, float[2] ones = {1, 1}, float[2] zeros = {0, 0}>",
        "a = Conv(x, w)  m = Mul(a, k)  c = Conv(m, v)  s = Shape(c)  r = Reshape(c, rows)"
        "  n = InstanceNormalization(r, ones, zeros)  g = Reshape(n, s)  h = Mul(g, factor)  y = Conv(h, u)",
        v=random(8, 4, 1, 1, seed=1) * (np.arange(8) % 4 > 0).reshape(-1, 1, 1, 1),
    )
    result = compiled(source)
    assert "Shape" not in operators(result)
    fixed = copied(source)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert shrink(fixed).report.after.macs == result.report.after.macs


@pytest.mark.parametrize("target", [[-1, 6, 1, 1], [0, -1, 1, 1], [0, 6, 1, 1]])
def test_a_reshape_to_the_shape_that_the_data_have_is_gone(target: list[int]) -> None:
    """tf2onnx writes one for a Transpose of single places; an addition behind it was no part of the convolution."""
    source = model(
        "(float[N,3,1,1] x) => (float[N,2,1,1] y) <float[6,3,1,1] w, float[2,6,1,1] v, float[1,6,1,1] shift>",
        "c = Conv(x, w)\n r = Reshape(c, shape)\n a = Add(r, shift)\n e = Relu(a)\n y = Conv(e, v)",
        shape=np.array(target, np.int64),
    )
    assert operators(compiled(source)) == ["Conv", "Relu", "Conv"]


def test_a_reshape_that_moves_the_batch_stays() -> None:
    source = model(
        "(float[N,M,4] x) => (float[M,N,4] y) <int64[1] four = {4}>",
        "n = Shape<start=0, end=1>(x)\n m = Shape<start=1, end=2>(x)\n"
        "s = Concat<axis=0>(m, n, four)\n y = Reshape(x, s)",
    )
    assert "Reshape" in operators(compiled(source))
