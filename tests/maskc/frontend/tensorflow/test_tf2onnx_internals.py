"""Each name of tf2onnx and TensorFlow's graphs that is not public does what the conversion takes it to do."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import maskc
from maskc.frontend.tensorflow import tf2onnx_internals as internals


@pytest.fixture
def lookup(tf: Any) -> tuple[Any, Any, Any]:
    """A module with a lookup table and a variable, its concrete function, and what that gives for [3, 4]."""
    module = tf.Module()
    entries = tf.lookup.KeyValueTensorInitializer([3, 4], [30, 40], tf.int64, tf.int64)
    module.table, module.bias = tf.lookup.StaticHashTable(entries, -1), tf.Variable([2.0, 5.0])

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int64, "keys")])
    def function(keys: Any) -> Any:
        return tf.cast(module.table.lookup(keys), tf.float32) + module.bias

    return module, function.get_concrete_function(), [32, 45]


def graph_of(function: Any, extra: list[Any] | None = None) -> Any:
    """A function in tf2onnx's form."""
    import tensorflow as tf
    from tf2onnx.tfonnx import process_tf_graph

    concrete = internals.frozen(function)
    inputs, outputs = ([tensor.name for tensor in side] for side in (concrete.inputs, concrete.outputs))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(concrete.graph.as_graph_def(), name="")
        return process_tf_graph(graph, opset=17, input_names=inputs, output_names=outputs, extra_opset=extra)


def function_of(operation: Any, *shape: int) -> Any:
    import tensorflow as tf

    return tf.function(operation, input_signature=[tf.TensorSpec(shape, tf.float32, "x")]).get_concrete_function()


def test_placeholders_are_not_the_variables(lookup: tuple[Any, Any, Any]) -> None:
    assert internals.placeholders(lookup[1]) == ["keys:0"]


def test_a_frozen_function_has_no_variables(tf: Any) -> None:
    weight = tf.Variable(2.0)
    frozen = internals.frozen(function_of(lambda x: x * weight, 3))
    assert not frozen.variables
    assert np.array_equal(frozen(tf.ones(3))[0], [2, 2, 2])


def test_tables_are_read_and_the_function_still_runs(tf: Any, lookup: tuple[Any, Any, Any]) -> None:
    module, function, expected = lookup
    graph, tables = internals.frozen_with_tables(module, function, [function.outputs[0].name])
    ((keys, values),) = tables.values()
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == {3: 30, 4: 40}
    assert not any(node.op == "ReadVariableOp" for node in graph.node)
    assert np.array_equal(np.ravel(function(tf.constant([3, 4], tf.int64))), expected)


def test_constants_are_folded(tf: Any) -> None:
    frozen = internals.frozen(function_of(lambda x: x + tf.constant([1.0, 2.0]) * tf.constant([3.0, 4.0]), 2))
    folded = internals.folded(frozen.graph.as_graph_def(), ["x:0"], [frozen.outputs[0].name])
    assert not any(node.op == "Mul" for node in folded.node)


def test_names_are_numbered_again_from_the_start(tf: Any) -> None:
    internals.restart_numbering()
    first = internals.fresh_name("scope/node")
    assert first.startswith("scope/node") and internals.fresh_name("scope/node") != first
    internals.restart_numbering()
    assert internals.fresh_name("scope/node") == first


def test_types(tf: Any) -> None:
    assert np.dtype(internals.numpy_type(TensorProto.FLOAT16)) == np.float16


def test_a_conversion_takes_the_place_of_that_of_tf2onnx_in_its_domain_alone(tf: Any) -> None:
    def as_negation(graph: Any, node: Any, **_: Any) -> None:
        node.type = "Neg"

    internals.register("Softsign", as_negation, "maskc.test")
    function = function_of(tf.nn.softsign, 3)
    kinds = [
        {node.type for node in graph_of(function, extra).get_nodes()}
        for extra in (None, [helper.make_opsetid("maskc.test", 1)])
    ]
    assert "Softsign" in kinds[0] - kinds[1]
    assert "Neg" in kinds[1]


def test_a_node_is_converted_as_tf2onnx_does_it(tf: Any) -> None:
    internals.register("Conv2D", lambda graph, node, **_: internals.convert_as_tf2onnx(graph, node), "maskc.test")
    function = function_of(lambda x: tf.nn.conv2d(x, tf.ones((2, 2, 3, 4)), 1, "VALID"), 1, 5, 5, 3)
    nodes = graph_of(function, [helper.make_opsetid("maskc.test", 1)]).get_nodes()
    assert sum(node.type == "Conv" for node in nodes) == 1


def test_a_node_that_fails_is_named(tf: Any) -> None:
    def refuse(graph: Any, node: Any, **_: Any) -> None:
        raise ValueError("not this one")

    internals.register("Softplus", refuse, "maskc.test")
    function = function_of(lambda x: tf.nn.softplus(x, "culprit"), 3)
    with internals.failed_nodes() as failed, pytest.raises(ValueError, match="not this one"):
        graph_of(function, [helper.make_opsetid("maskc.test", 1)])
    assert failed == ["culprit"]


def test_optimizers(tf: Any) -> None:
    """Two transpositions cancel; if nothing may be rearranged, only Identity nodes go."""
    from tf2onnx.optimizer import optimize_graph

    function = function_of(lambda x: tf.identity(tf.transpose(tf.nn.relu(tf.transpose(x)))), 2, 3)
    counts = [
        [
            sum(node.type == kind for node in optimize_graph(graph_of(function), False, optimizers).get_nodes())
            for kind in ("Transpose", "Relu")
        ]
        for optimizers in (internals.optimizers(), internals.optimizers(rearranged=False))
    ]
    assert counts == [[0, 1], [2, 1]]


def test_tables_in_what_keras_exports(tf: Any, tmp_path: Any) -> None:
    keras = pytest.importorskip("keras")
    word, number = keras.Input((1,), dtype="string", name="word"), keras.Input((1,), dtype="int64", name="number")
    encoded = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(word)
    index = keras.layers.IntegerLookup(vocabulary=[7, 5], output_mode="one_hot")(number)
    model = keras.Model([word, number], keras.layers.Dense(2)(keras.layers.Concatenate()([encoded, index])))
    model.export(tmp_path / "model", verbose=False)
    compiled = maskc.compile(tmp_path / "model", align="none", samples=1)
    words, numbers = np.array([["b"], ["c"], ["a"]], object), np.array([[5], [6], [7]])
    session = onnxruntime.InferenceSession(compiled.model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = model.predict([tf.constant(words), tf.constant(numbers)], verbose=0)
    np.testing.assert_allclose(session.run(None, {"word": words, "number": numbers})[0], expected, rtol=1e-5)
