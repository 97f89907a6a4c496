"""Products of matrices, and sums of products."""

from __future__ import annotations

import tensorflow as tf

from maskc.pruning.training.from_onnx.rule import Call, Rule, Value, elements, rank


def matmul(a: Value, b: Value) -> Value:
    """The product as numpy has it: a vector is a row before, a column behind."""
    row, column = rank(a) == 1, rank(b) == 1
    a, b = (a[None] if row else a), (b[:, None] if column else b)
    if rank(b) == 2 and rank(a) > 2:  # one product, and no sum over the batch for its gradient
        product = tf.reshape(tf.matmul(tf.reshape(a, (-1, a.shape[-1])), b), (*_leading(a), b.shape[-1]))
    else:
        product = tf.matmul(a, b)
    product = product[..., 0] if column else product
    return (product[0] if column or rank(product) == 1 else product[..., 0, :]) if row else product


def _leading(a: Value) -> tuple[Value, ...]:
    known = tf.shape(a)
    return tuple(known[i] if n is None else n for i, n in enumerate(a.shape[:-1]))


def _gemm(call: Call, a: Value, b: Value, c: Value = None) -> Value:
    product = tf.matmul(a, b, transpose_a=bool(call("transA", 0)), transpose_b=bool(call("transB", 0)))
    alpha, beta = (tf.cast(call(name, 1.0), product.dtype) for name in ("alpha", "beta"))
    product = product if call("alpha", 1.0) == 1 else alpha * product
    return product if c is None else product + (c if call("beta", 1.0) == 1 else beta * c)


RULES = {
    "Einsum": Rule(lambda call, *operands: tf.einsum(call("equation").replace(" ", ""), *operands)),
    "Gemm": Rule(_gemm),
    "MatMul": elements(matmul),
}
