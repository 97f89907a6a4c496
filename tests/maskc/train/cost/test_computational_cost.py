"""FLOPs as a function of the masks, against counting again with each entry pruned."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import passes
from maskc.frontend.tensorflow.keras import to_onnx
from maskc.train import MaskLayer, computational_cost
from tests.maskc.train.networks import depthwise, mlp, plain, residual, thinned, trained


@pytest.mark.slow
@pytest.mark.parametrize("build", [mlp, plain, residual, depthwise])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_gradient_is_the_difference_that_one_entry_makes(build: Any, share: float) -> None:
    model = thinned(build(), share, seed=5)
    cost = computational_cost(model)
    flops, gradient = cost.flops(), cost.gradient()
    assert [*gradient] == [layer.name for layer in cost.layers]
    masks = cost.masks()
    for index, saved in enumerate(gradient.values()):
        for channel, saving in enumerate(saved):
            without = [mask.copy() for mask in masks]
            without[index][channel] = 0
            assert saving == flops - cost.count(without)
    assert sum(int(saving.sum()) for saving in gradient.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("build", [mlp, plain, depthwise, residual])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_flops_are_the_compiled_models(build: Any, share: float) -> None:
    """But a constant mask right behind a convolution may be folded into its weights when it is exported."""
    model = thinned(trained(build()), share, seed=6)
    compiled = passes.shrink(to_onnx(model)).report.after.flops
    assert compiled <= computational_cost(model).flops() <= compiled * (1.02 if build is residual else 1)


def test_flops_of_dense_layers_by_hand() -> None:
    model = trained(mlp(width=6), first=[1, 1, 1, 0, 0, 0], second=[1, 1, 0, 0, 0, 0])

    def dense(inputs: int, outputs: int) -> int:
        return outputs * (2 * inputs - 1) + outputs

    relu = 3 + 2
    assert computational_cost(model).flops() == dense(4, 3) + dense(3, 2) + dense(2, 3) + relu


def test_untrained_zeros_do_not_count_as_constants() -> None:
    """A fresh bias is zero and a fresh gamma one, but the network is not free of cost for it."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5)(inputs)
    x = keras.layers.BatchNormalization(gamma_initializer="zeros")(x)
    x = MaskLayer(name="only")(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    assert np.all(computational_cost(model).gradient()["only"] > 0)


def test_layers_that_share_a_name() -> None:
    def block(name: str) -> Any:
        inputs = keras.Input((4,))
        return keras.Model(inputs, MaskLayer(name="mask")(keras.layers.Dense(4)(inputs)), name=name)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(block("b")(block("a")(inputs))))
    gradient = computational_cost(model).gradient()
    assert len(gradient) == 2
    assert all(saving.shape == (4,) for saving in gradient.values())


def test_several_inputs_and_a_dictionary() -> None:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b", dtype="int32")}
    embedded = keras.layers.Flatten()(keras.layers.Embedding(10, 2)(inputs["b"]))
    x = keras.layers.Concatenate()([keras.layers.Dense(4)(inputs["a"]), embedded])
    model = keras.Model(inputs, {"out": keras.layers.Dense(2)(MaskLayer(name="only")(x))})
    cost = computational_cost(model)
    assert cost.count([np.array([0, 0, 1, 1] + [1] * 6)]) < cost.flops()


def single() -> Any:
    """A model with one mask."""
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), MaskLayer(), keras.layers.Dense(2)])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("build", [single, plain, residual])
def test_cost_is_a_function_with_a_derivative(build: Any, graph: bool) -> None:
    cost = computational_cost(thinned(build(), 0.4, seed=5))
    variables = [layer.mask.value for layer in cost.layers]

    def differentiate() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(variables)
            flops = cost()
            penalty = 0.5 * flops
        return flops, tape.gradient(penalty, variables)

    flops, gradients = (tf.function(differentiate) if graph else differentiate)()
    assert flops.shape == () and int(flops) == cost.flops()
    for name, gradient in zip(cost.names, gradients, strict=True):
        np.testing.assert_array_equal(gradient, 0.5 * cost.gradient()[name])


def test_flops_are_told_without_what_each_entry_would_save(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = computational_cost(plain())
    expected = cost.at(cost.masks())[0]
    monkeypatch.setattr(passes, "flops_by_mask", None)  # compiles for each kind of entry
    cost = computational_cost(plain())
    assert cost.flops() == int(cost()) == expected


def test_cost_of_masks_that_are_given() -> None:
    model = plain()
    cost = computational_cost(model)
    first = tf.constant([1.0, 0.0, 0.0, 1.0, 1.0])
    given = [first, *(layer.mask for layer in cost.layers[1:])]
    assert float(cost(given)) < cost.flops()
    model.get_layer("first").mask.assign(first)
    assert float(cost(given)) == cost.flops()


@pytest.mark.parametrize("channels", [[1] * 8, [1, 0, 0, 1, 1, 0, 1, 1]])
def test_weights_that_are_not_trained_yet_count_as_trained_ones(channels: list[int]) -> None:
    """A bias of zeros and a scale of ones are only there to begin with."""
    inputs = keras.Input((6,))
    x = MaskLayer(name="only")(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.LayerNormalization()(x)))
    model.get_layer("only").mask.assign(channels)
    fresh = computational_cost(model).flops()
    assert fresh == computational_cost(trained(model)).flops()
    assert fresh == passes.shrink(to_onnx(model)).report.after.flops
