"""Keras networks whose masks are inputs of the converted graph, so that one conversion serves every mask."""

import contextlib
import gc
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from onnx import ModelProto

from passes import bind
from tests.generators.builder import Array

_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU")
_LAYERS = ("Conv2D", "SeparableConv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense")
_FRESH = ("Concatenate", "Reshape", "Flatten")  # layers whose output has channels of its own


@dataclass(frozen=True)
class Gate:
    """A place where a mask multiplies channels.

    `group` is the same for gates whose channels are coupled, by sums or depthwise convolutions; `kind` says
    whether the gate follows an activation or, before any normalisation, a layer with weights.
    """

    name: str
    channels: int
    group: str
    kind: str


@dataclass(frozen=True)
class Gated:
    """A network in ONNX whose inputs are the image and one vector per gate.

    `scores` are what Keras makes of `images`, float32 [2, height, width, 3], with all gates open.
    """

    model: ModelProto
    gates: tuple[Gate, ...]
    images: Array
    scores: Array

    def opened(self) -> ModelProto:
        """The graph with every gate open."""
        return bind(self.model, {gate.name: np.ones(gate.channels) for gate in self.gates})

    def masked(self, kind: str, *, consistent: bool, keep: float = 0.5, seed: int = 0) -> ModelProto:
        """The graph with random masks at the gates of one kind; the other gates are open."""
        return bind(self.model, _masks(self.gates, kind, consistent=consistent, keep=keep, seed=seed))


def _masks(
    gates: Sequence[Gate], kind: str, *, consistent: bool = True, keep: float = 0.5, seed: int = 0
) -> dict[str, Array]:
    """Random masks for the gates of one kind, and ones for the others."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Array] = {}
    values: dict[str, Array] = {}
    for gate in gates:
        if gate.kind != kind:
            values[gate.name] = np.ones(gate.channels)
            continue
        key = gate.group if consistent else gate.name
        if key not in drawn:
            drawn[key] = rng.random(gate.channels) < keep
            drawn[key][rng.integers(gate.channels)] = True
        values[gate.name] = drawn[key].astype(float)
    return values


def randomise(model: Any, seed: int = 0) -> None:
    """Biases, scales and statistics as after training: nothing is zero or one, and signals keep their size."""
    rng = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    for variable in model.weights:
        name, shape = variable.path.rsplit("/", 1)[-1], variable.shape
        if name == "kernel":
            variable.assign(variable * 2**0.5)  # unit gain through ReLU
        elif name == "gamma":
            variable.assign(rng.uniform(0.6, 1.4, shape))
        elif name in ("beta", "bias"):
            variable.assign(rng.normal(size=shape) * 0.3)
        if (
            len(norms) > 100
            and name in ("gamma", "kernel")
            and ("_3_bn" in variable.path or "_3_conv" in variable.path)
        ):
            # the end of a branch in a very deep ResNet: added at full strength a hundred times, as no training would
            # leave it, a rounding of the weights would move the scores by 6e-4 of their scale
            variable.assign(variable * 0.3)
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(rng.uniform(0.2, 0.6, layer.gamma.shape))  # 1e-6 would hide what the block computes
        elif type(layer).__name__ == "Rescaling":
            layer.scale = 0.5  # images are noise of unit size here, and not bytes
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:  # the statistics of noise: with any others a deep network would blow its signals up
        model(rng.normal(size=(128, *model.inputs[0].shape[1:])).astype(np.float32), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        variance = np.asarray(layer.moving_variance)  # what hardly moves in a few images may move in others
        layer.moving_variance.assign(np.maximum(variance, 0.5 * variance.mean()))


def _groups(model: Any) -> dict[str, str]:
    """For each layer the group of its output's channels: layers share one if their channels are coupled."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for layer in model.layers:
        kind = type(layer).__name__
        if kind in _FRESH or (kind in _LAYERS and kind != "DepthwiseConv2D"):
            continue
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                source = tensor._keras_history.operation.name
                parent[find(source)] = find(layer.name)
    return {layer.name: find(layer.name) for layer in model.layers}


def gated(model: Any) -> tuple[Any, tuple[Gate, ...], dict[str, Any]]:
    """The network with a gate behind every activation and every layer with weights, but the last.

    Gates multiply by the tensors in the third result, by their names, or else by their own weights. Layers are shared
    with `model`; activations inside layers become layers of their own.
    """
    import keras

    slots: dict[str, Any] = {}

    @keras.saving.register_keras_serializable("maskc_tests")
    class Scale(keras.layers.Layer):  # type: ignore[misc]
        """Multiplies the channels by a vector."""

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones", trainable=False)

        def call(self, x: Any) -> Any:
            return x * slots.get(self.name, self.scale)

    groups = _groups(model)
    gates: list[Gate] = []
    last = model.layers[-1].name

    def gate(y: Any, layer: Any, kind: str) -> Any:
        if len(y.shape) < 2 or y.shape[-1] is None or y.shape[-1] < 2:
            return y
        name = f"gate_{len(gates)}"
        gates.append(Gate(name, int(y.shape[-1]), groups[layer.name], kind))
        return Scale(name=name)(y)

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        kind = type(layer).__name__
        if layer.name == last or kind not in (*_ACTIVATIONS, *_LAYERS):
            return layer(*arguments, **options)
        if kind in _ACTIVATIONS:
            return gate(layer(*arguments, **options), layer, "activation")
        own, layer.activation = layer.activation, keras.activations.linear
        y = gate(layer(*arguments, **options), layer, "layer")
        if own is keras.activations.linear:
            return y
        return gate(keras.layers.Activation(own)(y), layer, "activation")

    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)  # Keras walks from layer to layer by calling itself
    copy = keras.models.clone_model(model, call_function=call, clone_function=lambda layer: layer)
    sys.setrecursionlimit(depth)
    return copy, tuple(gates), slots


def _converted(model: Any, name: str) -> Gated:
    """The gated network through maskc's own way in, the vectors of the gates as inputs beside the image."""
    import tensorflow as tf

    from maskc.frontend.tensorflow.convert import TensorFlowModel

    copy, gates, slots = gated(model)
    image = tf.TensorSpec(copy.inputs[0].shape, tf.float32, name="image")
    vectors = [tf.TensorSpec((gate.channels,), tf.float32, name=gate.name) for gate in gates]

    def call(x: Any, *masks: Any) -> Any:
        with patch.dict(slots, zip([gate.name for gate in gates], masks, strict=True)):
            return copy(x, training=False)

    function = tf.function(call, input_signature=[image, *vectors], jit_compile=False).get_concrete_function()
    names = ("image", *(gate.name for gate in gates))
    graph = TensorFlowModel(name, copy, function, function, names, ("scores",)).to_onnx()
    images = np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:])).astype(np.float32)
    return Gated(graph, gates, images, np.asarray(copy(images, training=False)))


def folded(model: Any, kind: str, *, seed: int = 0) -> tuple[Any, ModelProto]:
    """The network with consistent masks as constants, in Keras and as the exporter writes it.

    The exporter multiplies masks into the weights beside them where it can.
    """
    from maskc.frontend.tensorflow.keras import to_onnx

    copy, gates, _ = gated(model)
    for name, mask in _masks(gates, kind, seed=seed).items():
        copy.get_layer(name).scale.assign(mask)
    return copy, to_onnx(copy)


def built(name: str, **options: Any) -> Any:
    """A network of `keras.applications`, or `small`, with the same weights each time.

    The widest ones have a fraction of their channels, and every layer: they differ from their smaller sisters in
    width, and a gigabyte of weights is slow to convert.
    """
    import keras

    keras.utils.set_random_seed(0)
    with _thinner():
        model = small() if name == "small" else getattr(keras.applications, name)(weights=None, **options)
    randomise(model)
    return model


def load(name: str, **options: Any) -> Gated:
    """Such a network, converted."""
    import keras

    converted = _converted(built(name, **options), name)
    keras.backend.clear_session()
    gc.collect()
    return converted


@contextlib.contextmanager
def _thinner() -> Iterator[None]:
    """Within, `keras.applications` builds its widest networks with fewer channels."""
    from keras.src.applications import convnext, efficientnet, efficientnet_v2, nasnet

    def thin(module: Any, builder: str, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        original = getattr(module, builder)

        def build(*arguments: Any, **named: Any) -> Any:
            bound = inspect.signature(original).bind(*arguments, **named)
            bound.arguments.update(changed(bound.arguments))
            return original(*bound.args, **bound.kwargs)

        return patch.object(module, builder, build)

    def convnext_dims(given: dict[str, Any]) -> dict[str, Any]:
        share = 1 if given["name"] == "convnext_tiny" else 4
        return {"projection_dims": [dim // share for dim in given["projection_dims"]]}

    def efficientnet_width(given: dict[str, Any]) -> dict[str, Any]:
        share = 3 if given["width_coefficient"] > 1.5 else 1
        return {"width_coefficient": given["width_coefficient"] / share}

    def efficientnet_v2_width(given: dict[str, Any]) -> dict[str, Any]:
        share = 2 if given["name"] in ("efficientnetv2-m", "efficientnetv2-l") else 1
        return {"width_coefficient": given["width_coefficient"] / share}

    def nasnet_filters(given: dict[str, Any]) -> dict[str, Any]:
        share = 3 if given["penultimate_filters"] > 2000 else 1
        return {"penultimate_filters": given["penultimate_filters"] // share}

    with (
        thin(convnext, "ConvNeXt", convnext_dims),
        thin(efficientnet, "EfficientNet", efficientnet_width),
        thin(efficientnet_v2, "EfficientNetV2", efficientnet_v2_width),
        thin(nasnet, "NASNet", nasnet_filters),
    ):
        yield


def small() -> Any:
    """A residual network with a depthwise convolution, for tests that must be quick."""
    import keras
    from keras import layers

    x = entry = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(layers.Conv2D(16, 1, activation="relu")(x))
    y = layers.Activation("relu")(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(8, 1)(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(x)
    x = layers.Activation("hard_swish")(layers.Conv2D(12, 3, strides=2, padding="same")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(entry, layers.Dense(5)(layers.Dense(10, activation="relu")(x)))
