"""TensorFlow models as they are found: of Keras 2 and TensorFlow 1, without signatures, in HDF5 files, in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskc as api
from maskc.errors import InputError, RunError
from maskc.frontend import load, read
from maskc.frontend.tensorflow.keras import from_model
from tests.maskc.command import maskc, refused, succeeded

WEIGHTS = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((8, 16), (16, 4))]
MASK = np.tile([1.0, 0.0], 8).astype(np.float32)
X = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
Y = np.maximum(X @ WEIGHTS[0], 0) * MASK @ WEIGHTS[1]


def masked(tf: Any) -> Any:
    """A module with a masked network as `scores`, which has no signature of its own, and with other functions."""

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (tf.Variable(value) for value in WEIGHTS)
            self.slot, self.optimizer = tf.Variable(np.ones_like(WEIGHTS[0])), tf.Module()

        @tf.function  # type: ignore[untyped-decorator]
        def scores(self, x: Any, training: bool = False) -> Any:
            return {"y": tf.nn.relu(x @ self.first) * MASK @ self.second}

        @tf.function  # type: ignore[untyped-decorator]
        def same(self, x: Any) -> Any:
            return x

    module = Module()
    module.scores.get_concrete_function(tf.TensorSpec((None, 8), name="x"))
    for rank in (1, 2):
        module.same.get_concrete_function(tf.TensorSpec((None,) * rank))
    return module


def compiles(model: Any, **options: Any) -> None:
    """The mask goes, and the function stays, compared with TensorFlow and with numpy."""
    source = read(model, **options)
    assert source.tensorflow is not None
    (values,) = source.tensorflow.run({source.tensorflow.inputs[0]: X}).values()
    np.testing.assert_allclose(values, Y, rtol=1e-4, atol=1e-4)
    report = api.compile(model, **options, align="none", verify=True).report
    assert (report.channels_masked, report.channels_removed) == (8, 8)
    assert report.verification is not None and {o.against for o in report.verification.outputs} >= {"TensorFlow"}


def test_functions_are_named_where_there_is_no_signature(tf: Any, tmp_path: Path) -> None:
    tf.saved_model.save(masked(tf), tmp_path / "saved")
    refused(maskc("compile", tmp_path / "saved"), 2, "no signature", "functions same, scores", "--signature")
    refused(maskc("explain", tmp_path / "saved", "--signature", "absent"), 2, "'absent'", "same, scores")
    refused(maskc("flops", tmp_path / "saved", "--signature", "same"), 2, "2 traces of 'same'")
    compiles(tmp_path / "saved", signature="scores")
    options = ("--signature", "scores")
    succeeded("compile", tmp_path / "saved", "--output", tmp_path / "small.onnx", "--align", "none", *options)
    assert maskc("verify", tmp_path / "saved", tmp_path / "small.onnx", *options).exit_code == 0
    assert "16 → 8" in maskc("diff", tmp_path / "saved", tmp_path / "small.onnx", *options).stdout
    assert "8 → 16" in maskc("diff", tmp_path / "small.onnx", tmp_path / "saved", *options).stdout
    for command in ("compile", "flops", "explain"):
        refused(maskc(command, tmp_path / "small.onnx", *options), 2, "small.onnx is no SavedModel", "out 'scores'")
    with pytest.raises(InputError, match="The model is no SavedModel"):
        api.flops(read(tmp_path / "small.onnx").model, signature="scores")


def test_a_keras_2_model_with_an_optimizers_slots(tf: Any, tmp_path: Path) -> None:
    """What Keras 2 saved of an optimizer: an object that TensorFlow does not know without it, with slots."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    module = masked(tf)
    traced = module.scores.get_concrete_function(tf.TensorSpec((None, 8), name="x"))
    tf.saved_model.save(module, tmp_path / "saved", signatures={"serving_default": traced})
    path = tmp_path / "saved" / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    children = {child.local_name: child.node_id for child in nodes[0].children}
    for index in [i for i, child in enumerate(nodes[0].children) if child.local_name == "slot"]:
        del nodes[0].children[index]
    optimizer = nodes[children["optimizer"]]
    optimizer.user_object.identifier = "optimizer"
    optimizer.slot_variables.add(
        original_variable_node_id=children["first"], slot_name="momentum", slot_variable_node_id=children["slot"]
    )
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(tmp_path / "saved"))
    compiles(tmp_path / "saved")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("serving_default",), ()),
        (("of_another_name",), ()),
        (("first", "second"), ("several signatures", "signatures first, second", "--signature")),
        ((), ("no signature to serve",)),
    ],
)
def test_a_model_of_tensorflow_1(tf: Any, tmp_path: Path, names: tuple[str, ...], words: tuple[str, ...]) -> None:
    v1, saved = tf.compat.v1, tmp_path / "saved"
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 8))
        first, second = (v1.get_variable(f"w{i}", initializer=value) for i, value in enumerate(WEIGHTS))
        y = tf.nn.relu(x @ first) * MASK @ second
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(saved))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=dict.fromkeys(names, signature))
        builder.save()
    if words:
        refused(maskc("flops", saved), 2, *words)
    if names:
        compiles(saved, signature=None if len(names) == 1 else "second")


def test_hdf5_files_and_keras_models_in_memory(keras: Any, tmp_path: Path) -> None:
    from maskc.train import MaskLayer

    mask = MaskLayer()
    layers = keras.layers.Dense(16, activation="relu", use_bias=False), mask, keras.layers.Dense(4, use_bias=False)
    model = keras.Sequential([keras.Input((8,)), *layers])
    layers[0].set_weights(WEIGHTS[:1])
    layers[2].set_weights(WEIGHTS[1:])
    mask.mask.assign(MASK)
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "some.weights.h5")
    (tmp_path / "bad.h5").write_text("not HDF5")
    compiles(tmp_path / "model.h5")
    compiles(model)
    small = api.compile(model, align="none").model
    assert api.verify(model, small).passed and api.flops(model).macs == 192
    assert maskc("compile", tmp_path / "model.h5").exit_code == 0 and (tmp_path / "model.compiled.onnx").exists()
    refused(maskc("flops", tmp_path / "some.weights.h5"), 2, "weights and no model")
    refused(maskc("flops", tmp_path / "bad.h5"), 2, "not an HDF5 file")
    data = bytearray((tmp_path / "model.h5").read_bytes())
    data[data.index(b"model_config") - 6] ^= 0x80  # of the length of this name
    (tmp_path / "bad.h5").write_bytes(data)
    refused(maskc("flops", tmp_path / "bad.h5"), 2, "not an HDF5 file, or it is damaged")
    with pytest.raises(InputError, match=r"keras\.Model, and not \{\}"):
        load({})  # type: ignore[arg-type]


def test_how_to_load_what_keras_does_not_by_itself(keras: Any, tmp_path: Path) -> None:
    lambdas = keras.layers.Lambda(lambda x: 2 * x)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), lambdas])
    model.save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"Python lambda. Call keras.config.enable_unsafe_deserialization\(\) first"):
        read(tmp_path / "model.keras")

    @keras.saving.register_keras_serializable("own")
    class Twice(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return 2 * x

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Twice()]).save(tmp_path / "model.keras")
    keras.saving.get_custom_objects().pop("own>Twice")
    with pytest.raises(InputError, match="Run the code that defines its own layers first"):
        read(tmp_path / "model.keras")


def test_why_tensorflow_cannot_run_a_model_is_said_without_the_way_there(keras: Any) -> None:
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(3, 4), keras.layers.Flatten()])
    traced = from_model(model, name="The model")
    with pytest.raises(RunError, match=r"^The model fails in TensorFlow: indices\[0,1\] = 9 is not in \[0, 3\)\.$"):
        traced.run(dict.fromkeys(traced.inputs, np.array([[1, 9]], np.int32)))


def test_more_weights_than_a_graph_holds(keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.Input((250,))
    model = keras.Model(inputs, keras.layers.Dense(1000)(inputs))
    monkeypatch.setattr("maskc.frontend.tensorflow.convert.PROTOBUF_LIMIT", 10**6)
    with pytest.raises(InputError, match="GB of weights, and a graph of TensorFlow holds 2 GB at most"):
        api.compile(model)
