"""Every layer and every activation of Keras, converted and compared with TensorFlow."""

import functools
import inspect
from typing import Any

import numpy as np
import onnx
import pytest

from maskc.errors import InputError
from maskc.frontend import load
from maskc.frontend.tensorflow.keras import from_model, to_onnx
from tests.maskc import build
from tests.maskc.frontend.tensorflow.cases import SEQUENCE, Case, each, words
from tests.maskc.frontend.tensorflow.layers import CASES, NOT_LAYERS, REFUSED

# Relative to the largest value of an output.
TOLERANCE = 1e-5

# Functions of the module that are no activations.
NO_ACTIVATIONS = {"deserialize", "get", "serialize"}


def randomise(model: Any) -> None:
    """Weights as after training: no zeros, no biases of 0, no variances of 1."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in str(weight.dtype):
            values = rng.normal(scale=0.5, size=weight.shape)
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)


def agrees(model: Any, case: Case) -> None:
    """The model in ONNX is valid, and computes what TensorFlow computes at two sizes."""
    original = from_model(model)
    converted = original.to_onnx()
    onnx.checker.check_model(converted, full_check=True)
    for batch, free in ((1, 7), (3, 5)):
        given = dict(zip(original.inputs, case.data(batch, batch, free), strict=True))
        found = build.run(converted, **{value.name: given[value.name] for value in converted.graph.input})
        for name, expected in original.run(given).items():
            assert found[name].dtype == expected.dtype, name
            scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_layer(keras: Any, name: str) -> None:
    if not hasattr(keras.layers, name):
        pytest.skip("This version of Keras does not have the layer.")
    model = CASES[name].model(keras)
    randomise(model)
    agrees(model, CASES[name])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_layer(keras: Any, name: str) -> None:
    case, operator = REFUSED[name]
    with pytest.raises(InputError, match=operator) as refusal:
        to_onnx(case.model(keras))
    assert "culprit" in str(refusal.value)


def test_every_layer_has_a_case(keras: Any) -> None:
    layers = {
        item.__name__
        for item in vars(keras.layers).values()
        if inspect.isclass(item) and issubclass(item, keras.layers.Layer)
    }
    assert layers <= {*CASES, *REFUSED, *NOT_LAYERS}


def test_activations(keras: Any) -> None:
    names = [name for name in dir(keras.activations) if not name.startswith("_") and name not in NO_ACTIVATIONS]
    assert len(names) > 25
    functions = [getattr(keras.activations, name) for name in names]
    more = {"threshold": {"threshold": 0.2, "default_value": -1.0}}
    functions = [functools.partial(f, **more.get(name, {})) for f, name in zip(functions, names, strict=True)]
    case = each(SEQUENCE, *(lambda k, f=f: k.Activation(f) for f in functions))
    agrees(case.model(keras), case)


@pytest.mark.slow
def test_masked_sequences(keras: Any) -> None:
    """Masks of time steps, which go through recurrent layers, attention and pooling."""

    def outputs(k: Any, ids: Any) -> list[Any]:
        x = k.Embedding(9, 8, mask_zero=True)(ids)
        return [
            k.LSTM(3)(x),
            k.GRU(3, return_sequences=True)(x),
            k.Bidirectional(k.GRU(3, return_sequences=True))(x),
            k.SimpleRNN(3, return_sequences=True, go_backwards=True)(x),
            k.MultiHeadAttention(2, 4)(x, x),
            k.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
            k.Attention()([x, x]),
            k.GlobalAveragePooling1D()(x),
            k.TimeDistributed(k.Dense(2))(x),
        ]

    case = Case(((6,),), outputs, dtype="int32", draw=words)
    model = case.model(keras)
    randomise(model)
    agrees(model, case)


def test_a_layer_that_augments_data_is_left_out_but_where_it_is_served(keras: Any, tmp_path: Any) -> None:
    """Keras exports it as it is in training, so that what is served is another function at each call."""
    layers = [keras.Input((8, 8, 3)), keras.layers.RandomFlip(), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.save(tmp_path / "model.keras")
    assert {node.op_type for node in load(tmp_path / "model.keras").graph.node} <= {"Reshape", "MatMul", "Add", "Gemm"}
    model.export(tmp_path / "exported", verbose=False)
    with pytest.raises(InputError, match=r"draws random numbers .* give the \.keras file"):
        load(tmp_path / "exported")


def test_the_batch_is_open_where_it_can_be(keras: Any) -> None:
    """Without an input Keras notes the size of the first batch, which a model that carries a state has alone."""
    k = keras.layers
    own = k.Lambda(lambda x: keras.ops.reshape(x, (int(x.shape[0]) * 5, 4)), output_shape=(40, 4))
    plain, stateful, fixed = (keras.Sequential([k.Dense(4), x]) for x in (k.LSTM(3), k.LSTM(3, stateful=True), own))
    for model, expected in ((plain, "batch"), (stateful, 8), (fixed, 8)):
        model(np.zeros((8, 5, 2), np.float32))
        batch = to_onnx(model).graph.input[0].type.tensor_type.shape.dim[0]
        assert (batch.dim_param or batch.dim_value) == expected
    if tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 14):  # before, a state asks for its batch in the graph
        assert to_onnx(stateful, any_batch=True).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
