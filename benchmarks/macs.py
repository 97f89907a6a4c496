"""Multiply-adds left over the least possible, with random masks behind every layer: python -m benchmarks.macs.

Half of the channels, drawn at random and independently, are masked directly behind every convolution and matrix
product, in front of biases and norms. The least is the sum over these nodes of live inputs (not the same for
different random inputs of several sizes) times kept outputs, so a constant that a mask leaves behind a bias counts
nothing.
Published models are those of `published.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
from rich.console import Console
from rich.table import Table

import passes
from benchmarks import published, record
from maskc.frontend.tensorflow.keras import to_onnx
from tests.generators.measure import least_macs, mask_layers
from tests.generators.net import Masks, Net
from tests.generators.running import random_feeds, required_inputs, with_sizes
from tests.models import networks

POLICIES: tuple[passes.Policy, ...] = ("auto", "always")


# Units of a network with random weights may be at rest for inputs of one size; at some size most depend on the input.
SCALES = (1.0, 1.0, 5.0, 5.0, 30.0, 30.0)


@dataclass(frozen=True)
class Subject:
    """A model without masks. Integer inputs are below `high`; `goal` says which mean it counts in."""

    name: str
    goal: str
    load: Callable[[], onnx.ModelProto]
    high: int = 2


def keras_network(name: str, side: int) -> onnx.ModelProto:
    import keras

    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=10, classifier_activation=None
    )
    networks.randomise(network)
    model = to_onnx(network)
    return with_sizes(model, {model.graph.input[0].type.tensor_type.shape.dim[0].dim_param: 1})


def vit() -> onnx.ModelProto:
    """Four blocks of width 192 on 64 patches and a class token."""
    net, width = Net(Masks(keep=1.0)), 192
    x = net.conv(net.input("x", [1, 3, 64, 64], channels=3), width, 8, stride=8, pads=[0, 0, 0, 0], bias=True)
    x = net.add("Transpose", net.add("Reshape", x, net.ints(0, width, -1)), perm=[0, 2, 1])
    x = net.add("Concat", net.normal(1, 1, width), x, axis=1, channels=width)
    x = net.add("Add", x, net.normal(1, 65, width))
    for k in range(4):
        x = net.transformer(x, f"{k}", spelled=k % 2 == 1)
    x = net.add("Gather", net.layer_norm(x), net.const(0, "int64"), axis=1)
    net.output(net.dense(x, 10), [1, 10])
    return net.model()


def subjects(side: int) -> Iterator[Subject]:
    for name in ("ResNet50", "MobileNetV2"):
        yield Subject(name, "all", lambda name=name: keras_network(name, side))  # type: ignore[misc]
    yield Subject("ViT", "all", vit)
    for model in published.MODELS:
        yield Subject(model.name, "all", model.load, 256)
    for name in ("MobileNet", "MobileNetV2", "EfficientNetB0"):
        yield Subject(f"{name}, static sizes", "depthwise", lambda name=name: keras_network(name, side))  # type: ignore[misc]


def measured(subject: Subject, seed: int) -> dict[str, float]:
    masked, kept = mask_layers(subject.load(), seed=seed)
    (info,) = required_inputs(masked)
    feeds = [random_feeds(masked, k, ranges={info.name: (0, subject.high)}) for k in range(len(SCALES))]
    for feed, scale in zip(feeds, SCALES, strict=True):
        if subject.high == 2:
            feed[info.name] = (feed[info.name] * scale).astype(feed[info.name].dtype)
    least = least_macs(masked, kept, feeds)
    left = {policy: passes.shrink(masked, adapters=policy).report.after.macs for policy in POLICIES}
    return {"before": passes.count(masked).macs, "least": least, **{p: left[p] for p in POLICIES}}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--side", type=int, default=96, help="of the images that Keras networks take, in pixels")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    goals: dict[str, list[dict[str, float]]] = {}
    table = Table("model", "MACs", "least", "left / least, auto", "always")
    for subject in subjects(arguments.side):
        row = results[subject.name] = measured(subject, arguments.seed)
        goals.setdefault(subject.goal, []).append(row)
        ratios = [f"{row[p] / row['least']:.3f}" for p in POLICIES]
        table.add_row(subject.name, f"{row['before']:,}", f"{row['least']:,}", *ratios)
    means = {
        goal: {p: statistics.geometric_mean(row[p] / row["least"] for row in rows) for p in POLICIES}
        for goal, rows in goals.items()
    }
    for goal, mean in means.items():
        title = "geometric mean" + ("" if goal == "all" else ", depthwise networks of static sizes")
        table.add_row(title, "", "", *(f"{mean[p]:.3f}" for p in POLICIES), style="bold")
    Console().print(table)
    record.write("macs", results, side=arguments.side, seed=arguments.seed, means=means)


if __name__ == "__main__":
    main()
