"""What the analysis says of tensors of Keras models and functions, where masks meet, part and are shared."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from maskc.train import MaskLayer, find_input_mask, find_mask, find_output_mask, pruned_shape
from tests.maskc.train.networks import mlp, plain, residual, trained


def channels(keep: Any) -> list[int]:
    return [int(k) for k in keep[-1]]


def test_before_and_behind_a_mask() -> None:
    model = trained(mlp(4), first=[1, 0, 1, 0])
    dense = model.layers[1]
    assert channels(find_input_mask(model, "first")) == [1, 0, 1, 0]
    assert channels(find_output_mask(model, "first")) == [1, 1, 1, 1]
    assert channels(find_input_mask(model, dense)) == [1, 1, 1, 1]
    assert channels(find_output_mask(model, dense)) == [1, 0, 1, 0]
    assert channels(find_mask(model, dense.output)) == [1, 0, 1, 0]
    assert pruned_shape(model, dense) == (None, 2)


def test_axes_are_tensorflows() -> None:
    model = trained(plain(), first=[1, 0, 1, 0, 0])
    keep = find_mask(model, model.layers[1])
    assert [None if k is None else len(k) for k in keep] == [None, 6, 6, 5]
    assert pruned_shape(model, model.layers[1]) == (None, 6, 6, 2)


def test_a_residual_sum() -> None:
    model = trained(residual(), stem=[1, 0, 0, 1], branch=[1, 1, 0, 0])
    add = next(layer for layer in model.layers if isinstance(layer, layers.Add))
    assert channels(find_input_mask(model, add)) == [1, 1, 0, 1]
    last = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)][-1]
    assert channels(find_mask(model, last)) == [1, 1, 0, 0]
    assert pruned_shape(model, add) == (None, 6, 6, 3)


def test_a_concatenation_and_its_branches() -> None:
    inputs = keras.Input((4, 4, 2))
    a, b = layers.Conv2D(3, 1, name="a")(inputs), layers.Conv2D(2, 1, name="b")(inputs)
    x = MaskLayer(name="mask")(layers.Concatenate(name="both")([a, b]))
    model = trained(keras.Model(inputs, layers.Conv2D(2, 1)(x)), mask=[0, 1, 1, 0, 1])
    assert channels(find_mask(model, "a")) == [0, 1, 1]
    assert channels(find_mask(model, "b")) == [0, 1]
    assert channels(find_output_mask(model, "both")) == [0, 1, 1, 0, 1]


def test_masked_outputs_are_read() -> None:
    inputs = keras.Input((4,))
    model = trained(keras.Model(inputs, MaskLayer(name="mask")(layers.Dense(3)(inputs))), mask=[1, 0, 1])
    assert channels(find_output_mask(model, "mask")) == [1, 1, 1]
    assert channels(find_mask(model, "mask")) == [1, 0, 1]


def test_a_function() -> None:
    mask = MaskLayer()
    mask.build((None, 3))
    mask.mask.assign([1, 0, 1])
    weights = tf.Variable(np.random.default_rng(0).uniform(1, 2, (4, 3)), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def function(x: Any) -> Any:
        hidden = tf.identity(x @ weights, name="hidden")
        return tf.reduce_sum(tf.nn.relu(mask(hidden)), axis=-1)

    assert channels(find_input_mask(function, "hidden")) == [1, 1, 1]
    assert channels(find_mask(function, "hidden")) == [1, 0, 1]
    assert pruned_shape(function.get_concrete_function(), "hidden:0") == (None, 2)
