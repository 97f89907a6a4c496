"""Activations, and operators of two or more operands that broadcast."""

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from tests.generators.builder import Builder, Dim, Value, size

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
            return b.like(op, b.like("Add", b.like("Abs", v), b.scalar(0.7)))
        return b.like(op, b.like("Tanh", v))
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
    """To double precision and back."""
    return b.like("Cast", b.like("Cast", v, to=TensorProto.DOUBLE), to=b.dtype)


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
        operand = b.const(numbers(*[1, *[size(d) for d in v.shape[1:]]]))
    elif form == 2 and v.static and v.rank > 2:  # a map that is the same for all channels
        dims = [1 if i in (0, v.axis) else size(d) for i, d in enumerate(v.shape)]
        operand = b.const(numbers(*dims))
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
        return b.op(b.pick(("Add", "Mul")), [b.const(w), v], (rows, *v.shape), 2)
    grown = b.unsqueeze(v, [v.rank - 1])
    w = b.normal(rows, v.channels)
    return b.op(b.pick(("Add", "Mul")), [grown, b.const(w)], (*v.shape[:-1], rows, v.channels), v.rank)


def comparison(b: Builder, v: Value) -> Value | None:
    """A condition on the tensor: a choice between two values, or a gate cast from bool."""
    if b.dtype == TensorProto.FLOAT16:
        return None
    bound = b.scalar(0.3)
    flag = b.like(b.pick(("Greater", "Less")), v, bound)
    flag = b.like("Not", flag) if b.flip(0.3) else flag
    if b.flip(0.5):
        return b.like("Mul", v, b.like("Cast", flag, to=b.dtype))
    other = b.per_channel(v, b.normal(v.channels))
    return b.op("Where", [flag, v, other], v.shape, v.axis)


def many(b: Builder, v: Value) -> Value | None:
    """Sum, Mean, Min or Max of several tensors of one shape."""
    others = [u for u in b.pool if u.shape == v.shape and u.axis == v.axis and u.name != v.name]
    operands: list[str | Value] = [v]
    if others:
        operands += [b.pick(others) for _ in range(b.some(1, 2))]
    if b.flip(0.3):
        operands.append(b.per_channel(v, b.normal(v.channels)))
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


def custom(b: Builder, v: Value) -> Value | None:
    """An operator of ONNX Runtime's own domain that has no rules."""
    if b.dtype != TensorProto.FLOAT or v.rank < 2:
        return None
    b.sharp = False
    return b.like("Trilu", v, domain="com.microsoft")
