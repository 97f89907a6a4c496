"""Recurrent layers: one step of a scan over time for each kind of cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value

Function = Callable[[Value], Value]
#: the states after a step, of what the input adds to the gates [batch, gates x units], the recurrent weights [gates x
#: units, units], their bias, and the states before; the first state is the output
Step = Callable[..., tuple[Value, ...]]

#: by name in lower case: the function of elements, alpha and beta, with defaults of both
_ACTIVATIONS: dict[str, tuple[Callable[[Value, float, float], Value], float, float]] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "elu": (lambda x, a, b: tf.where(x < 0, a * tf.math.expm1(tf.minimum(x, 0)), x), 1.0, 0.0),
    "hardsigmoid": (lambda x, a, b: tf.clip_by_value(a * x + b, 0, 1), 0.2, 0.5),
    "leakyrelu": (lambda x, a, b: tf.nn.leaky_relu(x, a), 0.01, 0.0),
    "relu": (lambda x, a, b: tf.nn.relu(x), 0.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * tf.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda x, a, b: tf.sigmoid(x), 0.0, 0.0),
    "softplus": (lambda x, a, b: tf.nn.softplus(x), 0.0, 0.0),
    "softsign": (lambda x, a, b: tf.nn.softsign(x), 0.0, 0.0),
    "tanh": (lambda x, a, b: tf.tanh(x), 0.0, 0.0),
    "thresholdedrelu": (lambda x, a, b: tf.where(x > a, x, 0), 1.0, 0.0),
}


def _activations(call: Call, default: Sequence[str], directions: int) -> list[list[Function]]:
    """For each direction the functions of its cell."""
    alphas, betas = list(call("activation_alpha") or []), list(call("activation_beta") or [])

    def function(name: str) -> Function:
        compute, alpha, beta = _ACTIVATIONS[name.lower()]
        # Those that have parameters take them from the lists in turn.
        a = alphas.pop(0) if alpha and alphas else alpha
        b = betas.pop(0) if beta and betas else beta
        return lambda x: compute(_clipped(call, x), a, b)

    made, each = [function(name) for name in call("activations") or [*default] * directions], len(default)
    return [made[i * each : (i + 1) * each] for i in range(directions)]


def _clipped(call: Call, x: Value) -> Value:
    limit = call("clip")
    return x if limit is None else tf.clip_by_value(x, -limit, limit)


def _rnn(call: Call, functions: list[Function], peepholes: Value) -> Step:
    (f,) = functions

    def step(x: Value, r: Value, bias: Value, h: Value) -> tuple[Value, ...]:
        return (f(x + tf.matmul(h, r, transpose_b=True) + bias),)

    return step


def _gru(call: Call, functions: list[Function], peepholes: Value) -> Step:
    f, g = functions

    def step(x: Value, r: Value, bias: Value, h: Value) -> tuple[Value, ...]:
        (xz, xr, xh), (rz, rr, rh), (bz, br, bh) = tf.split(x, 3, 1), tf.split(r, 3), tf.split(bias, 3)
        update = f(xz + tf.matmul(h, rz, transpose_b=True) + bz)
        reset = f(xr + tf.matmul(h, rr, transpose_b=True) + br)
        if call("linear_before_reset", 0):
            fresh = g(xh + reset * (tf.matmul(h, rh, transpose_b=True) + bh))
        else:
            fresh = g(xh + tf.matmul(reset * h, rh, transpose_b=True) + bh)
        return ((1 - update) * fresh + update * h,)

    return step


def _lstm(call: Call, functions: list[Function], peepholes: Value) -> Step:
    f, g, h_of = functions

    def step(x: Value, r: Value, bias: Value, h: Value, c: Value) -> tuple[Value, ...]:
        i, o, forget, cell = tf.split(x + tf.matmul(h, r, transpose_b=True) + bias, 4, 1)
        pi, po, pf = tf.split(peepholes, 3) if peepholes is not None else (0.0, 0.0, 0.0)
        i = f(i + pi * c)
        forget = 1 - i if call("input_forget", 0) else f(forget + pf * c)
        c = forget * c + i * g(cell)
        return f(o + po * c) * h_of(c), c

    return step


def _layer(cell: Callable[..., Step], gates: int, defaults: Sequence[str]) -> Callable[..., list[Value]]:
    states = 2 if gates == 4 else 1

    def compute(
        call: Call, x: Value, w: Value, r: Value, b: Value = None, lengths: Value = None, *more: Value
    ) -> list[Value]:
        initial, peepholes = [*more, None, None][:states], more[2] if len(more) > 2 else None
        if call("layout", 0):
            x, initial = _swapped(x), [None if s is None else _swapped(s) for s in initial]
        directions, units = r.shape[0], r.shape[-1]
        functions = _activations(call, defaults, directions)
        backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[call("direction", "forward")]
        made = []
        for d in range(directions):
            bias = tf.zeros((2, gates * units), x.dtype) if b is None else tf.reshape(b[d], (2, -1))
            step = cell(call, functions[d], None if peepholes is None else peepholes[d])
            begin = [tf.zeros((tf.shape(x)[1], units), x.dtype) if s is None else s[d] for s in initial]
            gate_inputs = tf.einsum("tbi,gi->tbg", x, w[d]) + bias[0]
            made.append(_scanned(step, gate_inputs, r[d], bias[1], begin, lengths, backward[d]))
        y = tf.stack([each[0] for each in made], 1)  # [time, directions, batch, units]
        last = [tf.stack([each[1][i] for each in made]) for i in range(states)]
        if call("layout", 0):
            y, last = tf.transpose(y, (2, 0, 1, 3)), [_swapped(s) for s in last]
        return [y, *last]

    return compute


def _scanned(step: Step, x: Value, r: Value, bias: Value, begin: list[Value], lengths: Value, backward: bool) -> Any:
    """The outputs at all times [time, batch, units], and the states after the last of each example."""
    if backward:
        x = tf.reverse(x, [0]) if lengths is None else tf.reverse_sequence(x, lengths, 0, 1)
    time = x.shape[0]
    within = None if lengths is None else np.arange(time)[:, None, None] < tf.cast(lengths, tf.int64)[:, None]

    def advance(states: Any, now: Any) -> Any:
        after = step(now[0], r, bias, *states)
        return after if within is None else tuple(tf.where(now[1], a, s) for a, s in zip(after, states, strict=True))

    elements = (x,) if within is None else (x, within)
    everything = tf.scan(advance, elements, tuple(begin))
    y, last = everything[0], [state[-1] for state in everything]
    y = y if within is None else tf.where(within, y, tf.zeros((), y.dtype))
    if backward:
        y = tf.reverse(y, [0]) if lengths is None else tf.reverse_sequence(y, lengths, 0, 1)
    return y, last


def _swapped(x: Value) -> Value:
    return tf.transpose(x, (1, 0, *range(2, len(x.shape))))


RULES = {
    "GRU": Rule(_layer(_gru, 3, ("sigmoid", "tanh")), fixed=[4]),
    "LSTM": Rule(_layer(_lstm, 4, ("sigmoid", "tanh", "tanh")), fixed=[4]),
    "RNN": Rule(_layer(_rnn, 1, ("tanh",)), fixed=[4]),
}
