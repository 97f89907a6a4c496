"""Small Keras models with masks, for the tests of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import maskc
import passes
from maskc.train import MaskLayer, PruningOptimizer
from maskc.train.mask_layer import mask_layers

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def masks(model: Any) -> dict[str, Any]:
    """The masks of a model by the names of their layers."""
    return {layer.name: layer.mask.numpy() for layer in mask_layers(model)}


def pruned(model: Any) -> int:
    """How many entries of its masks are zero."""
    return sum(int(np.sum(mask == 0)) for mask in masks(model).values())


def plain(dtype: str | None = None) -> Any:
    """Conv, depthwise conv and dense layers in a chain, a mask after each activation."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, padding="same", activation="relu", dtype=dtype)(inputs)
    x = MaskLayer(name="first", dtype=dtype)(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", dtype=dtype)(x)
    x = MaskLayer(name="second", dtype=dtype)(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    x = layers.Dense(6, activation="relu", dtype=dtype)(x)
    x = MaskLayer(name="third", dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(3, dtype="float32")(x), name="plain")


def residual() -> Any:
    """Two masks that meet in a sum: a channel of the sum's inputs goes only if both are zero."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = skip = MaskLayer(name="stem")(layers.ReLU()(x))
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(x)
    x = MaskLayer(name="inner")(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.Add()([MaskLayer(name="branch")(x), skip])
    x = MaskLayer(name="after")(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="residual")


def wide() -> Any:
    """Convolutions of some channel blocks, beside few enough channels to go one at a time."""
    inputs = keras.Input((16, 16, 3))
    x = MaskLayer(name="first")(layers.Conv2D(48, 3, padding="same", activation="relu")(inputs))
    x = MaskLayer(name="second")(layers.Conv2D(64, 3, padding="same", activation="relu")(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = MaskLayer(name="third")(layers.Dense(6, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3)(x), name="wide")


def depthwise() -> Any:
    """An inverted bottleneck: expand, depthwise convolution, project."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 1, activation="relu")(inputs)
    x = MaskLayer(name="expand")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = MaskLayer(name="depthwise")(x)
    x = layers.Conv2D(4, 1)(x)
    x = MaskLayer(name="project")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="depthwise")


def mlp(width: int = 6) -> Any:
    """Two hidden layers, a mask after each."""
    inputs = keras.Input((4,))
    x = MaskLayer(name="first")(layers.Dense(width, activation="relu")(inputs))
    x = MaskLayer(name="second")(layers.Dense(width, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3)(x), name="mlp")


def data(model: Any, count: int = 16, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that fit the model, and class labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, *model.input_shape[1:])).astype(np.float32)
    return x, rng.integers(0, classes, count)


def fit(model: Any, start: int, stop: int, count: int = 80) -> None:
    """The steps from one to another, each of four of as many examples in all."""
    x, y = data(model, count)
    batch = slice(4 * start, 4 * stop)
    model.fit(x[batch], y[batch], batch_size=4, shuffle=False, verbose=0)


def check_pause(fresh: Callable[[], Any], at: int, stop: int, path: Path, meanwhile: Any = lambda: None) -> Any:
    """Saved at one step and loaded, a model is trained to another as without a pause; returns it."""
    straight, paused = fresh(), fresh()
    fit(straight, 0, stop)
    fit(paused, 0, at)
    paused.save(path / "model.keras")
    meanwhile()
    resumed = keras.models.load_model(path / "model.keras")
    assert resumed.optimizer.history == paused.optimizer.history and resumed.optimizer.flops == paused.optimizer.flops
    fit(resumed, at, stop)
    ours, theirs = resumed.optimizer, straight.optimizer
    steps = {entry.step for entry in theirs.history}
    assert min(steps) <= at < max(steps)
    assert (ours.history, ours.flops, ours.ms) == (theirs.history, theirs.flops, theirs.ms)
    np.testing.assert_equal(masks(resumed), masks(straight))
    check_weights(resumed, straight)
    return resumed


def check_weights(model: Any, wanted: Any, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    for weight, other in zip(model.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, rtol=rtol, atol=atol)


def trained(model: Any, **given: list[int]) -> Any:
    """Sets masks by name, and all other weights to numbers that no training would leave at zero."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if not isinstance(layer, MaskLayer):
            layer.set_weights([rng.uniform(0.1, 1.0, value.shape) for value in layer.get_weights()])
    for name, value in given.items():
        model.get_layer(name).mask.assign(value)
    return model


def thinned(model: Any, share: float, seed: int) -> Any:
    """Sets about this share of the entries of its masks to zero."""
    rng = np.random.default_rng(seed)
    for layer in mask_layers(model):
        layer.mask.assign(rng.random(layer.mask.shape[0]) >= share)
    return model


def flops_by_group(cost: Any, masks: Any, groups: Any) -> Any:
    """The FLOPs at these masks, and what zeroing each group would save, counted one by one."""
    by_name = dict(zip(cost._inputs, groups, strict=True))
    return passes.flops_by_group(cost._graph, cost._named(masks), by_name, cost.coupling)


def compiled_flops(model: Any, path: Any) -> int:
    """Those of the file that is compiled of the exported model."""
    model.export(path, verbose=False)
    return maskc.compile(path, align="none", verify=False).report.after.flops


def pruning(**settings: Any) -> PruningOptimizer:
    """An optimizer that prunes beside SGD, by default all that it can."""
    return PruningOptimizer("sgd", **(settings or {"flops_target": 0}))


def compiled(model: Any, **arguments: Any) -> PruningOptimizer:
    """Compiles a model with an optimizer that prunes beside SGD."""
    optimizer = PruningOptimizer("sgd", **arguments)
    model.compile(optimizer, LOSS, run_eagerly=True)  # no step is traced, which takes longer than the few there are
    return optimizer


def vectors(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((count, 4), np.float32), np.zeros((count, 3), np.float32)


def chain(inputs: int, *units: int, activation: Any = None) -> Any:
    """Dense layers, all but the last with this activation."""
    hidden = [keras.layers.Dense(each, activation) for each in units[:-1]]
    return keras.Sequential([keras.Input((inputs,)), *hidden, keras.layers.Dense(units[-1])])
