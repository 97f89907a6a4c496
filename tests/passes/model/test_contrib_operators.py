"""Contrib operators: decompositions compute what the kernels of ONNX Runtime do, and channels around others go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from passes import Shrunk, shrink
from passes.errors import GraphError
from passes.model.contrib_operators.decompose import IN_STANDARD_DOMAIN, OPERATORS, missing_in_standard
from passes.model.contrib_operators.output_shapes import OUTPUT_SHAPES
from passes.model.graph_to_onnx import exported
from passes.ops import Op, base, register
from passes.sizes.prepare import checked
from tests.passes import text
from tests.passes.text import compiled

Array = np.ndarray[Any, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Form:
    """One node: its operands (None: left out), attributes, and which outputs it has.

    `step`: how far a result may be off, as integers may where they are halfway between two.
    """

    inputs: Sequence[Array | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[bool] = (True,)
    step: float = 1e-5


def floats(rng: Rng, *shape: int) -> Array:
    return rng.normal(size=shape).astype(np.float32)


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def maybe(rng: Rng, value: Array) -> Array | None:
    return value if rng.random() < 0.5 else None


def flag(rng: Rng) -> int:
    return int(rng.integers(2))


# -- convolutions and products ---------------------------------------------------------------------------------------

CONV = {"Clip": [-0.5, 0.7], "HardSigmoid": [0.3, 0.4], "LeakyRelu": [0.1], "Relu": [], "Sigmoid": [], "Tanh": []}
GEMM = {
    "Elu": {"activation_alpha": 0.6},
    "HardSigmoid": {"activation_alpha": 0.3, "activation_beta": 0.4},
    "LeakyRelu": {"activation_alpha": 0.1},
    "Relu": {},
    "Sigmoid": {},
    "Softplus": {},
    "Softsign": {},
    "Tanh": {},
}


def fused_conv(rng: Rng) -> Form:
    kind = str(rng.choice(list(CONV)))
    group, pad = int(rng.choice([1, 2])), flag(rng)
    attrs: dict[str, Any] = {"activation": kind, "group": group, "pads": [pad] * 4, "strides": [1 + flag(rng)] * 2}
    if CONV[kind]:
        attrs["activation_params"] = CONV[kind]
    bias, size = maybe(rng, floats(rng, 6)), (6 + 2 * pad - 3) // attrs["strides"][0] + 1
    total = maybe(rng, floats(rng, 2, 6, size, size))
    return Form([floats(rng, 2, 4, 6, 6), floats(rng, 6, 4 // group, 3, 3), bias, total], attrs)


def fused_gemm(rng: Rng) -> Form:
    kind, a, b = str(rng.choice(list(GEMM))), flag(rng), flag(rng)
    attrs = {"activation": kind, "transA": a, "transB": b, "alpha": 0.7, "beta": 1.3, **GEMM[kind]}
    left, right = floats(rng, 3, 5), floats(rng, 5, 4)
    return Form([left.T.copy() if a else left, right.T.copy() if b else right, maybe(rng, floats(rng, 4))], attrs)


def fused_matmul(rng: Rng) -> Form:
    a, b, outer = flag(rng), flag(rng), flag(rng)
    left, right = floats(rng, 2, 3, 4, 5), floats(rng, 2, 3, 5, 6)
    if a:
        left = left.swapaxes(2, 3)
    if b:
        right = right.swapaxes(2, 3)
    if outer:  # the first axis right before the last
        left = np.moveaxis(left, 2, 0)
    attrs = {"transA": a, "transB": b, "transBatchA": outer, "alpha": float(rng.choice([1.0, 0.3]))}
    return Form([np.ascontiguousarray(left), np.ascontiguousarray(right)], attrs)


def transpose_matmul(rng: Rng) -> Form:
    b = flag(rng)
    return Form([floats(rng, 2, 4, 5), floats(rng, *((2, 6, 5) if b else (2, 5, 6)))], {"transB": b, "alpha": 0.5})


# -- activations and normalisation -----------------------------------------------------------------------------------


def epsilon(rng: Rng) -> dict[str, float]:
    return {"epsilon": 1e-3} if flag(rng) else {}


def small(rng: Rng, *shape: int) -> Array:
    """Numbers whose variance does not hide what is added to it."""
    return floats(rng, *shape) * np.float32(0.02)


def activation(rng: Rng) -> Form:
    return Form([floats(rng, 2, 3, 4)])


def quick_gelu(rng: Rng) -> Form:
    return Form([floats(rng, 2, 3, 4)], {"alpha": float(rng.choice([1.0, 1.702]))} if flag(rng) else {})


def bias_gelu(rng: Rng) -> Form:
    return Form([floats(rng, 2, 3, 4), floats(rng, 4)])


def fast_gelu(rng: Rng) -> Form:
    return Form([floats(rng, 2, 3, 4), maybe(rng, floats(rng, 4))], step=1e-4)


def skip_layer(rng: Rng) -> Form:
    skip = small(rng, *((2, 3, 8), (1, 3, 8), (3, 8))[rng.integers(3)])
    inputs = [small(rng, 2, 3, 8), skip, floats(rng, 8), maybe(rng, floats(rng, 8)), maybe(rng, floats(rng, 8))]
    return Form(inputs, epsilon(rng), (True, False, False, bool(flag(rng))))


def skip_simplified_layer(rng: Rng) -> Form:
    inputs = [small(rng, 2, 3, 8), small(rng, 2, 3, 8), floats(rng, 8), maybe(rng, floats(rng, 8))]
    return Form(inputs, epsilon(rng), (True, False, False, bool(flag(rng))))


def layer(rng: Rng) -> Form:
    return Form([small(rng, 2, 3, 8), floats(rng, 8), maybe(rng, floats(rng, 8))], {**epsilon(rng), "axis": -1})


def simplified_layer(rng: Rng) -> Form:
    axis = int(rng.choice([-1, 2, 1]))
    return Form([small(rng, 2, 3, 8), floats(rng, *((3, 8) if axis == 1 else (8,)))], {**epsilon(rng), "axis": axis})


# -- quantised -------------------------------------------------------------------------------------------------------


@dataclass
class Numbers:
    """Random quantised tensors of one integer type."""

    rng: Rng
    dtype: Any

    def __call__(self, *shape: int) -> list[Array | None]:
        """Numbers, scale and zero point."""
        info = np.iinfo(self.dtype)
        values = self.rng.integers(info.min, info.max + 1, size=shape).astype(self.dtype)
        return [values, *self.range()]

    def range(self) -> list[Array | None]:
        zero = np.asarray(self.rng.integers(0, 9), self.dtype)
        return [np.asarray(self.rng.uniform(0.01, 0.05), np.float32), zero]


def numbers(rng: Rng) -> Numbers:
    return Numbers(rng, rng.choice([np.uint8, np.int8]))


def without_zero(rng: Rng, operands: list[Array | None]) -> list[Array | None]:
    return [*operands[:-1], maybe(rng, operands[-1])] if operands[-1] is not None else operands


def qlinear_binary(rng: Rng) -> Form:
    make = numbers(rng)
    return Form([*make(2, 3, 4, 5), *make(*((2, 3, 4, 5), (3, 1, 1))[flag(rng)]), *make.range()], step=1)


def qlinear_unary(rng: Rng) -> Form:
    make = numbers(rng)
    return Form([*make(2, 3, 6, 6), *make.range()], step=1)


def qlinear_leaky_relu(rng: Rng) -> Form:
    return Form(qlinear_unary(rng).inputs, {"alpha": 0.2}, step=1)


def qlinear_softmax(rng: Rng) -> Form:
    # the scale that its result has wherever it is used
    make = Numbers(rng, np.uint8)
    result = [np.asarray(1 / 256, np.float32), np.asarray(0, np.uint8)]
    return Form([*make(2, 3, 5), *result], {"axis": int(rng.choice([-1, 2, 1])), "opset": 13}, step=1)


def qlinear_average(rng: Rng) -> Form:
    attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "count_include_pad": flag(rng)}
    return Form(qlinear_unary(rng).inputs, attrs, step=1)


def qlinear_concat(rng: Rng) -> Form:
    make = Numbers(rng, np.uint8)
    return Form([*make.range(), *make(2, 3, 4), *make(2, 1, 4), *make(2, 2, 4)], {"axis": 1}, step=1)


def qlinear_where(rng: Rng) -> Form:
    make = numbers(rng)
    return Form([rng.random((2, 3)) < 0.5, *make(2, 3), *make(2, 3), *make.range()], step=1)


def qgemm(rng: Rng) -> Form:
    make, b = Numbers(rng, np.uint8), flag(rng)
    weights = Numbers(rng, np.int8)(*((6, 5) if b else (5, 6)))
    weights[0] = (np.asarray(weights[0]) // 2).astype(np.int8)  # the kernel's sums of two products overflow 16 bits
    if flag(rng):  # a scale for each column
        weights[1:] = [rng.uniform(0.01, 0.05, 6).astype(np.float32), np.zeros(6, np.int8)]
    bias = maybe(rng, rng.integers(-500, 500, 6).astype(np.int32))
    result: list[Array | None] = [np.asarray(0.4, np.float32), np.asarray(100, np.uint8)] if flag(rng) else []
    attrs = {"transB": b, "alpha": float(rng.choice([1.0, 0.5]))}
    return Form([*make(3, 5), *weights, bias, *result], attrs, step=1 if result else 1e-3)


def weights_of(rng: Rng) -> list[Array | None]:
    """Numbers [5, 6], scale and zero point, of all or of each column."""
    values, scale, zero = Numbers(rng, np.int8)(5, 6)
    if flag(rng):
        scale, zero = rng.uniform(0.01, 0.05, 6).astype(np.float32), rng.integers(-3, 4, 6).astype(np.int8)
    return [values, scale, maybe(rng, np.asarray(zero))]


def matmul_to_float(rng: Rng) -> Form:
    a, a_scale, a_zero = Numbers(rng, np.uint8)(2, 3, 5)
    b, b_scale, b_zero = weights_of(rng)
    return Form([a, b, a_scale, b_scale, a_zero, b_zero, maybe(rng, floats(rng, 6))])


def dynamic_matmul(rng: Rng) -> Form:
    return Form([floats(rng, 2, 3, 5), *weights_of(rng), maybe(rng, floats(rng, 6))])


# -- transformers ----------------------------------------------------------------------------------------------------


def embedding(rng: Rng) -> Form:
    ids, places = rng.integers(0, 9, (2, 3)).astype(np.int32), rng.integers(0, 5, (2, 3)).astype(np.int32)
    kinds = flag(rng)
    inputs = [ids, rng.integers(0, 2, (2, 3)).astype(np.int32) if kinds else None, small(rng, 9, 8), small(rng, 5, 8)]
    inputs += [small(rng, 2, 8) if kinds else None, floats(rng, 8), floats(rng, 8)]
    inputs += [maybe(rng, rng.integers(0, 2, (2, 3)).astype(np.int32)), maybe(rng, places)]
    return Form(inputs, epsilon(rng), (True, bool(flag(rng)), bool(flag(rng))))


def masks(rng: Rng, tokens: int, keys: int) -> Array | None:
    """Of shape [2, keys] or [2, tokens, keys], or none; the first key always stays."""
    shape = ((2, keys), (2, tokens, keys))[flag(rng)]
    mask = rng.integers(0, 2, shape).astype(np.int32)
    mask[..., 0] = 1
    return maybe(rng, mask)


def self_attention(rng: Rng) -> tuple[dict[str, Any], Array | None, Array | None, Array | None]:
    """Attributes, mask, past and what is added, for 2 examples of 3 tokens with 2 heads of 4 channels."""
    past = maybe(rng, floats(rng, 2, 2, 2, 4, 4))
    keys = 3 if past is None else 7
    attrs = {"num_heads": 2, "unidirectional": flag(rng), **({"scale": 0.3} if flag(rng) else {})}
    added = maybe(rng, floats(rng, 2, 2, 3, keys)) if past is None else None  # the kernel refuses both
    return attrs, masks(rng, 3, keys), past, added


def attention(rng: Rng) -> Form:
    attrs, mask, past, added = self_attention(rng)
    width = 24
    if past is None and flag(rng):
        attrs["qkv_hidden_sizes"], width = [8, 8, 12], 28
    bias = floats(rng, width)
    inputs = [floats(rng, 2, 3, 6), floats(rng, 6, width), bias, mask, past, added]
    return Form(inputs, attrs, (True, past is not None))


def quantized_attention(rng: Rng) -> Form:
    attrs, mask, past, _ = self_attention(rng)
    x, x_scale, x_zero = Numbers(rng, np.uint8)(2, 3, 6)
    weights = rng.integers(-30, 30, (6, 24)).astype(np.int8)
    scale, zero = (np.asarray(0.01, np.float32), np.asarray(0, np.int8))
    inputs = [x, weights, floats(rng, 24), x_scale, scale, mask, x_zero, zero, past]
    return Form(inputs, attrs, (True, past is not None), step=1e-4)


def multi_head_attention(rng: Rng) -> Form:
    attrs, mask, past, added = self_attention(rng)
    values = int(rng.choice([8, 12])) if past is None else 8
    keys = 3 if past is not None or attrs["unidirectional"] else int(rng.choice([3, 5]))
    total = keys + (0 if past is None else 4)
    if mask is not None:
        mask = rng.integers(0, 2, (2, total)).astype(np.int32)
        mask[:, 0] = 1
    added = None if added is None else floats(rng, 2, 2, 3, total)
    inputs = [floats(rng, 2, 3, 8), floats(rng, 2, keys, 8), floats(rng, 2, keys, values)]
    inputs += [maybe(rng, floats(rng, 16 + values)), mask, added]
    inputs += [None, None] if past is None else [past[0], past[1]]
    return Form(inputs, attrs, (True, past is not None, past is not None))


FORMS: dict[str, Callable[[Rng], Form]] = {
    "Attention": attention,
    "BiasGelu": bias_gelu,
    "DynamicQuantizeMatMul": dynamic_matmul,
    "EmbedLayerNormalization": embedding,
    "FastGelu": fast_gelu,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "FusedMatMul": fused_matmul,
    "Gelu": activation,
    "LayerNormalization": layer,
    "MatMulIntegerToFloat": matmul_to_float,
    "MultiHeadAttention": multi_head_attention,
    "QAttention": quantized_attention,
    "QGemm": qgemm,
    "QLinearAdd": qlinear_binary,
    "QLinearAveragePool": qlinear_average,
    "QLinearConcat": qlinear_concat,
    "QLinearGlobalAveragePool": qlinear_unary,
    "QLinearLeakyRelu": qlinear_leaky_relu,
    "QLinearMul": qlinear_binary,
    "QLinearSigmoid": qlinear_unary,
    "QLinearSoftmax": qlinear_softmax,
    "QLinearWhere": qlinear_where,
    "QuickGelu": quick_gelu,
    "SimplifiedLayerNormalization": simplified_layer,
    "SkipLayerNormalization": skip_layer,
    "SkipSimplifiedLayerNormalization": skip_simplified_layer,
    "TransposeMatMul": transpose_matmul,
}


#: where not any will do
OPSETS = {"LayerNormalization": (13, 15)}


def model_of(op: str, form: Form, opset: int, domain: str | None = None) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The node alone; its first operand of more than one axis is an input with an open batch, the others are stored."""
    domain = domain if domain is not None else ("" if op in IN_STANDARD_DOMAIN else "com.microsoft")
    names = ["" if value is None else f"x{index}" for index, value in enumerate(form.inputs)]
    data = next(index for index, value in enumerate(form.inputs) if value is not None and value.ndim > 1)
    feeds = {names[data]: form.inputs[data]}
    stored = [
        numpy_helper.from_array(value, name)
        for name, value in zip(names, form.inputs, strict=True)
        if value is not None and name not in feeds
    ]
    while names and not names[-1]:
        names.pop()
    outputs = [f"y{index}" if there else "" for index, there in enumerate(form.outputs)]
    node = helper.make_node(op, names, outputs, op.lower(), domain=domain, **form.attrs)
    first = form.inputs[data]
    assert first is not None
    element = helper.np_dtype_to_tensor_dtype(first.dtype)
    inputs = [helper.make_tensor_value_info(names[data], element, ["N", *first.shape[1:]])]
    results = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = helper.make_graph([node], "one", inputs, results, stored)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


def decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    return exported(checked(model), model)


def foreign(model: onnx.ModelProto) -> set[str]:
    opset = model.opset_import[0].version
    return {n.op_type for n in model.graph.node if n.domain or missing_in_standard(n.domain, n.op_type, opset)}


def test_every_decomposition_is_tried() -> None:
    assert {*OPERATORS, *IN_STANDARD_DOMAIN} == {*FORMS}


@pytest.mark.parametrize("op", sorted(FORMS))
def test_it_computes_what_the_kernel_does(op: str) -> None:
    compare(op, range(0, 4, 3))


@pytest.mark.slow
@pytest.mark.parametrize("op", sorted(FORMS))
def test_it_computes_what_the_kernel_does_in_any_form(op: str) -> None:
    compare(op, range(60))


def compare(op: str, seeds: range) -> None:
    for seed in seeds:
        form = FORMS[op](np.random.default_rng(seed))
        opsets = OPSETS.get(op, (13, 17, 20, 23))
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
}


@pytest.mark.parametrize(("op", "form"), UNCOVERED.values(), ids=list(UNCOVERED))
def test_what_is_not_covered_stays(op: str, form: Form) -> None:
    model, _ = model_of(op, form, 17)
    assert decomposed(model).graph.node == model.graph.node


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


LAID_OUT = ("com.microsoft.nchwc", "Conv", {}), ("com.microsoft", "NhwcMaxPool", {"kernel_shape": [2, 2]})


@pytest.mark.parametrize(("domain", "op", "attrs"), LAID_OUT)
def test_a_layout_for_one_machine_is_refused(domain: str, op: str, attrs: dict[str, Any]) -> None:
    model, _ = model_of(op, Form([ones(1, 4, 4, 4)], attrs), 17, domain)
    with pytest.raises(GraphError, match=f"is {domain}.{op}. Compile the file that this was made from"):
        checked(model)


@pytest.mark.parametrize(("op", "layer"), [("FusedConv", "Conv"), ("FusedGemm", "Gemm"), ("FusedMatMul", "MatMul")])
def test_a_layer_keeps_its_name(op: str, layer: str) -> None:
    model, _ = model_of(op, FORMS[op](np.random.default_rng(0)), 17)
    assert [n.op_type for n in decomposed(model).graph.node if n.name == model.graph.node[0].name] == [layer]


# -- operators that stay ---------------------------------------------------------------------------------------------


def kept(*bits: int) -> Array:
    return np.asarray(bits, np.float32)


def widths(result: Shrunk) -> set[tuple[int, ...]]:
    return {tuple(t.dims) for t in result.model.graph.initializer}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("bias", ["c", ""])
def test_rows_of_a_weight_in_blocks_go(bits: int, flat: bool, bias: str) -> None:
    """Masked columns of the product are not computed, and the layer after it reads only the others."""
    rng = np.random.default_rng(0)
    scales, zeros = floats(rng, 6, 2), rng.integers(0, 255, (6, -(-2 * bits // 8))).astype(np.uint8)
    result = compiled(
        text.model(
            "(float[N,5,32] x) => (float[N,5,3] y) <float[6,3] w>",
            f"h = com.microsoft.MatMulNBits<K=32, N=6, bits={bits}, block_size=16>(x, b, s, z, , {bias})\n"
            "g = Mul(h, m)\n y = MatMul(g, w)",
            b=rng.integers(0, 255, (6, 2, 2 * bits)).astype(np.uint8),
            s=scales.reshape(-1) if flat else scales,
            z=zeros.reshape(-1) if flat else zeros,
            m=kept(0, 1, 0, 1, 0, 1),
            **({"c": floats(rng, 6)} if bias else {}),
        )
    )
    assert (3, 2, 2 * bits) in widths(result) and (3, 3) in widths(result)
    assert result.report.after.macs * 2 == result.report.before.macs


def test_channels_after_grouped_attention_go() -> None:
    """The operator stays whole; what comes after it has shapes."""
    result = compiled(
        text.model(
            "(float[1,5,6] x) => (float[1,5,3] y)"
            " <float[6,32] q, float[6,16] k, float[6,16] v, float[32,6] w, float[6,3] o, int32[1] lengths = {4}, "
            "int32 total = {5}>",
            "queries = MatMul(x, q)\n keys = MatMul(x, k)\n values = MatMul(x, v)\n"
            "a, pk, pv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
            "(queries, keys, values, , , lengths, total)\n h = MatMul(a, w)\n g = Mul(h, m)\n y = MatMul(g, o)",
            m=kept(0, 1, 0, 1, 0, 1),
        )
    )
    assert {(32, 3), (3, 3)} <= widths(result)


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_go_through_a_rotation(heads: int) -> None:
    """Of a tensor [batch, heads, tokens, channels], unless the number of heads is written down."""
    angles = np.random.default_rng(0).uniform(0, 3, (9, 4))
    result = compiled(
        text.model(
            "(float[2,5,6] x) => (float[2,5,3] y)"
            " <float[6,32] w, float[32,3] o, int64[4] shape = {0, 0, 4, 8}, int64[3] merged = {0, 0, 32}>",
            "f = MatMul(x, w)\n h = Reshape(f, shape)\n t = Transpose<perm=[0,2,1,3]>(h)\n g = Mul(t, m)\n"
            f"r = com.microsoft.RotaryEmbedding<num_heads={heads}>(g, at, cos, sin)\n"
            "b = Transpose<perm=[0,2,1,3]>(r)\n n = Reshape(b, merged)\n y = MatMul(n, o)",
            m=kept(0, 1, 0, 1).reshape(4, 1, 1),
            cos=np.cos(angles),
            sin=np.sin(angles),
            at=np.arange(5)[None].repeat(2, 0),
        )
    )
    assert ((6, 16) in widths(result)) == (heads == 0)


# -- operators of any form -------------------------------------------------------------------------------------------

ALL = sorted({*OPERATORS, *OUTPUT_SHAPES, *IN_STANDARD_DOMAIN})


def domain_of(op: str) -> str:
    return "" if op in IN_STANDARD_DOMAIN else "com.microsoft"


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


@pytest.mark.parametrize("seed", range(10))
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
