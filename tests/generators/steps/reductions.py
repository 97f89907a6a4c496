"""Pooling, reductions and running sums."""

import numpy as np
from onnx import TensorProto

from tests.generators.builder import Builder, Dim, Value, derived, size


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


def padded_pool(b: Builder, v: Value) -> Value | None:
    """The largest of each window, over a border that is never chosen."""
    if not v.is_image or v.rank > 4 or any(size(d) < 2 for d in v.shape[2:]):
        return None
    border = [0, 0, *[1] * (v.rank - 2)]
    padded = b.pad(v, border, border, "constant", -np.inf)
    return b.op("MaxPool", [padded], v.shape, 1, kernel_shape=[3] * (v.rank - 2), strides=[1] * (v.rank - 2))


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
    return b.like("CumSum", v, b.const(np.array(axis, np.int64)), exclusive=b.pick((None, 1)))


def crossing(b: Builder, v: Value) -> Value | None:
    """A product of a tensor with itself or with another of the same shape, summed over the channels."""
    others = [u for u in b.pool if u.shape == v.shape]
    y = b.like("Mul", v, b.pick(others) if others else v)
    return b.reduce("ReduceSum", y, [v.axis], True) if b.flip(0.5) else y
