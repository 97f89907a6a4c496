"""Operators that work along some axes, sample positions or normalise over neighbours: what passes through elsewhere."""

from typing import Any

import numpy as np
import onnx
import pytest

from passes.analysis.dataflow import analyse
from passes.sizes.prepare import prepared
from tests.generators.check import adapters_cost, assert_same_function
from tests.passes.text import compiled, exact, mask, model, narrowed, operators, random, weight

HEAD = "a = Conv(x, wa)\n m = Mul(a, keep)\n s = Add(m, shift)\n"


NUMBERS = {
    "nought": np.asarray(0),
    "unit": np.asarray(1),
    "last": np.asarray(3),
    "minus": np.asarray(-1),
    "zero": np.asarray([0]),
    "one": np.asarray([1]),
    "two": np.asarray([2]),
    "six": np.asarray([6]),
    "rest": np.asarray([-1]),
    "both": np.asarray([1, 3]),
    "five": np.asarray([5, 6]),
    "wider": np.asarray([10, 3]),
    "higher": np.asarray([10, 12]),
    "column": np.asarray([6, 1, 1]),
    "all_sizes": np.asarray([2, 6, 10, 3]),
    "cropped": np.asarray([2, 6, 4, 3]),
    "shape": np.asarray([1, 6, 5, 6]),
    "lengths": np.asarray([2, 1, 2, 1, 2, 2]),
    "starts": np.asarray([-1, 4]),
    "ends": np.asarray([-100, -(1 << 40)]),
    "axes": np.asarray([3, 2]),
    "steps": np.asarray([-1, -1]),
    "batch": np.asarray([0, 1]),
    "half": np.asarray([0.5]),
    "doubled": np.asarray([1.0, 1, 2, 1]),
    "roi": np.asarray([0, 0, 0.1, -0.3, 1, 1, 0.8, 1.2]),
    "rois": np.asarray([[0.0, 0, 4, 4], [1, 1, 9, 9]]),
    "numbered": np.asarray([[0.0, 0, 0, 4, 4], [1, 1, 1, 3, 3]]),
    "grid": np.random.default_rng(0).uniform(-1.2, 1.2, size=(2, 5, 6, 2)),
    "theta": np.asarray([[[0.9, 0.1, 0], [0, 1.1, 0.2]]]),
    "row": random(6, seed=4),
    "ones": random(6, 1, 1, seed=9),
    "none": np.zeros((1, 6, 1, 1)),
}


def source(
    text: str, *, shift: float = 0.0, opset: int = 17, size: str = "N,4,5,6", out: str = "N,3,5,6", **constants: Any
) -> onnx.ModelProto:
    """Six channels of which two are masked, the operator from `s` to `p`, and a convolution that reads all but one."""
    keep = mask(1, 1, 0, 1, 0, 1)
    given = {"wa": random(6, 4, 1, 1), "keep": keep, "shift": (1 - keep) * shift}
    given["wb"] = random(3, 6, 1, 1, seed=1) * mask(0, 1, 1, 1, 1, 1)
    signature = f"(float[{size}] x) => (float[{out}] y)"
    return model(signature, f"{HEAD}{text}\n y = Conv(p, wb)", opset, constants=NUMBERS, **given, **constants)


PAIR = {"size": "2,4,5,6", "out": "2,3,5,6"}
PASSING: dict[str, tuple[str, dict[str, Any]]] = {
    "cumsum": ("p = CumSum(s, last)", {}),
    "cumsum backwards": ("p = CumSum<exclusive = 1, reverse = 1>(s, minus)", {}),
    "topk": ("p, q = TopK<axis = 3>(s, six)", {}),
    "topk indices": ("q, i = TopK<axis = 3>(s, six)\n p = Cast<to = 1>(i)", {}),
    "topk both": ("q, i = TopK<axis = 3>(s, six)\n f = Cast<to = 1>(i)\n p = Add(q, f)", {}),
    "trilu": ("p = Trilu<upper = 0>(s)", {}),
    "reverse": ("p = ReverseSequence<time_axis = 0, batch_axis = 1>(s, lengths)", PAIR),
    "crop": ("p = CenterCropPad<axes = [2, 3]>(s, five)", {"opset": 18}),
    "slice backwards": ("p = Slice(s, starts, ends, axes, steps)", {}),
    "roi align": ("p = RoiAlign<output_height = 5, output_width = 6, sampling_ratio = 2>(s, rois, batch)", PAIR),
    "roi pool": ("p = MaxRoiPool<pooled_shape = [5, 6]>(s, numbered)", PAIR),
    "grid sample": ("p = GridSample(s, grid)", PAIR),
    "affine grid": (
        "g = AffineGrid(theta, shape)\n p = GridSample(s, g)",
        {"opset": 20, "size": "1,4,5,6", "out": "1,3,5,6"},
    ),
    "local response": ("p = LRN<size = 3>(s)", {}),
    "resize cubic": ('p = Resize<mode = "cubic">(s, , doubled)', {"out": "N,3,10,6"}),
    "resize to sizes": ('p = Resize<mode = "linear">(s, , , all_sizes)', {"size": "2,4,5,6", "out": "2,3,10,3"}),
    "resize to computed sizes": (
        "f = Shape(s)\n h = Slice(f, zero, two)\n t = Concat<axis = 0>(h, wider)\n"
        'p = Resize<mode = "linear">(s, , , t)',
        {"out": "N,3,10,3"},
    ),
    "resize some axes": (
        'p = Resize<mode = "nearest", axes = [2, 3]>(s, , , wider)',
        {"out": "N,3,10,3", "opset": 18},
    ),
    "resize keeping proportions": (
        'p = Resize<mode = "nearest", axes = [2, 3], keep_aspect_ratio_policy = "not_larger">(s, , , higher)',
        {"out": "N,3,10,12", "opset": 18},
    ),
    "crop and resize": (
        'p = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(s, roi, , cropped)',
        {"size": "2,4,5,6", "out": "2,3,4,3"},
    ),
}


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("name", list(PASSING))
def test_channels_pass_through(name: str, shift: float) -> None:
    text, options = PASSING[name]
    network = source(text, shift=shift, **options)
    if shift == 0 or name in ("topk", "slice backwards", "reverse"):
        result = narrowed(network)
        assert weight(result, "Conv", which=0).shape[0] == (4 if name == "local response" else 3)
        if "indices" not in name and "both" not in name:
            assert weight(result, "Conv", which=1).shape[1] == 3
    if name == "roi pool":  # which onnx's evaluator does not know
        for price in (None, 1e9):
            with adapters_cost(price):
                compiled(network)
    else:
        exact(network)


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("computed", [False, True])
def test_a_scale_may_have_the_axes_that_are_not_normalized(op: str, computed: bool) -> None:
    scale = "r = Relu(scale)\n" if computed else ""
    text = f"{scale} p = {op}<axis = 2>(s, {'r' if computed else 'scale'})"
    network = source(text, shift=0.7, opset=23, scale=random(1, 6, 5, 6, seed=2))
    exact(network)


def test_group_normalization_knows_groups_that_are_constant() -> None:
    network = model(
        "(float[N,4,5,6] x) => (float[N,3,5,6] y)"
        " <float[6,4,1,1] wa, float[1,6,1,1] keep = {1, 1, 0, 0, 1, 0}, "
        "float[6] scale = {1.0, 0.5, 1, 1, 2, 1}, float[6] bias, float[3,6,1,1] wb>",
        "a = Conv(x, wa)\n m = Mul(a, keep)\n g = GroupNormalization<num_groups = 3>(m, scale, bias)\n y = Conv(g, wb)",
        21,
    )
    assert weight(narrowed(network), "Conv", which=1).shape[1] == 4
    exact(network)


def test_mean_variance_normalization_of_single_channels() -> None:
    network = model(
        "(float[N,4,5,6] x) => (float[N,3,5,6] y)"
        " <float[6,4,1,1] wa, float[1,6,1,1] keep = {1, 1, 0, 1, 0, 1}, float[3,6,1,1] wb>",
        "a = Conv(x, wa)\n p = MeanVarianceNormalization<axes = [2, 3]>(a)\n m = Mul(p, keep)\n y = Conv(m, wb)",
    )
    assert weight(compiled(network), "Conv", which=0).shape[0] == 4
    exact(network)


def test_a_resize_of_a_pattern_by_a_whole_multiple() -> None:
    network = source(
        "d = Conv<group = 6, pads = [1,1,1,1]>(s, wd)\n r = Relu(d)\n p = Resize(r, , scales)",
        shift=0.7,
        wd=random(6, 1, 3, 3, seed=2),
        scales=np.asarray([1.0, 1, 2, 3]),
        out="N,3,10,18",
    )
    exact(network)


@pytest.mark.parametrize(
    "text",
    [
        "n = Size(s)\n c = Cast<to = 1>(n)\n q = Div(s, c)\n p = Relu(q)",
        "n = Size(s)\n u = Unsqueeze(n, zero)\n f = Reshape(s, rest)\n h = Shape(f)\n g = Equal(u, h)\n"
        "c = Cast<to = 1>(g)\n p = Mul(s, c)",
        "f = Shape(s)\n z = ConstantOfShape(f)\n p = Sub(s, z)",
        "f = Shape(s)\n e = Expand(half, f)\n p = Mul(s, e)",
        "f = Shape(s)\n e = Expand(ones, f)\n p = Mul(s, e)",
        "f = Shape(s)\n n = Gather<axis = 0>(f, unit)\n r = Range(nought, n, unit)\n c = Cast<to = 1>(r)\n"
        "v = Reshape(c, column)\n p = Mul(s, v)",
        "z = NonZero(s)\n f = Shape(z)\n c = Cast<to = 1>(f)\n t = ReduceSum<keepdims = 0>(c)\n p = Mul(s, t)",
        "f = Shape(s)\n t = Reshape(s, f)\n p = Relu(t)",
        "f = Shape(s)\n r = Reshape(s, rest)\n p = Reshape(r, f)",
        "f = Shape(s)\n c = Gather<axis = 0>(f, unit)\n u = Unsqueeze(c, zero)\n q = Slice(s, zero, u, one)\n"
        "p = Relu(q)",
        "f = Shape(s)\n t = Transpose<perm = [0,2,3,1]>(s)\n n = Gather<axis = 0>(f, zero)\n"
        "c = Gather<axis = 0>(f, one)\n"
        "l = Concat<axis = 0>(n, rest, c)\n r = Reshape(t, l)\n v = Transpose<perm = [0,2,1]>(r)\n p = Reshape(v, f)",
    ],
)
@pytest.mark.parametrize("batch", ["N", "2"])
def test_sizes_computed_at_run_time_count_what_was_removed(text: str, batch: str) -> None:
    network = source(text, size=f"{batch},4,H,W", out=f"{batch},3,H,W")
    if "NonZero" not in text:
        assert weight(narrowed(network), "Conv", which=0).shape[0] <= 4
    symbols = {"H": (5, 3), "W": (4,)} | ({"N": (1, 3)} if batch == "N" else {})
    exact(network, **symbols)


@pytest.mark.parametrize(
    "text",
    [
        "z = Softmax<axis = 3>(n)",
        "z = LogSoftmax<axis = -1>(n)",
        "z = ReduceSum<keepdims = 1>(n, both)",
        "z = ReduceL2<axes = [1, 3]>(n)",
        "z = ReduceMean<axes = [1, 2]>(n)",
        "z = ReduceMax<axes = [2, 3]>(n)",
        "z = ReduceLogSumExp<axes = [3]>(n)",
        "z = ReduceProd<axes = [2, 3]>(n)",
        "z = ReduceMin<axes = [1, 2, 3]>(n)",
        "q = Add(n, row)\n z = Softmax<axis = 3>(q)",
        "q = Add(n, row)\n z = ReduceMean<axes = [1, 3]>(q)",
        "q = Add(n, row)\n z = ReduceSumSquare<axes = [3]>(q)",
    ],
)
def test_what_is_constant_altogether_is_reduced_beforehand(text: str) -> None:
    network = source(f"k = Mul(s, none)\n n = Sigmoid(k)\n {text}\n p = Mul(z, s)")
    assert set(operators(compiled(network))) <= {"Conv", "Mul", "Pad", "Gather"}
    exact(network)


UNIT = {
    "clip": ("n = ReduceL2(m, axes)  d = Clip(n, least)  f = Shape(m)  e = Expand(d, f)  u = Div(m, e)", 18),
    "clip by attributes": ("n = ReduceL2<axes=[2]>(m)  d = Clip<min=0.001, max=8.0>(n)  u = Div(m, d)", 10),
    "euclidean": ("u = LpNormalization<axis=-1>(m)", 17),
    "absolute": ("u = LpNormalization<axis=2, p=1>(m)", 17),
}


@pytest.mark.parametrize("behind", ["u", "j"])
@pytest.mark.parametrize("name", list(UNIT))
def test_masked_channels_add_nothing_to_a_norm(name: str, behind: str) -> None:
    """And are zero behind it, also where all are; those that only a mask behind it hides are added."""
    text, opset = UNIT[name]
    network = model(
        "(float[N,T,4] x) => (float[N,T,3] y) <float[4,6] wa, float[6] k = {1, 0, 1, 1, 0, 1}, "
        "float[6] k2 = {1, 1, 0, 1, 0, 1}, float[6,3] wb>",
        f"a = MatMul(x, wa)  r = Relu(a)  m = Mul(r, k)  {text}  j = Mul(u, k2)  y = MatMul({behind}, wb)",
        opset,
        constants={"axes": np.asarray([2]), "least": np.asarray(1e-12, np.float32)},
    )
    result = compiled(network)
    assert weight(result, "MatMul").shape == (4, 4)
    assert weight(result, "MatMul", which=1).shape == (3 if behind == "j" else 4, 3)
    exact(network)
    zeros = {"x": np.zeros((2, 3, 4), np.float32)}
    assert_same_function(network, result.model, cases=[zeros])


@pytest.mark.parametrize(
    ("bounds", "options", "denied"),
    [
        ("c, least", {}, False),
        ("c, least, most", {"most": np.asarray(-1, np.float32)}, True),
        ("c, , least", {}, True),
        ("c, l", {}, True),
    ],
    ids=["lower", "crossed", "upper", "computed"],
)
def test_bounds_that_leave_out_zero(bounds: str, options: dict[str, Any], denied: bool) -> None:
    """Zero divided by what may be zero is not known."""
    network = model(
        "(float[N,4] x, float l) => (float[N,3] y) <float[4,6] wa, float[6] k = {1, 0, 1, 1, 0, 1}, float[6,3] wb>",
        f"a = MatMul(x, wa)  m = Mul(a, k)  c = Add(a, a)  d = Clip({bounds})  u = Div(m, d)  y = MatMul(u, wb)",
        constants={"least": np.asarray(0.5, np.float32)},
        **options,
    )
    known = analyse(prepared(network)).constant.get("u", {}).get(1)
    assert (known is None) == denied


MASKED = {
    "where": "m = Where(seen, a, least)",
    "where not": "u = Not(seen)  m = Where(u, least, a)",
    "added": "m = Add(a, infinite)",
    "subtracted from": "m = Sub(infinite, a)",
    "scaled after": "w = Where(seen, a, least)  m = Div(w, two)",
    "moved": "w = Where(seen, a, least)  u = Unsqueeze(w, axis)  m = Squeeze(u, axis)",
}


@pytest.mark.parametrize("out", ["y", "y, s"])
@pytest.mark.parametrize("name", list(MASKED))
def test_a_softmax_leaves_out_what_is_minus_infinity(name: str, out: str) -> None:
    """Neither what it is computed of, nor what it weighs."""
    seen = np.asarray([1, 0, 1, 1, 0, 1], bool)
    network = model(
        "(float[N,4] x) => (float[N,3] y" + (", float[N,6] s)" if out == "y, s" else ")"),
        f"a = MatMul(x, wa)  {MASKED[name]}  s = Softmax<axis = 1>(m)  e = MatMul(x, we)  f = Reshape(e, six)"
        "  t = Unsqueeze(s, last)  p = Mul(f, t)  y = ReduceSum<keepdims = 0>(p, axis)",
        constants={
            "seen": seen,
            "infinite": np.where(seen, 0, -np.inf).astype(np.float32),
            "least": np.asarray(-np.inf, np.float32),
            "two": np.asarray(2, np.float32),
            "axis": np.asarray([1]),
            "last": np.asarray([2]),
            "six": np.asarray([0, 6, 3]),
        },
        wa=(4, 6),
        we=(4, 18),
    )
    result = narrowed(network)
    assert weight(result, "MatMul").shape == (4, 4)
    assert weight(result, "MatMul", which=1).shape == (4, 12)
    exact(network)


@pytest.mark.parametrize("text", ["m = Mul(a, scale)", "m = Where(none, a, least)", "m = Add(a, infinite)"])
def test_what_overflows_or_is_all_there_is_stays(text: str) -> None:
    """Only numbers that are given as minus infinity are left out, and not where nothing else is."""
    network = model(
        "(float[N,4] x) => (float[N,3] y) <float[4,6] wa, float[6] k = {1, 0, 1, 1, 0, 1}, float[6,3] wb>",
        f"c = MatMul(x, wa)  b = Mul(c, k)  a = Add(b, shift)  {text}  s = Softmax(m)  y = MatMul(s, wb)",
        constants={
            "none": np.zeros(6, bool),
            "shift": np.asarray([0, -3e38, 0, 0, -3e38, 0], np.float32),
            "scale": np.asarray(1e4, np.float32),
            "least": np.asarray(-np.inf, np.float32),
            "infinite": np.asarray([0, np.inf, 0, 0, 0, 0], np.float32),
        },
    )
    assert "s" not in analyse(prepared(network)).constant


@pytest.mark.parametrize(
    ("trilu", "kept"),
    [
        ("Trilu(z)", 3),
        ("Trilu<upper=0>(z)", 3),
        ("Trilu(z, plus)", 3),
        ("Trilu<upper=0>(z, minus)", 3),
        ("Trilu(z, minus)", 6),
        ("Trilu<upper=0>(z, plus)", 6),
    ],
)
def test_half_of_a_matrix_with_fewer_rows_and_the_same_columns(trilu: str, kept: int) -> None:
    """Where more or less than a half is kept, it is told by the distance from the diagonal, which would change."""
    network = model(
        "(float[N,4] x) => (float[N,3] y) <float[4,48] wa, int64[3] split = {0, 6, 8}, "
        "float[6,1] k = {1, 0, 0, 1, 0, 1}, int64[2] flat = {0, 36}, float[36,3] wb>",
        f"a = MatMul(x, wa)  h = Reshape(a, split)  m = Mul(h, k)  t = Transpose<perm=[0,2,1]>(m)  z = MatMul(m, t)"
        f"  p = {trilu}  f = Reshape(p, flat)  y = MatMul(f, wb)",
        constants={"plus": np.asarray(1), "minus": np.asarray(-1)},
    )
    assert weight(compiled(network), "MatMul").shape[1] == kept * 8
    exact(network)


def test_half_of_a_matrix_with_fewer_columns_than_rows() -> None:
    network = model(
        "(float[N,6,4] x) => (float[N,6,3] y) <float[4,6] wa, float[6] k = {1, 0, 0, 1, 0, 1}, float[6,3] wb>",
        "a = MatMul(x, wa)  m = Mul(a, k)  p = Trilu(m)  y = MatMul(p, wb)",
    )
    assert weight(compiled(network), "MatMul").shape[1] == 6
    exact(network)
