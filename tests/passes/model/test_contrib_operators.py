"""Contrib operators: decompositions compute what the kernels of ONNX Runtime do, and channels around others go."""

import contextlib
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from passes import Shrunk, shrink
from passes.errors import GraphError
from passes.model.contrib_operators.decompose import DOMAIN, IN_STANDARD_DOMAIN, OPERATORS, missing_in_standard
from passes.model.graph_to_onnx import exported
from passes.ops import Op, base, register
from passes.ops.base import with_rules
from passes.sizes.prepare import checked
from tests.generators.running import Runner
from tests.marks import before_releases
from tests.passes import text
from tests.passes.model.contrib_forms import FORMS, Array, Form, floats, ones
from tests.passes.text import compiled

#: where not any will do
OPSETS = {"LayerNormalization": (13, 15), **dict.fromkeys(("QGemm", "QLinearSoftmax"), (13, 17, 20, 23))}
OPSETS |= dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), (13, 17, 21, 23))


def domain_of(op: str) -> str:
    return "" if op in IN_STANDARD_DOMAIN else "com.microsoft"


def model_of(op: str, form: Form, opset: int, domain: str | None = None) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The node alone; its first operand of more than one axis is an input with an open batch, the others are stored."""
    domain = domain_of(op) if domain is None else domain
    names = ["" if value is None else f"x{index}" for index, value in enumerate(form.inputs)]
    given = {name: value for name, value in zip(names, form.inputs, strict=True) if value is not None}
    data, first = next((name, value) for name, value in given.items() if value.ndim > 1)
    stored = [numpy_helper.from_array(value, name) for name, value in given.items() if name != data]
    outputs = [f"y{index}" if there else "" for index, there in enumerate(form.outputs)]
    operands = names[: names.index([*given][-1]) + 1]
    node = helper.make_node(op, operands, outputs, op.lower(), domain=domain, **form.attrs)
    element = helper.np_dtype_to_tensor_dtype(first.dtype)
    inputs = [helper.make_tensor_value_info(data, element, ["N", *first.shape[1:]])]
    results = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = helper.make_graph([node], "one", inputs, results, stored)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), {data: first}


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    return Runner(model, optimize=False)(feeds)


def decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    return exported(checked(model), model)


def foreign(model: onnx.ModelProto) -> set[str]:
    opset = model.opset_import[0].version
    return {n.op_type for n in model.graph.node if n.domain or missing_in_standard(n.domain, n.op_type, opset)}


def test_every_decomposition_is_tried() -> None:
    assert {*OPERATORS, *IN_STANDARD_DOMAIN} == {*FORMS, "PackedAttention"}  # which has no kernel for processors


@pytest.mark.parametrize("seeds", [range(0, 4, 3), pytest.param(range(60), marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize("op", sorted(FORMS))
def test_it_computes_what_the_kernel_does(op: str, seeds: range) -> None:
    for seed in seeds:
        form = FORMS[op](np.random.default_rng(seed))
        opsets = OPSETS.get(op, (12, 13, 17, 23))
        model, feeds = model_of(op, form, opsets[seed % len(opsets)])
        written = decomposed(model)
        assert not foreign(written), seed
        for expected, found in zip(run(model, feeds), run(written, feeds), strict=True):
            assert expected.dtype == found.dtype and expected.shape == found.shape
            np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-5, atol=form.step)
            if expected.dtype.kind in "iu":  # halfway between two, and only there
                assert (found != expected).mean() < 0.1, seed


UNCOVERED = {
    "operands of two types": (
        "SkipLayerNormalization",
        Form([ones(2, 3, 8), ones(2, 3, 8), ones(8), np.ones(8, np.int8)]),
    ),
    "an activation of another kind": ("FusedGemm", Form([ones(2, 4), ones(4, 4)], {"activation": "Mish"})),
    "statistics that are asked for": (
        "SkipLayerNormalization",
        Form([ones(2, 3, 8), ones(2, 3, 8), ones(8), ones(8)], {}, (True, True)),
    ),
    "queries turned by position": (
        "Attention",
        Form([ones(2, 3, 8), ones(8, 24), ones(24)], {"num_heads": 2, "do_rotary": 1}),
    ),
    "steps of 16 bits, in opset 10": ("QuantizeLinear", Form([ones(2, 3), ones(), np.array(7, np.uint16)])),
    "a scale for each column, in opset 12": (
        "QGemm",
        Form([np.ones((2, 5), np.int8), ones(), np.int8(0), np.ones((5, 5), np.int8), ones(5), np.zeros(5, np.int8)]),
    ),
}


@pytest.mark.parametrize(("op", "form"), UNCOVERED.values(), ids=list(UNCOVERED))
def test_what_is_not_covered_stays(op: str, form: Form) -> None:
    model, _ = model_of(op, form, {"QGemm": 12, "QuantizeLinear": 10}.get(op, 17))
    assert decomposed(model).graph.node == model.graph.node


@pytest.mark.parametrize("past", [False, True])
def test_a_mask_of_attention_may_say_how_many_keys_there_are(past: bool) -> None:
    more = (", float[2,N,2,4,4] before", ", before") if past else ("", "")
    source = text.model(
        f"(float[N,3,6] x, int32[N] keys{more[0]}) => (float[N,3,8] y) <float[6,24] w, float[24] b>",
        f"y, present = com.microsoft.Attention<num_heads=2>(x, w, b, keys{more[1]})",
    )
    rng = np.random.default_rng(0)
    feeds = {"x": floats(rng, 2, 3, 6), "keys": np.asarray([1, 3], np.int32), "before": floats(rng, 2, 2, 2, 4, 4)}
    given = {value.name: feeds[value.name] for value in source.graph.input}
    written = decomposed(source)
    assert not foreign(written)
    np.testing.assert_allclose(run(written, given)[0], run(source, given)[0], atol=1e-5)


def test_rules_of_a_users_own_come_first() -> None:
    model, _ = model_of("QuickGelu", Form([ones(2, 3)]), 17)
    try:
        register("QuickGelu", domain="com.microsoft")(type("Whole", (Op,), {}))
        assert foreign(decomposed(model)) == {"QuickGelu"}
    finally:
        base._RULES.pop(("com.microsoft", "QuickGelu"), None)
    assert not foreign(decomposed(model))


def test_those_in_a_subgraph_are_decomposed() -> None:
    branches = (
        f"{n}_branch = {n} () => (float[2,4] o{n}) {{ o{n} = com.microsoft.QuickGelu(x) }}" for n in ("then", "else")
    )
    model = text.model("(float[2,4] x, bool c) => (float[2,4] y)", f"y = If<{', '.join(branches)}>(c)")
    written = decomposed(model)
    onnx.checker.check_model(written, full_check=True)
    for attribute in written.graph.node[0].attribute:
        assert {n.op_type for n in attribute.g.node} == {"Mul", "Sigmoid"}
    feeds = {"x": floats(np.random.default_rng(0), 2, 4), "c": np.asarray(True)}
    np.testing.assert_allclose(run(written, feeds)[0], run(model, feeds)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("domain", "op", "attrs"),
    [("com.microsoft.nchwc", "Conv", {}), ("com.microsoft", "NhwcMaxPool", {"kernel_shape": [2, 2]})],
)
def test_a_layout_for_one_machine_is_refused(domain: str, op: str, attrs: dict[str, Any]) -> None:
    model, _ = model_of(op, Form([ones(1, 4, 4, 4)], attrs), 17, domain)
    with pytest.raises(GraphError, match=f"is {domain}.{op}. Compile the file that this was made from"):
        checked(model)


@pytest.mark.parametrize(("op", "layer"), [("FusedConv", "Conv"), ("FusedGemm", "Gemm"), ("FusedMatMul", "MatMul")])
def test_a_layer_keeps_its_name(op: str, layer: str) -> None:
    model, _ = model_of(op, FORMS[op](np.random.default_rng(0)), 17)
    assert [n.op_type for n in decomposed(model).graph.node if n.name == model.graph.node[0].name] == [layer]


# -- operators that stay ---------------------------------------------------------------------------------------------


def widths(result: Shrunk) -> set[tuple[int, ...]]:
    return {tuple(t.dims) for t in result.model.graph.initializer}


@pytest.mark.parametrize("opset", [17, 21])
def test_channels_between_steps_of_16_bits_go(opset: int) -> None:
    """As ONNX Runtime quantises with `UseQDQContribOps`, and by itself where the standard has them in later opsets."""
    weight = np.random.default_rng(0).integers(-99, 99, (6, 8)).astype(np.int8)
    weight[:, ::2] = 0
    source = text.model(
        "(float[N,6] x) => (float[N,3] y) <float[8,3] w2>",
        "w = com.microsoft.DequantizeLinear(b, s, z) h = MatMul(x, w) q = com.microsoft.QuantizeLinear(h, s, z16)\n"
        "f = com.microsoft.DequantizeLinear(q, s, z16) y = MatMul(f, w2)",
        opset,
        ir=10,
        b=weight,
        s=np.asarray(0.02, np.float32),
        z=np.asarray(0, np.int8),
        z16=np.asarray(32768, np.uint16),
    )
    result = compiled(source)
    assert (6, 4) in widths(result) and (4, 3) in widths(result)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("bias", ["c", ""])
def test_rows_of_a_weight_in_blocks_go(bits: int, flat: bool, bias: str) -> None:
    """Masked columns of the product are not computed, and the layer after it reads only the others."""
    rng = np.random.default_rng(0)
    scales, zeros = floats(rng, 6, 2), rng.integers(0, 255, (6, -(-2 * bits // 8))).astype(np.uint8)
    source = text.model(
        "(float[N,5,32] x) => (float[N,5,3] y) <float[6,3] w, float[6] c, float[6] m = {0, 1, 0, 1, 0, 1}>",
        f"h = com.microsoft.MatMulNBits<K=32, N=6, bits={bits}, block_size=16>(x, b, s, z, , {bias})\n"
        "g = Mul(h, m)\n y = MatMul(g, w)",
        b=rng.integers(0, 255, (6, 2, 2 * bits)).astype(np.uint8),
        s=scales.reshape(-1) if flat else scales,
        z=zeros.reshape(-1) if flat else zeros,
    )
    result = compiled(source)
    assert (3, 2, 2 * bits) in widths(result) and (3, 3) in widths(result)
    assert result.report.after.macs * 2 == result.report.before.macs


@pytest.mark.parametrize(
    ("bits", "zeros"), [(2, "packed"), (2, ""), (4, "packed"), (4, "floats"), (4, ""), (8, "packed"), (8, "")]
)
@pytest.mark.parametrize("masked", ["block", "half", "few", "half in bytes"])
def test_columns_of_a_weight_in_blocks_go(bits: int, zeros: str, masked: str) -> None:
    """Whole blocks go from the operator; across blocks it is a product with a weight of as few bits, if half goes."""
    rng = np.random.default_rng(0)
    keep = np.isin(np.arange(72), np.arange(16, 48), invert=True) if masked == "block" else np.arange(72) % 2 == 1
    keep = np.arange(72) > 3 if masked == "few" else keep
    points = rng.integers(0, 255, (6, -(-5 * bits // 8))).astype(np.uint8)
    source = text.model(
        "(float[N,5,72] x) => (float[N,5,3] y)"
        " <float[6,3] w, float[6] c, float[30] s, float[6] m = {0, 1, 0, 1, 0, 1}>",
        f"""a = Mul(x, k) h = com.microsoft.MatMulNBits<K=72, N=6, bits={bits}, block_size=16,
            accuracy_level={4 if "bytes" in masked else 0}>(a, b, s, {"z" if zeros else ""}, , c)
        g = Mul(h, m) y = MatMul(g, w)""",
        opset=21,
        ir=10,
        b=rng.integers(0, 255, (6, 5, 2 * bits)).astype(np.uint8),
        k=keep.astype(np.float32),
        constants={"z": points if zeros == "packed" else floats(rng, 6, 5)},
    )
    result = compiled(source)
    expected = {"block": (3, 3, 2 * bits), "half": (36, 3)}.get(masked, (3, 5, 2 * bits))
    assert expected in widths(result) and (masked == "half") == ("MatMulNBits" not in text.operators(result))
    reason = "reads its data in blocks of 16 channels, of which all go or none"
    assert {held.reason for held in result.report.held} == (set() if masked in ("block", "half") else {reason})


@pytest.mark.parametrize(
    ("bits", "zeros"), [(2, "packed"), (2, ""), (4, "packed"), (4, "floats"), (4, ""), (8, "packed"), (8, "")]
)
def test_rows_of_zeros_in_blocks_go(bits: int, zeros: str) -> None:
    """As a quantiser packs what training drove to zero: a scale of zero, or zero points alone."""
    rng = np.random.default_rng(0)
    points, steps = rng.integers(0, 1 << bits, (6, 2)), rng.integers(0, 1 << bits, (6, 2, 16))
    scales = floats(rng, 6, 2)
    steps[::2] = points[::2, :, None] if zeros == "packed" else 1 << bits - 1
    scales[2] = 0
    if zeros == "floats":
        scales[::2] = 0

    def packed(numbers: Array) -> Array:
        filled = np.pad(numbers, (*[(0, 0)] * (numbers.ndim - 1), (0, -numbers.shape[-1] % (8 // bits))))
        parts = filled.reshape(*numbers.shape[:-1], -1, 8 // bits)
        return (parts << np.arange(0, 8, bits)).sum(axis=-1).astype(np.uint8)

    source = text.model(
        "(float[N,5,32] x) => (float[N,5,3] y) <float[6,3] w, float[6] c>",
        f"""h = com.microsoft.MatMulNBits<K=32, N=6, bits={bits}, block_size=16>(x, b, s, {"z" if zeros else ""}, , c)
        g = Relu(h) y = MatMul(g, w)""",
        b=packed(steps),
        s=scales,
        constants={"z": packed(points) if zeros == "packed" else floats(rng, 6, 2)},
    )
    result = compiled(source)
    assert (3, 2, 2 * bits) in widths(result) and (3, 3) in widths(result)


@pytest.mark.parametrize(("bits", "apart"), [(2, False), (4, True), (8, True)])
def test_columns_across_blocks_stay_where_tensors_have_no_such_numbers(bits: int, apart: bool) -> None:
    """Two bits would become eight. The rows of the layer go, whatever becomes of its columns."""
    rng = np.random.default_rng(0)
    source = text.model(
        "(float[N,5,6] x) => (float[N,5,3] y) <float[6,64] w, float[6,3] w2, float[6] m = {0, 1, 0, 1, 0, 1}>",
        f"""g = MatMul(x, w) a = Mul(g, k) h = com.microsoft.MatMulNBits<K=64, N=6, bits={bits}, block_size=16>(a, b, s)
        n = Mul(h, m) y = MatMul(n, w2)""",
        17,
        b=rng.integers(0, 255, (6, 4, 2 * bits)).astype(np.uint8),
        s=floats(rng, 24),
        k=(np.arange(64) % 2).astype(np.float32),
    )
    result = compiled(source)
    assert ("MatMulNBits" not in text.operators(result)) == apart
    assert result.report.after.macs < result.report.before.macs
    assert result.model.ByteSize() < source.ByteSize()


BLOCKS: dict[str, Any] = {"attributes": "K=32, N=6, bits=4, block_size=16", "b": (6, 2, 8), "s": (12,), "z": (6, 1)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"attributes": "K=32, N=6, bits=3, block_size=16"},
        {"attributes": 'K="a", N=6, block_size=16'},
        {"attributes": "K=32, N=6, block_size=0"},
        {"attributes": "K=32, N=12, block_size=16"},
        {"attributes": "K=32, N=6, block_size=8"},
        {"b": (6,)},
        {"s": ()},
        {"z": (5,)},
    ],
)
def test_blocks_that_do_not_fit_the_weight_stay_as_they_are(wrong: dict[str, Any]) -> None:
    """The model does not run, which is for ONNX Runtime to say."""
    form = BLOCKS | wrong
    body = f"a = Mul(x, k) h = com.microsoft.MatMulNBits<{form['attributes']}>(a, b, s, z) g = Mul(h, m) y = Relu(g)"
    packed = {name: np.ones(form[name], np.uint8) for name in "bz"}
    keep = (np.arange(32) % 2).astype(np.float32)
    scales = np.ones(form["s"], np.float32)
    signature = "(float[N,32] x) => (float[A,B] y)"
    source = text.model(signature, body, checked=False, s=scales, k=keep, m=np.eye(6, dtype=np.float32)[1], **packed)
    assert "MatMulNBits" in text.operators(shrink(source))


def test_packed_attention_without_the_places_of_tokens_stays() -> None:
    body = "h = com.microsoft.PackedMultiHeadAttention<num_heads=2>(x) y = Relu(h)"
    source = text.model("(float[N,2,3,4] x) => (float[A,B] y)", body, checked=False)
    assert "PackedMultiHeadAttention" in text.operators(shrink(source))


def test_channels_after_grouped_attention_go() -> None:
    source = text.model(
        "(float[1,5,6] x) => (float[1,5,3] y) <float[6,32] q, float[6,16] k, float[6,16] v, float[32,6] w,"
        " float[6,3] o, int32[1] lengths = {4}, int32 total = {5}, float[6] m = {0, 1, 0, 1, 0, 1}>",
        "queries = MatMul(x, q)\n keys = MatMul(x, k)\n values = MatMul(x, v)\n"
        "a, pk, pv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
        "(queries, keys, values, , , lengths, total)\n h = MatMul(a, w)\n g = Mul(h, m)\n y = MatMul(g, o)",
    )
    assert {(32, 3), (3, 3)} <= widths(compiled(source))


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_go_through_a_rotation(heads: int) -> None:
    """Of a tensor [batch, heads, tokens, channels], whether or not the number of heads is written down."""
    angles = np.random.default_rng(0).uniform(0, 3, (9, 4))
    source = text.model(
        "(float[2,5,6] x) => (float[2,5,3] y) <float[6,32] w, float[32,3] o, float[4,1,1] m = {0, 1, 0, 1},"
        " int64[4] shape = {0, 0, 4, 8}, int64[3] merged = {0, 0, 32}, int64[2,5] at = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4}>",
        "f = MatMul(x, w)\n h = Reshape(f, shape)\n t = Transpose<perm=[0,2,1,3]>(h)\n g = Mul(t, m)\n"
        f"r = com.microsoft.RotaryEmbedding<num_heads={heads}>(g, at, cos, sin)\n"
        "b = Transpose<perm=[0,2,1,3]>(r)\n n = Reshape(b, merged)\n y = MatMul(n, o)",
        cos=np.cos(angles),
        sin=np.sin(angles),
    )
    assert (6, 16) in widths(compiled(source))


# -- operators of any form -------------------------------------------------------------------------------------------

ALL = sorted({*OPERATORS, *with_rules(DOMAIN), *IN_STANDARD_DOMAIN})


@pytest.mark.parametrize("op", ALL)
def test_operators_without_operands_or_attributes_end_in_no_raw_error(op: str) -> None:
    name = ".".join(filter(None, (domain_of(op), op)))
    for operands in range(10):
        body = f"y = {name}({', '.join(['x'] * operands)})"
        with contextlib.suppress(GraphError):
            shrink(text.model("(float[n,4] x) => (float[n,4] y)", body, 13, checked=False))


ATTRIBUTES: dict[str, list[Any]] = {
    "num_heads": [0, 1, 2, -1],
    "kv_num_heads": [0, 1, 2],
    "K": [0, 4],
    "N": [0, 4],
    "axis": [-1, 7],
    "opset": [11, 13],
    "alpha": [2.0],
    "transA": [1],
    "transBatchA": [1],
    "activation": ["Relu", "Clip", "none"],
    "activation_params": [[1.0], [0.0, 1.0]],
    "qkv_hidden_sizes": [[2, 2, 2], [1], [0, 0, 0]],
}
SHAPES: list[list[int | str]] = [[], [1], [4], ["n", 4], [2, 3, 4], ["n", 3, 12], [12], [4, 12], [1, 2, 3, 3], [0, 4]]


@pytest.mark.parametrize("seed", [*range(3), *before_releases(*range(3, 10))])
def test_operators_of_any_form_end_in_no_raw_error(seed: int) -> None:
    """Nobody has checked them before: operands, types, shapes and attributes at random."""
    rng = Random(seed)
    for op in ALL:
        inputs, stored = [], [numpy_helper.from_array(text.drawn("w", 4, 2), "w")]
        names = [f"i{index}" if rng.random() > 0.1 else "" for index in range(rng.randrange(10))]
        for name in filter(None, names):
            shape, kind = rng.choice(SHAPES), rng.choice([np.float32] * 4 + [np.uint8, np.int32, np.float16])
            if rng.random() < 0.5:
                values = text.drawn(name, *(3 if d == "n" else int(d) for d in shape))
                stored.append(numpy_helper.from_array(np.asarray(values * 3).astype(kind), name))
            else:
                element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
                inputs.append(helper.make_tensor_value_info(name, element, shape))
        attributes = {name: rng.choice(values) for name, values in ATTRIBUTES.items() if rng.random() < 0.3}
        outputs = [f"o{index}" for index in range(rng.choice([1, 1, 2, 4]))]
        nodes = [
            helper.make_node(op, names, outputs, domain=domain_of(op), **attributes),
            helper.make_node("Relu", [outputs[0]], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ]
        graph = helper.make_graph(nodes, "any", inputs, [helper.make_tensor_value_info("y", 1, None)], stored)
        imports = [helper.make_opsetid("", rng.choice([11, 13, 17, 21])), helper.make_opsetid("com.microsoft", 1)]
        with contextlib.suppress(GraphError):
            shrink(helper.make_model(graph, opset_imports=imports))
