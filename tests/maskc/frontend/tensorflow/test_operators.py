"""Conversions that tf2onnx lacks or gets wrong."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc import frontend
from maskc.errors import InputError
from maskc.frontend.tensorflow.keras import to_onnx
from tests.maskc import build
from tests.maskc.command import process


def computed(graph: Any, x: Any) -> Any:
    """The output of a graph of one input."""
    (output,) = build.run(graph, **{graph.graph.input[0].name: x}).values()
    return output


def converted(model: Any, **tolerance: float) -> dict[str, int]:
    """Convert a model of one input, compare it with TensorFlow, and count the operators of the graph."""
    graph = to_onnx(model)
    for batch in (1, 3):
        shape = [batch if axis == 0 else size or 7 for axis, size in enumerate(model.inputs[0].shape)]
        x = np.random.default_rng(batch).normal(size=shape).astype(np.float32)
        expected = np.asarray(model(x, training=False))
        np.testing.assert_allclose(computed(graph, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return Counter(node.op_type for node in graph.graph.node)


def test_gelu_is_spelled_with_five_operators(keras: Any) -> None:
    counts = converted(keras.Sequential([keras.Input((4,)), keras.layers.Activation("gelu")]))
    assert counts == {"Mul": 3, "Erf": 1, "Add": 1}


# TensorFlow itself has no convolution of other ranks with channels first on a CPU.
@pytest.mark.parametrize(
    ("rank", "layout"), [(1, "channels_last"), (2, "channels_last"), (2, "channels_first"), (3, "channels_last")]
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_groups_of_a_convolution(keras: Any, rank: int, layout: str, padding: str) -> None:
    layer = getattr(keras.layers, f"Conv{rank}D")
    shape = (6,) * rank
    shape = (*shape, 4) if layout == "channels_last" else (4, *shape)
    model = keras.Sequential(
        [keras.Input(shape), layer(8, 3, groups=2, padding=padding, data_format=layout, bias_initializer="uniform")]
    )
    assert converted(model)["Conv"] == 1


def test_a_layer_that_keras_cannot_run_is_named(keras: Any) -> None:
    layer = keras.layers.Lambda(lambda x: x @ keras.ops.ones((5, 2)), output_shape=(2,))
    with pytest.raises(InputError, match=r"layer Lambda: .* 4 and 5"):
        to_onnx(keras.Sequential([keras.Input((4,)), layer]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "options", "operator"),
    [
        ("GRU", {}, "GRU"),
        ("GRU", {"reset_after": False, "return_sequences": True}, "GRU"),
        ("GRU", {"use_bias": False, "activation": "elu", "recurrent_activation": "softsign"}, "GRU"),
        ("LSTM", {}, "LSTM"),
        ("LSTM", {"activation": "softplus", "return_sequences": True}, "LSTM"),
        ("SimpleRNN", {}, "RNN"),
        ("SimpleRNN", {"activation": None, "use_bias": False, "return_sequences": True}, "RNN"),
    ],
)
@pytest.mark.parametrize("length", [6, None], ids=["fixed", "free"])
def test_recurrent_layers_are_one_operator(
    keras: Any, layer: str, options: dict[str, Any], operator: str, length: int | None
) -> None:
    counts = converted(keras.Sequential([keras.Input((length, 4)), getattr(keras.layers, layer)(3, **options)]))
    assert counts[operator] == 1 and set(counts) <= {operator, "Transpose", "Squeeze", "Slice"}


@pytest.mark.slow
@pytest.mark.parametrize("length", [6, None], ids=["fixed", "free"])
def test_a_recurrent_layer_behind_others_is_one_operator(keras: Any, length: int | None) -> None:
    """The length is then not that of an input, but of something computed."""
    layers = [
        keras.layers.Dense(5, activation="relu"),
        keras.layers.GRU(3, return_sequences=True),
        keras.layers.LayerNormalization(),
        keras.layers.SimpleRNN(4),
    ]
    counts = converted(keras.Sequential([keras.Input((length, 4)), *layers]))
    assert counts["GRU"] == counts["RNN"] == 1 and "Loop" not in counts


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["GRU", "LSTM", "SimpleRNN"])
def test_bidirectional_layers_read_from_the_end(keras: Any, layer: str) -> None:
    inner = getattr(keras.layers, layer)(3, return_sequences=True)
    counts = converted(keras.Sequential([keras.Input((6, 4)), keras.layers.Bidirectional(inner)]))
    assert not {"Loop", "ReverseSequence"} & set(counts)
    assert counts["RNN" if layer == "SimpleRNN" else layer] <= 2


@pytest.mark.parametrize(("steps", "squared", "operator"), [(6, False, "RNN"), (5, False, "Loop"), (6, True, "Loop")])
def test_loops_that_are_no_layer_stay(tf: Any, keras: Any, steps: int, squared: bool, operator: str) -> None:
    """A step less than the sequence has, and a state that is used in another way."""
    r = tf.constant(np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32))

    def call(x: Any) -> Any:
        x = tf.transpose(x, [1, 0, 2])

        def body(t: Any, h: Any) -> Any:
            return t + 1, tf.tanh(tf.gather(x, t) @ r + (h * h if squared else h) @ r)

        return tf.while_loop(lambda t, h: t < steps, body, (0, tf.zeros_like(x[0])), maximum_iterations=steps)[1]

    layer = keras.layers.Lambda(call, output_shape=(4,))
    assert converted(keras.Sequential([keras.Input((6, 4)), layer]))[operator] == 1


@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4), (None, None, 4), (2, 3, 2, 4)])
def test_dense_is_one_product(keras: Any, shape: tuple[int | None, ...]) -> None:
    layers = [keras.layers.Dense(3, bias_initializer="uniform"), keras.layers.Dense(5, use_bias=False)]
    assert converted(keras.Sequential([keras.Input(shape), *layers])) == {"MatMul": 2, "Add": 1}


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_layer_normalization_of_the_last_axes_is_one_operator(keras: Any, options: dict[str, Any]) -> None:
    for shape, axis in (((6, 4), -1), ((3, 5, 4), (2, 3))):
        layer = keras.layers.LayerNormalization(axis=axis, **options)
        layer.build((None, *shape))
        for weight in layer.weights:
            weight.assign(keras.random.normal(weight.shape))
        assert converted(keras.Sequential([keras.Input(shape), layer])) == {"LayerNormalization": 1}
    other = keras.layers.LayerNormalization(axis=1, **options)
    assert "LayerNormalization" not in converted(keras.Sequential([keras.Input((6, 4)), other]))


def test_attention_has_no_computed_shapes(keras: Any) -> None:
    x = keras.Input((5, 8))
    counts = converted(keras.Model(x, keras.layers.MultiHeadAttention(2, 4)(x, x)))
    assert counts["MatMul"] == 6
    assert not {"Shape", "Gather", "Concat", "Einsum"} & set(counts)


def test_selection_passes_on_what_it_selects(keras: Any) -> None:
    """Infinity in what is not selected."""

    def call(x: Any) -> Any:
        return keras.ops.where(x[:, :1] > 0, x, 1 / x)

    graph = to_onnx(keras.Sequential([keras.Input((3,)), keras.layers.Lambda(call, output_shape=(3,))]))
    x = np.array([[1, 0, 2], [-1, 4, 2]], np.float32)
    np.testing.assert_allclose(computed(graph, x), [[1, 0, 2], [-1, 0.25, 0.5]])


@pytest.mark.parametrize("function", ["expm1", "log1p"])
def test_small_arguments_keep_their_digits(keras: Any, function: str) -> None:
    x = np.array([[1e-8, -1e-7, 1e-4, 0.3, -0.6, 0.0, 8.0, 80.0]], np.float32)
    layer = keras.layers.Lambda(getattr(keras.ops, function))
    graph = to_onnx(keras.Sequential([keras.Input((8,)), layer]))
    np.testing.assert_allclose(computed(graph, x), getattr(np, function)(x.astype(np.float64)), rtol=2e-6)


def test_padding_before_a_convolution(keras: Any) -> None:
    """tf2onnx merges the two in a way of its own, and asks for the conversion of the convolution there."""
    layers = [keras.layers.ZeroPadding2D(((0, 1), (2, 0))), keras.layers.Conv2D(3, 3, strides=2)]
    counts = converted(keras.Sequential([keras.Input((8, 7, 4)), *layers]))
    assert counts == {"Transpose": 2, "Conv": 1}


def test_zeros_around_negative_numbers_are_the_largest(keras: Any) -> None:
    """As in a ResNetV2, whose first layer no activation follows; ONNX Runtime merges the two and has other borders."""
    layers = [keras.layers.Conv2D(4, 3, bias_initializer=keras.initializers.Constant(-9.0))]
    layers += [keras.layers.ZeroPadding2D(1), keras.layers.MaxPooling2D(3, strides=2), keras.layers.Conv2D(3, 1)]
    assert converted(keras.Sequential([keras.Input((9, 9, 2)), *layers]))["Pad"] == 1


def test_conversions_hold_here_and_nowhere_else(keras: Any) -> None:
    from tf2onnx.handler import tf_op

    model = to_onnx(keras.Sequential([keras.Input((4,)), keras.layers.Activation("gelu")]))
    assert [entry.domain for entry in model.opset_import if entry.domain not in ("", "ai.onnx.ml")] == []
    assert "Erfc" not in tf_op.create_mapping(17, None)


def test_an_operator_that_fails_is_named_with_its_layer(keras: Any) -> None:
    layer = keras.layers.Resizing(4, 4, interpolation="area", name="culprit")
    with pytest.raises(InputError, match=r"culprit.*ResizeArea"):
        to_onnx(keras.Sequential([keras.Input((None, None, 3)), layer]))


def test_reshapes_that_copy_sizes_are_not_merged(keras: Any) -> None:
    """tf2onnx would let the second, whose 0 means a size of the first one's result, read the first one's input."""
    flat = keras.layers.Lambda(lambda x: keras.ops.sum(keras.ops.vdot(x, 2 * x)) + x)
    converted(keras.Sequential([keras.Input((3, 4)), flat]))


def test_positions_of_extremes(keras: Any) -> None:
    """Keras looks at the sign bit, so that −0 is less than 0."""
    layer = keras.layers.Lambda(lambda x: keras.ops.stack([keras.ops.argmax(x, -1), keras.ops.argmin(x, -1)], -1))
    graph = to_onnx(keras.Sequential([keras.Input((3,)), layer]))
    x = np.array([[-0.0, 0.0, -1], [0.0, -0.0, 1], [2, -3, 1], [-np.inf, np.inf, 0]], np.float32)
    np.testing.assert_array_equal(computed(graph, x), [[1, 2], [2, 1], [0, 1], [1, 0]])


@pytest.mark.slow
def test_same_bytes_whatever_order_sets_have(keras: Any, tmp_path: Path) -> None:
    """Loops, with convolutions in one, attention and shared constants, converted here and in another process."""
    inputs = keras.Input((6, 8))
    x = keras.layers.Dense(8, activation="gelu")(inputs)
    x = keras.layers.GRU(4, return_sequences=True)(keras.layers.Masking()(x))
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))(x)
    x = keras.layers.Reshape((6, 4, 2, 1))(keras.layers.LayerNormalization()(x))
    model = keras.Model(inputs, keras.layers.ConvLSTM2D(2, 2)(x))
    model.save(tmp_path / "m.keras")
    first, second = (frontend.load(tmp_path / "m.keras").SerializeToString() for _ in range(2))
    assert first == second
    assert b"Loop" in first
    code = "import sys; from maskc import frontend; print(frontend.load(sys.argv[1]).SerializeToString().hex())"
    assert process(tmp_path / "m.keras", code=code, PYTHONHASHSEED="3").stdout.strip() == first.hex()


def test_a_number_behind_a_convolution_without_bias_leaves_channels_first(keras: Any) -> None:
    """tf2onnx's optimizer of Transposes fails on it, and then moves none of the whole graph."""

    def block(x: Any) -> Any:
        x = keras.layers.Conv2D(4, 3, use_bias=False)(x)
        return keras.layers.ReLU(6.0)(x + 3.0)

    image = keras.Input((12, 12, 3))
    counts = converted(keras.Model(image, block(block(image))))
    assert counts["Transpose"] == 2


def test_what_is_added_along_another_axis_is_no_bias(tf: Any, keras: Any) -> None:
    """Of as many rows as there are channels: tf2onnx took what differs by rows for what differs by channels."""
    rows = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    shift = keras.layers.Lambda(
        lambda x: tf.nn.relu(tf.raw_ops.AddV2(x=x, y=rows))
    )  # Keras' own sum makes a bias of it
    converted(keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3, use_bias=False), shift]))


@pytest.mark.parametrize("shape", [(6, 4), (None, 4), (6, 5, 4), (None, None, 4)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_transposed_convolution_after_a_dense_layer(keras: Any, shape: tuple[int | None, ...], padding: str) -> None:
    """A Dense layer on several axes computes its output's shape when it runs, the sizes that are known among them."""
    layer = getattr(keras.layers, f"Conv{len(shape) - 1}DTranspose")
    layers = keras.layers.Dense(5), layer(8, 3, 2, padding=padding, bias_initializer="uniform")
    assert converted(keras.Sequential([keras.Input(shape), *layers]))["ConvTranspose"] == 1
