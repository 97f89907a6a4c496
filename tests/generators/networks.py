"""Random networks with masks, for finding graphs that a compiler gets wrong.

`random_network(rng)` draws a model: images, sequences or tables; every common operator; masks, zero filters
and zero columns at random places; constants that are not zero wherever a shift can make them. All structure
comes from a `random.Random`, so that `hypothesis.strategies.randoms()` can drive and shrink it; plain seeds
work as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.generators import contrib, quantised
from tests.generators.builder import Array, Builder, Dim, Network, Sym, Value, derived, size

Step = Callable[[Builder, Value], "Value | None"]

OPSETS = (9, 10, 11, 11, 12, 13, 13, 13, 14, 15, 16, 17, 17, 17, 18, 18, 19, 20, 21, 21, 22, 23, 24)


# -- weights ----------------------------------------------------------------------------------------


def weight(b: Builder, shape: Sequence[int], fan_in: int, *, outputs: int, inputs: int | None) -> Array:
    """Weights of unit gain; at times with zero filters (along `outputs`) or zero columns (along `inputs`)."""
    w = b.normal(*shape, scale=1 / math.sqrt(max(fan_in, 1)))
    for axis, chance in ((outputs, 0.3), (inputs, 0.12)):
        if axis is not None and b.flip(chance):
            keep = b.keep(shape[axis])
            w = w * keep.reshape([-1 if i == axis else 1 for i in range(len(shape))]).astype(w.dtype)
    return w


def bias(b: Builder, channels: int) -> str:
    """The name of a bias; sometimes zero, sometimes partly zero."""
    vector = b.normal(channels, scale=0.5)
    kind = b.some(0, 5)
    if kind == 0:
        vector = vector * 0
    elif kind == 1:
        vector = vector * b.keep(channels).astype(vector.dtype)
    return b.const(vector, vector.dtype, "b")


# -- contractions -----------------------------------------------------------------------------------


def conv(b: Builder, v: Value, *, same: bool = False, out: int | None = None) -> Value | None:
    """A convolution of one to three dimensions, of any grouping, padding, stride and dilation."""
    if not v.is_image:
        return None
    c = v.channels
    kernel: list[int] = []
    begin: list[int] = []
    end: list[int] = []
    strides: list[int] = []
    dilations: list[int] = []
    shape: list[Dim] = []
    auto = "NOTSET" if same else b.pick(("NOTSET",) * 6 + ("SAME_UPPER", "SAME_LOWER", "VALID"))
    square = b.pick((1, 1, 3, 3, 3, 2, 5))
    for d in v.shape[2:]:
        k = square if b.flip(0.8) else b.pick((1, 2, 3))
        dil = 2 if auto == "NOTSET" and k > 1 and b.flip(0.12) else 1
        s = 1 if same or b.flip(0.75) else 2
        reach = dil * (k - 1)
        if same:
            p, q = reach // 2, reach - reach // 2
        elif auto == "NOTSET":
            p, q = b.pick(((0, 0), (reach // 2, reach - reach // 2), (1, 0), (0, 1), (1, 1), (2, 1)))
            p, q = min(p, k - 1), min(q, k - 1)
        else:
            p = q = 0
        if auto.startswith("SAME"):
            dim = derived(d, f"/{s}", -(-size(d) // s)) if s > 1 else d
        else:
            n = (size(d) + p + q - reach - 1) // s + 1
            if n < 1:
                return None
            dim = d if s == 1 and p + q == reach else derived(d, f"c{k},{p + q},{s},{dil}", n)
        for numbers, number in zip((kernel, begin, end, strides, dilations), (k, p, q, s, dil), strict=True):
            numbers.append(number)
        shape.append(dim)
    group = 1
    m = out or (c if same else b.width(1, 8))
    form = b.some(0, 9)
    if form <= 2 and out is None:  # depthwise, perhaps with a multiplier
        group, m = c, c * (1 if same else b.pick((1, 1, 1, 2)))
    elif form == 3 and out is None:
        group = b.pick([g for g in range(1, c + 1) if c % g == 0])
        m = c if same else group * b.some(1, 3)
    w = weight(
        b,
        [m, c // group, *kernel],
        c // group * math.prod(kernel),
        outputs=0,
        inputs=1 if c // group > 1 else None,
    )
    operands: list[str | Value] = [v, b.weight(w)]
    if b.flip(0.6):
        operands.append(bias(b, m))
    pads = [*begin, *end] if auto == "NOTSET" else None
    return b.op(
        "Conv",
        operands,
        [v.shape[0], m, *shape],
        1,
        group=group if group > 1 or b.flip(0.3) else None,
        kernel_shape=kernel if b.flip(0.7) else None,
        strides=strides if max(strides) > 1 or b.flip(0.5) else None,
        dilations=dilations if max(dilations) > 1 or b.flip(0.3) else None,
        pads=pads if pads and (any(pads) or b.flip(0.5)) else None,
        auto_pad=None if auto == "NOTSET" else auto,
    )


def conv_transpose(b: Builder, v: Value) -> Value | None:
    """A transposed convolution, grouped or not, strided, padded, with extra output rows or not."""
    if not v.is_image or v.rank > 4:
        return None
    c = v.channels
    group = b.pick([g for g in range(1, c + 1) if c % g == 0]) if b.flip(0.3) else 1
    per = b.some(1, 4)
    kernel: list[int] = []
    pads_begin: list[int] = []
    pads_end: list[int] = []
    strides: list[int] = []
    extra: list[int] = []
    shape: list[Dim] = []
    for d in v.shape[2:]:
        k, s = b.pick((1, 2, 3)), b.pick((1, 1, 2))
        p, q = b.pick(((0, 0), (0, 0), (min(1, k - 1), min(1, k - 1)), (0, min(1, k - 1))))
        e = 1 if s > 1 and b.flip(0.3) else 0
        n = s * (size(d) - 1) + e + k - p - q
        if n < 1 or n > 14:
            return None
        for numbers, number in zip((kernel, strides, pads_begin, pads_end, extra), (k, s, p, q, e), strict=True):
            numbers.append(number)
        shape.append(derived(d, f"t{k},{p + q},{s},{e}", n))
    w = weight(b, [c, per, *kernel], c // group * math.prod(kernel), outputs=1, inputs=0)
    operands: list[str | Value] = [v, b.const(w, w.dtype)]
    if b.flip(0.6):
        operands.append(bias(b, per * group))
    return b.op(
        "ConvTranspose",
        operands,
        [v.shape[0], per * group, *shape],
        1,
        group=group,
        kernel_shape=kernel,
        strides=strides,
        pads=[*pads_begin, *pads_end],
        output_padding=extra if any(extra) else None,
    )


def matmul(b: Builder, v: Value, *, out: int | None = None) -> Value | None:
    """A product with a constant matrix on the last axis, mostly followed by a bias."""
    last = v.shape[-1]
    if v.rank < 2 or not isinstance(last, int):
        return None
    m = out or b.width(1, 9)
    w = weight(b, [last, m], last, outputs=1, inputs=0)
    name = b.weight(w)
    if b.flip(0.1):  # the exporter's way of writing a transposed layer
        name = b.raw("Transpose", [b.const(w.T.copy(), w.dtype)], perm=[1, 0])[0]
    y = b.op("MatMul", [v, name], [*v.shape[:-1], m], v.rank - 1)
    if b.flip(0.6):
        pair: list[str | Value] = [y, bias(b, m)]
        y = b.op("Add", pair if b.flip(0.7) else pair[::-1], y.shape, y.axis)
    return y


def matmul_left(b: Builder, v: Value) -> Value | None:
    """A constant matrix times the tensor: the contraction runs over the last axis but one."""
    if v.rank < 3 or not isinstance(v.shape[-2], int):
        return None
    k, m = v.shape[-2], b.some(1, 7)
    w = weight(b, [m, k], k, outputs=0, inputs=1)
    return b.op("MatMul", [b.const(w, w.dtype), v], [*v.shape[:-2], m, v.shape[-1]], v.rank - 2)


def matmul_batched(b: Builder, v: Value) -> Value | None:
    """A product with a stack of constant matrices, one per slice of the batch axes."""
    if v.rank < 3 or not isinstance(v.shape[-1], int) or not isinstance(v.shape[-3], int):
        return None
    stack, k, m = v.shape[-3], v.shape[-1], b.some(1, 6)
    w = weight(b, [stack, k, m], k, outputs=b.pick((0, 2)), inputs=1)
    return b.op("MatMul", [v, b.const(w, w.dtype)], [*v.shape[:-1], m], v.rank - 1)


def gemm(b: Builder, v: Value) -> Value | None:
    """Gemm in each of its forms: transposed or not, scaled or not, with every shape of C."""
    if v.rank != 2:
        return None
    k, m = v.channels, b.width(1, 9)
    if v.axis != 1:
        return None
    trans_a, trans_b = b.flip(0.2), b.flip(0.5)
    w = weight(b, [k, m], k, outputs=1, inputs=0)
    x = b.transpose(v, [1, 0]) if trans_a else v
    operands: list[str | Value] = [x, b.weight(w.T.copy() if trans_b else w)]
    form = b.some(0, 5) if b.opset >= 11 else 1
    if form == 1:
        operands.append(bias(b, m))
    elif form == 2:
        operands.append(b.const(b.normal(1, m), b.numpy_type))
    elif form == 3:
        operands.append(b.scalar(float(b.weights.normal())))
    elif form == 4:
        other = [u for u in b.pool if u.shape == (v.shape[0], m)]
        operands.append(b.pick(other) if other else bias(b, m))
    elif form == 5 and isinstance(v.shape[0], int):
        operands.append(b.const(b.normal(v.shape[0], b.pick((1, m))), b.numpy_type))
    return b.op(
        "Gemm",
        operands,
        [v.shape[0], m],
        1,
        transA=1 if trans_a else None,
        transB=1 if trans_b else None,
        alpha=b.pick((None, None, 0.5, -1.5)),
        beta=b.pick((None, None, 2.0, 0.25, 0.0)),
    )


def einsum(b: Builder, v: Value) -> Value | None:
    """An Einsum over the channels, or over two axes at once, as Keras writes its attention layers."""
    if b.opset < 12 or v.rank < 2 or v.rank > 4:
        return None
    letters = "abcd"[: v.rank]
    k = letters[v.axis]
    m = b.some(1, 6)
    if b.flip(0.3) and v.axis == v.rank - 1:  # one axis becomes two
        heads = b.some(1, 3)
        w = weight(b, [v.channels, heads, m], v.channels, outputs=2, inputs=0)
        text = f"{letters},{k}yz->{letters[:-1]}yz"
        return b.op("Einsum", [v, b.const(w, w.dtype)], [*v.shape[:-1], heads, m], v.rank, equation=text)
    w = weight(b, [v.channels, m], v.channels, outputs=1, inputs=0)
    flipped = b.flip(0.5)
    text = f"{letters},{'z' + k if flipped else k + 'z'}->{letters.replace(k, 'z')}"
    shape = tuple(m if i == v.axis else d for i, d in enumerate(v.shape))
    return b.op("Einsum", [v, b.const(w.T.copy() if flipped else w, w.dtype)], shape, v.axis, equation=text)


def einsum_of_any_form(b: Builder, v: Value) -> Value | None:
    """An Einsum with constant weights that shares any letters with the data, adds some and leaves some out."""
    if b.opset < 12 or not 2 <= v.rank <= 4:
        return None
    letters = "abcd"[: v.rank]
    sizes = dict(zip(letters, v.shape, strict=True))
    shared = [c for c in letters[1:] if isinstance(sizes[c], int) and size(sizes[c]) <= 12 and b.flip(0.6)]
    added = list("yz"[: b.some(0, 2)])
    sizes |= {c: b.some(1, 4) for c in added}
    order = b.shuffled([*shared, *added])
    kept = [c for c in letters[1:] if b.flip(0.4 if c in shared else 0.85)] + [c for c in added if b.flip(0.9)]
    out = ["a", *b.shuffled(kept)][:4]
    static = [i for i, c in enumerate(out) if i and isinstance(sizes[c], int)]
    if not static or not order:
        return None
    shape = [size(sizes[c]) for c in order]
    w = weight(b, shape, math.prod(shape), outputs=0, inputs=None if len(shape) < 2 else 1)
    text = f"{letters},{''.join(order)}->{''.join(out)}"
    inputs = [v, b.const(w, w.dtype)]
    return b.op("Einsum", inputs, [sizes[c] for c in out], b.pick(static), equation=text)


def einsum_of_two(b: Builder, v: Value) -> Value | None:
    """Two computed operands, one after the other: scores of positions, and sums weighted by them."""
    if b.opset < 12 or v.rank != 3 or v.axis != 2 or not isinstance(v.shape[1], int):
        return None
    other = same_layer(b, v)
    scores = b.op("Einsum", [v, other], [v.shape[0], v.shape[1], v.shape[1]], 2, equation="bsd,btd->bst")
    if b.flip(0.4):
        return scores
    scores = b.like("Sigmoid", scores)
    return b.op("Einsum", [scores, v], v.shape, 2, equation="bst,btd->bsd")


def vector_product(b: Builder, v: Value) -> Value | None:
    """A matrix product with a vector, which takes the channels away."""
    if v.rank != 3 or v.axis != 2 or not isinstance(v.shape[1], int):
        return None
    w = weight(b, [v.channels], v.channels, outputs=0, inputs=None)
    return b.op("MatMul", [v, b.const(w, w.dtype)], v.shape[:2], 1)


def tied(b: Builder, v: Value) -> Value | None:
    """One weight read by two layers: once as it is and once, transposed, on the way back."""
    if v.axis != v.rank - 1 or v.rank < 2:
        return None
    k, m = v.channels, b.some(2, 6)
    w = weight(b, [k, m], k, outputs=1, inputs=0)
    name = b.const(w, w.dtype)
    y = b.op("MatMul", [v, name], [*v.shape[:-1], m], v.rank - 1)
    y = activation(b, y)
    if b.flip(0.6):
        y = b.mask(y)
    if b.flip(0.5) and v.rank == 2 and b.opset >= 11:
        z = b.op("Gemm", [y, name], v.shape, v.axis, transB=1)
    else:
        back = b.raw("Transpose", [name], perm=[1, 0])[0]
        z = b.op("MatMul", [y, back], v.shape, v.axis)
    return z if b.flip(0.5) else b.like("Add", z, v)


def tied_conv(b: Builder, v: Value) -> Value | None:
    """The same convolution applied twice, its two uses masked differently."""
    if not v.is_image:
        return None
    c = v.channels
    w = weight(b, [c, c] + [1] * (v.rank - 2), c, outputs=0, inputs=1)
    name, shift = b.const(w, w.dtype), bias(b, c)
    y = b.like("Conv", v, name, shift)
    y = b.mask(activation(b, y)) if b.flip(0.7) else activation(b, y)
    y = b.like("Conv", y, name, shift)
    return b.mask(y) if b.flip(0.5) else y


# -- elementwise ------------------------------------------------------------------------------------

# Operators of one input that are defined everywhere and grow at most linearly: name, first opset, attributes.
_JUMPS = ("Floor", "Ceil", "Sign")
_UNARY: tuple[tuple[str, int, dict[str, float]], ...] = (
    ("Relu", 6, {}),
    ("Relu", 6, {}),
    ("Relu", 6, {}),
    ("Sigmoid", 6, {}),
    ("Tanh", 6, {}),
    ("LeakyRelu", 6, {"alpha": 0.1}),
    ("Elu", 6, {"alpha": 1.3}),
    ("Selu", 6, {}),
    ("Softplus", 1, {}),
    ("Softsign", 1, {}),
    ("HardSigmoid", 6, {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", 14, {}),
    ("ThresholdedRelu", 10, {"alpha": 0.2}),
    ("Abs", 6, {}),
    ("Neg", 6, {}),
    ("Erf", 9, {}),
    ("Cos", 7, {}),
    ("Sin", 7, {}),
    ("Mish", 18, {}),
    ("Gelu", 20, {}),
    ("Swish", 24, {}),
    ("Identity", 1, {}),
    ("Floor", 6, {}),
    ("Ceil", 6, {}),
    ("Sign", 9, {}),
)


def activation(b: Builder, v: Value) -> Value:
    """An operator of one input, or a chain that is defined everywhere."""
    form = b.some(0, 9)
    if form <= 6:
        known = [u for u in _UNARY if u[1] <= b.opset]
        if b.dtype == TensorProto.FLOAT16:  # its rounding makes every jump visible
            known = [u for u in known if u[0] not in _JUMPS]
        op, _, attributes = b.pick(known)
        return b.like(op, v, **attributes)
    if form == 7:
        op = b.pick(("Exp", "Sqrt", "Log", "Reciprocal", "Atan", "Asinh", "Sinh", "Cosh", "Tan"))
        if op in ("Sqrt", "Log", "Reciprocal"):
            positive = b.like("Abs", v)
            return b.like(op, b.like("Add", positive, b.scalar(0.7)))
        bounded = b.like("Tanh", v)
        return b.like(op, bounded)
    if form == 8:
        low, high = b.pick(((0.0, 6.0), (-1.0, 1.0), (None, 0.8), (-0.3, None), (0.2, 0.9)))
        return b.clip(v, low, high)
    return b.pick((hard_swish, gelu_spelled, swish, prelu, casts, dropout))(b, v)


def hard_swish(b: Builder, v: Value) -> Value:
    """x · clip(x + 3, 0, 6) / 6, spelled out."""
    gate = b.clip(b.like("Add", v, b.scalar(3.0)), 0.0, 6.0)
    if b.flip(0.5):
        return b.like("Div", b.like("Mul", v, gate), b.scalar(6.0))
    return b.like("Mul", v, b.like("Mul", gate, b.scalar(1 / 6)))


def gelu_spelled(b: Builder, v: Value) -> Value:
    """x · (f(p(x)) + 1) / 2 with the error function or its approximation, spelled out in one of many ways."""
    half, one = b.scalar(0.5), b.scalar(1.0)
    if b.flip(0.6):
        inner = b.like("Div", v, b.scalar(math.sqrt(2))) if b.flip(0.5) else b.like("Mul", v, b.scalar(math.sqrt(0.5)))
        gate = b.like("Add", b.like("Erf", inner), one)
    else:
        cube = b.like("Mul", b.like("Mul", v, v), v) if b.flip(0.5) else b.like("Pow", v, b.scalar(3.0))
        bent = b.like("Add", v, b.like("Mul", cube, b.scalar(0.044715)))
        gate = b.like("Add", b.like("Tanh", b.like("Mul", bent, b.scalar(math.sqrt(2 / math.pi)))), one)
    if b.flip(0.3):
        return b.like("Mul", v, b.like("Mul", gate, half))
    if b.flip(0.5):
        return b.like("Mul", b.like("Mul", gate, v), half)
    return b.like("Mul", b.like("Mul", v, half), gate)


def swish(b: Builder, v: Value) -> Value:
    """x · sigmoid(x)."""
    gate = b.like("Sigmoid", v)
    return b.like("Mul", v, gate) if b.flip(0.5) else b.like("Mul", gate, v)


def prelu(b: Builder, v: Value) -> Value:
    """PRelu with one slope per channel, or one for all."""
    slope = b.normal(v.channels, scale=0.3)
    if b.flip(0.3):
        slope = slope * b.keep(v.channels).astype(slope.dtype)
    if b.flip(0.2):
        return b.like("PRelu", v, b.const(slope[:1], slope.dtype))
    return b.like("PRelu", v, b.per_channel(v, slope, plain=b.flip(0.7)))


def casts(b: Builder, v: Value) -> Value:
    """To another precision and back."""
    other = TensorProto.DOUBLE if b.dtype != TensorProto.DOUBLE else TensorProto.FLOAT
    if b.dtype == TensorProto.DOUBLE:
        other = TensorProto.DOUBLE
    return b.like("Cast", b.like("Cast", v, to=other), to=b.dtype)


def dropout(b: Builder, v: Value) -> Value:
    """Dropout as it stands in an inference graph."""
    if b.opset >= 12:
        return b.like("Dropout", v, *([b.const(np.array(0.4, np.float32), np.float32)] if b.flip(0.5) else []))
    return b.like("Dropout", v, ratio=0.4)


def constant_operand(b: Builder, v: Value) -> Value | None:
    """A binary operator with a constant of any shape that broadcasts, on either side."""
    op = b.pick(("Add", "Add", "Sub", "Mul", "Mul", "Div", "Min", "Max", "Pow", "Where"))
    if op in ("Min", "Max") and b.opset < 8:
        return None
    form = b.some(0, 5)
    numbers = b.positive if op in ("Div", "Pow") else b.normal
    if form == 0:
        operand = b.scalar(float(numbers(1)[0]))
    elif form == 1 and v.static:  # a map over everything but the batch
        operand = b.const(numbers(*[1, *[size(d) for d in v.shape[1:]]]), b.numpy_type)
    elif form == 2 and v.static and v.rank > 2:  # a map that is the same for all channels
        dims = [1 if i in (0, v.axis) else size(d) for i, d in enumerate(v.shape)]
        operand = b.const(numbers(*dims), b.numpy_type)
    else:
        vector = numbers(v.channels)
        if op in ("Mul", "Add", "Sub") and b.flip(0.4):
            vector = vector * b.keep(v.channels).astype(vector.dtype)
        operand = b.per_channel(v, vector)
    if op == "Pow":
        return b.like("Pow", b.like("Abs", v), b.scalar(b.pick((2.0, 0.5, 1.0, 3.0))) if b.flip(0.6) else operand)
    if op == "Where":
        if b.opset < 9:
            return None
        flags = b.keep(v.channels)
        shape = [v.channels] + [1] * (v.rank - v.axis - 1)
        condition = b.const(flags.reshape(shape), bool)
        return b.op("Where", [condition, *b.shuffled((v.name, operand))], v.shape, v.axis)
    if op == "Div":
        return b.like("Div", v, operand)
    pair: list[str | Value] = [v, operand]
    return b.op(op, pair if b.flip(0.6) else pair[::-1], v.shape, v.axis)


def outer_operand(b: Builder, v: Value) -> Value | None:
    """A constant of higher rank than the tensor, or a longer one: broadcasting makes the tensor larger."""
    if v.rank > 3 or not v.static or v.axis != v.rank - 1:
        return None
    rows = b.some(2, 3)
    if b.flip(0.5) and v.rank == 2:
        w = b.normal(rows, 1, v.channels) * b.keep(v.channels).astype(b.numpy_type)
        return b.op(b.pick(("Add", "Mul")), [b.const(w, w.dtype), v], (rows, *v.shape), 2)
    grown = b.unsqueeze(v, [v.rank - 1])
    w = b.normal(rows, v.channels)
    return b.op(b.pick(("Add", "Mul")), [grown, b.const(w, w.dtype)], (*v.shape[:-1], rows, v.channels), v.rank)


def comparison(b: Builder, v: Value) -> Value | None:
    """A condition on the tensor: a choice between two values, or a gate cast from bool."""
    if b.dtype == TensorProto.FLOAT16:
        return None
    bound = b.scalar(0.3)
    flag = b.like(b.pick(("Greater", "Less")), v, bound)
    if b.flip(0.3):
        flag = b.like("Not", flag)
    if b.flip(0.5):
        return b.like("Mul", v, b.like("Cast", flag, to=b.dtype))
    other = b.per_channel(v, b.normal(v.channels))
    return b.op("Where", [flag, v, other], v.shape, v.axis)


def many(b: Builder, v: Value) -> Value | None:
    """Sum, Mean, Min or Max of several tensors of one shape."""
    others = [u for u in b.pool if u.shape == v.shape and u.axis == v.axis and u.name != v.name]
    chosen = [v] + [b.pick(others) for _ in range(b.some(1, 2))] if others else [v]
    if b.flip(0.3):
        operands: list[str | Value] = [*chosen, b.per_channel(v, b.normal(v.channels))]
    else:
        operands = list(chosen)
    return b.op(b.pick(("Sum", "Mean", "Min", "Max")), operands, v.shape, v.axis)


def join(b: Builder, v: Value) -> Value | None:
    """A sum or product with another tensor of the graph that has the same shape, or that broadcasts to it."""
    others = [u for u in b.pool if u.name != v.name and _broadcasts(u.shape, v.shape)]
    if not others:
        return None
    u = b.pick(others)
    pair: list[str | Value] = [v, u]
    return b.op(b.pick(("Add", "Add", "Sub", "Mul")), pair if b.flip(0.6) else pair[::-1], v.shape, v.axis)


def _broadcasts(small: Sequence[Dim], large: Sequence[Dim]) -> bool:
    return len(small) <= len(large) and all(s in (1, d) for s, d in zip(reversed(small), reversed(large), strict=False))


# -- normalisation ----------------------------------------------------------------------------------


def batch_norm(b: Builder, v: Value) -> Value | None:
    """BatchNormalization with shifts, and at times with zero scales."""
    if v.axis != 1:
        return None
    c = v.channels
    scale = b.positive(c)
    if b.flip(0.25):
        scale = scale * b.keep(c).astype(scale.dtype)
    shift = b.normal(c, scale=0.5) * (b.keep(c).astype(b.numpy_type) if b.flip(0.2) else 1)
    vectors = (scale, shift, b.normal(c, scale=0.5), b.positive(c))
    return b.like(
        "BatchNormalization",
        v,
        *[b.const(x, b.numpy_type) for x in vectors],
        epsilon=b.pick((None, 1e-3)),
    )


def layer_norm(b: Builder, v: Value) -> Value | None:
    """Layer normalisation over the channels: the operator, or spelled out as exporters do."""
    axes = [v.axis]
    if v.axis == v.rank - 2 and isinstance(v.shape[-1], int) and b.flip(0.3):
        axes = [v.rank - 2, v.rank - 1]
    if v.axis == 1 and v.rank > 2 and len(axes) == 1 and b.flip(0.2) and v.static:
        axes = list(range(1, v.rank))
    dims = [size(v.shape[a]) for a in axes]
    if math.prod(dims) < 2:
        return None
    ends = axes == list(range(v.rank - len(axes), v.rank))
    if b.opset >= 17 and ends and b.flip(0.6):
        operands: list[str | Value] = [v, b.const(b.positive(*dims), b.numpy_type)]
        if b.flip(0.8):
            operands.append(b.const(b.normal(*dims), b.numpy_type))
        axis = axes[0] - v.rank if b.flip(0.6) else axes[0]
        return b.op("LayerNormalization", operands, v.shape, v.axis, axis=axis, epsilon=1e-3)
    mean = b.reduce("ReduceMean", v, axes, True)
    centred = b.like("Sub", v, mean)
    if b.flip(0.5):
        square = b.like("Pow", centred, b.scalar(2.0))
    else:
        square = b.like("Mul", centred, centred)
    spread = b.reduce("ReduceMean", square, axes, True)
    root = b.like("Sqrt", b.like("Add", spread, b.scalar(1e-3)))
    y = b.like("Div", centred, root)
    if b.flip(0.8):
        y = b.like("Mul", y, b.per_channel(y, b.positive(v.channels)))
        y = b.like("Add", y, b.per_channel(y, b.normal(v.channels)))
    return y


def rms_norm(b: Builder, v: Value) -> Value | None:
    """Root mean square normalisation over the last axis: the operator, or spelled out."""
    if v.axis != v.rank - 1:
        return None
    if b.opset >= 23 and b.flip(0.5):
        return b.like("RMSNormalization", v, b.const(b.positive(v.channels), b.numpy_type), axis=-1, epsilon=1e-3)
    spread = b.reduce("ReduceMean", b.like("Mul", v, v), [v.axis], True)
    root = b.like("Sqrt", b.like("Add", spread, b.scalar(1e-2)))
    y = b.like("Mul", v, b.like("Reciprocal", root)) if b.flip(0.5) else b.like("Div", v, root)
    return b.like("Mul", y, b.per_channel(y, b.positive(v.channels)))


def instance_norm(b: Builder, v: Value) -> Value | None:
    """InstanceNormalization: the statistics of each channel over its own positions."""
    if not v.is_image or math.prod(size(d) for d in v.shape[2:]) < 4:
        return None
    c = v.channels
    return b.like(
        "InstanceNormalization",
        v,
        b.const(b.positive(c), b.numpy_type),
        b.const(b.normal(c), b.numpy_type),
        epsilon=1e-2,
    )


def group_norm(b: Builder, v: Value) -> Value | None:
    """GroupNormalization: the operator, or the reshape around InstanceNormalization that exporters write."""
    if v.axis != 1 or v.rank != 4 or not v.static:
        return None
    c = v.channels
    groups = b.pick([g for g in range(1, c + 1) if c % g == 0])
    if c // groups * size(v.shape[2]) * size(v.shape[3]) < 4:
        return None
    if b.opset >= 21 and b.flip(0.6):
        return b.like(
            "GroupNormalization",
            v,
            b.const(b.positive(c), b.numpy_type),
            b.const(b.normal(c), b.numpy_type),
            num_groups=groups,
            epsilon=1e-2,
        )
    flat = b.reshape(v, [v.shape[0], groups, c // groups * size(v.shape[2]) * size(v.shape[3])], 1)
    ones, zeros = np.ones(groups, b.numpy_type), np.zeros(groups, b.numpy_type)
    y = b.like("InstanceNormalization", flat, b.const(ones, ones.dtype), b.const(zeros, zeros.dtype), epsilon=1e-2)
    y = b.reshape(y, v.shape, 1)
    y = b.like("Mul", y, b.const(b.positive(c, 1, 1), b.numpy_type))
    return b.like("Add", y, b.const(b.normal(c, 1, 1), b.numpy_type))


def lrn(b: Builder, v: Value) -> Value | None:
    """Local response normalisation, which reads neighbouring channels."""
    if not v.is_image or v.rank != 4:
        return None
    return b.like("LRN", v, size=b.pick((1, 3, 5)), alpha=0.5, beta=0.75, bias=1.0)


def lp_norm(b: Builder, v: Value) -> Value | None:
    """Division by the norm over the channels, kept away from zero by a constant channel."""
    safe = b.like("Add", b.like("Abs", v), b.scalar(0.5))
    return b.like("LpNormalization", safe, axis=v.axis, p=b.pick((1, 2)))


def softmax(b: Builder, v: Value) -> Value | None:
    """Softmax over the channels or over another static axis."""
    axis = v.axis if b.flip(0.7) else b.some(1, v.rank - 1)
    if b.opset < 13 and axis != v.rank - 1:
        return None
    written = axis - v.rank if b.opset >= 11 and b.flip(0.5) else axis
    return b.like(b.pick(("Softmax", "Softmax", "LogSoftmax")), v, axis=written)


# -- pooling and reductions -------------------------------------------------------------------------


def pool(b: Builder, v: Value) -> Value | None:
    """Max or average pooling with every treatment of the border."""
    if not v.is_image or v.rank > 4:
        return None
    op = b.pick(("MaxPool", "AveragePool", "AveragePool", "LpPool"))
    ceil = b.flip(0.15) and b.opset >= 10 and op != "LpPool"
    auto = b.pick(("NOTSET",) * 7 + ("SAME_UPPER", "SAME_LOWER"))
    if op == "LpPool":
        auto = "NOTSET"
    k, s = b.pick((1, 2, 2, 3)), b.pick((1, 2, 2))
    s = min(s, k)
    p = 0 if ceil or auto != "NOTSET" else b.pick((0, 0, k // 2, min(1, k - 1)))
    shape: list[Dim] = []
    for d in v.shape[2:]:
        if auto != "NOTSET":
            n = -(-size(d) // s)
        elif ceil:
            n = -(-(size(d) - k) // s) + 1
        else:
            n = (size(d) + 2 * p - k) // s + 1
        if size(d) < k or n < 1:
            return None
        label = f"p{k},{p},{s},{int(ceil)},{int(auto != 'NOTSET')}"
        shape.append(d if s == 1 and (2 * p == k - 1 or auto != "NOTSET") else derived(d, label, n))
    spatial = v.rank - 2
    include = op == "AveragePool" and b.flip(0.5)
    return b.op(
        op,
        [v],
        [*v.shape[:2], *shape],
        1,
        kernel_shape=[k] * spatial,
        strides=[s] * spatial if s > 1 or b.flip(0.5) else None,
        pads=[p] * (2 * spatial) if auto == "NOTSET" and (p or b.flip(0.3)) else None,
        auto_pad=None if auto == "NOTSET" else auto,
        ceil_mode=1 if ceil else None,
        count_include_pad=1 if include else None,
        p=2 if op == "LpPool" else None,
    )


def global_pool(b: Builder, v: Value) -> Value | None:
    """Pooling over all positions, mostly followed by dropping the axes of size one."""
    if not v.is_image:
        return None
    op = b.pick(("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"))
    y = b.op(op, [v], [*v.shape[:2], *[1] * (v.rank - 2)], 1)
    form = b.some(0, 3)
    if form == 0:
        return y
    if form == 1:
        return b.op("Flatten", [y], y.shape[:2], 1, axis=1)
    if form == 2:
        return b.squeeze(y, range(2, y.rank))
    return b.reshape(y, y.shape[:2], 1)


def reduction(b: Builder, v: Value) -> Value | None:
    """A reduction over positions, over channels, or over both."""
    if v.rank < 2:
        return None
    op = b.pick(("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1",
                 "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd"))  # fmt: skip
    others = [i for i in range(1, v.rank) if i != v.axis]
    axes = others if others and b.flip(0.7) else [b.some(1, v.rank - 1)]
    keepdims = b.flip(0.5) or len(axes) == v.rank - 1
    if v.axis in axes and not any(isinstance(d, int) for i, d in enumerate(v.shape) if i not in (0, *axes)):
        keepdims = True
    if op == "ReduceL2":  # its derivative has no bound at zero
        v = b.like("Add", b.like("Abs", v), b.scalar(0.5))
    if op == "ReduceProd":
        v = b.like("Tanh", v)
    return b.reduce(op, v, axes, keepdims)


def cumsum(b: Builder, v: Value) -> Value | None:
    """A running sum along one axis."""
    if b.opset < 11 or b.dtype == TensorProto.FLOAT16:
        return None
    axis = b.some(1, v.rank - 1)
    return b.like("CumSum", v, b.const(np.array(axis, np.int64), np.int64), exclusive=b.pick((None, 1)))


# -- moving data ------------------------------------------------------------------------------------


def transpose(b: Builder, v: Value) -> Value | None:
    """Any order of the axes behind the batch, which stays first."""
    if v.rank < 3:
        return None
    return b.transpose(v, [0, *b.shuffled(range(1, v.rank))])


def channels_last(b: Builder, v: Value) -> Value | None:
    """To channels last, a layer on them, and back."""
    if v.axis != 1 or v.rank < 3:
        return None
    y = b.transpose(v, [0, *range(2, v.rank), 1])
    layers: tuple[Step, ...] = (matmul, activation, constant_operand, Builder.mask, layer_norm)
    for _ in range(b.some(1, 3)):
        y = b.pick(layers)(b, y) or y
    return b.transpose(y, [0, y.rank - 1, *range(1, y.rank - 1)]) if b.flip(0.8) else y


def channels_first(b: Builder, v: Value) -> Value | None:
    """The channels moved to the second place."""
    if v.axis == 1 or v.rank < 3:
        return None
    return b.transpose(v, [0, v.axis, *[i for i in range(1, v.rank) if i != v.axis]])


def flatten(b: Builder, v: Value) -> Value | None:
    """Everything behind the batch in one axis."""
    if not v.static or v.rank < 3 or math.prod(size(d) for d in v.shape[1:]) > 300:
        return None
    total = math.prod(size(d) for d in v.shape[1:])
    if b.flip(0.5):
        return b.op("Flatten", [v], [v.shape[0], total], 1, axis=b.pick((None, 1)))
    return b.reshape(v, [v.shape[0], total], 1)


def merge_spatial(b: Builder, v: Value) -> Value | None:
    """The spatial axes in one."""
    if not v.is_image or v.rank < 4 or not v.static:
        return None
    return b.reshape(v, [v.shape[0], v.channels, math.prod(size(d) for d in v.shape[2:])], 1)


def split_channels(b: Builder, v: Value) -> Value | None:
    """The channel axis split in two."""
    factors = [f for f in range(2, v.channels) if v.channels % f == 0]
    if not factors or v.rank > 4 or any(isinstance(d, Sym) for d in v.shape[1:]):
        return None
    f = b.pick(factors)
    shape = (*v.shape[: v.axis], f, v.channels // f, *v.shape[v.axis + 1 :])
    return b.reshape(v, shape, v.axis + b.some(0, 1))


def merge_axes(b: Builder, v: Value) -> Value | None:
    """The channel axis and the one behind it in one."""
    if v.axis + 1 >= v.rank or v.rank < 3 or any(isinstance(d, Sym) for d in v.shape[1:]):
        return None
    total = v.channels * size(v.shape[v.axis + 1])
    if total > 120:
        return None
    return b.reshape(v, (*v.shape[: v.axis], total, *v.shape[v.axis + 2 :]), v.axis)


def rows(b: Builder, v: Value) -> Value | None:
    """Batch and positions in one axis, as a table of channel rows, and back after a few layers."""
    if v.axis != v.rank - 1 or v.rank != 3 or not isinstance(v.shape[1], int):
        return None
    y: Value | None = b.op(
        "Reshape",
        [v, b.ints([-1, v.channels])],
        [derived(v.shape[0], f"*{v.shape[1]}", size(v.shape[0]) * v.shape[1]), v.channels],
        1,
    )
    assert y is not None
    layers: tuple[Step, ...] = (gemm, matmul, activation, constant_operand, Builder.mask)
    for _ in range(b.some(1, 3)):
        y = b.pick(layers)(b, y) or y
    if y.rank != 2 or b.flip(0.2):
        return y
    return b.op("Reshape", [y, b.ints([-1, v.shape[1], y.channels])], [v.shape[0], v.shape[1], y.channels], 2)


def shuffle(b: Builder, v: Value) -> Value | None:
    """ShuffleNet's channel shuffle: reshape, transpose, reshape."""
    factors = [f for f in range(2, v.channels) if v.channels % f == 0]
    if not factors:
        return None
    g = b.pick(factors)
    if v.rank == 3 and v.axis == 2:
        y = b.reshape(v, [*v.shape[:2], g, v.channels // g], 2)
        return b.reshape(b.transpose(y, [0, 1, 3, 2]), v.shape, 2)
    if v.axis != 1 or v.rank != 4 or len({d for d in v.shape if not isinstance(d, int)}) > 1:
        return None
    y = b.reshape(v, [v.shape[0], g, v.channels // g, *v.shape[2:]], 1)
    y = b.transpose(y, [0, 2, 1, 3, 4])
    return b.reshape(y, v.shape, 1)


def space_and_depth(b: Builder, v: Value) -> Value | None:
    """DepthToSpace or SpaceToDepth."""
    if v.axis != 1 or v.rank != 4:
        return None
    c, (h, w) = v.channels, v.shape[2:]
    if c % 4 == 0 and b.flip(0.6) and size(h) <= 6 and size(w) <= 6:
        mode = b.pick(("DCR", "CRD")) if b.opset >= 11 else None
        shape = [v.shape[0], c // 4, derived(h, "*2", size(h) * 2), derived(w, "*2", size(w) * 2)]
        return b.op("DepthToSpace", [v], shape, 1, blocksize=2, mode=mode)
    if not (isinstance(h, int) and isinstance(w, int)) or h % 2 or w % 2 or c > 8:
        return None
    return b.op("SpaceToDepth", [v], [v.shape[0], c * 4, h // 2, w // 2], 1, blocksize=2)


def resize(b: Builder, v: Value) -> Value | None:
    """Upsampling of the positions by two."""
    if v.axis != 1 or v.rank != 4 or any(size(d) > 6 for d in v.shape[2:]):
        return None
    shape = [*v.shape[:2], *[derived(d, "*2", size(d) * 2) for d in v.shape[2:]]]
    scales = b.const(np.array([1, 1, 2, 2], np.float32), np.float32, "scales")
    mode = b.pick(("nearest", "linear"))
    if b.opset < 11:  # the reference evaluator has only half of these forms
        if b.dtype == TensorProto.DOUBLE:
            return None
        b.sharp = False
    if b.opset < 10:
        return b.op("Upsample", [v, scales], shape, 1, mode=mode)
    if b.opset < 11:
        return b.op("Resize", [v, scales], shape, 1, mode=mode)
    empty = b.const(np.zeros(0, np.float32), np.float32, "roi") if b.opset < 13 else ""
    if v.static and isinstance(v.shape[0], int) and b.flip(0.4):
        sizes = b.ints([size(d) for d in shape])
        unused = b.const(np.zeros(0, np.float32), np.float32, "scales") if b.opset < 13 else ""
        return b.op("Resize", [v, empty, unused, sizes], shape, 1, mode=mode)
    center = b.pick(("asymmetric", "half_pixel", "align_corners")) if mode == "linear" else "asymmetric"
    return b.op(
        "Resize",
        [v, empty, scales],
        shape,
        1,
        mode=mode,
        coordinate_transformation_mode=center,
        nearest_mode="floor" if mode == "nearest" else None,
    )


def pad(b: Builder, v: Value) -> Value | None:
    """Padding of positions or of channels: with zero, with a number, or by repeating what is there."""
    axes = [i for i in range(1, v.rank) if size(v.shape[i]) > 2]
    if not axes:
        return None
    mode = b.pick(("constant", "constant", "constant", "reflect", "edge"))
    begin, end = [0] * v.rank, [0] * v.rank
    for axis in [a for a in axes if b.flip(0.5)] or axes[-1:]:
        if axis == v.axis and b.flip(0.5):
            continue
        begin[axis], end[axis] = b.some(0, 2), b.some(0, 2)
    if mode == "constant" and b.flip(0.15):
        axis = b.pick(axes)
        begin[axis], end[axis] = 0, -1
    return b.pad(v, begin, end, mode, b.pick((0.0, 0.0, 1.5)) if mode == "constant" else 0.0)


def slices(b: Builder, v: Value) -> Value | None:
    """A part of a static axis, possibly backwards or with a stride."""
    axes = [i for i in range(1, v.rank) if isinstance(v.shape[i], int) and size(v.shape[i]) > 1]
    if not axes:
        return None
    axis = v.axis if v.axis in axes and b.flip(0.7) else b.pick(axes)
    n = size(v.shape[axis])
    form = b.some(0, 3) if b.opset >= 10 else 0
    if form == 2:
        return b.slice(v, axis, 0, n, 2)
    if form == 3:
        return b.slice(v, axis, n - 1, -n - 1, -1)
    start = b.some(0, n - 1)
    stop = b.some(start + 1, n)
    return b.slice(v, axis, start - n if start and b.flip(0.3) else start, stop if stop < n else 1 << 40)


def gather(b: Builder, v: Value) -> Value | None:
    """Constant indices along a static axis: a permutation, a selection, repetitions, or a single one."""
    axes = [i for i in range(1, v.rank) if isinstance(v.shape[i], int)]
    if not axes:
        return None
    axis = v.axis if b.flip(0.7) and v.axis in axes else b.pick(axes)
    n = size(v.shape[axis])
    form = b.some(0, 3)
    if form == 0:
        return b.gather(v, b.shuffled(range(n)), axis)
    if form == 1 and axis != v.axis and v.rank > 2:
        index = b.const(np.array(b.some(-n, n - 1), np.int64), np.int64)
        shape = [d for i, d in enumerate(v.shape) if i != axis]
        return b.op("Gather", [v, index], shape, v.axis - (axis < v.axis), axis=axis)
    low = -n if b.opset >= 11 else 0
    return b.gather(v, [b.some(low, n - 1) for _ in range(b.some(1, n + 1))], axis)


def scatter(b: Builder, v: Value) -> Value | None:
    """Constant rows written over, or elements picked, at constant indices along the last axis."""
    if b.opset < 11 or not v.static or not isinstance(v.shape[0], int) or v.rank > 3:
        return None
    dims = [size(d) for d in v.shape]
    if b.flip(0.5):
        index = b.weights.integers(0, dims[-1], size=dims)
        return b.like("GatherElements", v, b.const(index.astype(np.int64), np.int64), axis=v.rank - 1)
    places = np.array([[i] for i in range(dims[0]) if b.flip(0.5)] or [[0]], np.int64)
    updates = b.normal(len(places), *dims[1:])
    return b.like("ScatterND", v, b.const(places, np.int64), b.const(updates, updates.dtype))


def scatter_elements(b: Builder, v: Value) -> Value | None:
    """Something computed written, or added, at constant places along an axis behind the batch."""
    if b.opset < 11 or not v.static or not isinstance(v.shape[0], int) or v.rank > 4 or b.dtype == TensorProto.FLOAT16:
        return None
    dims = [size(d) for d in v.shape]
    axis = b.some(1, v.rank - 1)
    order = b.shuffled(range(dims[axis]))
    index = np.broadcast_to(np.reshape(order, [-1 if a == axis else 1 for a in range(v.rank)]), dims)
    updates = b.pick((activation, Builder.mask))(b, v)
    if b.flip(0.3):
        return b.like("GatherElements", v, b.const(index.astype(np.int64), np.int64), axis=axis)
    reduction = b.pick((None, "add")) if b.opset >= 16 else None
    indices = b.const(index.astype(np.int64), np.int64)
    return b.like("ScatterElements", v, indices, updates, axis=axis, reduction=reduction)


def scatter_channels(b: Builder, v: Value) -> Value | None:
    """Some channels written over, by constants or by something computed, with the channels in front."""
    if b.opset < 11 or v.rank not in (2, 3, 4) or not v.static or not isinstance(v.shape[0], int) or v.channels < 2:
        return None
    if b.dtype == TensorProto.FLOAT16:  # ONNX Runtime crashes when it optimises some of these
        return None
    places = [i for i in range(v.channels) if b.flip(0.4)] or [0]
    order = [v.axis, *(a for a in range(v.rank) if a != v.axis)]
    front = b.transpose(v, order)
    if b.flip(0.5):
        updates = b.pick((activation, Builder.mask))(
            b, b.gather(front, b.shuffled(range(v.channels))[: len(places)], 0)
        )
        name = updates.name
    else:
        values = b.normal(len(places), *[size(d) for d in front.shape[1:]])
        values[: len(values) // 2] = b.pick((0.0, 0.5))
        name = b.const(values.astype(b.numpy_type), b.numpy_type)
    indices = b.const(np.array([[i - v.channels if b.flip(0.2) else i] for i in places], np.int64), np.int64)
    y = b.like("ScatterND", front, indices, name)
    return b.transpose(y, [order.index(a) for a in range(v.rank)])


def gather_pieces(b: Builder, v: Value) -> Value | None:
    """GatherND along the axis behind the batch, the same pieces for each example."""
    if b.opset < 12 or v.rank < 3 or v.axis == 1 or not isinstance(v.shape[0], int) or not isinstance(v.shape[1], int):
        return None
    n, m = size(v.shape[1]), b.some(1, 4)
    index = b.weights.integers(-n, n, size=(size(v.shape[0]), m, 1)).astype(np.int64)
    return b.op("GatherND", [v, b.const(index, np.int64)], [v.shape[0], m, *v.shape[2:]], v.axis, batch_dims=1)


def sort(b: Builder, v: Value) -> Value | None:
    """The largest along one axis, by size."""
    axes = [a for a in range(1, v.rank) if isinstance(v.shape[a], int)]
    if b.opset < 11 or not axes or b.dtype == TensorProto.FLOAT16:
        return None
    axis = b.pick(axes)
    k = b.some(1, size(v.shape[axis]))
    b.sharp = b.sharp and axis != v.axis  # values that are nearly equal may change places
    shape = [k if a == axis else d for a, d in enumerate(v.shape)]
    names = b.raw("TopK", [v, b.ints([k])], 2, axis=axis, largest=b.pick((None, 0)))
    return Value(names[0], tuple(shape), v.axis)


def triangle(b: Builder, v: Value) -> Value | None:
    """One half of each matrix."""
    if b.opset < 14 or b.dtype == TensorProto.FLOAT16:
        return None
    return b.like("Trilu", v, upper=b.pick((0, 1)))


def count(b: Builder, v: Value) -> Value | None:
    """Divided by the number of its elements, which the graph computes."""
    if b.dtype == TensorProto.FLOAT16:
        return None
    number = b.raw("Cast", [b.raw("Size", [v])[0]], to=b.dtype)[0]
    return b.like("Div", v, number)


def split_and_join(b: Builder, v: Value) -> Value | None:
    """Split along the channels; the pieces treated differently, then joined in any order or dropped."""
    if v.channels < 2:
        return None
    cut = b.some(1, v.channels - 1)
    equal = v.channels % 2 == 0 and b.flip(0.4)
    sizes = [v.channels // 2] * 2 if equal else [cut, v.channels - cut]
    pieces = b.split(v, v.axis, sizes)
    treatments: tuple[Step, ...] = (activation, Builder.mask, lambda _, x: x)
    pieces = [b.pick(treatments)(b, p) or p for p in pieces]
    if equal and b.flip(0.4):
        gate = b.like("Sigmoid", pieces[0])
        return b.like("Mul", pieces[1], gate)
    if b.flip(0.2):
        return b.pick(pieces)
    return b.concat(b.shuffled(pieces), v.axis)


def tile(b: Builder, v: Value) -> Value | None:
    """Repetition along the channels or another axis."""
    if v.rank > 4 or v.channels > 8:
        return None
    repeats = [1] * v.rank
    static = [i for i in range(1, v.rank) if isinstance(v.shape[i], int) and size(v.shape[i]) <= 8]
    if not static:
        return None
    axis = b.pick(static)
    repeats[axis] = 2
    shape = [size(d) * 2 if i == axis else d for i, d in enumerate(v.shape)]
    return b.op("Tile", [v, b.ints(repeats)], shape, v.axis)


def expand(b: Builder, v: Value) -> Value | None:
    """A new axis, or one of size one, stretched by Expand; the target constant or computed."""
    if v.rank > 3:
        return None
    at = b.some(1, v.rank)
    y = b.unsqueeze(v, [at])
    n = b.some(2, 3)
    shape = tuple(n if i == at else d for i, d in enumerate(y.shape))
    target = [1] * y.rank
    target[at] = n
    if b.flip(0.3):
        whole = b.computed_shape(v, [v.shape[0]])
        rest = b.ints([n if i == at else 1 for i in range(1, y.rank)])
        name = b.raw("Concat", [whole, rest], axis=0)[0]
    else:
        name = b.ints(target)
    return b.op("Expand", [y, name], shape, y.axis)


def squeeze_unsqueeze(b: Builder, v: Value) -> Value | None:
    """An axis of size one removed where there is one, or else added."""
    ones = [i for i, d in enumerate(v.shape) if d == 1 and i not in (0, v.axis)]
    if ones and v.rank > 2:
        return b.squeeze(v, ones[: b.some(1, len(ones))])
    return b.unsqueeze(v, [b.some(1, v.rank)]) if v.rank < 4 else None


# -- blocks -----------------------------------------------------------------------------------------

_SAME: tuple[Step, ...] = (
    activation,
    activation,
    constant_operand,
    batch_norm,
    batch_norm,
    Builder.mask,
    Builder.mask,
    layer_norm,
    softmax,
)


def same_layer(b: Builder, v: Value) -> Value:
    """A layer whose output has the shape of its input: a convolution of images, a product otherwise."""
    if v.is_image:
        return conv(b, v, same=True) or v
    if v.axis == v.rank - 1 and v.rank >= 2:
        return matmul(b, v, out=v.channels) or v
    return activation(b, v)


def branch(b: Builder, v: Value) -> Value:
    """A few layers that keep the shape."""
    y = v
    for _ in range(b.some(1, 3)):
        y = same_layer(b, y)
        for _ in range(b.some(0, 2)):
            z = b.pick(_SAME)(b, y)
            y = z if z is not None and z.shape == v.shape else y
    return y


def residual(b: Builder, v: Value) -> Value | None:
    """A sum of two branches, each with a mask of its own or none."""
    left = branch(b, v)
    right = v if b.flip(0.5) else branch(b, v)
    left = b.mask(left) if b.flip(0.5) else left
    right = b.mask(right) if b.flip(0.4) else right
    y = b.like(b.pick(("Add", "Add", "Add", "Sub", "Mul", "Max")), *b.shuffled([left, right]))
    return b.mask(y) if b.flip(0.3) else y


def dense_block(b: Builder, v: Value) -> Value | None:
    """Concatenation of the input with what a branch makes of it."""
    if v.channels > 10:
        return None
    parts = [v, branch(b, v)]
    if b.flip(0.3):
        parts.append(b.mask(v))
    y = b.concat(b.shuffled(parts), v.axis)
    return b.mask(y) if b.flip(0.4) else y


def mobile_block(b: Builder, v: Value) -> Value | None:
    """Many channels, masked and shifted, through a depthwise convolution of any border, and few channels behind."""
    if not v.is_image or v.rank > 4 or b.dtype == TensorProto.FLOAT16:
        return None
    few = all(size(d) <= 3 for d in v.shape[2:])
    wide = b.pick((24, 32, 48, 100)) if few else b.pick((12, 24))
    w = weight(b, [wide, v.channels, *[1] * (v.rank - 2)], v.channels, outputs=0, inputs=1)
    y = b.op("Conv", [v, b.weight(w)], [v.shape[0], wide, *v.shape[2:]], 1)
    y = b.mask(y, "few" if b.flip(0.7) else None)
    y = batch_norm(b, y) or y if b.flip(0.5) else b.like("Add", y, b.per_channel(y, b.normal(wide)))
    y = activation(b, y) if b.flip(0.7) else y
    for _ in range(b.pick((1, 1, 1, 2))):
        y = depthwise(b, y) or y
        y = activation(b, y) if b.flip(0.6) else y
        if b.flip(0.15):
            y = pool(b, y) or y
    few_channels = b.some(1, 5)
    w = weight(b, [few_channels, wide, *[1] * (v.rank - 2)], wide, outputs=0, inputs=1)
    return b.op("Conv", [y, b.weight(w)], [y.shape[0], few_channels, *y.shape[2:]], 1)


def depthwise(b: Builder, v: Value) -> Value | None:
    """A depthwise convolution, strided or dilated, with explicit or automatic padding on either side."""
    rank = v.rank - 2
    auto = b.pick(("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"))
    k, s = b.pick((2, 3, 3, 3, 5)), b.pick((1, 1, 2, 3))
    dilation = 2 if b.flip(0.15) and auto == "NOTSET" else 1
    reach = (k - 1) * dilation
    begin, end = b.pick(
        ((reach // 2, reach - reach // 2), (reach // 2, reach - reach // 2), (reach, 0), (0, reach), (1, 1))
    )
    shape: list[Dim] = []
    for d in v.shape[2:]:
        n = -(-size(d) // s) if auto != "NOTSET" else (size(d) + begin + end - reach - 1) // s + 1
        if n < 1:
            return None
        label = f"d{k},{begin},{end},{s},{dilation}" if auto == "NOTSET" else f"/{s}"
        same = s == 1 and (auto != "NOTSET" or begin + end == reach)
        shape.append(d if same else derived(d, label, n))
    w = weight(b, [v.channels, 1, *[k] * rank], k**rank, outputs=0, inputs=None)
    return b.op(
        "Conv",
        [v, b.weight(w), *([bias(b, v.channels)] if b.flip(0.5) else [])],
        [*v.shape[:2], *shape],
        1,
        group=v.channels,
        strides=[s] * rank,
        dilations=[dilation] * rank if dilation > 1 else None,
        pads=[begin] * rank + [end] * rank if auto == "NOTSET" else None,
        auto_pad=None if auto == "NOTSET" else auto,
    )


def positions(b: Builder, v: Value) -> Value | None:
    """Another vector for each place along one static axis, as position embeddings are, behind a mask."""
    places = [a for a in range(1, v.rank) if a != v.axis and isinstance(v.shape[a], int)]
    if not places:
        return None
    place = b.pick(places)
    shape = [size(d) if a in (place, v.axis) else 1 for a, d in enumerate(v.shape)]
    first = shape[: min(place, v.axis)]
    table = b.normal(*(shape[len(first) :] if b.flip(0.5) else shape))
    masked = b.mask(v) if b.flip(0.8) else v
    return b.like(b.pick(("Add", "Add", "Sub")), masked, b.const(table, b.numpy_type))


def stack_positions(b: Builder, v: Value) -> Value | None:
    """Concatenation of two branches along an axis that is not the channels'."""
    axes = [i for i in range(1, v.rank) if i != v.axis and isinstance(v.shape[i], int) and size(v.shape[i]) <= 6]
    if not axes:
        return None
    axis = b.pick(axes)
    other = branch(b, v) if b.flip(0.7) else b.mask(v)
    return b.concat(b.shuffled([v, other]), axis)


def squeeze_excite(b: Builder, v: Value) -> Value | None:
    """Channels scaled by a gate computed from their means."""
    if not v.is_image:
        return None
    spatial = v.rank - 2
    if b.flip(0.5):
        g = b.op("GlobalAveragePool", [v], [*v.shape[:2], *[1] * spatial], 1)
    else:
        g = b.reduce("ReduceMean", v, list(range(2, v.rank)), True)
    if b.flip(0.5):
        g = conv(b, g, out=b.some(1, 4), same=True) or g
        g = b.like("Relu", g)
        g = b.mask(g) if b.flip(0.4) else g
        g = conv(b, g, out=v.channels, same=True) or g
    else:
        g = b.squeeze(g, list(range(2, v.rank)))
        g = matmul(b, g, out=b.some(1, 4)) or g
        g = b.like("Relu", g)
        g = matmul(b, g, out=v.channels) or g
        g = b.unsqueeze(g, list(range(2, v.rank)))
    g = b.like(b.pick(("Sigmoid", "HardSigmoid")), g)
    g = b.mask(g) if b.flip(0.3) else g
    if g.channels != v.channels:
        return None
    return b.op("Mul", [v, g] if b.flip(0.6) else [g, v], v.shape, 1)


def attention(b: Builder, v: Value) -> Value | None:
    """Self-attention of one or more heads, written out; inner channels and heads masked at times."""
    if v.rank != 3 or v.axis != 2:
        return None
    heads, inner = b.some(1, 3), b.some(1, 4)
    wide = heads * inner
    n, t = v.shape[:2]

    def masked(y: Value) -> Value:
        y = b.mask(y) if b.flip(0.5) else y
        return b.like("Add", y, bias(b, y.channels)) if b.flip(0.2) else y

    def project(order: Sequence[int]) -> Value:
        y = matmul(b, v, out=wide)
        assert y is not None
        return split(masked(y), order)

    def split(y: Value, order: Sequence[int]) -> Value:
        y = b.op("Reshape", [y, b.ints([0, 0, heads, inner])], [n, t, heads, inner], 3)
        return b.transpose(y, order)

    form = b.pick(("apart", "apart", "together", "behind"))
    joint = matmul(b, v, out=3 * wide) if form != "apart" else None
    if joint is None:
        q, k, w = project((0, 2, 1, 3)), project((0, 2, 3, 1)), project((0, 2, 1, 3))
    elif form == "together" or b.opset < 13:
        parts = b.op("Reshape", [masked(joint), b.ints([0, 0, 3, heads, inner])], [n, t, 3, heads, inner], 4)
        parts = b.transpose(parts, (2, 0, 3, 1, 4))
        index = [b.const(np.asarray(i), np.int64) for i in range(3)]
        q, k, w = (b.op("Gather", [parts, i], [n, heads, t, inner], 3, axis=0) for i in index)
        k = b.transpose(k, (0, 1, 3, 2))
    else:
        names = b.raw("Split", [masked(joint), b.ints([wide] * 3)], 3, axis=2)
        q, k, w = (
            split(Value(name, (n, t, wide), 2), order)
            for name, order in zip(names, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
        )
    scores = b.op("MatMul", [q, k], [n, heads, t, t], 1)
    scores = b.like(b.pick(("Mul", "Div")), scores, b.scalar(1.3))
    if isinstance(t, int) and b.flip(0.3):
        low = b.pick((-1e4, -math.inf)) if b.dtype != TensorProto.FLOAT16 else -1e4
        causal = np.triu(np.full((t, t), low), 1).astype(b.numpy_type)
        causal[np.tril_indices(t)] = 0
        scores = b.like("Add", scores, b.const(causal, causal.dtype))
    scores = b.like("Softmax", scores, axis=-1 if b.opset >= 11 else 3)
    if b.flip(0.15):  # one whole head switched off
        scores = b.mask(scores)
    y = b.op("MatMul", [scores, w], [n, heads, t, inner], 3)
    y = b.transpose(y, (0, 2, 1, 3))
    y = b.op("Reshape", [y, b.ints([0, 0, wide])], [n, t, wide], 2)
    y = b.mask(y) if b.flip(0.3) else y
    y = matmul(b, y, out=v.channels) or y
    return b.like("Add", v, y) if y.shape == v.shape and b.flip(0.7) else y


def products(b: Builder, v: Value) -> Value | None:
    """A product of two activations, as in feature crossing."""
    if v.rank != 3 or not isinstance(v.shape[1], int):
        return None
    left, right = branch(b, v), (b.mask(v) if b.flip(0.5) else v)
    last = v.shape[-1]
    if not isinstance(last, int):
        return None
    y = b.op("MatMul", [left, b.transpose(right, [0, 2, 1])], [v.shape[0], v.shape[1], v.shape[1]], 2)
    return b.like("Mul", y, b.scalar(0.3))


def constant_branch(b: Builder, v: Value) -> Value | None:
    """A branch that no input reaches, or that a mask cuts off altogether, added to the tensor."""
    if b.flip(0.5):
        y = b.mask(branch(b, v), "none")
    else:
        dims = [1, *[size(d) for d in v.shape[1:]]] if v.static else None
        if dims is None:
            return None
        y = Value(b.const(b.normal(*dims), b.numpy_type), v.shape, v.axis)
        y = b.like(b.pick(("Relu", "Sigmoid", "Neg")), y)
    z = branch(b, y) if b.flip(0.5) and y.shape == v.shape and b.nodes[-1].op_type == "Mul" else y
    return b.op(b.pick(("Add", "Mul")), [v, z], v.shape, v.axis)


def from_shape(b: Builder, v: Value) -> Value | None:
    """An elementwise operator on a constant that ConstantOfShape or Expand brings to the run-time size."""
    shape = b.raw("Shape", [v])[0]
    fill = helper.make_tensor("value", b.dtype, [1], [b.pick((0.0, 1.0, 0.7))])
    if b.flip(0.5):
        y = b.raw("ConstantOfShape", [shape], value=fill)[0]
    else:
        y = b.raw("Expand", [b.per_channel(v, b.normal(v.channels)), shape])[0]
    return b.like(b.pick(("Add", "Mul")), v, y)


def recurrent(b: Builder, v: Value) -> Value | None:
    """LSTM, GRU or RNN over a sequence."""
    if v.rank != 3 or v.axis != 2 or b.dtype != TensorProto.FLOAT:
        return None
    op, gates = b.pick((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    hidden = b.some(1, 4)
    direction = b.pick(("forward", "forward", "reverse", "bidirectional"))
    ways = 2 if direction == "bidirectional" else 1
    b.sharp = b.sharp and direction == "forward" and b.opset < 14
    x = b.transpose(v, [1, 0, 2])
    w = weight(b, [ways, gates * hidden, v.channels], v.channels, outputs=1, inputs=2)
    r = b.normal(ways, gates * hidden, hidden, scale=0.4)
    vector = b.normal(ways, 2 * gates * hidden, scale=0.3)
    if b.flip(0.4):  # units without a candidate, or without a way to others
        live = b.keep(hidden)
        for array, columns in ((w, v.channels), (r, hidden), (vector, 1)):
            last = array.reshape(ways, -1, gates, hidden, columns)[:, :, -1]
            last *= live[:, None]
        r.reshape(ways, gates, hidden, hidden)[:, :, b.keep(hidden)] *= b.keep(hidden)
    operands = [b.const(w, w.dtype), b.const(r, r.dtype), b.const(vector, b.numpy_type) if b.flip(0.7) else ""]
    if b.flip(0.3) and x.shape[1] == 1:
        b.sharp = False
        operands += ["", b.const(b.normal(ways, 1, hidden) * b.keep(hidden), b.numpy_type)]
        if op == "LSTM" and b.flip(0.6):
            operands += [b.const(b.normal(ways, 1, hidden), b.numpy_type), b.const(b.normal(ways, 3 * hidden))]
    attributes = {"linear_before_reset": 1} if op == "GRU" and b.flip(0.5) else {}
    if b.flip(0.2):  # the last state only
        b.sharp = False
        name = b.raw(op, [x, *operands], 2, hidden_size=hidden, direction=direction, **attributes)[1]
        return b.transpose(Value(name, (ways, x.shape[1], hidden), 2), [1, 0, 2])
    name = b.raw(op, [x, *operands], hidden_size=hidden, direction=direction, **attributes)[0]
    y = Value(name, (x.shape[0], ways, x.shape[1], hidden), 3)
    if ways == 1:
        return b.transpose(b.squeeze(y, [1]), [1, 0, 2])
    if not isinstance(v.shape[1], int):
        return b.reduce("ReduceSum", b.transpose(y, [2, 0, 1, 3]), [2], False)
    y = b.transpose(y, [2, 0, 1, 3])
    return b.op("Reshape", [y, b.ints([0, 0, 2 * hidden])], [v.shape[0], v.shape[1], 2 * hidden], 2)


def inner_layers(b: Builder, v: Value, tag: str) -> tuple[list[onnx.NodeProto], str]:
    """Nodes for a subgraph that reads v: two layers with a mask between them, back to the shape of v; their output."""
    if b.flip(0.4) or not (v.is_image or v.axis == v.rank - 1):
        return [], v.name
    wide, c = b.some(1, 6), v.channels
    op, ones = ("Conv", [1] * (v.rank - 2)) if v.is_image else ("MatMul", [])
    first, last = ([wide, c, *ones], [c, wide, *ones]) if v.is_image else ([c, wide], [wide, c])
    weights = [b.const(b.normal(*shape, scale=0.5), b.numpy_type) for shape in (first, last)]
    keep = b.keep(wide).astype(b.numpy_type).reshape([wide, *ones])
    masked = [helper.make_node("Mul", [f"{tag}/wide", b.const(keep, b.numpy_type)], [f"{tag}/masked"])]
    if b.flip(0.3):  # a mask of the subgraph's own
        value = onnx.numpy_helper.from_array(keep)
        masked = [
            helper.make_node("Constant", [], [f"{tag}/keep"], value=value),
            helper.make_node("Mul", [f"{tag}/wide", f"{tag}/keep"], [f"{tag}/masked"]),
        ]
    return [
        helper.make_node(op, [v.name, weights[0]], [f"{tag}/wide"]),
        *masked,
        helper.make_node(b.pick(("Relu", "Sigmoid", "Tanh")), [f"{tag}/masked"], [f"{tag}/active"]),
        helper.make_node(op, [f"{tag}/active", weights[1]], [f"{tag}/narrow"]),
    ], f"{tag}/narrow"


def branching(b: Builder, v: Value) -> Value | None:
    """An If whose branches read tensors of the graph around it."""
    if b.opset < 11 or b.dtype == TensorProto.FLOAT16:  # ONNX Runtime 1.31 crashes on such a subgraph
        return None
    total = b.reduce("ReduceSum", v, list(range(v.rank)), False)
    condition = b.raw("Greater", [total, b.const(np.array(0.37, b.numpy_type), b.numpy_type)])[0]
    if b.flip(0.3):
        condition = b.const(np.array(b.flip(0.5)), bool)
    vector = b.per_channel(v, b.normal(v.channels), plain=True)
    names = (b.fresh("then"), b.fresh("else"))
    bodies = []
    for name, op in zip(names, ("Relu", "Mul"), strict=True):
        inner, last = inner_layers(b, v, name)
        inner.append(helper.make_node(op, [last] if op == "Relu" else [last, vector], [name]))
        bodies.append(helper.make_graph(inner, name.strip("/"), [], [b.value_info(Value(name, v.shape, v.axis))]))
    return b.op("If", [condition], v.shape, v.axis, then_branch=bodies[0], else_branch=bodies[1])


def loop(b: Builder, v: Value) -> Value | None:
    """A Loop that carries the tensor and reads weights of the graph around it."""
    if b.opset < 11 or b.dtype == TensorProto.FLOAT16:  # ONNX Runtime 1.31 crashes on such a subgraph
        return None
    vector = b.per_channel(v, b.positive(v.channels), plain=True)
    tag = b.fresh("body")
    state, out, cond = f"{tag}/state", f"{tag}/next", f"{tag}/go"
    inner, last = inner_layers(b, Value(state, v.shape, v.axis), tag)
    body = helper.make_graph(
        [
            *inner,
            helper.make_node("Mul", [last, vector], [f"{tag}/scaled"]),
            helper.make_node("Add", [f"{tag}/scaled", v.name if b.flip(0.6) else state], [f"{tag}/sum"]),
            helper.make_node("Tanh", [f"{tag}/sum"], [out]),
            helper.make_node("Identity", [f"{tag}/cond"], [cond]),
        ],
        "body",
        [
            helper.make_tensor_value_info(f"{tag}/i", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{tag}/cond", TensorProto.BOOL, []),
            b.value_info(Value(state, v.shape, v.axis)),
        ],
        [
            helper.make_tensor_value_info(cond, TensorProto.BOOL, []),
            b.value_info(Value(out, v.shape, v.axis)),
        ],
    )
    trips = b.const(np.array(2, np.int64), np.int64)
    go = b.const(np.array(True), bool)
    return b.op("Loop", [trips, go, v], v.shape, v.axis, body=body)


def scan(b: Builder, v: Value) -> Value | None:
    """A Scan over the positions of a sequence: a running state, one output per step."""
    if v.rank != 3 or v.axis != 2 or b.opset < 11 or b.dtype == TensorProto.FLOAT16:
        return None
    x = b.transpose(v, [1, 0, 2])
    tag = b.fresh("scan")
    row = Value(f"{tag}/x", v.shape[:1] + v.shape[2:], 1)
    state, new, out = (Value(f"{tag}/{n}", row.shape, 1) for n in ("state", "new", "out"))
    inner, last = inner_layers(b, row, tag)
    body = helper.make_graph(
        [
            *inner,
            helper.make_node("Add", [state.name, last], [f"{tag}/sum"]),
            helper.make_node("Tanh", [f"{tag}/sum"], [new.name]),
            helper.make_node("Identity", [new.name], [out.name]),
        ],
        "body",
        [b.value_info(state), b.value_info(row)],
        [b.value_info(new), b.value_info(out)],
    )
    start = b.reduce("ReduceMean", v, [1], False)
    outputs = b.raw("Scan", [start, x], 2, body=body, num_scan_inputs=1)
    y = Value(outputs[1], x.shape, 2)
    return b.transpose(y, [1, 0, 2])


def function(b: Builder, v: Value) -> Value | None:
    """A call of a function that the model itself defines."""
    if b.opset < 13 or any(f.name == "Gate" for f in b.functions):
        return None
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "k"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function("local", "Gate", ["x", "k"], ["y"], nodes, imports))
    return b.like("Gate", v, b.per_channel(v, b.normal(v.channels)), domain="local")


def several_outputs(b: Builder, v: Value) -> Value | None:
    """An operator of several outputs, of which some are read and others are not."""
    form = b.some(0, 4)
    if form == 0 and b.opset >= 10 and b.dtype != TensorProto.FLOAT16:
        k = b.some(1, v.channels)
        count = b.ints([k])
        names = b.raw("TopK", [v, count], 2, axis=v.axis)
        return Value(names[0], tuple(k if i == v.axis else d for i, d in enumerate(v.shape)), v.axis)
    if form == 1 and v.is_image and v.rank == 4 and all(size(d) >= 2 for d in v.shape[2:]) and b.opset >= 8:
        shape = [*v.shape[:2], *[derived(d, "p2", size(d) - 1) for d in v.shape[2:]]]
        return Value(b.raw("MaxPool", [v], 2, kernel_shape=[2, 2])[0], tuple(shape), 1)
    if form == 2 and b.opset >= 12:
        return Value(b.raw("Dropout", [v], 2)[0], v.shape, v.axis)
    if form == 3 and b.opset >= 17 and v.axis == v.rank - 1 and v.channels > 1 and b.dtype == TensorProto.FLOAT:
        scale = b.const(b.positive(v.channels), b.numpy_type)
        b.sharp = False  # its statistics are in single precision whatever the data is
        names = b.raw("LayerNormalization", [v, scale], 3, axis=-1, epsilon=1e-3)
        return (
            b.like("Sub", Value(names[0], v.shape, v.axis), names[1])
            if b.flip(0.5)
            else Value(names[0], v.shape, v.axis)
        )
    if v.channels > 1:
        cut = b.some(1, v.channels - 1)
        return b.pick(b.split(v, v.axis, [cut, v.channels - cut]))
    return None


def append_constant(b: Builder, v: Value) -> Value | None:
    """Constant channels or positions beside the tensor's own, such as a class token."""
    axes = [i for i in range(1, v.rank) if isinstance(v.shape[i], int) and size(v.shape[i]) <= 8]
    if not axes or not v.static:
        return None
    axis, extra = b.pick(axes), b.some(1, 2)
    dims = [1, *[extra if i == axis else size(d) for i, d in enumerate(v.shape) if i]]
    token = b.const(b.normal(*dims), b.numpy_type)
    if v.shape[0] != 1:
        target = b.raw("Concat", [b.computed_shape(v, [v.shape[0]]), b.ints(dims[1:])], axis=0)[0]
        token = b.raw("Expand", [token, target])[0]
    shape = tuple(size(d) + extra if i == axis else d for i, d in enumerate(v.shape))
    return b.op("Concat", b.shuffled([v, token]), shape, v.axis, axis=axis)


def crossing(b: Builder, v: Value) -> Value | None:
    """A product of a tensor with itself or with another of the same shape, summed over the channels."""
    others = [u for u in b.pool if u.shape == v.shape]
    y = b.like("Mul", v, b.pick(others) if others else v)
    return b.reduce("ReduceSum", y, [v.axis], True) if b.flip(0.5) else y


def custom(b: Builder, v: Value) -> Value | None:
    """An operator of ONNX Runtime's own domain that has no rules."""
    if b.dtype != TensorProto.FLOAT or v.rank < 2:
        return None
    b.sharp = False
    return b.like("Trilu", v, domain="com.microsoft")


# -- the generator ----------------------------------------------------------------------------------

_STEPS: dict[Step, int] = {
    conv: 14,
    conv_transpose: 3,
    matmul: 12,
    matmul_left: 2,
    matmul_batched: 2,
    gemm: 8,
    einsum: 3,
    einsum_of_any_form: 3,
    einsum_of_two: 2,
    vector_product: 1,
    tied: 2,
    tied_conv: 2,
    activation: 20,
    constant_operand: 10,
    outer_operand: 2,
    comparison: 3,
    many: 3,
    join: 5,
    batch_norm: 14,
    layer_norm: 5,
    rms_norm: 2,
    instance_norm: 2,
    group_norm: 2,
    lrn: 1,
    lp_norm: 1,
    softmax: 3,
    pool: 6,
    global_pool: 3,
    reduction: 5,
    cumsum: 1,
    transpose: 4,
    channels_last: 3,
    channels_first: 3,
    flatten: 3,
    merge_spatial: 2,
    split_channels: 2,
    merge_axes: 2,
    rows: 2,
    shuffle: 2,
    space_and_depth: 2,
    resize: 2,
    pad: 4,
    slices: 4,
    gather: 4,
    scatter: 1,
    scatter_elements: 1,
    scatter_channels: 2,
    gather_pieces: 1,
    sort: 1,
    triangle: 1,
    count: 1,
    split_and_join: 4,
    tile: 2,
    expand: 2,
    squeeze_unsqueeze: 2,
    residual: 8,
    dense_block: 4,
    stack_positions: 2,
    squeeze_excite: 4,
    attention: 6,
    products: 2,
    constant_branch: 3,
    from_shape: 2,
    recurrent: 3,
    branching: 2,
    loop: 2,
    scan: 1,
    several_outputs: 4,
    append_constant: 3,
    crossing: 2,
    function: 1,
    quantised.product: 2,
    quantised.convolution: 2,
    quantised.pair: 2,
    quantised.dynamic: 1,
    quantised.integer_convolution: 1,
    custom: 1,
    contrib.activation: 1,
    contrib.product: 1,
    contrib.convolution: 1,
    contrib.normalisation: 1,
}
_IMAGES: dict[Step, int] = {
    conv: 30,
    mobile_block: 6,
    conv_transpose: 4,
    tied_conv: 2,
    activation: 22,
    constant_operand: 6,
    batch_norm: 24,
    Builder.mask: 12,
    pool: 8,
    residual: 12,
    squeeze_excite: 6,
    dense_block: 6,
    split_and_join: 5,
    shuffle: 4,
    pad: 4,
    resize: 2,
    space_and_depth: 2,
    instance_norm: 2,
    group_norm: 2,
    join: 4,
    several_outputs: 2,
    append_constant: 2,
    gather: 2,
    slices: 2,
    channels_last: 2,
    many: 2,
    contrib.convolution: 3,
}
_SEQUENCES: dict[Step, int] = {
    matmul: 14,
    positions: 6,
    attention: 14,
    layer_norm: 10,
    activation: 12,
    residual: 8,
    Builder.mask: 8,
    constant_operand: 4,
    einsum: 3,
    einsum_of_any_form: 3,
    einsum_of_two: 3,
    shuffle: 2,
    recurrent: 3,
    split_and_join: 4,
    rows: 4,
    rms_norm: 3,
    tied: 3,
    products: 2,
    quantised.product: 2,
    quantised.convolution: 2,
    quantised.pair: 2,
    quantised.dynamic: 1,
    quantised.integer_convolution: 1,
    join: 3,
    softmax: 2,
    contrib.activation: 2,
    contrib.product: 3,
    contrib.normalisation: 3,
}
# Nothing but moves between layers: what a rule says of sets of channels has to be right.
_MOVES: dict[Step, int] = {
    transpose: 12,
    split_channels: 12,
    merge_axes: 12,
    merge_spatial: 4,
    flatten: 3,
    rows: 4,
    slices: 10,
    gather: 10,
    split_and_join: 8,
    several_outputs: 3,
    append_constant: 5,
    stack_positions: 4,
    pad: 8,
    tile: 5,
    expand: 5,
    squeeze_unsqueeze: 5,
    space_and_depth: 4,
    shuffle: 4,
    scatter: 3,
    scatter_elements: 3,
    scatter_channels: 5,
    gather_pieces: 3,
    sort: 2,
    triangle: 2,
    count: 2,
    Builder.mask: 16,
    matmul: 8,
    matmul_left: 4,
    conv: 4,
    activation: 6,
    constant_operand: 8,
    reduction: 2,
    join: 6,
}
# Constants that padding makes uneven, and whatever reads them.
_BORDERS: dict[Step, int] = {
    conv: 30,
    mobile_block: 25,
    positions: 4,
    conv_transpose: 5,
    batch_norm: 20,
    Builder.mask: 25,
    pool: 14,
    pad: 12,
    activation: 20,
    constant_operand: 8,
    residual: 8,
    squeeze_excite: 3,
    dense_block: 4,
    resize: 4,
    global_pool: 1,
    reduction: 2,
    join: 5,
    split_and_join: 3,
    slices: 4,
}


def _spread(steps: dict[Step, int]) -> tuple[Step, ...]:
    return tuple(step for step, times in steps.items() for _ in range(times))


_ALL, _FOR_IMAGES, _FOR_SEQUENCES, _ONLY_MOVES, _ONLY_BORDERS = map(
    _spread, (_STEPS, _IMAGES, _SEQUENCES, _MOVES, _BORDERS)
)


def _start(b: Builder, batch: Dim) -> tuple[Value, list[onnx.ValueInfoProto], dict[str, tuple[int, int]]]:
    """The graph's first input: an image, a sequence, a table, or indices into an embedding."""
    kind = b.pick(("image", "image", "image", "line", "volume", "sequence", "sequence", "table", "table", "words"))
    c = b.some(1, 6)
    ranges: dict[str, tuple[int, int]] = {}
    if kind in ("image", "bytes"):
        dims: list[Dim] = [b.some(4, 8), b.some(4, 8)]
        if b.flip(0.4):  # sizes of run time: usual ones, or any, from 1 on
            dims = [Sym("H", 6), Sym("W", 5)] if b.flip(0.5) else [Sym("h", 1), Sym("w", 1)]
        v = Value("x", (batch, c, *dims), 1)
    elif kind == "line":
        v = Value("x", (batch, c, Sym("T", 7) if b.flip(0.3) else b.some(5, 12)), 1)
    elif kind == "volume":
        v = Value("x", (batch, b.some(1, 3), 3, 4, 3), 1)
    elif kind == "table":
        v = Value("x", (batch, b.some(2, 10)), 1)
    else:
        v = Value("x", (batch, Sym("T", 3) if b.flip(0.3) else b.some(2, 5), c), 2)
    if kind == "words":
        vocabulary = b.some(3, 9)
        info = helper.make_tensor_value_info(
            "x", TensorProto.INT64, [d if isinstance(d, int) else d.name for d in v.shape[:2]]
        )
        ranges["x"] = (0, vocabulary)
        table = weight(b, [vocabulary, c], 1, outputs=1, inputs=None)
        y = b.op("Gather", [b.const(table, table.dtype), "x"], v.shape, 2, axis=0)
        return y, [info], ranges
    if kind == "bytes":
        info = b.value_info(v)
        info.type.tensor_type.elem_type = TensorProto.UINT8
        ranges["x"] = (0, 256)
        y = b.like("Cast", v, to=b.dtype)
        scaled = b.like("Div", y, b.scalar(255.0))
        return b.like("Sub", scaled, b.per_channel(v, b.normal(v.channels))), [info], ranges
    return v, [b.value_info(v)], ranges


def random_network(rng: Random, *, depth: tuple[int, int] = (3, 14)) -> Network:
    """A model of `depth` steps, drawn from `rng`: single precision mostly, at times half or double."""
    dtype = rng.choice((TensorProto.FLOAT,) * 12 + (TensorProto.FLOAT16, TensorProto.DOUBLE))
    b = Builder(rng, rng.choice(OPSETS), dtype)
    batch: Dim = Sym("N", 1) if b.flip(0.8) else b.some(1, 2)
    v, inputs, ranges = _start(b, batch)
    b.pool.append(v)
    if b.flip(0.04):  # an input that nothing reads
        inputs.append(helper.make_tensor_value_info("unread", TensorProto.INT64, ["N", 2]))
    if b.flip(0.2):
        v = b.mask(v)
    if b.flip(0.15):  # a second input, which later steps may add or multiply
        other = Value("x2", v.shape, v.axis)
        inputs.append(b.value_info(other))
        b.pool.append(other)
    if v.rank == 2:
        steps = b.pick((_ALL, _ALL, _ONLY_MOVES))
    elif v.is_image:
        steps = b.pick((_ALL, _ALL, _FOR_IMAGES, _FOR_IMAGES, _ONLY_MOVES, _ONLY_BORDERS))
    else:
        steps = b.pick((_ALL, _ALL, _FOR_SEQUENCES, _FOR_SEQUENCES, _ONLY_MOVES))
    for _ in range(b.some(*depth)):
        step = b.pick(steps)
        y = step(b, v)
        if y is None or math.prod(size(d) for d in y.shape) > 700 or y.rank > 5:
            continue
        b.pool.append(y)
        v = y
        if b.flip(0.2):
            v = b.mask(v)
            b.pool.append(v)
        if b.flip(0.04):
            v = b.pick(b.pool)
    return _finish(b, v, inputs, ranges)


def _finish(b: Builder, v: Value, inputs: list[onnx.ValueInfoProto], ranges: dict[str, tuple[int, int]]) -> Network:
    """The head, the outputs, and what exporters add: declared shapes, more inputs, dead ends."""
    if b.flip(0.4) and v.is_image:
        v = global_pool(b, v) or v
    if b.flip(0.5) and isinstance(v.shape[-1], int):
        v = matmul(b, v, out=b.some(1, 4)) or v
    given = {i.name for i in inputs}
    if v.name in given:
        v = b.like("Identity", v)
    outputs = [v]
    for other in b.shuffled(b.pool)[: b.pick((0, 0, 0, 1, 1, 2))]:
        if other.name not in given | {o.name for o in outputs}:
            outputs.append(other)
    infos = [b.value_info(o) for o in b.shuffled(outputs)]
    if b.flip(0.05) and b.dtype != TensorProto.FLOAT16:
        index = b.raw("ArgMax", [v], axis=v.rank - 1)[0]
        infos.append(helper.make_tensor_value_info(index, TensorProto.INT64, [None] * v.rank))
    if b.flip(0.1):
        measured = b.pick(b.pool)
        whole = b.raw("Shape", [measured])[0]
        infos.append(helper.make_tensor_value_info(whole, TensorProto.INT64, [measured.rank]))
    loose = b.flip(0.04)
    if loose:
        inputs = inputs + [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in b.initializers[:2]]
    graph = helper.make_graph(b.nodes, "net", inputs, infos, b.initializers)
    imports = [helper.make_opsetid("", b.opset)]
    domains = {n.domain for n in b.nodes} - {""}
    imports += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    model = helper.make_model(
        graph, opset_imports=imports, functions=b.functions, ir_version=max(8, min(10, b.opset - 8))
    )
    if b.flip(0.25):
        model = onnx.shape_inference.infer_shapes(model)
    symbols: dict[str, tuple[int, ...]] = {
        "N": (1, 3),
        "H": (6, 9),
        "W": (5, 8),
        "h": (1, 2, 3, 1, 7, 70),
        "w": (1, 3, 2, 8, 6, 5),
        "T": (_least_time(inputs), 9),
    }
    return Network(model, ranges, symbols, b.sharp)


def _least_time(inputs: Sequence[onnx.ValueInfoProto]) -> int:
    """The smallest T: 7 for one-dimensional convolutions, 3 for sequences, as `_start` declares it."""
    dims = inputs[0].type.tensor_type.shape.dim
    return 7 if len(dims) == 3 and dims[2].dim_param == "T" else 3


def network(seed: int) -> Network:
    """The network of a seed."""
    return random_network(Random(seed))
