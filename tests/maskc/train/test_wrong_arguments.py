"""Arguments of wrong kinds are refused in one sentence, which says what would be right."""

import contextlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import maskc
from maskc import InputError
from maskc.errors import MaskcError
from maskc.train import (
    Distiller,
    FeatureSpec,
    MaskBlock,
    MaskBlockConfig,
    MaskedGroupQueryAttention,
    MaskedMultiHeadAttention,
    MaskLayer,
    MaskNet,
    MlpConfig,
    Monitor,
    PruningCallback,
    PruningOptimizer,
    PruningTrainer,
    RankerConfig,
    Records,
    SelectChannels,
    apply_mask,
    at_target,
    computational_cost,
    distill,
    export_model,
    find_mask,
    fine_tune,
    prunable,
    prune,
    pruned_shape,
    ranker,
    shrink,
    update_pruning_signals,
    write_records,
)
from tests.maskc.train.networks import chain, data, mlp, pruning, vectors


def step(model: Any, of: Any, training: bool = True, graph: bool = False, **settings: Any) -> None:
    """One step of a custom loop with an optimizer `of` the same model, another one or none."""
    x, _ = data(model)
    variables = model.trainable_variables
    optimizer = pruning(flops_target=0, model=of, **settings)
    if of not in (None, model):
        optimizer.build(variables)

    def update() -> None:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(tf.square(model(x, training=training)))
        optimizer.apply(tape.gradient(value, variables), variables)

    (tf.function(update) if graph else update)()


def cut_short() -> Any:
    """Data that a file of tf.data holds whose end is missing, after a batch that is there."""
    broken = tf.data.Dataset.from_tensors(b"{").map(lambda text: tf.io.decode_raw(text, tf.int32))
    x, y = (tf.data.Dataset.from_tensor_slices(part).batch(4) for part in vectors())
    return tf.data.Dataset.zip((x.concatenate(broken.map(lambda row: tf.ones((4, 4)))), y.repeat()))


def compiled() -> Any:
    model = mlp()
    model.compile("sgd", "mse")
    return model


def loaded_from(optimizer: Any) -> None:
    """Loads the state of something else that has as many parts."""
    optimizer.load_own_variables({f"part {number}": 0 for number in range(len(optimizer.own_variables) + 2)})


def used() -> Any:
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    return model.optimizer


def plain() -> Any:
    return chain(4, 6, 3, activation="relu")


def square(x: Any) -> Any:
    """A function that is not registered with Keras."""
    return x * x


def twice() -> Any:
    """A layer that is called again."""
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(4, name="twice")
    return keras.Model(inputs, dense(dense(inputs)))


def applied_mask() -> MaskLayer:
    mask = MaskLayer()
    apply_mask(tf.ones((2, 3)), mask)
    return mask


def numbers() -> Any:
    return tf.ones((8, 8))


def sequences() -> Any:
    return tf.ones((2, 5, 8))


def called(layer: Any) -> Callable[..., Any]:
    """A call of a new layer like this one."""

    def call(**arguments: Any) -> Any:
        return layer.from_config(layer.get_config())(**arguments)

    call.__name__ = type(layer).__name__
    return call


def masks_counted(masks: Any) -> Any:
    cost = computational_cost(mlp())
    return cost.count(cost.masks() if masks is None else masks)


def grouped(groups: Any) -> Any:
    cost = computational_cost(mlp())
    return cost.model(cost.masks(), [groups, np.arange(6)])


def pruning_trainer(**arguments: Any) -> PruningTrainer:
    return PruningTrainer(mlp(), "mse", "run", pruning_iter=1, pruning_burn_in=0, pruning_flops_target=0.5, **arguments)


def trained(**arguments: Any) -> Any:
    return pruning_trainer().train(**arguments)


def minimized(loss: Any = None, **arguments: Any) -> Any:
    model, (x, y) = mlp(), vectors()
    optimizer = pruning(model=model, flops_target=0.5, loss_reduction="mean", prune_every=5)
    computed = lambda: tf.reduce_mean((model(x, training=True) - y) ** 2)  # noqa: E731
    return optimizer.minimize(computed if loss is None else loss, **arguments)


def applied(grads: Any, trainable_variables: Any) -> Any:
    model = mlp()
    optimizer = pruning(model=model, flops_target=0.5, loss_reduction="mean")
    optimizer.build(model.trainable_variables)
    return optimizer.apply([] if grads is None else grads, trainable_variables)


def records_of(spec: Any) -> Any:
    write_records("x.tfrecord", [{"a": 1.0, "b": 1.0}])
    return Records("x.tfrecord", FeatureSpec(features={"a": {"kind": "dense"}}, label="b") if spec is None else spec)


BLOCK = {"output_size": 8, "reduction_factor": 2.0, "input_layer_norm": True}

WRONG = [
    *(None, 0, -1, 0.5, float("nan"), 1e30, True, "x", "", b"x", [], [1], {}, {"a": 1}, (), object(), int),
    *(
        10**400,
        {"c": np.array(["x"])},
        np.array("2020", "M8[Y]"),
        "a\0b",
        np.array(3),
        np.ones(3),
        np.ones((8, 4)),
        keras.layers.Dense(3),
        tf.ones(3),
    ),
]

#: public entries, with values of arguments that do, or functions that make them; all others are tried at their defaults
ENTRIES: dict[Any, dict[str, Any]] = {
    PruningOptimizer: {"optimizer": "sgd", "flops_target": 0.5},
    PruningTrainer: {"model": mlp, "loss": "mse", "directory": "run", "pruning_flops_target": 0.5, "batch_size": 4},
    apply_mask: {"tensor": lambda: tf.ones((2, 3)), "mask": MaskLayer},
    prune: {"signals": None, "masks": mlp},
    update_pruning_signals: {"loss": None, "decay": 0.9, "masks": mlp},
    prunable: {"model": plain},
    shrink: {"model": mlp},
    fine_tune: {"model": compiled, "data": vectors, "epochs": 0},
    distill: {"student": compiled, "teacher": mlp, "data": vectors, "soft": "mse", "epochs": 0},
    Distiller: {"student": mlp, "teacher": mlp, "soft": "mse"},
    Monitor: {"metric": "loss"},
    computational_cost: {"model": mlp},
    PruningCallback: {},
    at_target: {"callback": keras.callbacks.EarlyStopping},
    MaskLayer: {},
    SelectChannels: {"sources": lambda: [0]},
    ranker: {"config": None, "spec": None},
    write_records: {"path": "x.tfrecord", "examples": list},
    Records: {"files": None, "spec": None},
    records_of: {"spec": None},
    export_model: {"model": mlp, "directory": "exported"},
    FeatureSpec: {"features": {"a": {"kind": "dense"}}, "label": "b"},
    FeatureSpec.read: {"path": "spec.yaml"},
    RankerConfig: {"mask_blocks": [BLOCK]},
    MaskBlockConfig: BLOCK,
    MlpConfig: {"layer_sizes": [4, 1]},
    MaskNet: {"config": {"mask_blocks": [BLOCK]}},
    MaskedMultiHeadAttention: {"num_heads": 2, "key_dim": 4, "value_dim": None, "dropout": 0.0, "output_shape": None},
    MaskedGroupQueryAttention: {"head_dim": 4, "num_query_heads": 2, "num_key_value_heads": 1},
    find_mask: {"model": mlp, "tensor": "mask"},
    masks_counted: {"masks": None},
    called(MaskLayer()): {"inputs": numbers},
    called(SelectChannels([0])): {"inputs": numbers},
    called(MaskNet({"mask_blocks": [BLOCK]})): {"inputs": numbers},
    called(MaskBlock(BLOCK)): {"net": numbers, "mask_input": numbers},
    called(MaskedMultiHeadAttention(2, 4)): {"query": sequences, "value": sequences, "attention_mask": None},
    called(MaskedGroupQueryAttention(4, 2, 1)): {"query": sequences, "value": sequences},
    trained: {"data": vectors, "validation": None, "epochs": 0},
    minimized: dict.fromkeys(("variables", "tape", "prune_every", "flops_target", "method", "global_step")),
    applied: {"grads": None, "trainable_variables": None},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_arguments_of_wrong_types(entry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused in a sentence, or does."""
    monkeypatch.chdir(tmp_path)
    parameters = inspect.signature(entry).parameters.values()
    defaults = (each.name for each in parameters if each.default is not each.empty)
    given = None  # what was refused is as it was
    for name in dict.fromkeys([*ENTRIES[entry], *defaults]):
        for wrong in WRONG:
            given = given or {n: value() if callable(value) else value for n, value in ENTRIES[entry].items()}
            with contextlib.suppress(MaskcError):
                entry(**{**given, name: wrong})
                given = None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PruningTrainer("x", "mse", "run"), "`model` must be a keras.Model, and not 'x'"),
        (lambda: apply_mask(tf.ones((2, 3)), "name"), "`mask` must be a MaskLayer or None, and not 'name'"),
        (lambda: MaskLayer(name=3), "MaskLayer cannot be made of these arguments: Argument `name` must be a string"),
        (lambda: prunable(plain(), keras.metrics.Mean()), "prunable does not take these arguments: .*Dense"),
        (lambda: pruning(flops_target=1).build([keras.Variable(1.0)]), "give all of model.trainable_"),
        (
            lambda: PruningOptimizer(used(), flops_target=1).build(mlp().trainable_variables),
            "was built for other variables: make a new one",
        ),
        (lambda: write_records("a\0b", []), "`path` must be a path"),
        (lambda: write_records("x", np.array(3)), "`examples` must be a sequence"),
        (lambda: maskc.compile(3), "`model` must be a path or an onnx.ModelProto or a Keras model, and not 3"),
        (lambda: PruningTrainer(mlp(), "mse", "run", pruning=3), "`pruning` must be a mapping of names or None, and"),
        (lambda: at_target("early"), "`callback` must be a Callback, and not 'early'"),
        (lambda: PruningOptimizer(0.001), r"The optimizer must be a Keras optimizer .*Adam\(1e-3\).*, not 0.001"),
        (lambda: PruningOptimizer(pruning(), flops_target=0), "cannot wrap"),
        (lambda: pruning(flops_target=0.5, latency_target=0.5), "Give flops_target or latency_target, and"),
        (lambda: pruning(target="openvino"), "target and align_for say where latency_target holds"),
        (lambda: pruning(align_for="avx2"), "target and align_for say where latency_target holds"),
        (lambda: pruning(latency_target=-1), "latency_target must be a number of milliseconds"),
        (lambda: pruning(latency_target=1, target="onnx"), "one of any, .*, and not 'onnx'"),
        (lambda: pruning(latency_target=1, align_for="z80"), "no table of widths for 'z80'; there are"),
        (lambda: pruning(latency_target=1, target="cuda"), "How long layers take in 'cuda' .* is not known"),
        (
            lambda: PruningOptimizer(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), flops_target=0),
            "cannot wrap",
        ),
        # custom loops, of which TensorFlow puts no page around what is said
        (lambda: step(model := mlp(), model), r"^PruningOptimizer does not know .*loss_reduction"),
        (lambda: step(model := mlp(), model, graph=True), r"^PruningOptimizer does not know .*loss_reduction"),
        (lambda: step(mlp(), None, loss_reduction="mean"), "model="),
        (lambda: step(model := mlp(), model, training=False, loss_reduction="mean"), "training=True"),
        (lambda: step(mlp(), mlp(), loss_reduction="mean"), "does not contain"),
        (lambda: pruning().minimize(lambda: 1.0), "does not know what to train"),
        (lambda: minimized(variables=10), "variables"),
        (lambda: minimized(decay=2.0), "decay"),
        (lambda: minimized(method="guess"), "method"),
        (lambda: minimized(loss=tf.constant(1.0)), "tf.GradientTape that the loss is on"),
        (lambda: minimized(loss=keras.losses.MeanSquaredError()), "loss must be a function of no arguments"),
        (lambda: pruning(flops_target=0.5, model="x"), r"keras\.Model"),
        (lambda: compiled().fit(*vectors(), verbose=0, callbacks=[PruningCallback()]), "with a PruningOptimizer"),
        # costs and analyses
        (lambda: computational_cost(None), r"keras\.Model"),
        (lambda: computational_cost(keras.Sequential([keras.layers.Dense(3)])), "no weights yet"),
        (lambda: pruned_shape(model := mlp(), model.inputs[0]), "input"),
        (lambda: find_mask(mlp(), "frist"), "has no layer with the name 'frist'. Did you mean 'first'"),
        (lambda: find_mask(twice(), "twice"), "'twice' is called 2 times"),
        (lambda: find_mask(tf.function(lambda x: x), "x"), "input signature"),
        (
            lambda: find_mask(tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec((None, 2))]), "y"),
            "has no tensor 'y:0'",
        ),
        (
            lambda: find_mask(tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec((None, 2))]), ["y"]),
            "tensor must be the name of a tensor",
        ),
        (lambda: masks_counted([np.full(6, "x"), np.ones(6)]), "Masks are arrays of numbers"),
        (lambda: masks_counted([np.full(6, np.nan), np.ones(6)]), "Masks are arrays of finite numbers"),
        (lambda: grouped(np.full(6, 0.5)), "Groups are whole numbers from 0 to 16,777,215, or -1"),
        (lambda: grouped(np.full(6, -2)), "Groups are whole numbers"),
        (lambda: grouped(np.full(6, 2**62)), "Groups are whole numbers"),
        # configurations
        (lambda: PruningOptimizer.from_config(None), "`config` must be a mapping of names, and not None"),
        (lambda: PruningOptimizer.from_config({}), "The optimizer must be a Keras optimizer .*, not None"),
        (lambda: PruningOptimizer.from_config({"optimizer": "sgd", 1: 2, "x": 3}), "mapping of names"),
        (lambda: PruningOptimizer.from_config({"optimizer": b"x"}), "Could not parse config"),
        (lambda: PruningOptimizer("a\0b", flops_target=1), "The optimizer must be a Keras optimizer"),
        (lambda: MaskLayer.from_config(None), "MaskLayer cannot be made of this configuration: .*NoneType"),
        (lambda: MaskLayer.from_config({"groups": 3}), "^groups must be a name"),
        (lambda: SelectChannels([0]).compute_output_shape(None), "does not take these|must be"),
        (lambda: pruning().apply_gradients(None), "apply_gradients does not take these"),
        (lambda: setattr(pruning(), "learning_rate", "x"), "learning_rate does not take"),
        (lambda: Monitor(patience=0), "patience must be a whole number of at least 1"),
        (lambda: Monitor(mode="least"), 'mode must be "auto", "min" or "max"'),
        (lambda: Monitor().better("x", 1.0), "`value` must be a number, and not 'x'"),
        (lambda: Monitor().better(1.0, "x"), "`best` must be a number or None, and not 'x'"),
        (lambda: applied_mask().load_own_variables({}), "What was saved is not the state of 'mask_layer.*': '0'"),
        (lambda: applied_mask().load_own_variables({"0": "x", "1": 1}), "load_own_variables does not take these"),
        (lambda: loaded_from(pruning()), "What was saved is not the state of .pruning_"),
        # training what is left
        (lambda: fine_tune(mlp(), vectors(), optimizer=pruning()), "leaves the masks as"),
        (lambda: fine_tune(mlp(), vectors()), "no loss to train the model 'mlp' with"),
        (lambda: fine_tune(compiled(), (np.ones((3, 4)), np.ones((2, 3)))), "do not make examples, equally many in"),
        (
            lambda: fine_tune(compiled(), vectors(), batch_size=0),
            "batch_size must be a whole number of at least 1, not 0",
        ),
        (lambda: fine_tune(compiled(), cut_short()), "^TensorFlow failed in fine_tune: "),
        (lambda: fine_tune("m.keras", vectors()), r"`model` must be a keras.Model, and not 'm\.keras'"),
        (lambda: Distiller(mlp(), mlp(), temperature=0), "temperature must be greater than 0"),
        (lambda: Distiller(mlp(), mlp(), soft="cosine"), 'soft must be "auto"'),
        (lambda: Distiller(mlp(), None), "teacher must be a Keras model, not a NoneType"),
        (lambda: distill(compiled(), lambda x, training: "x", vectors()), "^The teacher gives 'x', and no tensor"),
        (lambda: pruning_trainer(distillation={"teacher": 1}), "distillation must not have 'teacher'"),
        (lambda: pruning_trainer(compile_options={"metrics": []}), "compile_options must not have 'metrics'"),
        (lambda: pruning_trainer().check_export(""), "directory must be a path"),
        (lambda: pruning_trainer().fine_tune(vectors(), optimizer=pruning()), "leaves the masks as"),
        (
            lambda: distill(compiled(), chain(4, 5), vectors()),
            r"teacher's outputs have shape \(.*5\), and the student's \(.*3\)",
        ),
        (
            lambda: distill(compiled(), chain(7, 3), vectors()),
            "^The teacher does not take what the student is given: .*shape",
        ),
        # smaller models
        (lambda: shrink(Distiller(mlp(), mlp())), "needs a functional or Sequential model.*distiller.*: .student.$"),
        (lambda: Distiller(mlp(), mlp()).get_config(), "'distiller.*' cannot be saved, .*Save its student"),
        (lambda: shrink("model.keras"), "needs a functional or Sequential model"),
        (lambda: prunable(None), "and 'NoneType' is not one"),
        (lambda: prunable(Distiller(mlp(), mlp())), "functional or Sequential"),
        (lambda: prunable(keras.Sequential([keras.layers.Dense(3)])), "functional or Sequential"),
        (
            lambda: prunable(chain(4, 4, 2, activation=square)),
            "The layer 'dense.*' cannot be copied by its configuration: .*square",
        ),
        (lambda: prunable(mlp()), "has masks already"),
        (lambda: prunable(chain(4, 3, 2)), "no place"),
        (lambda: prunable(plain(), after=lambda layer: False), "`after` chose no layer"),
        (lambda: MaskLayer()(tf.ones((2, 3), tf.int32)), "needs floating-point numbers, not int32"),
        (lambda: prunable(plain(), after=len), "`after` must be a function of a layer that is true or false: .*no len"),
        (lambda: prunable(plain(), after=lambda layer: np.ones(3)), "`after` must be a function of a layer that is"),
        (lambda: prunable(plain(), after="everything"), '"activation", "layer" or a function'),
        # masks
        (lambda: MaskLayer().build(None), "unknown rank"),
        (lambda: MaskLayer().build(3), "^The mask 'mask_layer.*' needs an input of shape"),
        (lambda: MaskLayer().build((None, "x")), "known number of channels, not one of .None, 'x'"),
        (lambda: MaskLayer().build((None, -1)), "known number of channels"),
        (lambda: apply_mask(tf.ones((2, 4)), applied_mask()), r"Incompatible shapes: \[2,4\] vs\. \[3\]\.$"),
        (lambda: MaskLayer(groups=3), "groups must be a name"),
        (lambda: MaskLayer(axis=0), "axis"),
        (lambda: MaskLayer(axis=3).build((None, 4, 5)), "needs an input"),
        (lambda: apply_mask(tf.ones((2, 3))), "make a MaskLayer"),
        (lambda: update_pruning_signals(1.0, 0.9, [applied_mask()], "hessian"), 'method must be "fisher"'),
        (lambda: update_pruning_signals(1.0, 0.9, [applied_mask()]), "tape="),
        (lambda: update_pruning_signals(1.0, 0.9, mlp(), tape=tf.GradientTape()), "was not applied"),
        (lambda: update_pruning_signals(1.0, 0.9, [applied_mask()], tape=3), "tape must be the tf.GradientTape"),
        (lambda: update_pruning_signals(1.0, 0.9, []), "no mask"),
        (lambda: update_pruning_signals(1.0, 1.5, [applied_mask()]), "decay must be"),
        (lambda: update_pruning_signals(1.0, 0.9, [applied_mask()], tape=tf.GradientTape()), "loss must be a tensor"),
        (lambda: update_pruning_signals(1.0, 0.9, [applied_mask()], loss_reduction="median"), "loss_reduction must be"),
        (lambda: update_pruning_signals(1.0, 0.9, plain()), "no mask"),
        (lambda: prune(None, []), "no mask"),
        (lambda: prune(None, mlp(), 1.5), "n must be"),
        (lambda: prune(None, mlp(), -1), "n must be"),
        (lambda: prune([[1, 2, 3]], mlp()), "same shapes"),
        (lambda: prune(None, [np.ones(3)]), "pass `signals`"),
        (lambda: prune([np.ones(())], [np.ones(())]), "same shapes"),
        (lambda: prune([np.ones((3, 2))], [np.ones((3, 2))]), "same shapes"),
        (lambda: prune([[[1], [1, 2]]], [np.ones(2)]), "must be arrays of numbers"),
        (lambda: prune([["a"] * 3], [np.ones(3)]), "must be arrays of numbers"),
        (lambda: prune([np.ones(3)], [np.ones(3)], savings=[["a"] * 3]), "must be arrays of numbers"),
        (lambda: prune([[1, np.nan, 2]], [np.ones(3)]), "must be finite"),
        (lambda: prune([np.ones(3)], [np.broadcast_to(1.0, 3)]), "read-only"),
        (lambda: prune(None, [MaskLayer(name="new")]), "The mask 'new' was not applied to anything"),
        (lambda: tf.function(lambda: prune(None, mlp()))(), "outside of tf.function"),
    ],
)
def test_what_is_given_and_what_would_be_right_is_said(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_whether_a_call_is_one_of_training_is_said_as_to_keras() -> None:
    mask = MaskLayer()
    for training in (0, None, 1):
        apply_mask(tf.ones((2, 3)), mask, training=training)
        assert (mask.passage is not None) == bool(training)


class OwnError(Exception):
    """What only the code of a test raises."""


def product() -> Any:
    """A loss with a fault."""
    return tf.matmul(tf.ones((2, 3)), tf.ones((2, 3)))


class OwnMask(MaskLayer):
    """A layer of a user's own, with a fault."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        raise OwnError(str(training))


def lines() -> Any:
    """Examples that are read of a file, with a fault in it."""
    yield json.loads("{")


class Columns:
    """The same, as an object that is gone through."""

    def __iter__(self) -> Any:
        return iter(json.loads("{"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: pruning(model=mlp(), flops_target=1).minimize(product), tf.errors.OpError),
        (lambda: prunable(plain(), lambda layer: json.loads("{")), json.JSONDecodeError),
        (lambda: fine_tune(compiled(), lambda epoch: tf.data.Dataset.range("x"), epochs=1), TypeError),
        (lambda: write_records("x", lines()), json.JSONDecodeError),
        (lambda: write_records("x", Columns()), json.JSONDecodeError),
        (lambda: OwnMask()(tf.ones((2, 3))), OwnError),
    ],
)
def test_faults_of_code_that_is_called_stay_what_they_are(
    call: Any, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a library objects to in a loss, in data or in a layer of one's own says nothing of maskc's arguments."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "none"])
def test_another_backend_of_keras_is_named(backend: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": backend}
    code = "import maskc.train"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert f"Keras runs on {backend} here, and maskc needs TensorFlow. Set KERAS_BACKEND" in run.stderr
