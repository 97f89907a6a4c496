"""Networks as exporters write them when batch and sizes are dynamic: every shape is computed from other shapes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from tests.generators.net import Net


def size(net: Net, x: str, axis: int) -> str:
    """One size of a tensor, as a vector of one element."""
    picked = net.add("Gather", net.add("Shape", x), net.const(axis, np.int64), axis=0)
    return net.add("Unsqueeze", picked, net.ints(0))


def reshape(net: Net, x: str, sizes: Sequence[str | int], channels: int | None = None) -> str:
    """To sizes that are numbers or were computed."""
    parts = [net.ints(s) if isinstance(s, int) else s for s in sizes]
    return net.add("Reshape", x, net.add("Concat", *parts, axis=0), channels=channels)


def linear(net: Net, x: str, out: int) -> str:
    """A product and a bias that comes first in its sum."""
    y = net.dense(x, out, bias=False)
    return net.add("Add", net.normal(out, scale=0.2), y, channels=out)


def mask_heads(net: Net, x: str, groups: Sequence[str], heads: int) -> str:
    """A mask over the last axis, a part for each group; consistent ones are the same in every head."""
    channels = net.channels[x] // len(groups)
    if net.masks.consistent:
        parts = [np.tile(net.masks.draw(group, channels // heads), heads) for group in groups]
    else:
        parts = [net.masks.draw(group, channels) for group in groups]
    return net.add("Mul", x, net.const(np.concatenate(parts)))


def new_gelu(net: Net, x: str) -> str:
    """The approximation by a hyperbolic tangent, spelled out."""
    cube = net.add("Mul", net.add("Pow", x, net.const(3.0)), net.const(0.044715))
    inner = net.add("Mul", net.add("Add", x, cube), net.const(math.sqrt(2 / math.pi)))
    return net.add("Mul", net.add("Mul", x, net.const(0.5)), net.add("Add", net.add("Tanh", inner), net.const(1.0)))


def bert_exported(net: Net) -> None:
    """Embeddings of tokens, positions and segments; heads split and merged by computed shapes."""
    c, heads = 12, 3
    ids = net.input("ids", ["N", "T"], channels=0, dtype=TensorProto.INT64)
    allowed = net.input("allowed", ["N", "T"], channels=0, dtype=TensorProto.INT64)
    net.ranges.update(ids=(0, 11), allowed=(0, 2))
    n, t = size(net, ids, 0), size(net, ids, 1)
    places = net.add("Slice", net.const(np.arange(16)[None], np.int64), net.ints(0), t, net.ints(1))
    token = net.add("Gather", net.normal(11, c), ids, axis=0, channels=c)
    place = net.add("Gather", net.normal(16, c), places, axis=0, channels=c)
    x = net.add("Add", net.add("Add", token, net.normal(1, 1, c)), place)
    x = net.layer_norm(x, spelled=True)
    wide = net.add("Unsqueeze", net.add("Unsqueeze", allowed, net.ints(1)), net.ints(2))
    hidden = net.add("Sub", net.const(1.0), net.add("Cast", wide, to=TensorProto.FLOAT))
    bias = net.add("Mul", hidden, net.const(-1e4))
    for layer in range(2):

        def split(y: str, order: Sequence[int]) -> str:
            parts = [size(net, y, 0), size(net, y, 1), heads, c // heads]
            return net.add("Transpose", reshape(net, y, parts), perm=list(order))

        q = split(mask_heads(net, linear(net, x, c), [f"{layer}/qk"], heads), (0, 2, 1, 3))
        k = split(mask_heads(net, linear(net, x, c), [f"{layer}/qk"], heads), (0, 2, 3, 1))
        v = split(mask_heads(net, linear(net, x, c), [f"{layer}/v"], heads), (0, 2, 1, 3))
        scores = net.add("Div", net.add("MatMul", q, k), net.const(math.sqrt(c // heads)))
        scores = net.add("Softmax", net.add("Add", scores, bias), axis=-1)
        y = net.add("Transpose", net.add("MatMul", scores, v), perm=[0, 2, 1, 3])
        y = reshape(net, y, [size(net, y, 0), size(net, y, 1), c], channels=c)
        x = net.layer_norm(net.add("Add", linear(net, y, c), x), spelled=True)
        y = net.mask(net.gelu(linear(net, x, 2 * c)), f"{layer}/hidden", axis=2, rank=3)
        x = net.layer_norm(net.add("Add", linear(net, y, c), x), spelled=True)
    flat = reshape(net, x, [net.add("Mul", n, t), c], channels=c)
    scored = net.mask(net.relu(net.gemm(flat, 8)), "scored", axis=1, rank=2)
    net.output(reshape(net, net.gemm(scored, 4), [n, t, 4]), ["N", "T", 4])


def gpt_exported(net: Net) -> None:
    """One product for queries, keys and values, split; the future shut out by a slice of a table and Where."""
    c, heads = 8, 2
    ids = net.input("ids", ["N", "T"], channels=0, dtype=TensorProto.INT64)
    net.ranges[ids] = (0, 9)
    n, t = size(net, ids, 0), size(net, ids, 1)
    table = net.normal(9, c)
    places = net.add("Slice", net.normal(1, 16, c), net.ints(0), t, net.ints(1), channels=c)
    x = net.add("Add", net.add("Gather", table, ids, axis=0, channels=c), places)
    past = net.const(np.tril(np.ones((1, 1, 16, 16))), bool)

    def conv1d(x: str, out: int) -> str:
        flat = reshape(net, x, [-1, net.channels[x]])
        y = net.add("Gemm", flat, net.normal(net.channels[x], out, scale=0.4), net.normal(out), channels=out)
        return reshape(net, y, [n, t, out])

    for layer in range(2):
        y = conv1d(net.layer_norm(x, spelled=layer == 0), 3 * c)
        y = mask_heads(net, y, [f"{layer}/qk", f"{layer}/qk", f"{layer}/v"], heads)
        q, k, v = net.many("Split", y, net.ints(c, c, c), channels=[c, c, c], axis=2)
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        q, k, v = (
            net.add("Transpose", reshape(net, part, [n, t, heads, c // heads]), perm=order)
            for part, order in zip((q, k, v), orders, strict=True)
        )
        scores = net.add("Div", net.add("MatMul", q, k), net.const(math.sqrt(c // heads)))
        seen = net.add("Slice", past, net.ints(0, 0), net.add("Concat", t, t, axis=0), net.ints(2, 3))
        scores = net.add("Softmax", net.add("Where", seen, scores, net.const(-1e4)), axis=-1)
        y = net.add("Transpose", net.add("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = net.add("Add", conv1d(reshape(net, y, [n, t, c], channels=c), c), x)
        y = net.mask(new_gelu(net, conv1d(net.layer_norm(x), 2 * c)), f"{layer}/hidden", axis=2, rank=3)
        x = net.add("Add", x, conv1d(y, c))
    back = net.add("Transpose", table, perm=[1, 0])
    net.output(net.add("MatMul", net.layer_norm(x), back), ["N", "T", 9])


def swin_exported(net: Net) -> None:
    """Shifted windows with a bias for relative places and a mask, and a stage of half the size behind them."""
    c, heads, window = 8, 2, 2
    image = net.input("x", ["N", 3, 16, 16], channels=3)
    n = size(net, image, 0)
    x = net.conv(image, c, 4, stride=4, pads=[0, 0, 0, 0], bias=True)
    x = net.add("Transpose", reshape(net, x, [n, c, 16]), perm=[0, 2, 1])
    x = net.layer_norm(x, spelled=True)
    side = 4
    for stage in range(2):
        for block in range(2):
            name, shift = f"{stage}/{block}", block and side > window
            y = reshape(net, net.layer_norm(x), [n, side, side, c])
            y = _roll(net, y, 1) if shift else y
            y = _attention_in_windows(net, y, n, side, window, heads, name, shift=bool(shift))
            y = _roll(net, y, side - 1) if shift else y
            x = net.add("Add", x, reshape(net, y, [n, side * side, c]))
            y = net.mask(net.gelu(net.dense(net.layer_norm(x), 2 * c)), f"{name}/hidden", axis=2, rank=3)
            x = net.add("Add", x, net.dense(y, c))
        if stage == 0:  # the four neighbours side by side, then half as many channels
            x = reshape(net, x, [n, side, side, c])
            corners = [
                net.add("Slice", x, net.ints(i, j), net.ints(side, side), net.ints(1, 2), net.ints(2, 2))
                for j in range(2)
                for i in range(2)
            ]
            side //= 2
            x = reshape(net, net.add("Concat", *corners, axis=3, channels=4 * c), [n, side * side, 4 * c])
            x, c = net.dense(net.layer_norm(x), 2 * c, bias=False), 2 * c
    net.output(net.dense(net.add("ReduceMean", net.layer_norm(x), axes=[1], keepdims=0), 4), ["N", 4])


def _roll(net: Net, x: str, by: int) -> str:
    for axis in (1, 2):
        tail = net.add("Slice", x, net.ints(by), net.ints(2**62), net.ints(axis))
        x = net.add("Concat", tail, net.add("Slice", x, net.ints(0), net.ints(by), net.ints(axis)), axis=axis)
    return x


def _attention_in_windows(
    net: Net, x: str, n: str, side: int, window: int, heads: int, name: str, *, shift: bool
) -> str:
    c, many, tokens = net.channels[x], (side // window) ** 2, window**2
    x = reshape(net, x, [n, side // window, window, side // window, window, c])
    x = reshape(net, net.add("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), [-1, tokens, c])
    y = mask_heads(net, net.dense(x, 3 * c), [f"{name}/qk", f"{name}/qk", f"{name}/v"], heads)
    y = net.add("Transpose", net.add("Reshape", y, net.ints(-1, tokens, 3, heads, c // heads)), perm=[2, 0, 3, 1, 4])
    q, k, v = (net.add("Gather", y, net.const(i, np.int64), axis=0) for i in range(3))
    q = net.add("Mul", q, net.const(1 / math.sqrt(c // heads)))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.add("Add", scores, net.normal(1, heads, tokens, tokens))
    if shift:
        apart = net.const(np.where(net.rng.random((1, many, 1, tokens, tokens)) < 0.3, -100.0, 0.0))
        scores = net.add("Add", reshape(net, scores, [n, many, heads, tokens, tokens]), apart)
        scores = net.add("Reshape", scores, net.ints(-1, heads, tokens, tokens))
    y = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.ints(-1, tokens, c), channels=c)
    y = reshape(net, net.dense(y, c), [n, side // window, side // window, window, window, c])
    return reshape(net, net.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), [n, side, side, c])


def _norm_of_channels(net: Net, x: str) -> str:
    """LayerNormalization over axis 1, which has no operator."""
    c = net.channels[x]
    centred = net.add("Sub", x, net.add("ReduceMean", x, axes=[1]))
    spread = net.add("ReduceMean", net.add("Pow", centred, net.const(2.0)), axes=[1])
    y = net.add("Div", centred, net.add("Sqrt", net.add("Add", spread, net.const(1e-6))))
    scale, shift = net.const(net.rng.uniform(0.6, 1.4, (1, c, 1, 1))), net.normal(1, c, 1, 1, scale=0.2)
    return net.add("Add", net.add("Mul", y, scale), shift)


def convnext_exported(net: Net) -> None:
    """Two stages with a norm of the channels before each, layer scales, symbolic sizes."""
    x = net.input("x", ["N", 3, "H", "W"], channels=3)
    x = _norm_of_channels(net, net.conv(x, 8, 2, stride=2, pads=[0, 0, 0, 0], bias=True))
    for stage, width in enumerate((8, 12)):
        if stage:
            x = net.conv(_norm_of_channels(net, x), width, 2, stride=2, pads=[0, 0, 0, 0], bias=True)
        for block in range(2):
            y = net.add("Transpose", net.conv(x, width, 7, group=width, bias=True), perm=[0, 2, 3, 1])
            y = net.mask(net.gelu(linear(net, net.layer_norm(y), 2 * width)), f"{stage}/{block}", axis=3)
            y = net.add("Mul", linear(net, y, width), net.normal(width))
            x = net.add("Add", x, net.add("Transpose", y, perm=[0, 3, 1, 2]))
    x = net.layer_norm(net.add("ReduceMean", x, axes=[2, 3], keepdims=0))
    net.output(net.gemm(x, 10), ["N", 10])


def yolo_exported(net: Net) -> None:
    """Resize to another tensor's size, and a head that flattens maps of any size and decodes boxes."""
    x = net.input("x", ["N", 3, "H", "W"], channels=3)

    def unit(x: str, out: int, k: int, group: str, stride: int = 1) -> str:
        return net.mask(net.swish(net.bn(net.conv(x, out, k, stride=stride))), group)

    high = unit(unit(x, 8, 3, "stem", 2), 8, 3, "high")
    low = unit(unit(high, 12, 3, "down", 2), 12, 3, "low")
    wanted = net.add("Concat", size(net, low, 0), net.ints(12), size(net, high, 2), size(net, high, 3), axis=0)
    up = net.add("Resize", low, "", "", wanted, mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    left, right = net.many("Split", unit(up, 8, 1, "lateral"), net.ints(4, 4), channels=[4, 4], axis=1)
    inner = net.add("Add", right, unit(right, 4, 3, "inner"))
    high = unit(net.add("Concat", left, inner, high, axis=1, channels=16), 8, 3, "out")
    rows = []
    for level in (high, low):
        boxes = net.conv(unit(level, 8, 3, f"boxes{level}"), 16, 1, bias=True)
        classes = net.conv(unit(level, 8, 3, f"classes{level}"), 3, 1, bias=True)
        y = net.add("Concat", boxes, classes, axis=1, channels=19)
        rows.append(reshape(net, y, [size(net, y, 0), 19, -1]))
    y = net.add("Concat", *rows, axis=2)
    boxes, classes = net.many("Split", y, net.ints(16, 3), channels=[16, 3], axis=1)
    boxes = reshape(net, boxes, [size(net, boxes, 0), 4, 4, size(net, boxes, 2)])  # the share of each distance
    boxes = net.add("Softmax", net.add("Transpose", boxes, perm=[0, 2, 1, 3]), axis=1)
    distances = net.const(np.arange(4).reshape(1, 4, 1, 1))
    boxes = net.add("Conv", boxes, distances, channels=4)
    boxes = reshape(net, boxes, [size(net, y, 0), 4, -1])
    net.output(net.add("Concat", boxes, net.add("Sigmoid", classes), axis=1), ["N", 7, None])


def shufflenet_groups(net: Net) -> None:
    """Grouped pointwise convolutions with a shuffle between them."""
    x = net.input("x", ["N", 3, "H", "W"], channels=3)
    x = net.conv_bn_relu(x, 12, 3, "stem", stride=2)
    for k, stride in enumerate((1, 2, 1)):
        width = net.channels[x]
        y = net.mask(net.relu(net.bn(net.conv(x, width, 1, group=3))), f"{k}")
        n, h, w = (size(net, y, axis) for axis in (0, 2, 3))
        y = net.add("Transpose", reshape(net, y, [n, 3, width // 3, h, w]), perm=[0, 2, 1, 3, 4])
        y = reshape(net, y, [n, width, h, w], channels=width)
        y = net.bn(net.conv(y, width, 3, stride=stride, group=width))
        y = net.bn(net.conv(y, width, 1, group=3))
        if stride == 1:
            x = net.mask(net.relu(net.add("Add", x, y)), f"sum{width}")
        else:
            short = net.add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
            x = net.mask(net.relu(net.add("Concat", short, y, axis=1, channels=2 * width)), "wide")
    net.output(net.head(x), ["N", 10])


def unet_exported(net: Net) -> None:
    """What comes up is padded to the size of what it meets."""
    x = net.input("x", ["N", 3, "H", "W"], channels=3)
    levels = [net.conv_bn_relu(x, 6, 3, "0")]
    for k, width in enumerate((8, 12)):
        pooled = net.add("MaxPool", levels[-1], kernel_shape=[2, 2], strides=[2, 2])
        levels.append(net.conv_bn_relu(net.conv_bn_relu(pooled, width, 3, f"{k}/a"), width, 3, f"{k}/b"))
    y = levels.pop()
    for k, level in enumerate(reversed(levels)):
        up = net.deconv(y, net.channels[level])
        missing = [net.add("Sub", size(net, level, axis), size(net, up, axis)) for axis in (2, 3)]
        before = [net.add("Div", m, net.ints(2)) for m in missing]
        after = [net.add("Sub", m, b) for m, b in zip(missing, before, strict=True)]
        pads = net.add("Concat", net.ints(0, 0), *before, net.ints(0, 0), *after, axis=0)
        up = net.add("Pad", up, pads)
        both = net.add("Concat", level, up, axis=1, channels=2 * net.channels[level])
        y = net.conv_bn_relu(both, net.channels[level], 3, f"up{k}")
    net.output(net.conv(y, 2, 1, bias=True), ["N", 2, "H", "W"])


def tcn(net: Net) -> None:
    """Dilated convolutions padded on both sides and cut off behind, the gate in the same convolution."""
    x = net.input("x", ["N", 4, "T"], channels=4)
    for k in range(3):
        d = 2**k
        y = net.conv(x, 16, 2, dims=1, dilation=d, pads=[d, d], bias=True)
        y = net.add("Slice", y, net.ints(0), net.ints(-d), net.ints(2))
        a, b = net.many("Split", y, net.ints(8, 8), channels=[8, 8], axis=1)
        y = net.mask(net.add("Mul", net.add("Tanh", a), net.add("Sigmoid", b)), f"{k}", rank=3)
        short = x if net.channels[x] == 8 else net.conv(x, 8, 1, dims=1, bias=True)
        x = net.mask(net.relu(net.add("Add", net.conv(y, 8, 1, dims=1), short)), "sum", rank=3)
    last = net.add("Gather", x, net.const(-1, np.int64), axis=2)
    net.output(net.gemm(last, 3), ["N", 3])


EXPORTED: tuple[Callable[[Net], None], ...] = (
    bert_exported,
    gpt_exported,
    swin_exported,
    convnext_exported,
    yolo_exported,
    shufflenet_groups,
    unet_exported,
    tcn,
)
