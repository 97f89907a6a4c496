"""PruningTrainer: what it trains, going on after an interruption, early stop, summaries, and what it exports."""

import json
import math
import os
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import maskc
from maskc.errors import InputError, MaskcError, PruningWarning
from maskc.frontend import npz_files
from maskc.frontend.write_model_files import write_arrays
from maskc.train import FeatureSpec, MaskLayer, PruningTrainer, Records, computational_cost, export, write_records
from maskc.train.data.parsing import model_inputs
from maskc.train.export import export_model
from maskc.train.mask_layer import mask_layers
from maskc.train.running.loop import Interrupted, Monitor
from tests.maskc.train.networks import LOSS, data, masks, wide

SPEC = FeatureSpec(
    features={"a": {"kind": "dense", "shape": (4,)}, "b": {"kind": "categorical", "size": 3}}, label="label"
)


# No step is traced, which takes longer than the few there are.
EAGER = {"run_eagerly": True}


def network() -> Any:
    """A network with two masks; with dropout, whose state must survive an interruption, and with a normalisation, whose
    scales of one cost less as they are than as training leaves them."""
    keras.utils.set_random_seed(0)
    inputs = model_inputs(SPEC)
    x = keras.layers.Concatenate()([inputs["a"], keras.layers.Embedding(3, 2)(inputs["b"])])
    for name in ("first", "second"):
        x = MaskLayer(name=name)(keras.layers.Dense(8, activation="relu")(x))
        x = keras.layers.LayerNormalization()(x)
        x = keras.layers.Dropout(0.2, seed=1)(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x), name="net")


def trainer(directory: Path, model: Any = None, optimizer: Any = None, **options: Any) -> PruningTrainer:
    settings = {
        "pruning_iter": 2,
        "pruning_burn_in": 5,
        "pruning_flops_target": 0.5,
        "pruning_decay": 0.9,
        "checkpoint_every": 3,
        "summary_every": 4,
        "compile_options": EAGER,
        **options,
    }
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return PruningTrainer(
        model or network(), loss, directory, optimizer or keras.optimizers.Adam(1e-2), ["auc"], **settings
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    for part in range(2):
        rows = [(rng.normal(size=4), int(rng.integers(3))) for _ in range(50)]
        write_records(
            directory / f"{part}.tfrecord", [{"a": a, "b": b, "label": float(a[0] * (b - 1) > 0)} for a, b in rows]
        )
    return directory


def records(files: Path) -> Records:
    return Records(files / "*.tfrecord", SPEC, 16, shuffle=64)


def weights(model: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def interrupting(data: Records, epoch: int, batch: int) -> Any:
    """The data, with a signal to this process before a batch of an epoch is given out."""

    def batches(at: int) -> Any:
        def pull(index: Any) -> None:
            if at == epoch and int(index) == batch:
                os.kill(os.getpid(), signal.SIGTERM)

        def watched(index: Any, batch: Any) -> Any:
            with tf.control_dependencies([tf.py_function(pull, [index], [])]):
                return tf.nest.map_structure(tf.identity, batch)

        return data(at).enumerate().map(watched)

    return batches


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 3}, {"steps_per_execution": 2, "jit_compile": True}])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(files: Path, tmp_path: Path, options: Any) -> None:
    whole = trainer(tmp_path / "whole", compile_options=options)
    assert whole.train(records(files), epochs=4).step == 28
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts", compile_options=options).train(interrupting(records(files), 1, 4), epochs=4)
    (path,) = sorted((tmp_path / "parts/training/checkpoints").glob("step-*.npz"))[-1:]
    assert int(path.stem.removeprefix("step-")) % 7  # in the middle of an epoch of 7 batches
    second = trainer(tmp_path / "parts", compile_options=options)
    assert second.train(records(files), epochs=4).step == 28
    np.testing.assert_equal(weights(second.model), weights(whole.model))
    assert second.optimizer.history == whole.optimizer.history
    assert second.optimizer.reached
    np.testing.assert_equal(weights(second.optimizer), weights(whole.optimizer))


def widths(model: Any) -> list[int]:
    return [layer.mask.shape[0] for layer in mask_layers(model)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::maskc.errors.PruningWarning")
def test_it_goes_on_with_the_smaller_model(files: Path, tmp_path: Path) -> None:
    """It prunes towards the same FLOPs, and goes on exactly where it was interrupted with a smaller model."""
    shrinking = {"pruning_iter": 1, "pruning_shrink_every": 12}
    whole = trainer(tmp_path / "whole", **shrinking)
    before, sizes = whole.model.count_params(), widths(whole.model)
    whole.train(records(files), epochs=4)
    assert whole.reached and whole.model.count_params() < before and widths(whole.model) < sizes
    full = computational_cost(network()).flops()
    assert whole.flops <= full / 2 and whole.optimizer.settings.flops_before == full
    assert whole.export_model(tmp_path / "exported").flops == whole.flops
    parts = tmp_path / "parts"
    with pytest.raises(Interrupted):
        trainer(parts, **shrinking).train(interrupting(records(files), 2, 3), epochs=4)
    second = trainer(parts, **shrinking)
    assert second.train(records(files), epochs=4).step == 28
    assert widths(second.model) == widths(whole.model)
    np.testing.assert_equal(weights(second.model), weights(whole.model))


@pytest.mark.slow
def test_it_saves_time(tmp_path: Path) -> None:
    pruning = {"latency_target": 0.6, "align_for": "avx2", "schedule": "linear", "ramp": 8}
    whole, options = wide(), {"pruning_flops_target": None, "pruning_iter": 1, "pruning_shrink_every": 6}
    run = trainer(tmp_path, whole, pruning_burn_in=0, pruning=pruning, **options)
    run.loss, run.metrics = LOSS, []
    run.train(data(whole, 96), epochs=4)
    assert run.reached and run.flops is None and widths(run.model) < widths(whole)
    assert run.optimizer.ms is not None and run.optimizer.ms * 1e6 <= 0.6 * run.optimizer.settings.flops_before
    events = next((tmp_path / "training/logs").iterdir())
    told = {v.tag for event in tf.compat.v1.train.summary_iterator(str(events)) for v in event.summary.value}
    assert {"pruning/ms", "train/ms", "train/latency_target"} <= told and "pruning/flops" not in told


@pytest.mark.slow
@pytest.mark.filterwarnings("error::maskc.errors.PruningWarning")
@pytest.mark.parametrize("target", [0.5, 0])
def test_a_model_that_is_shrunk_after_the_last_update_is_at_its_target(target: float, tmp_path: Path) -> None:
    options = {"pruning_iter": 1, "pruning_burn_in": 0, "pruning": {"schedule": "linear", "ramp": 6}}
    run = trainer(tmp_path, wide(), pruning_shrink_every=6, pruning_flops_target=target, **options)
    run.loss, run.metrics = LOSS, []
    run.train(data(run.model, 96), epochs=2)
    assert run.reached and run.optimizer.iterations == 6


@pytest.mark.slow
@pytest.mark.parametrize("of_known_length", [True, False])
def test_a_run_that_is_too_short_says_so_after_its_first_updates(of_known_length: bool, tmp_path: Path) -> None:
    data = tf.data.Dataset.from_tensor_slices(
        ({"a": np.ones((12, 4), np.float32), "b": np.ones(12, np.int32)}, np.ones((12, 1), np.float32))
    ).batch(4)
    data = data if of_known_length else data.filter(lambda x, y: True)
    left = 5 if of_known_length else 2
    words = rf"Training goes on for {left} more updates, .* at least \d+ to reach pruning_flops_target: .*pruning_iter"
    with pytest.warns(match=words), pytest.warns(match="Training ended"):
        trainer(tmp_path, pruning_iter=2, pruning_burn_in=0).train(data, epochs=2)
    again = trainer(tmp_path, pruning_iter=2, pruning_burn_in=0)
    with pytest.warns(match="Training ended"):
        again.train(data, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PruningWarning)  # what was said is not repeated
        again.model.save(tmp_path / "model.keras")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Training ended")
def test_a_run_that_is_done_is_not_repeated(files: Path, tmp_path: Path) -> None:
    done = trainer(tmp_path).train(records(files), epochs=3)
    assert done.done
    again = trainer(tmp_path)
    assert again.train(records(files), epochs=3) == done
    assert again.optimizer.iterations.numpy() == done.step
    anew = trainer(tmp_path)
    assert anew.train(records(files), epochs=1, resume=False).step == 7


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(files: Path, tmp_path: Path) -> None:
    trainer(tmp_path).train(records(files), epochs=3)
    inputs = model_inputs(SPEC)
    other = keras.Model(inputs, keras.layers.Dense(1)(MaskLayer()(keras.layers.Dense(2)(inputs["a"]))))
    with pytest.raises(InputError, match=r"step-00000021.npz is of another model or optimizer"):
        trainer(tmp_path, other).train(records(files), epochs=3)
    for path in (tmp_path / "training/checkpoints").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read: remove it"):
        trainer(tmp_path).train(records(files), epochs=3)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    vectors = data(model := wide(), 8)
    run = PruningTrainer(model, LOSS, tmp_path, pruning_flops_target=1, batch_size=8, compile_options=EAGER)
    run.train(vectors)
    (path,) = (tmp_path / "training/checkpoints").glob("step-*.npz")
    arrays, state = npz_files.with_state(path)
    write_arrays(path, arrays, {**state, "progress": 1})
    with pytest.raises(InputError, match=r"step-00000001\.npz is of another version of maskc: finish the run with"):
        run.train(vectors, epochs=2)


@pytest.mark.slow
def test_it_exports_what_it_trained(files: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    run.train(records(files), records(files), epochs=4)
    trained = masks(run.model)
    position = run.fine_tune(records(files), records(files), epochs=2)
    assert {"auc", "loss", "val_auc", "val_loss"} == set(position.metrics)
    exported = run.export_model(tmp_path / "exported")
    assert exported.report.model == str(tmp_path / "exported/saved_model")
    names = {path.name for path in exported.directory.iterdir()}
    assert names == {"manifest.json", "model.keras", "model.onnx", "saved_model"}
    manifest = json.loads((exported.directory / "manifest.json").read_text())
    assert manifest["flops"]["after"] == maskc.flops(exported.directory / "model.onnx").flops == run.flops
    assert manifest["flops"]["before"] > 2 * run.flops
    for name, mask in trained.items():
        assert manifest["masks"][name] == {"channels": 8, "kept": np.flatnonzero(mask).tolist()}
    assert manifest["verification"]["passed"]
    assert manifest["training"]["steps"] == {"training": 28, "fine-tuning": 14}
    assert maskc.verify(exported.directory / "saved_model", exported.directory / "model.onnx").passed
    # A second export replaces the first, and nothing that is not an export.
    run.export_model(tmp_path / "exported")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious.txt").write_text("keep")
    with pytest.raises(InputError, match="holds other files"):
        run.export_model(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "other", "run"]


@pytest.mark.slow
def test_a_failed_export_leaves_what_was_there(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    run = trainer(tmp_path / "run", model)
    run.export_model(tmp_path / "exported")
    before = (tmp_path / "exported/manifest.json").read_text()

    def broken(model: Path, **_: Any) -> Any:
        raise InputError(f"no {model}")

    monkeypatch.setattr(export, "compile", broken)
    with pytest.raises(InputError, match=f"^no {re.escape(str(tmp_path / 'exported/saved_model'))}$"):
        run.export_model(tmp_path / "exported")
    assert (tmp_path / "exported/manifest.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


@pytest.mark.slow
def test_early_stop_waits_for_the_target_and_takes_the_best_weights(files: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, monitor=Monitor("val_loss", patience=2), pruning_burn_in=12)
    seen = []
    evaluate = run.model.evaluate

    def worse(*arguments: Any, **options: Any) -> dict[str, float]:
        evaluate(*arguments, **options)
        seen.append((run.optimizer.reached, weights(run.model)))
        return {"loss": float(len(seen)), "auc": 0.5}

    run.model.evaluate = worse
    position = run.train(records(files), records(files), epochs=20)
    first = next(index for index, (reached, _) in enumerate(seen) if reached)
    assert first > 0
    assert position.epoch == len(seen) == first + 3
    assert position.metrics["val_loss"] == first + 1  # of the weights that were taken back
    np.testing.assert_equal(weights(run.model), seen[first][1])


def test_a_metric_that_is_not_there_is_named(files: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, monitor=Monitor("val_f1"), pruning_flops_target=1.0)
    with pytest.raises(InputError, match=r"no metric 'val_f1' to stop early by; there are: auc, loss, val_auc, val_l"):
        run.train(records(files), records(files), epochs=2)
    assert not (tmp_path / "training/checkpoints").exists()  # before anything was trained


def test_what_is_not_a_number_is_never_better() -> None:
    monitor = Monitor("val_loss")
    assert monitor.better(1.0, None)
    assert not monitor.better(math.nan, None)
    assert not monitor.better(math.nan, 1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Training ended")
def test_training_that_goes_on_voids_what_was_fine_tuned_before(files: Path, tmp_path: Path) -> None:
    for epochs in (1, 3):
        run = trainer(tmp_path)
        run.train(records(files), epochs=epochs)
        kept = masks(run.model)
        assert run.fine_tune(records(files), epochs=1).step == 7
        np.testing.assert_equal(masks(run.model), kept)
    assert len(list((tmp_path / "fine-tuning/logs").iterdir())) == 1  # and its summaries


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Training ended")
def test_more_epochs_follow_on_what_was_trained_last(files: Path, tmp_path: Path) -> None:
    """And not on the averages of the weights, which take their place at the end."""

    def averaging(directory: Path) -> PruningTrainer:
        return trainer(directory, optimizer=keras.optimizers.SGD(1e-2, use_ema=True, ema_momentum=0.5))

    whole = averaging(tmp_path / "whole")
    whole.train(records(files), epochs=3)
    averaging(tmp_path / "parts").train(records(files), epochs=2)
    parts = averaging(tmp_path / "parts")
    parts.train(records(files), epochs=3)
    np.testing.assert_equal(weights(parts.model), weights(whole.model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Training ended")
def test_summaries_hold_loss_metric_flops_kept_channels_and_signals(files: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train(records(files), records(files), epochs=2)
    (path,) = (tmp_path / "training/logs").iterdir()
    values: dict[str, dict[int, Any]] = {}
    plugins = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            values.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
            if value.metadata.plugin_data.plugin_name:
                plugins[value.tag] = value.metadata.plugin_data.plugin_name
    assert set(values["train/loss"]) == set(values["train/auc"]) == {4, 8, 12}
    assert set(values["validation/auc"]) == {7, 14}
    for step in (8, 12):
        assert values["pruning/flops"][step] == [row.flops for row in run.optimizer.history if row.step <= step][-1]
    assert values["pruning/kept/first"][4] == 8
    histogram = values["pruning/signal/second"][12]
    assert histogram.shape == (30, 3)
    assert histogram[:, 2].sum() == 8
    assert plugins["train/loss"] == "scalars"
    assert plugins["pruning/signal/second"] == "histograms"


@pytest.mark.slow
def test_records_that_do_not_fit_end_training_with_a_sentence(files: Path, tmp_path: Path) -> None:
    good = [{"a": np.ones(4), "b": 1, "label": 1.0}] * 110
    write_records(tmp_path / "bad.tfrecord", [*good, {"a": np.ones(4), "b": 3, "label": 1.0}])
    run = trainer(tmp_path / "run")
    with pytest.raises(InputError, match=r"bad.tfrecord, record 110: the field 'b' holds 3"):
        run.train(Records(tmp_path / "bad.tfrecord", SPEC, 16), epochs=2)


def test_training_that_diverges_ends_with_a_sentence(tmp_path: Path) -> None:
    inputs = {"a": np.zeros((32, 4), np.float32), "b": np.zeros(32, np.int32)}
    with pytest.raises(
        MaskcError, match=r"^The importance score of the mask 'first' is not finite: training has diverged\.$"
    ):
        run = trainer(tmp_path, pruning_burn_in=0, batch_size=8)
        run.train((inputs, np.full((32, 1), np.nan, np.float32)))


def test_no_example_to_validate_on_is_told(tmp_path: Path) -> None:
    inputs = {"a": np.zeros((8, 4), np.float32), "b": np.zeros(8, np.int32)}
    data = tf.data.Dataset.from_tensor_slices((inputs, np.zeros((8, 1), np.float32))).batch(4)
    with pytest.raises(InputError, match="no example to validate on"):
        trainer(tmp_path).train(data, data.take(0))


@pytest.mark.slow
def test_wrong_use_is_told(files: Path, tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    with pytest.raises(InputError, match="'bare' has no mask to prune"):
        trainer(tmp_path, keras.Model(inputs, keras.layers.Dense(1)(inputs), name="bare"))
    with pytest.raises(InputError, match="target cannot be reached"):
        trainer(tmp_path, pruning_flops_target=3).train(records(files), epochs=1)
    with pytest.warns(UserWarning, match=r"ended after 7 updates, before .* it was to begin after 100,000"):
        trainer(tmp_path, pruning_burn_in=100_000).train(records(files), epochs=1)
    with pytest.raises(InputError, match="not list"):
        trainer(tmp_path).train([1, 2], epochs=1)
    with pytest.raises(InputError, match="no example to train on"):
        trainer(tmp_path).train((np.zeros((0, 4)), np.zeros((0, 1))), epochs=1)


@pytest.mark.parametrize("data", ["records", pytest.param("arrays", marks=pytest.mark.slow)])
def test_with_its_defaults_a_short_run_comes_to_the_target(files: Path, tmp_path: Path, data: str) -> None:
    """As with `PruningOptimizer` in `fit`: along a schedule over half of the updates, here of 28."""
    arrays = ({"a": np.ones((100, 4)), "b": np.zeros((100, 1))}, np.ones((100, 1)))
    made = PruningTrainer(network(), "binary_crossentropy", tmp_path, batch_size=16, pruning_flops_target=0.5)
    made.train(records(files) if data == "records" else arrays, epochs=4)
    assert made.reached and (made.optimizer.settings.schedule, made.optimizer.settings.ramp) == ("cubic", 14)
    with pytest.raises(InputError, match=r"pruning_flops_target=0\.5 keeps"):
        PruningTrainer(network(), "mse", tmp_path)


def test_the_flags_are_those_of_the_original() -> None:
    given = ["--pruning.iter", "7", "--pruning_burn_in", "3", "--pruning.flops_target=0.1"]
    assert vars(PruningTrainer.add_parser_arguments().parse_args(given)) == {
        "pruning_iter": 7,
        "pruning_burn_in": 3,
        "pruning_flops_target": 0.1,
        "pruning_shrink_every": 0,
        "pruning_decay": 0.96,
    }


def test_layers_that_augment_data_do_nothing_in_an_export(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.RandomContrast(0.5)(keras.layers.RandomFlip()(inputs))
    x = MaskLayer()(keras.layers.Conv2D(6, 3, activation="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    exported = export_model(model, tmp_path / "exported")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "exported" / "saved_model"))
    served = loaded.serve(images)
    np.testing.assert_allclose(served, model.predict(images, verbose=0), rtol=1e-5, atol=1e-5)
    assert exported.report.verification is not None and exported.report.verification.passed
