"""Convolutions, matrix products and Einsum."""

import math

from tests.generators.builder import Builder, Dim, Value, derived, size
from tests.generators.steps.elementwise import activation
from tests.generators.steps.weights import bias, weight


def conv(b: Builder, v: Value, *, same: bool = False, out: int | None = None) -> Value | None:
    """A convolution of one to three dimensions, of any grouping, padding, stride and dilation."""
    if not v.is_image:
        return None
    c = v.channels
    windows: list[tuple[int, int, int, int, int, Dim]] = []
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
        windows.append((k, p, q, s, dil, dim))
    kernel, begin, end, strides, dilations, shape = (list(column) for column in zip(*windows, strict=True))
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
    windows: list[tuple[int, int, int, int, int, Dim]] = []
    for d in v.shape[2:]:
        k, s = b.pick((1, 2, 3)), b.pick((1, 1, 2))
        p, q = b.pick(((0, 0), (0, 0), (min(1, k - 1), min(1, k - 1)), (0, min(1, k - 1))))
        e = 1 if s > 1 and b.flip(0.3) else 0
        n = s * (size(d) - 1) + e + k - p - q
        if n < 1 or n > 14:
            return None
        windows.append((k, s, p, q, e, derived(d, f"t{k},{p + q},{s},{e}", n)))
    kernel, strides, begin, end, extra, shape = (list(column) for column in zip(*windows, strict=True))
    w = weight(b, [c, per, *kernel], c // group * math.prod(kernel), outputs=1, inputs=0)
    operands: list[str | Value] = [v, b.const(w)]
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
        pads=[*begin, *end],
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
    return b.op("MatMul", [b.const(w), v], [*v.shape[:-2], m, v.shape[-1]], v.rank - 2)


def matmul_batched(b: Builder, v: Value) -> Value | None:
    """A product with a stack of constant matrices, one per slice of the batch axes."""
    if v.rank < 3 or not isinstance(v.shape[-1], int) or not isinstance(v.shape[-3], int):
        return None
    stack, k, m = v.shape[-3], v.shape[-1], b.some(1, 6)
    w = weight(b, [stack, k, m], k, outputs=b.pick((0, 2)), inputs=1)
    return b.op("MatMul", [v, b.const(w)], [*v.shape[:-1], m], v.rank - 1)


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
        operands.append(b.const(b.normal(1, m)))
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
        return b.op("Einsum", [v, b.const(w)], [*v.shape[:-1], heads, m], v.rank, equation=text)
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
    inputs = [v, b.const(w)]
    return b.op("Einsum", inputs, [sizes[c] for c in out], b.pick(static), equation=text)


def vector_product(b: Builder, v: Value) -> Value | None:
    """A matrix product with a vector, which takes the channels away."""
    if v.rank != 3 or v.axis != 2 or not isinstance(v.shape[1], int):
        return None
    w = weight(b, [v.channels], v.channels, outputs=0, inputs=None)
    return b.op("MatMul", [v, b.const(w)], v.shape[:2], 1)


def tied(b: Builder, v: Value) -> Value | None:
    """One weight read by two layers: once as it is and once, transposed, on the way back."""
    if v.axis != v.rank - 1 or v.rank < 2:
        return None
    k, m = v.channels, b.some(2, 6)
    w = weight(b, [k, m], k, outputs=1, inputs=0)
    name = b.const(w)
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
    name, shift = b.const(w), bias(b, c)
    y = b.like("Conv", v, name, shift)
    y = b.mask(activation(b, y)) if b.flip(0.7) else activation(b, y)
    y = b.like("Conv", y, name, shift)
    return b.mask(y) if b.flip(0.5) else y
