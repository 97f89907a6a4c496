"""Small networks of the architectures that people deploy, written out as exporters write them, with masks."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, parser

from tests.generators.net import Masks, Net


def mlp(net: Net) -> None:
    x = net.input("x", ["N", 12], channels=12)
    for k, width in enumerate((16, 14, 10)):
        x = net.mask(net.relu(net.dense(x, width)), f"layer{k}", axis=1, rank=2)
    net.output(net.dense(x, 3), ["N", 3])


def vgg(net: Net) -> None:
    x = net.input("x", ["N", 3, 16, 16], channels=3)
    for k, width in enumerate((8, 12)):
        for j in range(2):
            x = net.mask(net.relu(net.conv(x, width, bias=True)), f"block{k}/{j}")
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Flatten", x, channels=12 * 16)
    x = net.mask(net.relu(net.gemm(x, 20)), "fc", axis=1, rank=2)
    net.output(net.gemm(x, 5), ["N", 5])


def resnet(net: Net) -> None:
    x = net.input("x", ["N", 3, 16, 16], channels=3)
    x = net.conv_bn_relu(x, 8, 7, "stage0", stride=2, pads=[3, 3, 3, 3])
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, width in enumerate((12, 16)):
        for block in range(2):
            name = f"stage{stage + 1}"
            y = net.conv_bn_relu(x, width // 2, 1, f"{name}/{block}/a")
            y = net.conv_bn_relu(y, width // 2, 3, f"{name}/{block}/b", stride=1 + (block == 0))
            y = net.bn(net.conv(y, width, 1))
            short = net.bn(net.conv(x, width, 1, stride=2)) if block == 0 else x
            x = net.mask(net.relu(net.add("Add", y, short)), name)
    net.output(net.head(x), ["N", 10])


def resnext(net: Net) -> None:
    x = net.input("x", ["N", 3, 12, 12], channels=3)
    x = net.conv_bn_relu(x, 8, 3, "stem")
    for block in range(2):
        y = net.conv_bn_relu(x, 12, 1, f"{block}")
        y = net.mask(net.relu(net.bn(net.conv(y, 12, 3, group=3))), f"{block}/grouped")
        x = net.mask(net.relu(net.add("Add", net.bn(net.conv(y, 8, 1)), x)), "stem")
    net.output(net.head(x), ["N", 10])


def mobilenet(net: Net) -> None:
    x = net.input("x", ["N", 3, 16, 16], channels=3)
    six = (net.const(0.0), net.const(6.0))
    x = net.mask(net.add("Clip", net.bn(net.conv(x, 8, stride=2)), *six), "stem")
    for k, (out, stride) in enumerate(((8, 1), (12, 2), (12, 1))):
        wide = net.channels[x] * 2
        y = net.mask(net.add("Clip", net.bn(net.conv(x, wide, 1)), *six), f"block{k}")
        y = net.bn(net.conv(y, wide, 3, stride=stride, group=wide))
        y = net.mask(net.add("Clip", y, *six), f"block{k}")
        y = net.bn(net.conv(y, out, 1))
        x = net.add("Add", x, y) if stride == 1 and out == net.channels[x] else y
    net.output(net.head(x), ["N", 10])


def mobilenet3(net: Net) -> None:
    x = net.input("x", ["N", 3, 16, 16], channels=3)
    x = net.mask(net.hard_swish(net.bn(net.conv(x, 8, stride=2))), "stem")
    for k in range(2):
        y = net.mask(net.hard_swish(net.bn(net.conv(x, 16, 1))), f"block{k}")
        y = net.mask(net.add("HardSwish", net.bn(net.conv(y, 16, 5, group=16))), f"block{k}")
        g = net.add("GlobalAveragePool", y)
        g = net.mask(net.relu(net.conv(g, 4, 1, bias=True)), f"block{k}/squeeze")
        g = net.add("HardSigmoid", net.conv(g, 16, 1, bias=True), alpha=1 / 6)
        x = net.add("Add", x, net.bn(net.conv(net.add("Mul", y, g), 8, 1)))
    net.output(net.head(x), ["N", 10])


def senet(net: Net) -> None:
    x = net.input("x", ["N", 3, 12, 12], channels=3)
    x = net.conv_bn_relu(x, 12, 3, "stem")
    for k in range(2):
        y = net.bn(net.conv(net.conv_bn_relu(x, 8, 3, f"{k}"), 12))
        g = net.add("ReduceMean", y, axes=[2, 3], keepdims=0)
        g = net.mask(net.relu(net.dense(g, 4)), f"{k}/squeeze", axis=1, rank=2)
        g = net.add("Unsqueeze", net.add("Sigmoid", net.dense(g, 12)), net.ints(2, 3))
        x = net.mask(net.relu(net.add("Add", net.add("Mul", y, g), x)), "stem")
    net.output(net.head(x), ["N", 10])


def shufflenet(net: Net) -> None:
    x = net.input("x", ["N", 3, 16, 16], channels=3)
    x = net.conv_bn_relu(x, 8, 3, "stem", stride=2)
    for k in range(2):
        left, right = net.many("Split", x, net.ints(4, 4), channels=[4, 4], axis=1)
        y = net.conv_bn_relu(right, 4, 1, f"{k}")
        y = net.bn(net.conv(y, 4, 3, group=4))
        y = net.conv_bn_relu(y, 4, 1, f"{k}/out")
        x = net.add("Concat", left, y, channels=8, axis=1)
        x = net.add("Reshape", x, net.ints(0, 2, 4, 8, 8))
        x = net.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        x = net.add("Reshape", x, net.ints(0, -1, 8, 8), channels=8)
    net.output(net.head(x), ["N", 10])


def shufflenet_dynamic(net: Net) -> None:
    """The same shuffle with its sizes read from the tensor."""
    x = net.input("x", ["N", 3, "H", "W"], channels=3)
    x = net.conv_bn_relu(x, 8, 3, "stem")
    shape = net.add("Shape", x)
    parts = [net.add("Gather", shape, net.const(i, np.int64), axis=0) for i in (0, 2, 3)]
    n, h, w = (net.add("Unsqueeze", p, net.ints(0)) for p in parts)
    split = net.add("Concat", n, net.ints(2), net.ints(4), h, w, axis=0)
    merged = net.add("Concat", n, net.ints(8), h, w, axis=0)
    y = net.add("Transpose", net.add("Reshape", x, split), perm=[0, 2, 1, 3, 4])
    y = net.add("Reshape", y, merged, channels=8)
    y = net.conv_bn_relu(y, 6, 3, "next")
    net.output(net.head(y), ["N", 10])


def densenet(net: Net) -> None:
    x = net.input("x", ["N", 3, 12, 12], channels=3)
    x = net.conv(x, 6)
    for k in range(3):
        y = net.mask(net.relu(net.bn(x)), f"{k}/in")
        y = net.conv(net.conv_bn_relu(y, 8, 1, f"{k}"), 4)
        x = net.add("Concat", x, y, channels=net.channels[x] + 4, axis=1)
    x = net.conv(net.mask(net.relu(net.bn(x)), "transition"), 8, 1)
    x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    net.output(net.head(net.relu(net.bn(x))), ["N", 10])


def inception(net: Net) -> None:
    x = net.input("x", ["N", 3, 12, 12], channels=3)
    x = net.conv_bn_relu(x, 8, 3, "stem")
    for k in range(2):
        a = net.conv_bn_relu(x, 6, 1, f"{k}/a")
        b = net.conv_bn_relu(net.conv_bn_relu(x, 6, 1, f"{k}/b"), 6, 3, f"{k}/bb")
        c = net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        c = net.conv_bn_relu(c, 4, 1, f"{k}/c")
        x = net.add("Concat", a, b, c, channels=16, axis=1)
    net.output(net.head(x), ["N", 10])


def unet(net: Net) -> None:
    x = net.input("x", ["N", 3, "H", "W"], channels=3)
    first = net.conv_bn_relu(x, 8, 3, "one")
    second = net.conv_bn_relu(net.add("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 12, 3, "two")
    low = net.conv_bn_relu(net.add("MaxPool", second, kernel_shape=[2, 2], strides=[2, 2]), 16, 3, "low")
    up = net.mask(net.deconv(low, 12), "up")
    y = net.conv_bn_relu(net.add("Concat", second, up, channels=24, axis=1), 12, 3, "three")
    scales = net.const([1, 1, 2, 2])
    y = net.add("Resize", y, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    y = net.conv_bn_relu(net.add("Concat", y, first, channels=20, axis=1), 8, 3, "four")
    net.output(net.add("Sigmoid", net.conv(y, 2, 1, bias=True)), ["N", 2, "H", "W"])


def generator(net: Net) -> None:
    """DCGAN's generator: a table of noise becomes an image."""
    x = net.input("x", ["N", 6], channels=6)
    x = net.add("Reshape", net.dense(x, 12 * 4, bias=False), net.ints(-1, 12, 2, 2), channels=12)
    x = net.mask(net.relu(net.bn(x)), "first")
    x = net.mask(net.relu(net.bn(net.deconv(x, 8, 4, pads=1))), "second")
    net.output(net.add("Tanh", net.deconv(x, 3, 4, pads=1)), ["N", 3, 8, 8])


def convnext(net: Net) -> None:
    x = net.input("x", ["N", 3, 16, 16], channels=3)
    x = net.conv(x, 8, 4, stride=4, pads=[0, 0, 0, 0], bias=True)
    for k in range(2):
        y = net.add("Transpose", net.conv(x, 8, 7, group=8, bias=True), perm=[0, 2, 3, 1])
        y = net.gelu(net.dense(net.layer_norm(y, spelled=k == 1), 16))
        y = net.dense(net.mask(y, f"{k}", axis=3), 8)
        y = net.add("Transpose", net.add("Mul", y, net.normal(8)), perm=[0, 3, 1, 2])
        x = net.add("Add", x, y)
    net.output(net.head(x), ["N", 10])


def vit(net: Net) -> None:
    x = net.input("x", ["N", 3, 8, 8], channels=3)
    x = net.conv(x, 8, 4, stride=4, pads=[0, 0, 0, 0], bias=True)
    x = net.add("Transpose", net.add("Reshape", x, net.ints(0, 8, -1)), perm=[0, 2, 1])
    size = net.add("Slice", net.add("Shape", x), net.ints(0), net.ints(1))
    token = net.add("Expand", net.normal(1, 1, 8), net.add("Concat", size, net.ints(1, 8), axis=0))
    x = net.add("Concat", token, x, axis=1, channels=8)
    x = net.add("Add", x, net.normal(1, 5, 8))
    for k in range(2):
        x = net.transformer(x, f"{k}", spelled=k == 1)
    x = net.add("Gather", net.layer_norm(x), net.const(0, np.int64), axis=1)
    net.output(net.dense(x, 5), ["N", 5])


def bert(net: Net) -> None:
    x = net.input("ids", ["N", "T"], channels=0, dtype=TensorProto.INT64)
    net.ranges["ids"] = (0, 11)
    x = net.add("Gather", net.normal(11, 8), x, axis=0, channels=8)
    allowed = net.input("allowed", ["N", 1, 1, "T"], channels=1)
    x = net.layer_norm(x, spelled=True)
    q = net.mask(net.dense(x, 8), "qk", axis=2, rank=3)
    k = net.mask(net.dense(x, 8), "qk", axis=2, rank=3)
    v = net.mask(net.dense(x, 8), "v", axis=2, rank=3)
    q, k, v = (net.add("Transpose", net.add("Reshape", y, net.ints(0, 0, 2, 4)), perm=[0, 2, 1, 3]) for y in (q, k, v))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.add("Add", net.add("Div", scores, net.const(2.0)), allowed)
    y = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, 8), channels=8)
    x = net.layer_norm(net.add("Add", x, net.dense(y, 8)), spelled=True)
    x = net.transformer(x, "second", before=False)
    first = net.add("Squeeze", net.add("Slice", x, net.ints(0), net.ints(1), net.ints(1)), net.ints(1))
    pooled = net.mask(net.add("Tanh", net.dense(first, 8)), "pooled", axis=1, rank=2)
    net.output(net.dense(pooled, 3), ["N", 3])
    net.output(x, ["N", "T", 8])


def gpt(net: Net) -> None:
    ids = net.input("ids", ["N", 5], channels=0, dtype=TensorProto.INT64)
    net.ranges["ids"] = (0, 9)
    table = net.normal(9, 8)
    x = net.add("Gather", table, ids, axis=0, channels=8)
    x = net.add("Add", x, net.normal(5, 8))
    for k in range(2):
        x = net.transformer(x, f"{k}", causal=5, spelled=k == 0)
    back = net.add("Transpose", table, perm=[1, 0])  # the table of the input read again as the output's weights
    net.output(net.add("MatMul", net.layer_norm(x), back), ["N", 5, 9])


def swin(net: Net) -> None:
    x = net.input("x", ["N", 4, 4, 8], channels=8)
    for k in range(2):
        y = net.layer_norm(x)
        if k:  # shifted windows: a roll along both axes
            for axis in (1, 2):
                tail = net.add("Slice", y, net.ints(1), net.ints(4), net.ints(axis))
                y = net.add("Concat", tail, net.add("Slice", y, net.ints(0), net.ints(1), net.ints(axis)), axis=axis)
        y = net.add("Reshape", y, net.ints(-1, 2, 2, 2, 2, 8))
        y = net.add("Reshape", net.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), net.ints(-1, 4, 8), channels=8)
        y = net.attention(y, 2, 4, f"{k}")
        y = net.add("Reshape", y, net.ints(-1, 2, 2, 2, 2, 8))
        y = net.add("Reshape", net.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), net.ints(-1, 4, 4, 8), channels=8)
        x = net.add("Add", x, y)
        y = net.mask(net.gelu(net.dense(net.layer_norm(x), 16)), f"{k}/hidden", axis=3)
        x = net.add("Add", x, net.dense(y, 8))
    net.output(net.dense(net.add("ReduceMean", x, axes=[1, 2], keepdims=0), 4), ["N", 4])


def yolo(net: Net) -> None:
    """CSP blocks, spatial pyramid pooling, an upsampling neck and a head with two scales."""
    x = net.input("x", ["N", 3, 16, 16], channels=3)

    def unit(x: str, out: int, k: int, group: str, stride: int = 1) -> str:
        return net.mask(net.swish(net.bn(net.conv(x, out, k, stride=stride))), group)

    def csp(x: str, out: int, group: str) -> str:
        y = unit(x, out, 1, f"{group}/in")
        half = out // 2
        left, right = net.many("Split", y, net.ints(half, half), channels=[half, half], axis=1)
        inner = unit(unit(right, half, 3, f"{group}/a"), half, 3, f"{group}/b")
        inner = net.add("Add", right, inner)
        return unit(net.add("Concat", left, right, inner, axis=1, channels=out + half), out, 1, f"{group}/out")

    high = csp(unit(x, 8, 3, "stem", 2), 8, "high")
    low = csp(unit(high, 12, 3, "down", 2), 12, "low")
    y = unit(low, 6, 1, "spp")
    pooled = [y]
    for _ in range(3):
        pooled.append(net.add("MaxPool", pooled[-1], kernel_shape=[5, 5], pads=[2, 2, 2, 2]))
    low = unit(net.add("Concat", *pooled, axis=1, channels=24), 12, 1, "neck")
    up = net.add("Resize", low, "", net.const([1, 1, 2, 2]), mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    high = csp(net.add("Concat", up, high, axis=1, channels=20), 8, "out")
    flat = []
    for level, cells in ((high, 64), (low, 16)):
        y = net.conv(unit(level, 8, 3, f"head{cells}"), 7, 1, bias=True)
        flat.append(net.add("Reshape", y, net.ints(0, 7, cells)))
    y = net.add("Concat", *flat, axis=2)
    boxes, scores = net.many("Split", y, net.ints(4, 3), channels=[4, 3], axis=1)
    net.output(net.add("Concat", boxes, net.add("Sigmoid", scores), axis=1), ["N", 7, 80])


def wavenet(net: Net) -> None:
    x = net.input("x", ["N", 1, "T"], channels=1)
    x = net.conv(x, 8, 1, dims=1)
    skips = []
    for k in range(3):
        d = 2**k
        y = net.add("Pad", x, net.ints(0, 0, d, 0, 0, 0))
        tanh = net.add("Tanh", net.conv(y, 8, 2, dims=1, dilation=d, pads=[0, 0], bias=True))
        gate = net.add("Sigmoid", net.conv(y, 8, 2, dims=1, dilation=d, pads=[0, 0], bias=True))
        y = net.mask(net.add("Mul", tanh, gate), f"{k}", rank=3)
        skips.append(net.mask(net.conv(y, 8, 1, dims=1), "skip", rank=3))
        x = net.add("Add", x, net.conv(y, 8, 1, dims=1))
    y = net.relu(net.add("Sum", *skips))
    y = net.mask(net.relu(net.conv(y, 8, 1, dims=1, bias=True)), "post", rank=3)
    net.output(net.conv(y, 4, 1, dims=1, bias=True), ["N", 4, "T"])


def dlrm(net: Net) -> None:
    x = net.input("x", ["N", 5], channels=5)
    x = net.mask(net.relu(net.dense(x, 8)), "bottom", axis=1, rank=2)
    x = net.mask(net.relu(net.dense(x, 4)), "vector", axis=1, rank=2)
    vectors = [net.add("Unsqueeze", x, net.ints(1))]
    for k in range(3):
        ids = net.input(f"ids{k}", ["N"], channels=0, dtype=TensorProto.INT64)
        net.ranges[ids] = (0, 6)
        table = net.const(net.rng.normal(size=(6, 4)) * net.masks.draw("vector", 4))
        vectors.append(net.add("Unsqueeze", net.add("Gather", table, ids, axis=0), net.ints(1)))
    stack = net.add("Concat", *vectors, axis=1)
    pairs = net.add("MatMul", stack, net.add("Transpose", stack, perm=[0, 2, 1]))
    flat = net.add("Reshape", pairs, net.ints(-1, 16))
    picked = net.add("Gather", flat, net.const([4, 8, 9, 12, 13, 14], np.int64), axis=1)
    y = net.add("Concat", x, picked, axis=1, channels=10)
    y = net.mask(net.relu(net.dense(y, 8)), "top", axis=1, rank=2)
    net.output(net.add("Sigmoid", net.dense(y, 1)), ["N", 1])


def dcn(net: Net) -> None:
    """Deep and cross network."""
    start = net.input("x", ["N", 10], channels=10)
    x = start
    for _ in range(2):
        x = net.add("Add", net.add("Mul", start, net.dense(x, 10)), x)
    y = net.mask(net.relu(net.dense(start, 12)), "deep0", axis=1, rank=2)
    y = net.mask(net.relu(net.dense(y, 8)), "deep1", axis=1, rank=2)
    net.output(net.dense(net.add("Concat", x, y, axis=1, channels=18), 1), ["N", 1])


def wide_and_deep(net: Net) -> None:
    wide = net.input("wide", ["N", 9], channels=9)
    ids = net.input("ids", ["N", 2], channels=0, dtype=TensorProto.INT64)
    net.ranges["ids"] = (0, 7)
    table = net.const(net.rng.normal(size=(7, 4)) * net.masks.draw("table", 4))
    y = net.add("Reshape", net.add("Gather", table, ids, axis=0), net.ints(0, 8), channels=8)
    y = net.mask(net.relu(net.gemm(y, 10)), "deep0", axis=1, rank=2)
    y = net.mask(net.relu(net.gemm(y, 6)), "deep1", axis=1, rank=2)
    logit = net.add("Add", net.dense(wide, 1, bias=False), net.gemm(y, 1))
    net.output(net.add("Sigmoid", logit), ["N", 1])


def lstm(net: Net) -> None:
    x = net.input("x", ["N", "T", 6], channels=6)
    x = net.mask(net.relu(net.dense(x, 8)), "in", axis=2, rank=3)
    x = net.add("Transpose", x, perm=[1, 0, 2])
    operands = net.normal(1, 20, 8, scale=0.3), net.normal(1, 20, 5, scale=0.3), net.normal(1, 40, scale=0.2)
    last = net.many("LSTM", x, *operands, channels=[5, 5, 5], hidden_size=5)[1]
    y = net.mask(net.add("Squeeze", last, net.ints(0)), "out", axis=1, rank=2)
    net.output(net.dense(y, 3), ["N", 3])


def gru(net: Net) -> None:
    x = net.input("x", ["N", "T", 6], channels=6)
    x = net.mask(net.relu(net.dense(x, 8)), "in", axis=2, rank=3)
    x = net.add("Transpose", x, perm=[1, 0, 2])
    operands = net.normal(2, 15, 8, scale=0.3), net.normal(2, 15, 5, scale=0.3), net.normal(2, 30, scale=0.2)
    y = net.many("GRU", x, *operands, channels=[5], hidden_size=5, direction="bidirectional", linear_before_reset=1)[0]
    y = net.add("Transpose", y, perm=[2, 0, 1, 3])
    y = net.mask(net.add("Reshape", y, net.ints(0, 0, 10), channels=10), "out", axis=2, rank=3)
    net.output(net.dense(y, 3), ["N", "T", 3])


def branching(net: Net) -> None:
    """An If whose branches read masked tensors of the graph around it."""
    x = net.input("x", ["N", 6], channels=6)
    y = net.mask(net.relu(net.dense(x, 8)), "first", axis=1, rank=2)
    total = net.add("ReduceSum", x, keepdims=0)
    condition = net.add("Greater", total, net.const(0.0))
    w = net.normal(8, 8, scale=0.4)
    product = parser.parse_graph(f"product () => (float[N,8] then) {{ then = MatMul({y}, {w}) }}")
    plain = parser.parse_graph(f"plain () => (float[N,8] else) {{ else = Neg({y}) }}")
    z = net.add("If", condition, then_branch=product, else_branch=plain, channels=8)
    z = net.mask(net.relu(z), "second", axis=1, rank=2)
    net.output(net.dense(z, 3), ["N", 3])


def looping(net: Net) -> None:
    """A Loop whose body multiplies its state by weights of the graph around it."""
    x = net.input("x", ["N", 6], channels=6)
    y = net.mask(net.relu(net.dense(x, 8)), "first", axis=1, rank=2)
    w = net.normal(8, 8, scale=0.4)
    body = parser.parse_graph(
        "body (int64 i, bool go, float[N,8] state) => (bool going, float[N,8] next) "
        f"{{ product = MatMul(state, {w}) next = Add(product, {y}) going = Identity(go) }}"
    )
    z = net.add("Loop", net.const(3, np.int64), net.const(True, bool), y, body=body, channels=8)
    z = net.mask(net.relu(z), "second", axis=1, rank=2)
    net.output(net.dense(z, 3), ["N", 3])


def foreign(net: Net) -> None:
    """An operator that is not in the standard and has no rules, in the middle."""
    x = net.input("x", ["N", 6], channels=6)
    y = net.mask(net.relu(net.dense(x, 8)), "first", axis=1, rank=2)
    y = net.add("Trilu", y, domain="com.microsoft")
    y = net.mask(y, "second", axis=1, rank=2)
    net.output(net.dense(y, 3), ["N", 3])


def quantised(net: Net) -> None:
    """Activations through QuantizeLinear and DequantizeLinear, weights in int8."""
    x = net.input("x", ["N", 3, 8, 8], channels=3)
    for k, out in enumerate((8, 6)):
        scale, zero = net.const(0.05), net.const(128, np.uint8)
        x = net.add("DequantizeLinear", net.add("QuantizeLinear", x, scale, zero), scale, zero)
        w = net.const(net.rng.integers(-90, 90, size=(out, net.channels[x], 3, 3)), np.int8)
        scales = net.const(net.rng.uniform(0.002, 0.004, out))
        weights = net.add("DequantizeLinear", w, scales, net.const(np.zeros(out), np.int8), axis=0)
        y = net.add("Conv", x, weights, net.normal(out, scale=0.2), channels=out, pads=[1, 1, 1, 1])
        x = net.mask(net.relu(y), f"{k}")
    net.output(net.head(x), ["N", 10])


def tied(net: Net) -> None:
    """An autoencoder whose decoder reads the encoder's weights."""
    x = net.input("x", ["N", 10], channels=10)
    w = net.normal(10, 6, scale=0.4)
    y = net.add("Add", net.add("MatMul", x, w, channels=6), net.normal(6))
    y = net.mask(net.relu(y), "code", axis=1, rank=2)
    y = net.add("Gemm", y, w, net.normal(10), transB=1, channels=10)
    net.output(y, ["N", 10])


ARCHITECTURES: tuple[Callable[[Net], None], ...] = (
    *(mlp, vgg, resnet, resnext, mobilenet, mobilenet3, senet, shufflenet, shufflenet_dynamic, densenet, inception),
    *(unet, generator, convnext, vit, bert, gpt, swin, yolo, wavenet, dlrm, dcn, wide_and_deep, lstm, gru),
    *(branching, looping, foreign, quantised, tied),
)


#: sizes to try the open dimensions of these networks and of exported ones at
SYMBOLS = {"N": (1, 3), "H": (8, 12), "W": (8, 16), "T": (4, 7)}

# Images of any size go through these; the others flatten maps or cut windows.
RESIZABLE = (resnet, resnext, mobilenet, mobilenet3, senet, densenet, inception, convnext, quantised)


def build(
    architecture: Callable[[Net], None], masks: Masks, *, opset: int = 17, seed: int = 0, symbolic: bool = False
) -> Net:
    """The network with these masks; `.model()` is its graph. `symbolic`: its images may have any size."""
    net = Net(masks, opset=opset, seed=seed, symbolic=symbolic)
    architecture(net)
    return net
