"""Masks of maskc.train in Keras models: what they zero goes, wherever the conversion has moved the zeros."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import maskc
from maskc.frontend.tensorflow.keras import to_onnx
from tests.maskc import build
from tests.maskc.frontend.tensorflow.test_layers import randomise

# Networks as functions of keras.layers, an input and a masking layer; what the mask is behind comes first.
Network = Callable[[Any, Any, Any], Any]

SHRINK: dict[str, tuple[tuple[int, ...], Network]] = {
    "gelu": ((4,), lambda k, x, mask: k.Dense(3)(mask(k.Dense(8, activation="gelu")(x)))),
    "celu": ((4,), lambda k, x, mask: k.Dense(3)(mask(k.Dense(8, activation="celu")(x)))),
    "rank 4": ((3, 5, 4), lambda k, x, mask: k.Dense(3)(mask(k.Dense(8, activation="relu")(x)))),
    "einsum": (
        (5, 4),
        lambda k, x, mask: k.Dense(3)(mask(k.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d")(x))),
    ),
    "before a grouped convolution": (
        (8, 8, 4),
        lambda k, x, mask: k.Conv2D(8, 3, groups=8)(mask(k.Conv2D(8, 3, activation="gelu")(x))),
    ),
    "transposed convolution": (
        (6,),
        lambda k, x, mask: k.Conv2D(2, 3)(
            mask(k.Conv2DTranspose(8, 3, strides=2, padding="same")(k.Reshape((4, 4, 3))(k.Dense(48)(x))))
        ),
    ),
    "before a transposed convolution": (
        (6, 6, 3),
        lambda k, x, mask: k.Conv2DTranspose(2, 3, strides=2, padding="same")(mask(k.Conv2D(8, 3)(x))),
    ),
    "norm behind": (
        (8, 8, 3),
        lambda k, x, mask: k.Conv2D(2, 3)(mask(k.ReLU()(k.BatchNormalization()(k.Conv2D(8, 3)(x))))),
    ),
    "norm before": (
        (8, 8, 3),
        lambda k, x, mask: k.Conv2D(2, 3)(k.ReLU()(k.BatchNormalization()(mask(k.Conv2D(8, 3)(x))))),
    ),
    "depthwise": (
        (8, 8, 3),
        lambda k, x, mask: k.Conv2D(2, 1)(k.DepthwiseConv2D(3)(mask(k.Conv2D(8, 1, activation="gelu")(x)))),
    ),
    "1-D": (
        (9, 3),
        lambda k, x, mask: k.Conv1D(2, 3)(mask(k.Conv1D(8, 3, padding="causal", dilation_rate=2)(x))),
    ),
    "3-D": ((5, 5, 5, 2), lambda k, x, mask: k.Conv3D(2, 2)(mask(k.Conv3D(8, 2, activation="relu")(x)))),
    "flattened": ((6, 6, 3), lambda k, x, mask: k.Dense(3)(k.Flatten()(mask(k.Conv2D(8, 3)(x))))),
    "grouped convolution": (
        (8, 8, 4),
        lambda k, x, mask: k.Conv2D(2, 3)(mask(k.Conv2D(8, 3, groups=2, activation="gelu")(x))),
    ),
    "before GRU": ((6, 4), lambda k, x, mask: k.GRU(3)(mask(k.Dense(8)(x)))),
    "before LSTM": ((6, 4), lambda k, x, mask: k.LSTM(3)(mask(k.Dense(8)(x)))),
    "attention": ((6, 4), lambda k, x, mask: (lambda h: k.MultiHeadAttention(2, 4)(h, h))(mask(k.Dense(8)(x)))),
}

EXACT: dict[str, tuple[tuple[int, ...], Network]] = {
    "GRU": ((6, 4), lambda k, x, mask: k.Dense(3)(mask(k.GRU(8)(x)))),
    "LSTM": ((6, 4), lambda k, x, mask: k.Dense(3)(mask(k.LSTM(8, return_sequences=True)(x)))),
    "between": (
        (6, 4),
        lambda k, x, mask: k.SimpleRNN(3)(mask(k.Bidirectional(k.GRU(4, return_sequences=True))(x))),
    ),
    "LayerNormalization": ((6, 4), lambda k, x, mask: k.Dense(3)(k.LayerNormalization()(mask(k.Dense(8)(x))))),
    "ConvNeXt block": (
        (8, 8, 8),
        lambda k, x, mask: k.Add()(
            [
                x,
                k.Dense(8)(
                    k.Dense(16, activation="gelu")(
                        k.LayerNormalization()(mask(k.Conv2D(8, 7, padding="same", groups=8)(x)))
                    )
                ),
            ]
        ),
    ),
}


def compiled(keras: Any, shape: tuple[int, ...], network: Network) -> Any:
    """The report of a model whose mask closes every other channel, after it computed what Keras computes."""
    from maskc.train import MaskLayer

    inputs, mask = keras.Input(shape), MaskLayer()
    model = keras.Model(inputs, network(keras.layers, inputs, mask))
    randomise(model)
    mask.mask.assign(np.arange(mask.mask.shape[0]) % 2)
    # whether it pays to restore constants or to keep channels for a width, in so small a network, is another question
    result = maskc.compile(to_onnx(model), verify=True, adapters="always", align="none")
    x = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    (actual,) = build.run(result.model, **{result.model.graph.input[0].name: x}).values()
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return result.report


@pytest.mark.slow
@pytest.mark.parametrize("name", SHRINK)
def test_masked_channels_go(keras: Any, name: str) -> None:
    report = compiled(keras, *SHRINK[name])
    assert report.masked and all(axis.removed == axis.masked for axis in report.masked)
    assert not report.held
    assert report.after.flops < 0.8 * report.before.flops


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_masked_channels_that_the_operator_needs_stay_exact(keras: Any, name: str) -> None:
    report = compiled(keras, *EXACT[name])
    assert report.after.flops <= report.before.flops
