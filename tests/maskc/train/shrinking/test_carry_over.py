"""Training goes on in the smaller model where it was in the larger one."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from maskc.errors import PruningWarning
from maskc.train import MaskLayer, PruningOptimizer, fine_tune, prunable, shrink
from maskc.train.mask_layer import mask_layers
from tests.maskc.train.ways_to_train import mlp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 8)).astype(np.float32), RNG.normal(size=(64, 2)).astype(np.float32)


def network(kind: Any = None) -> Any:
    keras.utils.set_random_seed(0)
    return mlp(kind)


def pruned(optimizer: Any, model: Any = None, loss: Any = "mse", around: Any = None, **options: Any) -> Any:
    model = network() if model is None else model
    settings = {"prune_every": 1, "flops_target": 0.5, "tie": "none", **options}
    pruning = PruningOptimizer(optimizer, **settings)
    optimizer = pruning if around is None else around(pruning)
    model.compile(optimizer, loss, metrics=[keras.metrics.MeanAbsoluteError("mae")], run_eagerly=True)
    model.fit(X, Y, batch_size=16, epochs=3, verbose=0, shuffle=False)
    return model


def stepped(model: Any) -> Any:
    """The loss of one more training step, alone: older versions of Keras average it with those of `fit`."""
    model.reset_metrics()
    return model.train_on_batch(X, Y, return_dict=True)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01, use_ema=True),
        lambda: keras.optimizers.RMSprop(0.01, centered=True, momentum=0.5),
    ],
)
@pytest.mark.parametrize("keep_masks", [False, True])
def test_the_next_steps_are_those_of_the_larger_model(optimizer: Any, keep_masks: bool) -> None:
    """With the masks as they are, what is pruned has no gradient, and what is left goes the same way."""
    model = pruned(optimizer())
    assert model.optimizer.reached
    small = shrink(model, keep_masks)
    assert isinstance(small.optimizer, PruningOptimizer) == keep_masks
    assert int(small.optimizer.iterations.numpy()) == int(model.optimizer.iterations.numpy()) == 12
    kept = [np.flatnonzero(layer.mask) for layer in mask_layers(model)]
    for _ in range(3):
        losses = [stepped(shown) for shown in (model, small)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    expected = np.asarray(model.get_layer("second").kernel)[np.ix_(*kept)]
    np.testing.assert_allclose(small.get_layer("second").kernel, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("keep_masks", [False, True])
def test_the_scale_of_losses_is_carried_over(keep_masks: bool) -> None:
    model = pruned("adam", around=lambda inner: keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0))
    model.optimizer.dynamic_scale.assign(4.0)
    small = shrink(model, keep_masks)
    assert isinstance(small.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(small.optimizer.inner_optimizer, PruningOptimizer) == keep_masks
    assert float(small.optimizer.dynamic_scale) == 4 and int(small.optimizer.iterations) == 12
    assert isinstance(small.optimizer.get_config()["inner_optimizer"], dict)
    losses = [stepped(shown) for shown in (model, small)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class Weighted(keras.Model):  # type: ignore[misc]
    """Trains in a way of its own, by attributes that are set later."""

    weight, teacher = 1.0, None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return self.weight * super().compute_loss(*args, **kwargs)


class Sized(Weighted):
    def __init__(self, inputs: Any, outputs: Any) -> None:
        super().__init__(inputs=inputs, outputs=outputs)


def of_class(kind: Any) -> Any:
    model = network(kind)
    teacher = keras.Sequential([keras.Input((8,)), layers.Dense(2)])
    teacher.trainable = False
    model.weight, model.teacher, model.head = 0.5, teacher, model.get_layer("out")
    return model


def test_a_class_of_ones_own_stays_with_its_attributes_losses_and_metrics() -> None:
    def loss(y: Any, z: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y - z), -1)

    model = pruned("adam", of_class(Weighted), loss)
    small = shrink(model)
    assert type(small) is Weighted and small.weight == 0.5 and small.teacher is model.teacher
    assert small.head is small.get_layer("out")
    assert small.loss is loss
    shown = [m.evaluate(X, Y, verbose=0, return_dict=True) for m in (model, small)]
    assert shown[0].keys() == {"loss", "mae"} and shown[1] == pytest.approx(shown[0], rel=1e-4)
    copy = prunable(small)
    assert type(copy) is Weighted and copy.weight == 0.5 and not copy.compiled


def test_an_attribute_that_is_a_model_in_the_model_becomes_its_smaller_one() -> None:
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6), MaskLayer()], name="inner")
    model = Weighted(inputs, layers.Dense(2)(inner(inputs)))
    model.inner = inner
    mask_layers(model)[0].mask.assign([1, 0] * 3)
    small = shrink(model)
    assert small.inner is small.get_layer("inner")


@pytest.mark.slow
def test_what_a_class_loses_is_said() -> None:
    with pytest.warns(PruningWarning, match="plain functional one, without the compute_loss of Sized"):
        assert not isinstance(shrink(of_class(Sized)), Sized)
    with pytest.warns(PruningWarning, match=r"Adafactor remembers .* \(c, r\) starts over"):
        shrink(pruned(keras.optimizers.Adafactor(0.01)))


@pytest.mark.slow
def test_pruning_goes_on_towards_the_same_flops() -> None:
    model = pruned("adam", prune_every=3, flops_target=0.4)
    assert not model.optimizer.reached
    small = shrink(model, keep_masks=True)
    small.fit(X, Y, batch_size=16, epochs=6, verbose=0)
    first, second = model.optimizer.pruner, small.optimizer.pruner
    assert second.target == first.target and small.optimizer.reached and small.optimizer.flops <= first.target
    scores = [np.asarray(layer.signal) for layer in mask_layers(shrink(model, keep_masks=True))]
    np.testing.assert_equal(scores, [layer.signal.numpy()[layer.mask.numpy() != 0] for layer in mask_layers(model)])


def test_a_model_that_is_not_compiled_stays_so() -> None:
    assert not shrink(network()).compiled


@pytest.mark.slow
def test_fine_tuning_needs_no_loss_to_be_given() -> None:
    small = shrink(pruned("adam"))
    history = fine_tune(small, (X, Y), epochs=2)
    assert history["loss"][1] < history["loss"][0]


def test_an_output_keeps_the_name_that_its_loss_is_given_for(tmp_path: Path) -> None:
    inputs = keras.Input((8,))
    features = MaskLayer(name="features")(layers.Dense(4)(inputs))
    model = keras.Model(inputs, [features, layers.Dense(2, name="out")(MaskLayer()(layers.Dense(6)(features)))])
    model.compile("sgd", {"features": "mse", "out": "mae"}, run_eagerly=True)
    mask_layers(model)[1].mask.assign([1, 0] * 3)
    small, targets = shrink(model), [np.zeros((64, 4)), Y]
    assert small.evaluate(X, targets, verbose=0, return_dict=True) == pytest.approx(
        model.evaluate(X, targets, verbose=0, return_dict=True), rel=1e-5
    )
    small.save(tmp_path / "small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").output_names == model.output_names
