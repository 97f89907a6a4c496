"""Whatever form a model comes in: opsets, element types, inputs with defaults, functions, tied weights, sizes."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from passes import count, shrink
from passes.model.local_functions import inline
from tests.double_precision.evaluator import Evaluator
from tests.generators.builder import Network
from tests.generators.check import adapters_cost, check
from tests.maskc import build
from tests.passes.text import compiled, in_type, model, random, weight

KEEP = np.array([1, 0, 1, 1, 0, 1, 0, 1], np.float32)
SMALL = "(float[N,4] x) => (float[N,3] y)"


def two_layers() -> onnx.ModelProto:
    """x -> W -> mask -> V -> y."""
    return model(f"{SMALL} <float[4,8] w, float[8,3] v>", "h = MatMul(x, w) m = Mul(h, k) y = MatMul(m, v)", k=KEEP)


# -- inputs with defaults ----------------------------------------------------------------------------------------


def listed(source: onnx.ModelProto, *names: str, ir: int = 8) -> onnx.ModelProto:
    """The model with these initializers among its inputs."""
    for tensor in source.graph.initializer:
        if tensor.name in names:
            source.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    source.ir_version = ir
    return source


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_weights_that_are_all_listed_as_inputs_are_constants(ir: int) -> None:
    """As older exporters do, whatever IR version they write."""
    source = listed(two_layers(), "w", "k", "v", ir=ir)
    result = compiled(source)
    assert [i.name for i in result.model.graph.input] == ["x"]
    assert weight(result, "MatMul").shape == (4, 5)
    assert bool(result.report.notes) == (ir >= 4)


def test_a_default_stays_one() -> None:
    """A few small ones among many that are not listed are meant to be given by the caller."""
    source = listed(
        model(
            f"{SMALL} <float[4,8] w, float[8,3] v>",
            "h = MatMul(x, w) s = Mul(h, t) m = Mul(s, k) y = MatMul(m, v)",
            t=np.full(8, 2.0),
            k=KEEP,
        ),
        "t",
    )
    result = compiled(source)
    assert [i.name for i in result.model.graph.input] == ["x", "t"]
    assert weight(result, "MatMul").shape == (4, 5)
    feeds = {"x": random(2, 4), "t": random(8, seed=5)}
    a, b = (build.run(m, **feeds)["y"] for m in (source, result.model))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    default = {t.name: t for t in result.model.graph.initializer}["t"]
    assert np.array_equal(numpy_helper.to_array(default), np.full(8, 2.0))
    assert not result.report.notes


def test_a_mask_that_the_caller_may_override_masks_nothing() -> None:
    result = compiled(listed(two_layers(), "k"))
    assert [i.name for i in result.model.graph.input] == ["x", "k"]
    assert weight(result, "MatMul").shape == (4, 8)


def test_what_is_counted_is_what_the_file_says() -> None:
    """Of what is left most are defaults, so whoever reads the file takes them to be weights."""
    keep = np.zeros(8, np.float32)
    keep[0] = 1
    text = "s = Mul(x, t) h = MatMul(s, w) m = Mul(h, k) o = MatMul(m, v) y = Mul(o, u)"
    weights = "<float[4] t, float[4,8] w, float[8,3] v, float[3] u>"
    result = compiled(listed(model(f"{SMALL} {weights}", text, k=keep), "t", "u"))
    assert [i.name for i in result.model.graph.input] == ["x", "t", "u"]
    assert result.report.after == count(result.model)


# -- element types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_element_types(dtype: Any, shift: float, capfd: pytest.CaptureFixture[str]) -> None:
    """Weights stay in their type; what they compute is compared by the reference evaluator where need be."""
    text = "h = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(h) m = Mul(r, k) a = Add(m, c) y = Conv(a, v)"
    signature = "(float[N,3,6,6] x) => (float[N,3,6,6] y) <float[8,3,3,3] w, float[8] b, float[3,8,1,1] v>"
    values = {"k": KEEP.reshape(8, 1, 1), "c": ((1 - KEEP) * shift).reshape(8, 1, 1)}
    source = in_type(model(signature, text, 22, **values), dtype)
    result = shrink(source)
    assert capfd.readouterr() == ("", "")
    assert weight(result, "Conv").shape == (5, 3, 3, 3)
    assert {weight(result, "Conv", i, which=j).dtype for i in (0, 1) if i for j in (0, 1)} == {np.dtype(dtype)}
    x = random(2, 3, 6, 6).astype(dtype)
    a, b = (Evaluator(m)({"x": x})[0].astype(np.float64) for m in (source, result.model))
    tolerance = {"float16": 5e-3, "float64": 1e-12, "bfloat16": 4e-2}[np.dtype(dtype).name]
    assert np.abs(a - b).max() <= tolerance * np.abs(a).max()
    onnx.checker.check_model(result.model, full_check=True)


def test_bfloat16_weights_behind_a_cast() -> None:
    """How ONNX Runtime's CPU runs them."""
    source = model(
        f"{SMALL} <float[8,3] v>",
        "f = Cast<to = 1>(w) h = MatMul(x, f) m = Mul(h, k) y = MatMul(m, v)",
        checked=False,
        k=KEEP,
        w=random(4, 8).astype(ml_dtypes.bfloat16),
    )
    result = check(source)
    assert weight(result, "MatMul", which=-1).shape == (5, 3)


# -- tied weights ----------------------------------------------------------------------------------------------------


def test_embedding_shared_with_the_output() -> None:
    """The table is read by rows and, transposed, as a matrix: each with its own channels, and stored once."""
    table = random(50, 8)
    source = model(
        "(int64[N,T] x) => (float[N,T,50] y) <float[8,8] w>",
        """e = Gather(table, x) m = Mul(e, k) h = MatMul(m, w) n = Mul(h, l) r = Relu(n)
        t = Transpose<perm = [1, 0]>(table) y = MatMul(r, t)""",
        17,
        table=table,
        k=KEEP,
        l=np.roll(KEEP, 3),
    )
    result = check(Network(source, ranges={"x": (0, 50)}))
    assert result.report.after.flops < result.report.before.flops
    assert weight(result, "MatMul").shape == (5, 5)
    assert result.model.ByteSize() <= source.ByteSize() + 1500


def test_tied_layers_with_different_masks() -> None:
    source = model(
        "(float[N,40] x) => (float[N,40] y) <float[40,40] w>",
        "a = Mul(x, k) b = MatMul(a, w) c = Relu(b) d = Mul(c, l) e = MatMul(d, w) f = Relu(e) y = MatMul(f, w)",
        17,
        k=(np.arange(40) % 2).astype(np.float32),
        l=(np.arange(40) % 3 > 0).astype(np.float32),
    )
    result = compiled(source)
    assert result.model.ByteSize() <= source.ByteSize() + 1500
    assert result.report.after.macs <= 40 * (20 * 27 / 40 + 27 + 40) + 1


# -- functions, subgraphs, names ---------------------------------------------------------------------------------


def with_function(body: str) -> onnx.ModelProto:
    source = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        main {SMALL} {{ h = MatMul(x, w) {body} y = MatMul(m, v) }}
        <domain: "local", opset_import: ["" : 18]> Gate (a, b) => (c) {{ s = Sigmoid(a) c = Mul(s, b) }}
        <domain: "local", opset_import: ["" : 18, "local" : 1]> Twice (a, b) => (c) {{
            d = local.Gate(a, b) c = local.Gate(d, b) }}"""
    )
    for name, values in {"w": random(4, 8), "k": KEEP, "v": random(8, 3)}.items():
        source.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(source, full_check=True)
    return source


@pytest.mark.parametrize("body", ["m = local.Gate(h, k)", "m = local.Twice(h, k)"])
def test_functions_are_looked_into(body: str) -> None:
    result = check(with_function(body))
    assert weight(result, "MatMul").shape == (4, 5)


BRANCHES = """(float[N,400] x, bool q) => (float[N,3] y) <float[400,8] w, float[8,8] u, float[8,3] v> {
    h = MatMul(x, w) m = Mul(h, k) i = MatMul(m, u) n = Mul(i, k) j = Add(n, c)
    b = If (q) <then_branch = yes () => (float[N,8] t) { t = Relu(j) },
                else_branch = no () => (float[N,8] e) { e = Mul(j, k) }>
    y = MatMul(b, v)
}"""


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_branch_that_reads_masked_channels(shift: float) -> None:
    """The branches see the tensor whole: adapters restore constants at their input where that costs less."""
    source = model(BRANCHES, None, k=KEEP, c=(1 - KEEP) * shift)
    result = check(source)
    assert weight(result, "MatMul").shape == (400, 5)
    with adapters_cost(0.0):
        result = check(source)
    assert weight(result, "MatMul", which=1).shape == (5, 5)


def test_unnamed_nodes_constant_nodes_and_unknown_sizes() -> None:
    source = two_layers()
    for tensor in source.graph.initializer:
        source.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del source.graph.initializer[:]
    for info in (*source.graph.input, *source.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    result = shrink(source)
    assert weight(result, "MatMul").shape == (4, 5)
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -1


# -- opsets ------------------------------------------------------------------------------------------------------


NEWEST = onnx.defs.onnx_opset_version()
OPSETS = [v for v in range(9, NEWEST + 1) if v <= 26]


@pytest.mark.parametrize("opset", OPSETS)
def test_operators_whose_signature_changed(opset: int) -> None:
    """One network through them all, in the form that each opset has."""
    new = opset >= 13
    lines = [
        "h = Conv<pads = [1,1,1,1]>(x, w)",
        "n = BatchNormalization(h, s, b, mean, var)",
        "c = Clip(n, low, high)" if opset >= 11 else "c = Clip<min = -0.5, max = 2.0>(n)",
        "d = Dropout(c)",
        "m = Mul(d, k)",
        "p = Pad(m, pads)" if opset >= 11 else "p = Pad<pads = [0,0,0,0,0,0,1,1]>(m)",
        "sl = Slice(p, starts, ends, axes23)"
        if opset >= 10
        else "sl = Slice<starts = [0, 0], ends = [6, 6], axes = [2, 3]>(p)",
        "s1, s2 = Split<axis = 1>(sl, parts)" if new else "s1, s2 = Split<axis = 1, split = [5, 3]>(sl)",
        "cat = Concat<axis = 1>(s2, s1)",
        'up = Resize<mode = "nearest">(cat, roi, scales)'
        if opset >= 11
        else 'up = Resize<mode = "nearest">(cat, scales)'
        if opset == 10
        else 'up = Upsample<mode = "nearest">(cat, scales)',
        "g = Conv(up, v)",
        "rs = ReduceSum(g, axes23)" if new else "rs = ReduceSum<axes = [2, 3]>(g)",
        "sq = Squeeze(rs, axes23)" if new else "sq = Squeeze<axes = [2, 3]>(rs)",
        "un = Unsqueeze(sq, axis1)" if new else "un = Unsqueeze<axes = [1]>(sq)",
        "sm = Softmax<axis = -1>(un)",
        "q = QuantizeLinear(sm, step, zero)" if opset >= 10 else "q = Identity(sm)",
        "dq = DequantizeLinear(q, step, zero)" if opset >= 10 else "dq = Identity(q)",
        "rm = ReduceMean(dq, axis1)" if opset >= 18 else "rm = ReduceMean<axes = [1]>(dq)",
        "y = Identity(rm)",
    ]
    constants: dict[str, Any] = {"s": random(8, seed=1) + 1.5, "var": random(8, seed=4) ** 2 + 0.5}
    constants |= {"step": np.float32(0.01), "zero": np.uint8(3), "low": np.float32(-0.5), "high": np.float32(2)}
    constants |= {"roi": np.zeros(0), "scales": np.array([1.0, 1, 2, 2]), "k": KEEP.reshape(8, 1, 1)}
    constants |= {"starts": [0, 0], "ends": [6, 6], "axes23": [2, 3], "axis1": [1], "parts": [5, 3]}
    constants |= {"pads": [0, 0, 0, 0, 0, 0, 1, 1]}
    signature = "(float[N,3,6,6] x) => (float[N,1,4] y) <float[8,3,3,3] w, float[8] b, float[8] mean, float[4,8,1,1] v>"
    source = model(signature, "\n".join(lines), checked=False, constants=constants)
    source.opset_import[0].version = opset
    source.ir_version = onnx.helper.find_min_ir_version_for(source.opset_import)
    onnx.checker.check_model(source, full_check=True)
    result = shrink(source) if opset > MOST_OF_ONNX_RUNTIME else check(Network(source, sharp=False))
    assert weight(result, "Conv").shape == (5, 3, 3, 3)
    assert weight(result, "Conv", which=1).shape == (4, 5, 1, 1)


#: the newest opset that ONNX Runtime 1.31 reads
MOST_OF_ONNX_RUNTIME = 24


@pytest.mark.parametrize("opset", [15, 19, 21])
def test_cast_like(opset: int) -> None:
    source = model(
        "(float[N,4] x, float16[1] z) => (float16[N,3] y) <float[4,8] w>",
        "h = MatMul(x, w) m = Mul(h, k) c = CastLike(m, z) y = MatMul(c, v)",
        opset,
        k=KEEP,
        v=random(8, 3).astype(np.float16),
    )
    assert weight(compiled(source), "MatMul").shape == (4, 5)


def test_cast_like_a_constant_of_another_shape() -> None:
    """Its elements are no part of the result, however many they are."""
    source = model(
        "(float[N,4] x) => (float[N,3] y) <float[4,8] w, float[3,2,4] other, float[8,3] v>",
        "h = MatMul(x, w) m = Mul(h, k) z = Mul(k, none) c = CastLike(z, other) d = Add(m, c) y = MatMul(d, v)",
        k=KEEP,
        none=np.zeros(8),
    )
    assert weight(compiled(source), "MatMul").shape == (4, 5)


def calling(opset: int, own: int, body: str, more: str = "") -> onnx.ModelProto:
    """A product, a local function F of its own opset that keeps the shape, a mask and another product."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}, "local": 1]>
        g (float[N,4] x) => (float[N,3] y) <float[4,6] u = {{{", ".join(map(str, np.arange(24) % 7 - 3.0))}}},
            float[6] k = {{1, 0, 1, 1, 0, 1}}, float[6,3] v = {{{", ".join(map(str, np.arange(18) % 5 - 2.0))}}}>
        {{ a = MatMul(x, u) f = local.F(a) m = Mul(f, k) y = MatMul(m, v) }}
        <opset_import: ["": {own}, "local": 1], domain: "local">
        F (a) => (r) {{ {body} }} {more}"""
    )


INNER = '<opset_import: ["": 16], domain: "local"> G (b) => (s) { s = Relu(b) }'
BODIES = {
    "a constant": "c = Constant <value = float {0.5}> () b = Mul(a, c) r = Relu(b)",
    "a branch": "q = Constant <value = bool {1}> () r = If (q) <then_branch = t () => (float[N,6] s) { s = Relu(a) }, "
    "else_branch = e () => (float[N,6] o) { o = Neg(a) }>",
    "the last axis": "r = Softmax <axis = -1> (a)",
    "a function": "b = Neg(a) r = local.G(b)",
}


@pytest.mark.parametrize(("opset", "own"), [(18, 17), (17, 18), (18, 12), (12, 18), (21, 13)])
@pytest.mark.parametrize("body", BODIES)
def test_nodes_that_mean_the_same_in_both(body: str, opset: int, own: int) -> None:
    source = calling(opset, own, BODIES[body], INNER)
    result = shrink(source)
    assert not result.model.functions and result.report.after.macs < result.report.before.macs
    before, after = (build.run(m, x=random(5, 4))["y"] for m in (source, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", ["local.G(a)", "local.G <slope = 0.25> (a)", "local.F(a)"])
def test_attributes_that_functions_have_defaults_for(call: str) -> None:
    """Of the function that is called, or of one that it calls, in a branch as well."""
    source = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17, "local": 1]> g (float[N,4] x) => (float[N,3] y)
        <float[6] k = {{1, 0, 1, 1, 0, 1}}> {{ a = MatMul(x, u) f = {call} m = Mul(f, k) y = MatMul(m, v) }}
        <opset_import: ["": 17], domain: "local"> G <slope: float = 0.5, kept: int = 1> (b) => (s) {{
            q = Constant <value_int = @kept> () c = Cast <to = 9> (q)
            s = If (c) <then_branch = t () => (float[N,6] l) {{ l = LeakyRelu <alpha: float = @slope> (b) }},
                        else_branch = e () => (float[N,6] o) {{ o = Neg(b) }}> }}
        <opset_import: ["": 17, "local": 1], domain: "local"> F (a) => (r) {{ r = local.G(a) }}"""
    )
    source.graph.initializer.extend(
        [numpy_helper.from_array(random(4, 6), "u"), numpy_helper.from_array(random(6, 3), "v")]
    )
    before, after = (build.run(m, x=random(5, 4))["y"] for m in (source, shrink(source).model))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_nodes_that_only_their_own_opset_has_are_converted() -> None:
    """ONNX Runtime refuses them: by the standard they mean what they say."""
    inside = inline(calling(18, 12, "s = ReduceSum <axes = [1], keepdims = 1> (a) r = Sub(a, s)"))
    x = np.ones((2, 4), np.float32)
    y = build.run(inside, x=x)["y"]
    product = x @ (np.arange(24).reshape(4, 6) % 7 - 3)
    masked = (product - product.sum(axis=1, keepdims=True)) * [1, 0, 1, 1, 0, 1]
    np.testing.assert_allclose(y, masked @ (np.arange(18).reshape(6, 3) % 5 - 2), rtol=1e-5)


def test_nodes_that_mean_two_things_are_refused() -> None:
    """ONNX Runtime takes them by the opset of the model, the standard by that of the function."""
    with pytest.raises(ValueError, match=r"`F` imports opset 12, in which its node .*Softmax"):
        inline(calling(18, 12, "r = Softmax <axis = 0> (a)"))
