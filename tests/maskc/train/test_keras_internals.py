"""Each name of Keras and TensorFlow that is not public does what `maskc.train` takes it to do."""

import ast
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maskc import InputError
from maskc.train import keras_internals as internals


def chain() -> Any:
    """Two layers, in a Sequential model in a functional one."""
    inputs = keras.Input((3,), name="x")
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="inside")], name="inner")
    return keras.Model(inputs, layers.Dense(2, name="last")(inner(inputs)))


def test_no_other_file_has_private_names_of_a_library() -> None:
    private = re.compile(r"keras\.src|tensorflow\.python|tf\.__internal__|tf2onnx\.(utils|handler|tf_loader)")
    root = Path(__file__).parents[3] / "maskc"
    for path in (*(root / "train").rglob("*.py"), *(root / "frontend/tensorflow").rglob("*.py")):
        if path.name in ("keras_internals.py", "tf2onnx_internals.py"):
            continue
        text = path.read_text()
        assert not private.search(text), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and re.match("_(?!maskc)[a-z]", node.attr):
                assert isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"), (path, node.attr)


def test_layers_at_any_depth() -> None:
    model = chain()
    assert {layer.name for layer in internals.all_layers(model)} >= {model.name, "inner", "inside", "last"}


def test_the_functional_model_of_a_sequential_one_and_calls_in_order_with_their_tensors() -> None:
    model = chain()
    inner = internals.functional(model.get_layer("inner"))
    assert isinstance(inner, keras.Function)
    assert [node.operation.name for node in internals.nodes(inner)] == ["inside"]
    assert internals.functional(model) is model
    first, second = internals.nodes(model)
    assert (first.operation.name, second.operation.name) == ("inner", "last")
    assert first.input_tensors[0] is model.inputs[0]
    assert second.outputs[0] is model.outputs[0]


def test_calls_are_repeated_on_other_values() -> None:
    called: list[str] = []

    def call(operation: Any, value: str, **_: Any) -> str:
        called.append(operation.name)
        return f"{operation.name}({value})"

    assert internals.repeat_calls(chain(), "x", call) == "last(inner(x))"
    assert called == ["inner", "last"]


def test_what_configurations_make_has_copies_in_the_places_of_layers() -> None:
    inner, copy = layers.Dense(2), layers.Dense(2)
    around = layers.TimeDistributed(inner)
    with internals.in_place_of({id(inner): copy}):
        assert layers.TimeDistributed.from_config(around.get_config()).layer is copy
    assert layers.TimeDistributed.from_config(around.get_config()).layer not in (inner, copy)


def test_the_producer_of_a_tensor() -> None:
    model = chain()
    assert internals.producer(model.outputs[0]) is model.get_layer("last")
    assert internals.producer(model.inputs[0]).name == "x"


def test_the_signature_of_a_model_that_declares_no_inputs() -> None:
    class Plain(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x + 1

    model = Plain()
    with pytest.raises(ValueError, match="built"):
        internals.input_signature(model)
    model(np.zeros((2, 5), np.float32))
    (spec,) = internals.input_signature(model)
    assert tuple(spec.shape) == (None, 5)


def test_classes_that_keras_makes_of_inputs_and_outputs() -> None:
    class Like(keras.Model):  # type: ignore[misc]
        pass

    class Unlike(keras.Model):  # type: ignore[misc]
        def __init__(self, inputs: Any, outputs: Any) -> None:
            super().__init__(inputs, outputs)

    inputs = keras.Input((3,))
    outputs = layers.Dense(1)(inputs)
    assert internals.made_as_functional(Like(inputs, outputs))
    assert not internals.made_as_functional(Unlike(inputs, outputs))
    assert not internals.made_as_functional(keras.Sequential())


def test_what_a_model_was_compiled_with() -> None:
    model, loss = chain(), lambda y, z: y - z
    model.compile("sgd", loss, metrics=["mae"])
    arguments = internals.compile_arguments(model)
    assert arguments["loss"] is loss and arguments["metrics"] == ["mae"]
    model.compile(**arguments)


def test_the_forward_pass_is_that_of_the_outermost_model() -> None:
    passes: list[tuple[Any, Any]] = []

    class Asking(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            passes.append(internals.forward_pass(self))
            return x

    inputs = keras.Input((3,))
    layer = Asking()
    model = keras.Model(inputs, layer(layer(inputs)))
    passes.clear()
    model(np.zeros((1, 3)))
    model(np.zeros((1, 3)))
    assert [outermost for outermost, _ in passes] == [model] * 4
    first, again, second, _ = (identity for _, identity in passes)
    assert first is again is not second


def test_what_a_graph_sees() -> None:
    eager, seen = tf.zeros(2), []

    @tf.function
    def outer(x: Any) -> Any:
        def body(step: Any) -> Any:
            seen.append((internals.seen_from(step, x), internals.seen_from(x, step)))
            return step + 1

        seen.append((internals.seen_from(x, eager), internals.seen_from(eager, x)))
        return tf.while_loop(lambda step: step < 2, body, (0,))

    outer(eager)
    assert seen == [(True, False), (True, False)] and internals.seen_from(eager, eager)


def test_errors_that_keras_raises_as_they_are() -> None:
    class PlainError(Exception):
        pass

    class Failing(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            raise PlainError("what is wrong")

    internals.raised_plainly(PlainError)
    with pytest.raises(PlainError, match=r"^what is wrong$"):
        Failing()(np.zeros((1, 1)))


def test_calls_are_intercepted() -> None:
    dense = layers.Dense(2, kernel_initializer="ones")

    def twice(operation: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
        assert operation is dense
        return 2 * call(*args, **kwargs)

    assert np.array_equal(dense(np.ones((1, 3))), [[3, 3]])
    with internals.intercepted([dense, dense], twice):
        assert np.array_equal(dense(np.ones((1, 3))), [[6, 6]])
    assert np.array_equal(dense(np.ones((1, 3))), [[3, 3]])


@pytest.mark.parametrize("kind", [layers.MultiHeadAttention, layers.GroupQueryAttention])
def test_outputs_of_heads_before_they_are_joined(kind: Any) -> None:
    shapes: list[Any] = []

    class Watched(internals.JoinedHeads, kind):  # type: ignore[misc]
        def on_heads(self, outputs: Any) -> Any:
            shapes.append(tuple(outputs.shape))
            return outputs

    attention = Watched(4, 5) if kind is layers.MultiHeadAttention else Watched(5, 4, 2)
    x = np.zeros((1, 3, 8), np.float32)
    attention(x, x)
    assert shapes[-1] == (1, 3, 4, 5)
    assert tuple(internals.output_projection(attention).kernel.shape) == (4, 5, 8)


def test_the_variables_and_the_strategy_of_an_optimizer() -> None:
    model = chain()
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    assert [v.path for v in internals.trained_variables(optimizer)] == [v.path for v in model.trainable_variables]
    internals.check_trained(optimizer, model.trainable_variables)
    with pytest.raises(InputError, match="built for other variables: make a new one for each model"):
        internals.check_trained(optimizer, [keras.Variable(1.0)])
    assert internals.strategy_of(optimizer) is tf.distribute.get_strategy()
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        assert internals.strategy_of(keras.optimizers.SGD()) is strategy


@pytest.mark.parametrize("compiled", [False, True])
def test_whether_xla_compiles_what_is_traced(compiled: bool) -> None:
    traced: list[bool] = []

    @tf.function(jit_compile=compiled)
    def step(x: Any) -> Any:
        traced.append(internals.in_xla())
        return x + 1

    step(tf.constant(1))
    assert traced == [compiled]
    assert not internals.in_xla()


def test_an_action_for_all_replicas_is_done_once() -> None:
    done: list[int] = []
    internals.on_all_replicas(lambda: done.append(0))
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    strategy.run(lambda: internals.on_all_replicas(lambda: done.append(1)))
    with strategy.scope():
        internals.on_all_replicas(lambda: done.append(2))
    assert done == [0, 1, 2]


def test_variables_made_outside_of_tracing_have_values_and_cause_no_second_trace() -> None:
    made: list[Any] = []
    traces: list[int] = []

    @tf.function
    def step(x: Any) -> Any:
        traces.append(1)
        if not made:
            with internals.outside_of_tracing():
                made.append(keras.Variable(3.0))
                assert float(made[0].numpy()) == 3
        return x + made[0]

    assert float(step(tf.constant(1.0))) == 4
    assert len(traces) == 1


def test_actions_around_executions_of_fit() -> None:
    class Owner:
        acted = left = 0

        def act(self, data: Any) -> None:
            self.acted += 1

        def leave(self, data: Any) -> None:
            self.left += 1

    model, owner = chain(), Owner()
    model.compile("sgd", "mse")
    assert not internals.around_executions(model, owner, Owner.act, Owner.leave)
    model.make_train_function()
    for _ in range(2):
        assert internals.around_executions(model, owner, Owner.act, Owner.leave)
    x, y = np.zeros((6, 3)), np.zeros((6, 2))
    model.fit(x, y, batch_size=2, verbose=0)
    assert owner.acted == 2 * 3
    other = Owner()
    internals.around_executions(model, other, Owner.act, Owner.leave)
    model.fit(x, y, batch_size=2, verbose=0)
    assert (owner.acted, other.acted) == (6, 6)

    def interrupt(step: int) -> Any:
        raise KeyboardInterrupt

    model.train_function.maskc_wrapped = None, interrupt
    internals.around_executions(model, owner, Owner.act, Owner.leave)
    with pytest.raises(KeyboardInterrupt):
        model.train_function(0)
    assert owner.left == 1
