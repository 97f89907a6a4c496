"""The networks of benchmarks/mct.py, and how all of them are trained: in Keras 3 here, and in Keras 2 with its peer."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

# As an attribute, since the module of that name is another one in Keras 2.
keras = tf.keras
layers = keras.layers
SIDE = 16


class _Builder:
    """Layers with names that are the same in both."""

    def __init__(self) -> None:
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def convolved(self, x: Any, channels: int, kernel: int = 3, stride: int = 1, activation: str = "relu") -> Any:
        """A convolution, its norm, and a ReLU where one is wanted."""
        name = self.name("conv")
        x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)
        return self.normalised(x, name, activation)

    def depthwise(self, x: Any, stride: int) -> Any:
        name = self.name("depthwise")
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=name)(x)
        return self.normalised(x, name, "relu6")

    def normalised(self, x: Any, name: str, activation: str) -> Any:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        if not activation:
            return x
        return layers.ReLU(6.0 if activation == "relu6" else None, name=f"{name}_{activation}")(x)


def plain(build: _Builder, x: Any) -> Any:
    """Convolutions, one after the other."""
    for channels, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = build.convolved(x, channels, stride=stride)
    return x


def residual(build: _Builder, x: Any) -> Any:
    """Blocks of two convolutions and a sum."""
    x = build.convolved(x, 32)
    for channels, stride in ((32, 1), (64, 2), (128, 2)):
        inner = build.convolved(x, channels, stride=stride)
        inner = build.convolved(inner, channels, activation="")
        if x.shape[-1] != channels:
            x = build.convolved(x, channels, 1, stride, activation="")
        name = build.name("add")
        x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=name)([x, inner]))
    return x


def mobilenet(build: _Builder, x: Any) -> Any:
    """MobileNetV2's inverted residual blocks."""
    x = build.convolved(x, 32, activation="relu6")
    for expansion, channels, stride in ((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 48, 2), (6, 48, 1)):
        inner = build.convolved(x, x.shape[-1] * expansion, 1, activation="relu6") if expansion > 1 else x
        inner = build.convolved(build.depthwise(inner, stride), channels, 1, activation="")
        same = stride == 1 and x.shape[-1] == channels
        x = layers.Add(name=build.name("add"))([x, inner]) if same else inner
    return build.convolved(x, 256, 1, activation="relu6")


def unet(build: _Builder, x: Any) -> Any:
    """Down and up again, with concatenations across."""
    kept = []
    for channels in (24, 48):
        x = build.convolved(x, channels)
        kept.append(x)
        x = layers.MaxPooling2D(name=build.name("pool"))(x)
    x = build.convolved(build.convolved(x, 64), 64)
    for channels, other in zip((48, 24), kept[::-1]):  # noqa: B905
        x = layers.UpSampling2D(name=build.name("up"))(x)
        x = layers.Concatenate(name=build.name("concat"))([x, other])
        x = build.convolved(build.convolved(x, channels), channels)
    return x


def transformer(build: _Builder, x: Any, heads: int = 4) -> Any:
    """A small vision transformer; its convolutions tell it the positions, as their padding does.

    With no heads, attention is made of dense layers and of Keras's dot-product attention, which has no weights.
    """
    width = 64
    x = build.convolved(build.convolved(x, 32), width, stride=2)
    x = layers.Reshape((-1, width), name=build.name("tokens"))(x)
    for _ in range(2):
        # Version 2.6.1 of the toolkit takes every weight with a k in its name for a kernel, and stops at two of them.
        name = build.name("block" if heads else "unit")
        y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
        if heads:
            y = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(y, y)
        else:
            # Smaller queries in place of a division by the root of the width.
            smaller = keras.initializers.VarianceScaling(1 / width)
            queries = layers.Dense(width, kernel_initializer=smaller, name=f"{name}_first")(y)
            values, others = (layers.Dense(width, name=f"{name}_{part}")(y) for part in ("second", "third"))
            y = layers.Attention(name=f"{name}_attention")([queries, values, others])
            y = layers.Dense(width, name=f"{name}_output")(y)
        x = layers.Add(name=f"{name}_add1")([x, y])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
        y = layers.Activation("gelu", name=f"{name}_gelu")(layers.Dense(4 * width, name=f"{name}_wide")(y))
        x = layers.Add(name=f"{name}_add2")([x, layers.Dense(width, name=f"{name}_narrow")(y)])
    return layers.LayerNormalization(epsilon=1e-6, name="last_norm")(x)


def one_head(build: _Builder, x: Any) -> Any:
    """The same with the attention of dense layers."""
    return transformer(build, x, heads=0)


NETWORKS = {
    "plain CNN": plain,
    "residual network": residual,
    "MobileNetV2-like": mobilenet,
    "U-Net": unet,
    "ViT": transformer,
    "ViT of dense layers": one_head,
}


def network(name: str) -> Any:
    """A network for images of shape `(SIDE, SIDE, 1)`, with ten outputs."""
    inputs = keras.Input((SIDE, SIDE, 1), name="image")
    x = NETWORKS[name](_Builder(), inputs)
    pool = layers.GlobalAveragePooling2D if len(x.shape) == 4 else layers.GlobalAveragePooling1D
    return keras.Model(inputs, layers.Dense(10, name="logits")(pool(name="pool")(x)))


def train(model: Any, images: Any, labels: Any, order: Any, rate: float) -> None:
    """Train on the batches of examples that `order` has, `(steps, batch)`, by Adam from a rate along a cosine to 0."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    falling = keras.optimizers.schedules.CosineDecay(rate, len(order))
    model.compile(keras.optimizers.Adam(falling), loss)
    rows = order.reshape(-1)
    model.fit(images[rows], labels[rows], batch_size=order.shape[1], shuffle=False, verbose=0)


def logits(model: Any, images: Any) -> Any:
    """The outputs for images, `(examples, 10)`."""
    return np.asarray(model(images, training=False))


def accuracy(model: Any, images: Any, labels: Any) -> float:
    """The share of images whose label has the largest output."""
    return float(np.mean(logits(model, images).argmax(-1) == labels))


def difference(found: Any, expected: Any) -> float:
    """The largest difference, over the largest of the expected values."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def macs(model: Any) -> int:
    """Multiply-adds of one example in all layers that multiply by a kernel, and in attention."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            total += _size(layer.output) * layer.kernel_size[0] * layer.kernel_size[1]
        elif isinstance(layer, (layers.Conv2D, layers.Dense)):
            # Every output is a sum over a slice of the kernel, of which the last axis is the output channel.
            total += _size(layer.output) * int(np.prod(layer.kernel.shape[:-1]))
        elif isinstance(layer, layers.MultiHeadAttention):
            tokens = layer.output.shape[1]
            kernels = [np.asarray(weight) for weight in layer.weights if len(weight.shape) == 3]
            inner = sum(kernel.shape[1] * kernel.shape[2] for kernel in kernels[:3:2])  # of queries and values
            total += tokens * sum(kernel.size for kernel in kernels) + tokens**2 * inner
        elif isinstance(layer, layers.Attention):
            queries, values, _ = layer.input
            total += queries.shape[1] * values.shape[1] * (queries.shape[2] + values.shape[2])
    return total


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape[1:]))


def sizes(model: Any) -> dict[str, int]:
    """The output channels of each layer with a kernel but the last; of attention the elements of its weights."""
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    found = {layer.name: layer.output.shape[-1] for layer in model.layers if isinstance(layer, kinds)}
    for layer in model.layers:
        if isinstance(layer, layers.MultiHeadAttention):
            found[layer.name] = sum(int(np.prod(weight.shape)) for weight in layer.weights)
    found.pop("logits", None)
    return found
