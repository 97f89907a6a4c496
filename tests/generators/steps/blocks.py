"""Several layers together: residual and dense blocks, attention, gates."""

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper

from tests.generators.builder import Builder, Dim, Step, Value, derived, size
from tests.generators.steps.contractions import conv, matmul
from tests.generators.steps.elementwise import activation, constant_operand
from tests.generators.steps.normalization import batch_norm, layer_norm, softmax
from tests.generators.steps.reductions import pool
from tests.generators.steps.weights import bias, weight

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
    return b.like(b.pick(("Add", "Add", "Sub")), masked, b.const(table))


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
        scores = b.like("Add", scores, b.const(causal))
    scores = b.like("Softmax", scores, axis=-1 if b.opset >= 11 else 3)
    if b.flip(0.15):  # one whole head switched off
        scores = b.mask(scores)
    y = b.transpose(b.op("MatMul", [scores, w], [n, heads, t, inner], 3), (0, 2, 1, 3))
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
        if not v.static:
            return None
        y = Value(b.const(b.normal(1, *[size(d) for d in v.shape[1:]])), v.shape, v.axis)
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
