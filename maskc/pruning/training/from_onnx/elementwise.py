"""Operators that compute each element of the output from the operands' elements at the same (broadcast) place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import helper

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, dtype_of, elements, rank

# What an attribute is where it is left out.
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _divide(a: Value, b: Value) -> Value:
    a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
    if not a.dtype.is_integer:
        return tf.divide(a, b)
    quotient = tf.math.floordiv(a, b)
    return quotient + tf.cast((quotient * b != a) & ((a < 0) != (b < 0)), a.dtype)  # rounded towards zero


def _power(a: Value, b: Value) -> Value:
    if isinstance(b, np.ndarray) and b.size == 1 and b.item() == 2 and b.ndim <= rank(a):
        return tf.square(a)  # faster
    if dtype_of(a).is_integer:
        return tf.cast(tf.pow(tf.cast(a, tf.float64), tf.cast(b, tf.float64)), dtype_of(a))
    return tf.pow(a, tf.cast(b, dtype_of(a)))


def _modulo(call: Call, a: Value, b: Value) -> Value:
    if not call("fmod", 0):
        return tf.math.floormod(a, b)
    if dtype_of(a).is_integer:
        return tf.raw_ops.TruncateMod(x=a, y=b)
    return a - b * tf.stop_gradient(tf.sign(a / b) * tf.floor(tf.abs(a / b)))


def _folded(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    return lambda *values: functools.reduce(function, values)


def _clip(call: Call, x: Value, low: Value = None, high: Value = None) -> Value:
    for bound, attribute, function in ((low, "min", tf.maximum), (high, "max", tf.minimum)):
        limit = call(attribute) if bound is None else bound
        x = x if limit is None else function(x, tf.cast(limit, dtype_of(x)))
    return x


def _elu(call: Call, x: Value, alpha: float = 1.0) -> Value:
    # The branch that is not taken is 0, since one that overflows makes gradients that are no numbers.
    return tf.where(x < 0, call("alpha", alpha) * tf.math.expm1(tf.where(x < 0, x, 0)), x)


def _as_type(x: Value, target: Any) -> Value:
    return tf.not_equal(x, tf.zeros((), dtype_of(x))) if target.is_bool else tf.cast(x, target)


def _dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> list[Value]:
    if training is not None and call.static(training):
        raise call.unsupported("drops elements by chance")
    return [tf.identity(x), tf.ones(tf.shape(x), tf.bool)]


def _scaler(call: Call, x: Value) -> Value:
    """Of each feature of a table, as a StandardScaler of scikit-learn has it."""
    return (tf.cast(x, tf.float32) - np.float32(call("offset", 0))) * np.float32(call("scale", 1))


def _imputer(call: Call, x: Value) -> Value:
    names = ("imputed_value_floats", "replaced_value_float")
    if dtype_of(x).is_integer:
        names = ("imputed_value_int64s", "replaced_value_int64")
    values, replaced = call(names[0]), call(names[1], 0)
    missing = tf.math.is_nan(x) if np.isnan(replaced) else tf.equal(x, tf.cast(replaced, dtype_of(x)))
    return tf.where(missing, tf.cast(values, dtype_of(x)), x)


# Those that TensorFlow calls as the standard does.
_SMOOTH_ALIKE = (
    "Abs Acos Acosh Add Asin Asinh Atan Atanh Cos Cosh Erf Exp Log Reciprocal Sigmoid Sin Sinh Softplus Softsign Sqrt "
    "Tan Tanh"
).split()
_STEPS_ALIKE = "Ceil Equal Floor Greater Less Round Sign".split()

_SMOOTH: dict[str, Callable[..., Any]] = {
    **{name: getattr(tf.math, name.lower()) for name in _SMOOTH_ALIKE},
    "Div": _divide,
    "HardSwish": lambda x: x * tf.clip_by_value(x / 6 + 0.5, 0, 1),
    "Identity": tf.identity,
    "Max": _folded(tf.maximum),
    "Mean": lambda *values: _folded(tf.add)(*values) / len(values),
    "Min": _folded(tf.minimum),
    "Mul": tf.multiply,
    "Neg": tf.negative,
    "PRelu": lambda x, slope: tf.where(x < 0, slope * x, x),
    "Relu": tf.nn.relu,
    "Sub": tf.subtract,
    "Sum": _folded(tf.add),
}
_OF_STEPS: dict[str, Callable[..., Any]] = {
    **{name: getattr(tf.math, name.lower()) for name in _STEPS_ALIKE},
    "And": tf.logical_and,
    "GreaterOrEqual": tf.greater_equal,
    "IsNaN": tf.math.is_nan,
    "LessOrEqual": tf.less_equal,
    "Not": tf.logical_not,
    "Or": tf.logical_or,
    "Xor": tf.math.logical_xor,
}

RULES = {
    **{name: elements(function, scalars=True) for name, function in _SMOOTH.items()},
    **{name: elements(function, differentiable=False) for name, function in _OF_STEPS.items()},
    "Cast": Rule(lambda call, x: _as_type(x, tf.as_dtype(helper.tensor_dtype_to_np_dtype(call("to"))))),
    "CastLike": elements(lambda x, like: _as_type(x, dtype_of(like)), fixed=[1]),
    "Clip": Rule(_clip, fixed=[1, 2]),
    "Dropout": Rule(_dropout, fixed=[1, 2]),
    "Elu": Rule(_elu),
    "Gelu": Rule(lambda call, x: tf.nn.gelu(x, approximate=call("approximate", "none") == "tanh")),
    "HardSigmoid": Rule(lambda call, x: tf.clip_by_value(x * call("alpha", 0.2) + call("beta", 0.5), 0, 1)),
    "LeakyRelu": Rule(lambda call, x: tf.nn.leaky_relu(x, call("alpha", 0.01))),
    "Mod": Rule(_modulo, scalars=True),
    "Pow": elements(_power, fixed=[1], scalars=True),
    "ai.onnx.ml.Imputer": Rule(_imputer),
    "ai.onnx.ml.Scaler": Rule(_scaler),
    # These are functions of the standard in newer opsets alone.
    "Selu": Rule(lambda call, x: call("gamma", _SELU_GAMMA) * _elu(call, x, _SELU_ALPHA)),
    "ThresholdedRelu": Rule(lambda call, x: tf.where(x > call("alpha", 1.0), x, 0)),
    "Where": elements(tf.where, fixed=[0], scalars=True),
}
