"""Fine-tuning and distillation after pruning: the masks stay, and the losses are what they should be."""

from typing import Any

import keras
import numpy as np
import pytest

from maskc.train import Distiller, PruningOptimizer, distill, fine_tune
from maskc.train.mask_layer import mask_layers
from tests.maskc.train import networks


def pruned() -> tuple[Any, Any]:
    keras.utils.set_random_seed(0)
    model = networks.mlp()
    x, y = networks.data(model, 40)
    model.compile(PruningOptimizer("adam", prune_every=1, flops_target=0.5), networks.LOSS)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    assert model.optimizer.reached
    return model, (x, y)


@pytest.mark.slow
def test_fine_tuning_moves_weights_and_leaves_masks_and_signals() -> None:
    model, data = pruned()
    frozen = [variable.numpy() for layer in mask_layers(model) for variable in layer.weights]
    kernel = model.layers[1].kernel.numpy()
    history = fine_tune(
        model, data, epochs=3, optimizer=keras.optimizers.AdamW(1e-2, weight_decay=0.1), metrics=["accuracy"],
        validation_data=data,
    )  # fmt: skip
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history["loss"]) == 3
    assert history["loss"][-1] < history["loss"][0]
    assert not np.array_equal(model.layers[1].kernel.numpy(), kernel)
    np.testing.assert_equal([v.numpy() for layer in mask_layers(model) for v in layer.weights], frozen)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_loss_is_that_of_hinton_et_al(outputs: int, weighted: bool) -> None:
    keras.utils.set_random_seed(1)
    student, teacher = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(outputs)]) for _ in range(2))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    y = rng.integers(0, 2, (5, 1)).astype(np.float32)
    weight = rng.uniform(0.5, 2, 5).astype(np.float32) if weighted else np.ones(5, np.float32)
    distiller = Distiller(student, teacher, temperature=3.0, alpha=0.7)
    losses = keras.losses
    hard = losses.BinaryCrossentropy(True) if outputs == 1 else losses.SparseCategoricalCrossentropy(True)
    distiller.compile("sgd", hard)
    found = distiller.compute_loss(x, y, distiller(x), weight if weighted else None)

    given, taught = student(x).numpy(), teacher(x).numpy()
    if outputs == 1:  # a sigmoid is the softmax of a logit and 0
        given, taught = (np.concatenate([z, np.zeros_like(z)], -1) for z in (given, taught))
        p, q, s = softmax(taught / 3), softmax(given / 3), softmax(given)
        label = 1 - y[:, 0].astype(int)
    else:
        p, q, s, label = softmax(taught / 3), softmax(given / 3), softmax(given), y[:, 0].astype(int)
    soft = 9 * (p * np.log(p / q)).sum(-1)
    expected = (weight * (0.3 * -np.log(s[np.arange(5), label]) + 0.7 * soft)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_distillation_brings_the_pruned_model_nearer_to_the_teacher() -> None:
    keras.utils.set_random_seed(0)
    teacher = networks.mlp()
    student, (x, y) = pruned()
    frozen, untouched = networks.masks(student), teacher.get_weights()

    def distance() -> float:
        return float(np.abs(softmax(student.predict(x, verbose=0)) - softmax(teacher.predict(x, verbose=0))).mean())

    before = distance()
    history = distill(student, teacher, (x, y), alpha=1.0, epochs=20, optimizer=keras.optimizers.Adam(2e-2))
    assert len(history["loss"]) == 20
    assert distance() < before / 2
    np.testing.assert_equal(networks.masks(student), frozen)
    np.testing.assert_equal(teacher.get_weights(), untouched)


@pytest.mark.slow
def test_pruning_goes_on_while_distilling() -> None:
    keras.utils.set_random_seed(0)
    model, teacher = networks.mlp(), networks.mlp()
    x, y = networks.data(model, 40)
    distiller = Distiller(model, teacher)
    optimizer = PruningOptimizer("adam", prune_every=1, flops_target=0.5)
    distiller.compile(optimizer, networks.LOSS)
    distiller.fit(x, y, batch_size=8, epochs=3, verbose=0)
    assert optimizer.reached
    assert all(np.all(layer.mask.numpy() == 1) for layer in mask_layers(teacher))


def test_distillation_of_several_outputs_adds_them_up() -> None:
    keras.utils.set_random_seed(1)

    def network() -> Any:
        inputs = keras.Input((4,))
        return keras.Model(inputs, {"a": keras.layers.Dense(3)(inputs), "b": keras.layers.Dense(1)(inputs)})

    student, teacher = network(), network()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    y = {"a": np.arange(5)[:, None] % 3, "b": x[:, :1]}
    weights = {"a": np.arange(5.0), "b": np.ones(5)}
    losses = {"a": networks.LOSS, "b": "mse"}
    parts = []
    for name in ("a", "b"):
        one = [keras.Model(model.input, model.output[name]) for model in (student, teacher)]
        distiller = Distiller(*one)
        distiller.compile("sgd", losses[name])
        parts.append(distiller.compute_loss(x, y[name], distiller(x), weights[name]))
    distiller = Distiller(student, teacher)
    distiller.compile("sgd", losses)
    np.testing.assert_allclose(distiller.compute_loss(x, y, distiller(x), weights), sum(parts), rtol=1e-6)
