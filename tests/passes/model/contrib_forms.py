"""Nodes of contrib operators, with the operands and attributes that they come with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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


def quick_gelu(rng: Rng) -> Form:
    return Form([floats(rng, 2, 3, 4)], {"alpha": float(rng.choice([1.0, 1.702]))} if flag(rng) else {})


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


def qlinear_binary(rng: Rng) -> Form:
    make = numbers(rng)
    return Form([*make(2, 3, 4, 5), *make(*((2, 3, 4, 5), (3, 1, 1))[flag(rng)]), *make.range()], step=1)


def qlinear_unary(rng: Rng) -> Form:
    make = numbers(rng)
    return Form([*make(2, 3, 6, 6), *make.range()], step=1)


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


# -- transformers ----------------------------------------------------------------------------------------------------


def embedding(rng: Rng) -> Form:
    ids, places = rng.integers(0, 9, (2, 3)).astype(np.int32), rng.integers(0, 5, (2, 3)).astype(np.int32)
    kinds = flag(rng)
    inputs = [ids, rng.integers(0, 2, (2, 3)).astype(np.int32) if kinds else None, small(rng, 9, 8), small(rng, 5, 8)]
    inputs += [small(rng, 2, 8) if kinds else None, floats(rng, 8), floats(rng, 8)]
    inputs += [maybe(rng, rng.integers(0, 2, (2, 3)).astype(np.int32)), maybe(rng, places)]
    return Form(inputs, epsilon(rng), (True, bool(flag(rng)), bool(flag(rng))))


def quantized_embedding(rng: Rng) -> Form:
    dtype = (np.int8, np.uint8)[flag(rng)]
    ids, kinds = rng.integers(0, 9, (2, 3)).astype(np.int32), flag(rng)
    segments = rng.integers(0, 2, (2, 3)).astype(np.int32) if kinds else None
    tables = [rng.integers(0, 99, shape).astype(dtype) for shape in ((9, 8), (5, 8), (2, 8), 8, 8)]
    scales = [np.float32(s) for s in rng.uniform(0.01, 0.1, 5)]
    zeros = [dtype(z) for z in rng.integers(0, 99, 5)]
    given = [x if kinds or place != 2 else None for each in (tables, scales, zeros) for place, x in enumerate(each)]
    mask = maybe(rng, rng.integers(0, 2, (2, 3)).astype(np.int32))
    return Form([ids, segments, *given[:5], mask, *given[5:]], epsilon(rng), (True, True))


def masks(rng: Rng, tokens: int, keys: int) -> Array | None:
    """Of shape [2, keys] or [2, tokens, keys], or none; the first key always stays. All above 0 is alike."""
    shape = ((2, keys), (2, tokens, keys))[flag(rng)]
    mask = rng.integers(-1, 3, shape).astype(np.int32)
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


def in_steps(rng: Rng, data: Array) -> Form:
    """With a step for all, or for each slice along an axis."""
    size = () if rng.random() < 0.5 else (data.shape[1],)
    scale, zero = rng.uniform(0.01, 0.1, size).astype(np.float32), rng.integers(0, 255, size).astype(np.uint8)
    return Form([data, scale, zero], {"axis": 1} if size else {})


FORMS: dict[str, Callable[[Rng], Form]] = {
    "Attention": attention,
    "BiasGelu": lambda rng: Form([floats(rng, 2, 3, 4), floats(rng, 4)]),
    "DequantizeLinear": lambda rng: in_steps(rng, rng.integers(0, 255, (2, 3, 4)).astype(np.uint8)),
    "DynamicQuantizeMatMul": lambda rng: Form([floats(rng, 2, 3, 5), *weights_of(rng), maybe(rng, floats(rng, 6))]),
    "EmbedLayerNormalization": embedding,
    "FastGelu": lambda rng: Form([floats(rng, 2, 3, 4), maybe(rng, floats(rng, 4))], step=1e-4),
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "FusedMatMul": fused_matmul,
    "Gelu": lambda rng: Form([floats(rng, 2, 3, 4)]),
    "LayerNormalization": layer,
    "MatMulIntegerToFloat": matmul_to_float,
    "QAttention": quantized_attention,
    "QEmbedLayerNormalization": quantized_embedding,
    "QGemm": qgemm,
    "QLinearAdd": qlinear_binary,
    "QLinearAveragePool": qlinear_average,
    "QLinearConcat": qlinear_concat,
    "QLinearGlobalAveragePool": qlinear_unary,
    "QLinearLeakyRelu": lambda rng: Form(qlinear_unary(rng).inputs, {"alpha": 0.2}, step=1),
    "QLinearMul": qlinear_binary,
    "QLinearSigmoid": qlinear_unary,
    "QLinearSoftmax": qlinear_softmax,
    "QLinearWhere": qlinear_where,
    "QuantizeLinear": lambda rng: in_steps(rng, floats(rng, 2, 3, 4)),
    "QuickGelu": quick_gelu,
    "SimplifiedLayerNormalization": simplified_layer,
    "SkipLayerNormalization": skip_layer,
    "SkipSimplifiedLayerNormalization": skip_simplified_layer,
    "TransposeMatMul": transpose_matmul,
}
