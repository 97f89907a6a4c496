"""The names that authors gave their layers, in the nodes of converted models and in what is said of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import passes
from maskc.frontend import load
from maskc.frontend.tensorflow.keras import to_onnx
from tests.maskc.command import maskc, succeeded
from tests.maskc.frontend.tensorflow.test_layers import randomise


def products(model: Any) -> list[str]:
    """The names of the nodes that multiply, in the order of the graph; all nodes have a name of their own."""
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    return [node.name for node in passes.count(model).nodes if node.macs]


@pytest.fixture(scope="module")
def unet(keras: Any) -> Any:
    """Names of the author's, with biases that tf2onnx moves and a normalisation that TensorFlow folds."""
    from maskc.train import MaskLayer

    k, mask = keras.layers, MaskLayer(name="mask")
    x = keras.Input((8, 8, 3), name="image")
    down = k.Conv2D(8, 3, padding="same", activation="relu", name="down0_conv1")(x)
    middle = mask(k.Conv2D(8, 3, padding="same", use_bias=False, name="mid_conv")(k.MaxPooling2D(name="pool")(down)))
    up = k.Conv2DTranspose(8, 3, 2, padding="same", name="up0_up")(middle)
    up = k.Conv2D(8, 3, padding="same", activation="relu", name="up0_conv1")(k.Concatenate(name="join")([up, down]))
    normal = k.BatchNormalization(name="normal")(k.Conv2D(4, 3, use_bias=False, name="last_conv")(up))
    model = keras.Model(x, k.Dense(2, name="head")(normal), name="unet")
    randomise(model)
    mask.mask.assign(np.arange(8) % 2)
    return model


NAMES = ["down0_conv1", "mid_conv", "up0_up", "up0_conv1", "last_conv", "head"]


@pytest.mark.slow
def test_layers_keep_their_names_however_the_model_is_given(unet: Any, tmp_path: Path) -> None:
    unet.save(tmp_path / "unet.keras")
    unet.export(tmp_path / "unet", verbose=False)
    models = to_onnx(unet), load(tmp_path / "unet.keras"), load(tmp_path / "unet")
    assert [products(model) for model in models] == [NAMES] * 3
    assert {"join", "pool", "up0_conv1/Relu"} <= {node.name for node in models[0].graph.node}
    assert models[1].SerializeToString() == load(tmp_path / "unet.keras").SerializeToString()
    shown = succeeded("compile", tmp_path / "unet.keras", "--align", "none", "--adapters", "never")
    shown = maskc("diff", tmp_path / "unet", tmp_path / "unet.compiled.onnx")
    assert all(name in shown.stdout for name in ("mid_conv", "up0_up")) and "__" not in shown.stdout
    # Only the output is called otherwise there: `head` by its layer, `output_0` by the export.
    shown = maskc("verify", tmp_path / "unet", tmp_path / "unet.compiled.onnx")
    assert shown.exit_code == 0 and "'output_0' of the reference with 'head'" in " ".join(shown.stdout.split()), (
        shown.stdout
    )


def test_names_that_keras_makes_up(keras: Any) -> None:
    """Keras numbers its layers and TensorFlow the scopes of each, so that `dense_1` may be in scope `dense_1_1`."""
    keras.backend.clear_session()
    layers = [keras.layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(seed=i)) for i in range(3)]
    for order in (layers, layers[::-1]):
        model = keras.Sequential([keras.Input((4,)), *order])
        assert products(to_onnx(model)) == [layer.name for layer in order]
    inner = keras.Sequential([keras.Input((4,)), *layers[:2]], name="inner")
    x = keras.Input((4,))
    twice = keras.Model(x, layers[2](layers[2](inner(x))))
    assert products(to_onnx(twice)) == ["inner/dense", "inner/dense_1", "dense_2/MatMul", "dense_2/MatMul_2"]


def test_products_inside_a_layer(keras: Any) -> None:
    x = keras.Input((6, 4))
    y = keras.layers.LSTM(3, name="steps")(keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    names = products(to_onnx(keras.Model(x, keras.layers.Dense(2, name="out")(y))))
    assert all(f"attention/{name}" in names for name in ("query", "key", "value", "attention_output"))
    assert names[-2:] == ["steps", "out"] and all(name.startswith("attention/") for name in names[:-2])


def test_products_of_a_separable_convolution_with_a_normalisation(keras: Any) -> None:
    x = keras.Input((6, 6, 4))
    y = keras.layers.SeparableConv2D(8, 3, use_bias=False, name="separable")(x)
    model = keras.Model(x, keras.layers.BatchNormalization(name="normal")(y))
    randomise(model)
    names = products(to_onnx(model))
    assert len(names) == 2 and all(name.startswith("separable/") for name in names)
