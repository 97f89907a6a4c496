"""The Fisher signal against gradients taken one example at a time."""

import itertools
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses

from maskc.errors import InputError
from maskc.train import MaskLayer, PruningOptimizer
from tests.maskc.train.networks import LOSS
from tests.maskc.train.reference import Case


def pruning(inner: Any = None, decay: float = 0.0, **arguments: Any) -> PruningOptimizer:
    """An optimizer that changes nothing but the signals, which it sets to the last batch's statistic."""
    inner = keras.optimizers.SGD(0.0) if inner is None else inner
    return PruningOptimizer(inner, prune_every=10**9, decay=decay, flops_target=0, **arguments)


# Every network, reduction and size of a batch once without the slow tests.
QUICK = [("dense", "sum", 7), ("conv", "sum_over_batch_size", 7), ("steps", "sum_over_batch_size", 1)]
PROBLEMS = itertools.product(("dense", "conv", "steps"), ("sum_over_batch_size", "sum"), (1, 7))


@pytest.mark.parametrize(
    ("kind", "reduction", "batch"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in PROBLEMS],
)
def test_fit_gathers_the_signal(kind: str, reduction: str, batch: int) -> None:
    case = Case(kind, reduction, batch)
    expected = case.fisher()
    case.model.compile(pruning(), case.loss)
    case.model.fit(case.x, case.y, batch_size=batch, verbose=0)
    case.check(expected, atol=1e-5)


@pytest.mark.slow
def test_signal_does_not_depend_on_batch_size_or_reduction() -> None:
    signals = []
    for reduction, copies in (("mean", 1), ("mean", 5), ("sum", 5)):
        case = Case("dense", reduction, batch=4)
        case.model.compile(pruning(), case.loss, run_eagerly=True)
        case.model.fit(np.tile(case.x, (copies, 1)), np.tile(case.y, copies), batch_size=4 * copies, verbose=0)
        signals.append(case.masks[0].signal.numpy())
    for signal in signals[1:]:
        np.testing.assert_allclose(signal, signals[0], rtol=1e-5)


def test_signal_is_a_moving_average_over_batches() -> None:
    case = Case("dense", batch=12)
    expected = [np.zeros(7), np.zeros(4)]
    for batch in (slice(0, 5), slice(5, 10), slice(10, 12)):
        expected = [0.75 * e + 0.25 * new for e, new in zip(expected, case.fisher(batch), strict=True)]
    case.model.compile(pruning(decay=0.75), LOSS)
    case.model.fit(case.x, case.y, batch_size=5, shuffle=False, verbose=0)
    case.check(expected)


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


@keras.saving.register_keras_serializable(package="test_signals")
class MaskedCell(layers.SimpleRNNCell):  # type: ignore[misc]
    """A recurrent cell of four units, with a mask on its state."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"units": 4, **arguments})
        self.mask = MaskLayer()

    def call(self, inputs: Any, states: Any, training: Any = None) -> Any:
        outputs, _ = super().call(inputs, states, training=training)
        masked = self.mask(outputs, training=training)
        return masked, [masked]


def siamese(inner: Any) -> Any:
    inputs = keras.Input((2, 5))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([inner(inputs[:, side]) for side in (0, 1)])))


def over_time(inner: Any) -> Any:
    inputs = keras.Input((3, 5))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.TimeDistributed(inner)(inputs))))


def recurrent(inner: Any) -> Any:
    inputs = keras.Input((3, 5))
    return keras.Model(inputs, layers.Dense(3)(layers.RNN(MaskedCell())(inputs)))


@pytest.mark.parametrize("build", [siamese, over_time, recurrent])
@pytest.mark.parametrize("method", ["fisher", "magnitude"])
def test_calls_of_one_forward_pass_share_each_examples_mask(build: Any, method: str) -> None:
    keras.utils.set_random_seed(1)
    model = build(keras.Sequential([layers.Dense(4, activation="tanh"), MaskLayer(), layers.Dense(2)]))
    (mask,) = (layer for layer in model._flatten_layers() if isinstance(layer, MaskLayer))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, *model.input_shape[1:])).astype(np.float32), rng.integers(0, 3, 6)
    model.compile(pruning(method=method), LOSS)
    if build is recurrent and method == "magnitude":
        with pytest.raises(InputError, match="called in a loop"):
            model.fit(x, y, verbose=0)
        return
    model.fit(x, y, batch_size=6, verbose=0)
    if method == "fisher":
        # of a batch of one, the derivative by its copy is that by the mask itself
        expected, step = np.zeros(4), 1e-3
        for n in range(6):

            def loss(channel: int, value: float, n: int = n) -> float:
                mask.mask.assign(np.where(np.arange(4) == channel, value, 1.0))
                return float(LOSS(y[n : n + 1], model(x[n : n + 1])))

            slopes = [(loss(c, 1 + step) - loss(c, 1 - step)) / (2 * step) for c in range(4)]
            expected += np.square(slopes) / 6
        np.testing.assert_allclose(mask.signal.numpy(), expected, rtol=1e-2)
    else:
        dense = next(layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense) and layer.units == 4)
        np.testing.assert_allclose(mask.signal.numpy(), np.abs(dense(x)).mean(axis=(0, 1)), rtol=1e-5)


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
    case = Case("conv", reduction, batch=6)
    expected = case.fisher()
    optimizer = pruning(model=case.model, loss_reduction=reduction)

    def step() -> None:
        variables = case.model.trainable_variables
        with tf.GradientTape() as tape:
            value = case.loss(case.y, case.model(case.x, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    (tf.function(step) if graph else step)()
    case.check(expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "batch", "options"),
    [
        (None, 2, {"steps_per_execution": 1}),
        (None, 2, {"steps_per_execution": 3}),
        (None, 6, {"run_eagerly": True}),
        (1024.0, 6, {}),
    ],
)
def test_ways_to_execute_and_a_constant_loss_scale(scale: float | None, batch: int, options: dict[str, Any]) -> None:
    case = Case("dense", batch=6)
    expected = case.fisher(slice(-batch, None))
    inner = keras.optimizers.SGD(0.0, loss_scale_factor=scale)
    case.model.compile(pruning(inner), LOSS, **options)
    case.model.fit(case.x, case.y, batch_size=batch, shuffle=False, verbose=0)
    case.check(expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fisher", "taylor", "magnitude"])
def test_dynamic_loss_scale_leaves_the_signal_alone(method: str) -> None:
    signals = []
    for scale in (2.0**15,) if method == "fisher" else (1.0, 2.0**15):
        case = Case("dense", batch=6)
        expected = case.fisher()
        case.model.compile(keras.optimizers.LossScaleOptimizer(pruning(method=method), initial_scale=scale), LOSS)
        case.model.fit(case.x, case.y, batch_size=6, verbose=0)
        signals.append(case.masks[0].signal.numpy())
        assert signals[-1].any()
        if method == "fisher":
            case.check(expected)
    np.testing.assert_allclose(signals[0], signals[-1], rtol=1e-5)


@pytest.mark.slow
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
        case = Case("dense", batch=8)
        model, values = case.model, [layer.mask.numpy() for layer in case.masks]
        optimizer = pruning(model=model, loss_reduction="sum", method=method)

        def changed(forward: Any, variables: list[Any]) -> list[Any]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(losses.sparse_categorical_crossentropy(case.y, forward(), from_logits=True))
                loss += penalty * tf.add_n([tf.nn.l2_loss(variable) for variable in variables])
            return list(change(tape.gradient(loss, variables), norm))

        trained = model.trainable_variables
        weights = [variable for variable in trained if variable.name != "probe"]
        wanted = changed(lambda: case.through(case.x, [partial(tf.multiply, value) for value in values]), weights)
        gradients = changed(lambda: model(case.x, training=True), trained)
        actual = [g for g, variable in zip(gradients, trained, strict=True) if variable.name != "probe"]
        for one, other in zip(actual, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        scores[name] = np.concatenate([layer.signal.numpy() for layer in case.masks])
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
            case = Case("conv", batch=8)
            case.model.compile(pruning(), LOSS)
            case.model.fit(case.x, case.y, batch_size=8, verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")
        assert case.masks[0].compute_dtype == policy.removeprefix("mixed_")
        assert case.masks[0].signal.dtype == "float32"
        signals[policy] = case.masks[0].signal.numpy()
    assert isinstance(case.model.optimizer, keras.optimizers.LossScaleOptimizer)
    largest = signals["float32"].max()
    np.testing.assert_allclose(signals["mixed_float16"], signals["float32"], rtol=0.02, atol=0.01 * largest)
