"""The mask layer: what it computes, and what it survives."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from maskc.errors import InputError
from maskc.train import MaskLayer
from maskc.train.mask_layer import mask_layers
from tests.maskc.train.networks import data, mlp, plain


def some_masked(model: Any) -> Any:
    """Sets a few mask entries to zero and signals to numbers that tell them apart."""
    for layer in mask_layers(model):
        channels = layer.mask.shape[0]
        layer.mask.assign(np.arange(channels) % 3 != 1)
        layer.signal.assign(np.linspace(1, 2, channels))
    return model


def weights_of(model: Any) -> list[np.ndarray]:
    return [value for layer in mask_layers(model) for value in layer.get_weights()]


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 5, 6, 3), (2, 3, 4, 5, 3)])
@pytest.mark.parametrize("training", [None, False, True])
def test_multiplies_the_last_axis(shape: tuple[int, ...], training: bool | None) -> None:
    layer = MaskLayer()
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(layer(x, training=training), x)
    layer.mask.assign([1, 0, 1])
    np.testing.assert_array_equal(layer(x, training=training), x * [1, 0, 1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"])
def test_dtypes(dtype: str) -> None:
    layer = MaskLayer(dtype=dtype)
    assert layer(tf.ones((2, 3), layer.compute_dtype), training=True).dtype == layer.compute_dtype
    assert layer.mask.dtype == layer.variable_dtype
    assert layer.signal.dtype == "float32"


def test_weights_start_as_ones_and_zeros_and_only_the_probe_is_trainable() -> None:
    layer = MaskLayer()
    layer.build((None, 3))
    np.testing.assert_array_equal(layer.mask, [1, 1, 1])
    np.testing.assert_array_equal(layer.signal, [0, 0, 0])
    assert [v.name for v in layer.trainable_weights] == ["probe"]
    assert [v.name for v in layer.non_trainable_weights] == ["mask", "signal"]


def test_input_gradient_is_masked() -> None:
    layer = MaskLayer()
    x = tf.ones((2, 3))
    layer(x)
    layer.mask.assign([1, 0, 1])
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training) * [2.0, 3.0, 4.0]
        np.testing.assert_array_equal(tape.gradient(y, x), [[2, 0, 4]] * 2)


def test_the_gradient_may_come_without_a_shape() -> None:
    """As from a function in Python."""
    layer, x = MaskLayer(), tf.ones((2, 3))

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.py_function(lambda y: 2 * y, [layer(x, training=True)], tf.float32)
            loss = tf.reduce_sum(tf.ensure_shape(y, (2, 3)))
        return tape.gradient(loss, [x, layer.passage[0]])

    np.testing.assert_array_equal(gradients(), np.full((2, 2, 3), 2))


def test_what_is_wrong_is_said_in_a_sentence() -> None:
    """Without the page that Keras prints of arguments."""
    with pytest.raises(InputError, match=r"^The mask 'mask' needs floating-point numbers, not int32\.$"):
        MaskLayer(name="mask")(tf.ones((2, 3), tf.int32))


def test_keras_masks_pass_through() -> None:
    x = keras.layers.Masking()(tf.constant([[[1.0], [0.0]]]))
    assert keras.src.backend.get_keras_mask(MaskLayer()(x)).numpy().tolist() == [[True, False]]


@pytest.mark.parametrize("shape", [(3,), (None, 4, None)])
def test_unusable_input_shapes(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(InputError, match="channels"):
        MaskLayer().build(shape)


def test_it_is_saved_cloned_and_exported(tmp_path: Path) -> None:
    model = some_masked(plain())
    model.get_layer("first").groups = "shared"
    x, _ = data(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.groups for layer in mask_layers(loaded)] == ["shared", None, None]
    np.testing.assert_equal(weights_of(loaded), weights_of(model))
    clone = keras.models.clone_model(model)
    assert all(np.all(layer.mask) for layer in mask_layers(clone))
    clone.set_weights(model.get_weights())
    for copy in (loaded, clone):
        np.testing.assert_allclose(model(x), copy(x), rtol=1e-6)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(served.serve(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_model_without_an_input_is_saved_before_it_was_called(tmp_path: Path) -> None:
    keras.Sequential([keras.layers.Dense(4), MaskLayer()]).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(np.ones((2, 3))).shape, (2, 4))


def test_inference_does_not_read_the_signal() -> None:
    model = some_masked(mlp())
    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 4)))
    read = {id(tensor) for tensor in function.captured_inputs}
    for layer in mask_layers(model):
        assert id(layer.mask.value.handle) in read
        assert id(layer.signal.value.handle) not in read


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_other_optimizers_leave_masks_and_signals_alone(jit_compile: bool) -> None:
    model = some_masked(mlp())
    before = [value.copy() for value in weights_of(model)]
    adam = keras.optimizers.Adam(0.1, global_clipnorm=1.0, use_ema=True, ema_overwrite_frequency=2)
    model.compile(adam, "mse", jit_compile=jit_compile, run_eagerly=not jit_compile)
    assert model.jit_compile == jit_compile
    x, _ = data(model)
    kernel = model.layers[1].kernel.numpy()
    model.fit(x, np.zeros((len(x), 3)), batch_size=4, verbose=0)
    assert not np.array_equal(kernel, model.layers[1].kernel.numpy())
    np.testing.assert_equal(weights_of(model), before)


def test_training_does_not_warn_about_missing_gradients(recwarn: pytest.WarningsRecorder) -> None:
    model = mlp()
    model.compile("sgd", "mse")
    x, _ = data(model)
    model.fit(x, np.zeros((len(x), 3)), verbose=0)
    assert not [warning for warning in recwarn if "Gradients do not exist" in str(warning.message)]
