"""Compiled models against the same architectures built dense at their widths: python -m benchmarks.dense.

Each network is built three times by one function: without masks, with half of the channels masked consistently, and
dense, at the widths that are left. All are run in turns, in ONNX Runtime and on one thread of OpenVINO. Goals: the
compiled one takes no more than 1.02 of the dense one's time, and the speed-up over the unmasked one is at least 0.85 of
the FLOPs ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

import maskc
import passes
from benchmarks import record
from benchmarks.sections import compiled_models
from benchmarks.speedup import in_openvino
from tests.generators.builder import Array
from tests.generators.net import Masks, Net
from tests.generators.running import random_feeds


class Half(Masks):
    """One of every two neighbouring channels stays, so that as many do in each head."""

    def draw(self, group: str, channels: int) -> Array:
        if group not in self.drawn:
            self.drawn[group] = np.eye(2, dtype=bool)[self._rng.integers(2, size=channels // 2)].reshape(-1)
        return self.drawn[group]


class Network(Net):
    """A network under construction whose widths are full or halved, with masks or without.

    `side` is that of images, and `wide(c)` is c in the full network and half of it in the dense one.
    """

    def __init__(self, side: int, *, halved: bool = False, masked: bool = False) -> None:
        super().__init__(Half())
        self.side, self.halved, self.masked = side, halved, masked

    def wide(self, channels: int) -> int:
        return channels // 2 if self.halved else channels

    def mask(self, x: str, group: str, *, axis: int = 1, rank: int = 4) -> str:
        return super().mask(x, group, axis=axis, rank=rank) if self.masked else x


def resnet50(net: Network, batch: int | str = 1) -> None:
    x = net.input("x", [batch, 3, net.side, net.side], channels=3)
    x = net.conv_bn_relu(x, net.wide(64), 7, "stem", stride=2)
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = net.wide(64 * 2**stage)
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = net.conv_bn_relu(x, width, 1, f"{stage}/{block}/a")
            y = net.conv_bn_relu(y, width, 3, f"{stage}/{block}/b", stride=stride)
            y = net.bn(net.conv(y, 4 * width, 1))
            short = net.bn(net.conv(x, 4 * width, 1, stride=stride)) if block == 0 else x
            x = net.mask(net.relu(net.add("Add", y, short)), f"{stage}")
    net.output(net.head(x, 1000), [batch, 1000])


def mobilenetv2(net: Network) -> None:
    def six(x: str) -> str:
        return net.add("Clip", x, net.const(0.0), net.const(6.0))

    x = net.input("x", [1, 3, net.side, net.side], channels=3)
    x = net.mask(six(net.bn(net.conv(x, net.wide(32), stride=2))), "stem")
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for stage, (times, out, blocks, stride) in enumerate(table):
        for block in range(blocks):
            wide, y = net.channels[x] * times, x
            if times > 1:
                y = net.mask(six(net.bn(net.conv(x, wide, 1))), f"{stage}/{block}")
            y = net.conv(y, wide, 3, stride=stride if block == 0 else 1, group=wide)
            y = net.mask(six(net.bn(y)), f"{stage}/{block}" if times > 1 else "stem")
            y = net.mask(net.bn(net.conv(y, net.wide(out), 1)), f"{stage}")
            x = net.add("Add", x, y) if block else y
    x = net.mask(six(net.bn(net.conv(x, net.wide(1280), 1))), "top")
    net.output(net.head(x, 1000), [1, 1000])


def efficientnetb0(net: Network) -> None:
    x = net.input("x", [1, 3, net.side, net.side], channels=3)
    x = net.mask(net.swish(net.bn(net.conv(x, net.wide(32), stride=2))), "stem")
    table = (
        *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
        *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
    )
    for stage, (times, out, blocks, stride, kernel) in enumerate(table):
        for block in range(blocks):
            wide, squeezed, y = net.channels[x] * times, net.channels[x] // 4, x
            group = f"{stage}/{block}" if times > 1 else "stem"
            if times > 1:
                y = net.mask(net.swish(net.bn(net.conv(x, wide, 1))), group)
            y = net.conv(y, wide, kernel, stride=stride if block == 0 else 1, group=wide)
            y = net.mask(net.swish(net.bn(y)), group)
            gate = net.swish(net.conv(net.add("GlobalAveragePool", y), squeezed, 1, bias=True))
            gate = net.conv(net.mask(gate, f"{stage}/{block}/squeezed"), wide, 1, bias=True)
            y = net.add("Mul", y, net.add("Sigmoid", gate))
            y = net.mask(net.bn(net.conv(y, net.wide(out), 1)), f"{stage}")
            x = net.add("Add", x, y) if block else y
    x = net.mask(net.swish(net.bn(net.conv(x, net.wide(1280), 1))), "top")
    net.output(net.head(x, 1000), [1, 1000])


def unet(net: Network) -> None:
    x = net.input("x", [1, 3, net.side, net.side], channels=3)
    passed = []
    for level in range(4):
        width = net.wide(32 * 2**level)
        x = net.conv_bn_relu(net.conv_bn_relu(x, width, 3, f"down{level}/a"), width, 3, f"down{level}/b")
        if level < 3:
            passed.append(x)
            x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    for level in (2, 1, 0):
        width = net.wide(32 * 2**level)
        up = net.mask(net.deconv(x, width), f"up{level}")
        x = net.add("Concat", passed[level], up, channels=2 * width, axis=1)
        x = net.conv_bn_relu(net.conv_bn_relu(x, width, 3, f"up{level}/a"), width, 3, f"up{level}/b")
    net.output(net.conv(x, 2, 1, bias=True), [1, 2, net.side, net.side])


def bert(net: Network) -> None:
    """Twelve blocks of width 768 on as many words as images have rows of 2 pixels; the residual stream is whole."""
    x = net.input("x", [1, net.side // 2, 768], channels=768)
    for block in range(12):
        y = net.attention(x, 12, net.wide(64), f"{block}")
        x = net.layer_norm(net.add("Add", x, y))
        y = net.mask(net.gelu(net.dense(x, net.wide(3072))), f"{block}/hidden", axis=2, rank=3)
        x = net.layer_norm(net.add("Add", x, net.dense(y, 768)))
    net.output(x, [1, net.side // 2, 768])


def vit(net: Network) -> None:
    """Patches of 16 pixels, and twelve blocks of width 768 in which hidden units are masked and nothing else."""
    x = net.input("x", [1, 3, net.side, net.side], channels=3)
    x = net.add("Reshape", net.conv(x, 768, 16, stride=16, pads=[0] * 4, bias=True), net.ints(0, 768, -1))
    x = net.add("Transpose", x, channels=768, perm=[0, 2, 1])
    for block in range(12):
        x = net.add("Add", x, net.attention(net.layer_norm(x), 12, 64, None))
        y = net.gelu(net.dense(net.layer_norm(x), net.wide(3072)))
        x = net.add("Add", x, net.dense(net.mask(y, f"{block}", axis=2, rank=3), 768))
    x = net.add("ReduceMean", net.layer_norm(x), channels=768, axes=[1], keepdims=0)
    net.output(net.dense(x, 1000), [1, 1000])


def masknet(net: Network) -> None:
    """Three parallel blocks with instance-guided masks (Wang et al. 2021), on 256 examples; no norm behind them."""

    def hidden(x: str, width: int, group: str) -> str:
        return net.mask(net.relu(net.dense(x, width)), group, axis=1, rank=2)

    x = net.input("x", [256, 640], channels=640)
    normal, blocks = net.layer_norm(x), []
    for block in range(3):
        gate = net.dense(hidden(x, net.wide(1280), f"{block}/aggregation"), 640)
        y = net.dense(net.add("Mul", normal, gate), net.wide(512), bias=False)
        blocks.append(net.mask(net.relu(y), f"{block}/out", axis=1, rank=2))
    x = net.add("Concat", *blocks, channels=3 * net.wide(512), axis=1)
    x = hidden(hidden(x, net.wide(1024), "top/a"), net.wide(512), "top/b")
    net.output(net.add("Sigmoid", net.dense(x, 1)), [256, 1])


NETWORKS: dict[str, Callable[[Network], None]] = {
    "ResNet50": resnet50,
    "MobileNetV2": mobilenetv2,
    "EfficientNetB0": efficientnetb0,
    "UNet": unet,
    "BERT-base": bert,
    "ViT-base": vit,
    "MaskNet": masknet,
}


def built(architecture: Callable[[Network], None], side: int, **options: bool) -> onnx.ModelProto:
    net = Network(side, **options)
    architecture(net)
    return net.model()


def measured(name: str, side: int, threads: Sequence[int], repeats: int) -> dict[str, Any]:
    architecture = NETWORKS[name]
    models = {
        "original": built(architecture, side),
        "dense": built(architecture, side, halved=True),
        **{
            align: maskc.compile(built(architecture, side, masked=True), align=align, verify=False).model
            for align in ("none", "auto")
        },
    }
    costs = {key: passes.count(model) for key, model in models.items()}
    feeds = random_feeds(models["original"], 0)
    row: dict[str, Any] = {
        "flops": {key: cost.flops for key, cost in costs.items()},
        "macs_over_dense": costs["none"].macs / costs["dense"].macs,
        "auto_is_none": models["auto"] == models["none"],
    }
    for count in threads:
        calls = {}
        for key, model in models.items():
            loaded = record.session(model, count)
            calls[key] = lambda loaded=loaded: loaded.run(None, feeds)
        times = record.in_turns(calls, repeats)
        row[f"{count} threads"] = {
            "milliseconds": {key: [1e3 * q for q in record.quartiles(series)] for key, series in times.items()},
            "over_dense": {align: record.ratios(times[align], times["dense"]) for align in ("none", "auto")},
            "speedup": {align: record.ratios(times["original"], times[align]) for align in ("none", "auto")},
            "speedup_over_flops": {
                align: record.ratios(times["original"], times[align])[1] * costs["none"].flops / costs["original"].flops
                for align in ("none", "auto")
            },
        }
        loaded = {key: in_openvino(models[key], count, feeds) for key in ("original", "dense", "auto")}
        times = record.in_turns(loaded, repeats)
        row[f"{count} threads"]["openvino"] = {
            "over_dense": record.ratios(times["auto"], times["dense"]),
            "speedup": record.ratios(times["original"], times["auto"]),
        }
    return row


def main() -> None:
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--side", type=int, default=224, help="of images, in pixels; BERT takes half as many words")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    results = {name: measured(name, arguments.side, arguments.threads, arguments.repeats) for name in arguments.only}
    sizes = {"side": arguments.side, "repeats": arguments.repeats}
    record.tell("dense", results, compiled_models.dense, dry=arguments.dry, **sizes)


if __name__ == "__main__":
    main()
