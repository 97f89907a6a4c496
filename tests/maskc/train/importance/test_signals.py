"""The Fisher signal against gradients taken one example at a time."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses

from maskc.train import MaskLayer, PruningOptimizer
from tests.maskc.train.networks import LOSS
from tests.maskc.train.reference import STAGES, STATISTICS, per_example_gradients

FAR = 10**9


class Network:
    """Three stages with masks between them; `masked` takes the masks as arguments, for the reference."""

    def __init__(self, shape: tuple[int, ...], stages: list[Any]) -> None:
        self.stages = stages
        x = inputs = keras.Input(shape)
        for stage in stages[:-1]:
            x = MaskLayer()(stage(x))
        self.model = keras.Model(inputs, stages[-1](x))
        self.masks = [layer for layer in self.model.layers if isinstance(layer, MaskLayer)]

    def masked(self, x: Any, masks: list[Any]) -> Any:
        for stage, mask in zip(self.stages[:-1], masks, strict=True):
            x = stage(x) * mask
        return self.stages[-1](x)


def expected(network: Network, x: np.ndarray, y: np.ndarray, loss: Any) -> list[np.ndarray]:
    """The mean over examples of the squared gradient."""
    masks = [layer.mask.numpy() for layer in network.masks]
    ranks = [len(layer.output.shape) for layer in network.masks]
    reduction = "sum" if loss.reduction == "sum" else "mean"
    gradients = per_example_gradients(
        lambda copies: loss(y, network.masked(x, copies)), masks, ranks, len(x), reduction
    )
    return [STATISTICS["fisher"](gradient) for gradient in gradients]


def problem(kind: str, batch: int) -> tuple[Network, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(1)
    shape, build = STAGES[kind]
    network = Network(shape, build())
    rng = np.random.default_rng(batch)
    x = rng.normal(size=(batch, *network.model.input_shape[1:])).astype(np.float32)
    y = rng.integers(0, 3, (batch, *network.model.output_shape[1:-1]))
    for layer in network.masks:
        layer.mask.assign(np.arange(layer.mask.shape[0]) % 3 != 1)
    return network, x, y


def pruning(**arguments: Any) -> PruningOptimizer:
    """An optimizer that changes nothing but the signals, which it sets to the last batch's statistic."""
    return PruningOptimizer(keras.optimizers.SGD(0.0), prune_every=FAR, decay=0.0, **{"flops_target": 0, **arguments})


# Every network, reduction and size of a batch once without the slow tests.
QUICK = [("dense", "sum", 7), ("conv", "sum_over_batch_size", 7), ("steps", "sum_over_batch_size", 1)]
PROBLEMS = itertools.product(("dense", "conv", "steps"), ("sum_over_batch_size", "sum"), (1, 7))


@pytest.mark.parametrize(
    ("kind", "reduction", "batch"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in PROBLEMS],
)
def test_fit_gathers_the_signal(kind: str, reduction: str, batch: int) -> None:
    network, x, y = problem(kind, batch)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    wanted = expected(network, x, y, loss)
    network.model.compile(pruning(), loss)
    network.model.fit(x, y, batch_size=batch, verbose=0)
    for layer, signal in zip(network.masks, wanted, strict=True):
        np.testing.assert_allclose(layer.signal.numpy(), signal, rtol=1e-5, atol=1e-5 * signal.max())


def test_signal_does_not_depend_on_batch_size_or_reduction() -> None:
    signals = []
    for reduction, copies in (("mean", 1), ("mean", 5), ("sum", 5)):
        network, x, y = problem("dense", 4)
        loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        network.model.compile(pruning(), loss, run_eagerly=True)
        network.model.fit(np.tile(x, (copies, 1)), np.tile(y, copies), batch_size=4 * copies, verbose=0)
        signals.append(network.masks[0].signal.numpy())
    for signal in signals[1:]:
        np.testing.assert_allclose(signal, signals[0], rtol=1e-5)


def test_signal_is_a_moving_average_over_batches() -> None:
    network, x, y = problem("dense", 12)
    batches = [slice(0, 5), slice(5, 10), slice(10, 12)]
    wanted = np.zeros(7)
    for batch in batches:
        wanted = 0.75 * wanted + 0.25 * expected(network, x[batch], y[batch], LOSS)[0]
    network.model.compile(PruningOptimizer(keras.optimizers.SGD(0.0), prune_every=9, decay=0.75, flops_target=0), LOSS)
    network.model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    np.testing.assert_allclose(network.masks[0].signal.numpy(), wanted, rtol=1e-5)


def test_several_outputs_and_loss_weights() -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    hidden, mask = layers.Dense(5, activation="tanh"), MaskLayer()
    heads = layers.Dense(3, name="a"), layers.Dense(1, name="b")
    x = mask(hidden(inputs))
    model = keras.Model(inputs, [head(x) for head in heads])
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(6, 4)), rng.integers(0, 3, 6), rng.normal(size=(6, 1))
    kinds = [LOSS, losses.MeanSquaredError()]
    total = np.zeros(5)
    for n in range(6):
        ones = tf.ones(5)
        with tf.GradientTape() as tape:
            tape.watch(ones)
            masked = hidden(x[n : n + 1]) * ones
            example = kinds[0](a[n : n + 1], heads[0](masked)) + 0.5 * kinds[1](b[n : n + 1], heads[1](masked))
        total += tape.gradient(example, ones).numpy() ** 2
    model.compile(pruning(), kinds, loss_weights=[1.0, 0.5])
    model.fit(x, [a, b], batch_size=6, verbose=0)
    np.testing.assert_allclose(mask.signal.numpy(), total / 6, rtol=1e-5)


@pytest.mark.parametrize(
    ("graph", "reduction"),
    [
        (True, "mean"),
        (False, "sum"),
        pytest.param(True, "sum", marks=pytest.mark.slow),
        pytest.param(False, "mean", marks=pytest.mark.slow),
    ],
)
def test_custom_loop(graph: bool, reduction: Any) -> None:
    network, x, y = problem("conv", 6)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    wanted = expected(network, x, y, loss)
    optimizer = pruning(model=network.model, loss_reduction=reduction)

    def step() -> None:
        variables = network.model.trainable_variables
        with tf.GradientTape() as tape:
            value = loss(y, network.model(x, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    (tf.function(step) if graph else step)()
    for layer, signal in zip(network.masks, wanted, strict=True):
        np.testing.assert_allclose(layer.signal.numpy(), signal, rtol=1e-5, atol=1e-5 * signal.max())


@pytest.mark.parametrize(
    ("scale", "batch", "options"),
    [
        pytest.param(None, 2, {"steps_per_execution": 1}, marks=pytest.mark.slow),
        (None, 2, {"steps_per_execution": 3}),
        (None, 6, {"run_eagerly": True}),
        (1024.0, 6, {}),
    ],
)
def test_ways_to_execute_and_a_constant_loss_scale(scale: float | None, batch: int, options: dict[str, Any]) -> None:
    network, x, y = problem("dense", 6)
    wanted = expected(network, x[-batch:], y[-batch:], LOSS)
    inner = keras.optimizers.SGD(0.0, loss_scale_factor=scale)
    network.model.compile(PruningOptimizer(inner, decay=0.0, prune_every=FAR, flops_target=0), LOSS, **options)
    network.model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)
    for layer, signal in zip(network.masks, wanted, strict=True):
        np.testing.assert_allclose(layer.signal.numpy(), signal, rtol=1e-5)


@pytest.mark.parametrize(
    "method", ["fisher", *(pytest.param(method, marks=pytest.mark.slow) for method in ("taylor", "magnitude"))]
)
def test_dynamic_loss_scale_leaves_the_signal_alone(method: str) -> None:
    signals = []
    for scale in (2.0**15,) if method == "fisher" else (1.0, 2.0**15):
        network, x, y = problem("dense", 6)
        wanted = expected(network, x, y, LOSS)
        network.model.compile(keras.optimizers.LossScaleOptimizer(pruning(method=method), initial_scale=scale), LOSS)
        network.model.fit(x, y, batch_size=6, verbose=0)
        signals.append(network.masks[0].signal.numpy())
        assert signals[-1].any()
        if method == "fisher":
            np.testing.assert_allclose(signals[-1], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(signals[0], signals[-1], rtol=1e-5)


@pytest.mark.parametrize("method", ["fisher", "taylor"])
def test_clipping_penalties_and_decay_of_all_that_is_trained(method: str) -> None:
    """Probes weigh nothing in norms of gradients, and penalties on each variable add nothing to their gradients."""

    def clipped(gradients: Any, norm: float) -> Any:
        return tf.clip_by_global_norm(gradients, norm)[0]

    def each(gradients: Any, norm: float) -> Any:
        return [tf.clip_by_value(tf.clip_by_norm(gradient, norm), -norm, norm) for gradient in gradients]

    scores = {}
    for name, change, norm, penalty in (
        ("plain", each, 1e9, 0.0),
        ("penalty", each, 1e9, 0.1),
        ("clipped", clipped, 0.1, 0.0),
        ("each", each, 0.1, 0.0),
    ):
        network, x, y = problem("dense", 8)
        model, values = network.model, [layer.mask.numpy() for layer in network.masks]
        optimizer = pruning(model=model, loss_reduction="sum", method=method)

        def changed(forward: Any, variables: list[Any]) -> list[Any]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(losses.sparse_categorical_crossentropy(y, forward(), from_logits=True))
                loss += penalty * tf.add_n([tf.nn.l2_loss(variable) for variable in variables])
            return list(change(tape.gradient(loss, variables), norm))

        trained = model.trainable_variables
        weights = [variable for variable in trained if variable.name != "probe"]
        wanted = changed(lambda: network.masked(x, values), weights)
        gradients = changed(lambda: model(x, training=True), trained)
        actual = [g for g, variable in zip(gradients, trained, strict=True) if variable.name != "probe"]
        for one, other in zip(actual, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        scores[name] = np.concatenate([layer.signal.numpy() for layer in network.masks])
    for name in ("penalty", "each"):
        np.testing.assert_allclose(scores[name], scores["plain"], rtol=1e-5)
    ratio = scores["clipped"] / scores["plain"]
    assert ratio.max() == pytest.approx(ratio.min(), rel=1e-4) and ratio.max() < 0.5


@pytest.mark.slow
def test_mixed_precision_agrees_with_single_precision() -> None:
    signals = {}
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            network, x, y = problem("conv", 8)
            network.model.compile(pruning(), LOSS)
            network.model.fit(x, y, batch_size=8, verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")
        assert network.masks[0].compute_dtype == policy.removeprefix("mixed_")
        assert network.masks[0].signal.dtype == "float32"
        signals[policy] = network.masks[0].signal.numpy()
    assert isinstance(network.model.optimizer, keras.optimizers.LossScaleOptimizer)
    largest = signals["float32"].max()
    np.testing.assert_allclose(signals["mixed_float16"], signals["float32"], rtol=0.02, atol=0.01 * largest)
