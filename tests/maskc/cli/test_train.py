"""`maskc train` from the shell: what it writes, that it goes on where it was, and what it says of bad input."""

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import maskc as package
from maskc.cli.train.options import TrainingOptions
from maskc.train import PruningOptimizer, PruningTrainer, write_records
from maskc.train.mask_layer import mask_layers
from maskc.train.trainer import PRUNING_FLAGS
from tests.maskc.command import maskc, process, refused

SPEC = "features:\n  a: {kind: dense, shape: [4]}\n  b: {kind: categorical, size: 3}\nlabel: label\n"
NET = {
    "mask_blocks": [{"output_size": 6, "aggregation_size": 8, "input_layer_norm": True}],
    "mlp": {"layer_sizes": [6, 1]},
    "embedding_size": 4,
}
FAST = ["--pruning.iter", 2, "--pruning.burn_in", 3, "--pruning.decay", 0.9, "--pruning.flops_target", 0.7]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=4), int(rng.integers(3))) for _ in range(96)]
    write_records(tmp_path / "train.tfrecord", [{"a": a, "b": b, "label": float(a[0] * (b - 1) > 0)} for a, b in rows])
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "net.json").write_text(json.dumps(NET))
    return tmp_path


def train(work: Path, *more: Any, **changed: Any) -> Any:
    given = {
        "--model": work / "net.json",
        "--features": work / "spec.yaml",
        "--data": work / "*.tfrecord",
        "--output": work / "run",
        "--batch-size": 16,
        **{f"--{name}": value for name, value in changed.items()},
    }
    return maskc("train", *(word for pair in given.items() for word in pair), *FAST, *more)


@pytest.mark.slow
def test_it_trains_prunes_and_compiles_and_goes_on_where_it_was(work: Path) -> None:
    held_out = ["--validation", work / "train.tfrecord", "--fine-tune", 1]
    result = train(work, *held_out, "--epochs", 6, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["reached"]
    assert told["steps"] == 42
    assert {"auc", "val_auc", "loss", "val_loss"} == set(told["metrics"])
    directory = Path(told["directory"])
    assert all(sizes[0] == 1 for sizes in told["flops"]["at"].values()) and told["flops"]["at"]
    assert told["flops"]["after"] == package.flops(directory / "model.onnx").flops <= 0.7 * told["flops"]["before"]
    again = train(work, *held_out, "--epochs", 6, "--json")
    assert json.loads(again.stdout) == told
    other = train(work, "--seed", 1)
    refused(other, 2, "run holds a run with another --validation, --seed:", "--no-resume")


@pytest.mark.release
def test_two_devices_train_and_prune_as_one(work: Path) -> None:
    two = (
        "import tensorflow as tf\n(cpu,) = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from maskc.cli import main\nmain()\n"
    )
    told = []
    for count in (1, 2):
        given = ["--model", work / "net.json", "--features", work / "spec.yaml", "--data", work / "*.tfrecord"]
        given += ["--batch-size", 16, "--epochs", 6, "--output", work / f"run{count}", "--devices", count, "--json"]
        done = process("train", *given, *FAST, code=two, CUDA_VISIBLE_DEVICES="-1")
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert told[0]["kept"] == told[1]["kept"] and told[0]["flops"] == told[1]["flops"]
    assert told[1]["metrics"] == pytest.approx(told[0]["metrics"], rel=1e-3)


@pytest.mark.slow
def test_it_learns_from_a_teacher(work: Path) -> None:
    unpruned = train(work, "--pruning.flops_target", 1, output=work / "unpruned")
    assert unpruned.exit_code == 0, unpruned.output
    teacher = work / "unpruned/model/model.keras"
    result = train(work, "--teacher", teacher, "--epochs", 6, model=teacher)
    assert result.exit_code == 0, result.output
    assert "Channels kept: " in result.stdout


@pytest.mark.slow
def test_a_target_that_is_not_reached_is_a_failed_check(work: Path) -> None:
    result = train(work, "--epochs", 1)
    assert result.exit_code == 1
    assert "before pruning reached its target" in result.stderr
    assert (work / "run/model/model.onnx").exists()


def test_one_default_for_each_argument_of_pruning() -> None:
    """On the command line, for the trainer and for the optimizer."""
    optimizer, trainer = (inspect.signature(kind).parameters for kind in (PruningOptimizer, PruningTrainer))
    options = {item.name: item.default for item in fields(TrainingOptions)}
    for name, _, default, _ in PRUNING_FLAGS:
        word = f"pruning_{name}"
        assert default == trainer[word].default
        assert default == options[word]
        if (own := {"iter": "prune_every"}.get(name, name)) in optimizer:
            assert default == optimizer[own].default
    for name in ("schedule", "ramp", "tie", "method", "round_to", "seed", "latency_target", "target", "align_for"):
        assert options[name] == optimizer[name].default, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::maskc.errors.PruningWarning")
def test_training_goes_on_with_the_smaller_model(work: Path) -> None:
    result = train(work, "--epochs", 4, "--pruning.shrink_every", 4, "--round-to", 2)
    assert result.exit_code == 0, result.stderr
    shrunk = keras.models.load_model(work / "run/model/model.keras", compile=False)
    assert all(layer.mask.numpy().sum() % 2 == 0 for layer in mask_layers(shrunk))
    assert list((work / "run/training/checkpoints").glob("model-*.keras")) and shrunk.count_params() > 0


def test_help_names_options_whole_at_80_columns() -> None:
    shown = process("train", "--help", COLUMNS="80").stdout
    assert "…" not in shown
    of_pruning = [f"--pruning.{name}, --pruning_{name} " for name, *_ in PRUNING_FLAGS]  # as the original has them
    for flag in (*of_pruning, "--steps-per-execution N", "--checkpoint-every N"):
        assert flag in shown


@pytest.mark.slow
def test_a_target_above_what_there_is_is_told(work: Path) -> None:
    result = train(work, "--epochs", 1, "--pruning_flops_target", 1e9)
    assert "Warning: flops_target is 1,000,000,000" in result.stderr, result.stderr
    assert "nothing will be pruned" in result.stderr


def test_help_does_not_import_tensorflow() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from maskc.cli import app\n"
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0\n"
        "print([name for name in ('tensorflow', 'keras', 'yaml') if name in sys.modules])\n"
    )
    assert process(code=code).stdout.strip() == "[]"


def test_losses_go_by_every_name_that_keras_knows() -> None:
    from maskc.cli.train.run import _loss

    assert _loss("mse") is keras.losses.mean_squared_error
    assert isinstance(_loss("mean_squared_error"), keras.losses.MeanSquaredError)
    assert all(_loss(name).get_config()["from_logits"] for name in ("binary_crossentropy", "BinaryCrossentropy"))


@pytest.mark.slow
def test_bad_input_is_told_in_a_sentence(work: Path) -> None:
    refused(train(work, model=work / "net.onnx"), 2, "is not known: give a .yaml")
    refused(train(work, features=work / "none.yaml"), 2, "none.yaml cannot be read")
    refused(train(work, data=work / "none-*"), 2, "There is no file", "none-*")
    refused(train(work, "--optimizer", "adamant"), 2, "optimizer, loss or metric is not Keras's")
    refused(train(work, "--loss", "nothing"), 2, "optimizer, loss or metric is not Keras's")
    refused(train(work, "--patience", 2), 2, "needs --validation")
    refused(train(work, "--method", "magic"), 2, "--method")
    refused(train(work, "--pruning.decay", 1), 2, "decay must be")
    for flag in ("--pruning.iter", "--pruning_iter"):
        refused(train(work, flag, 0), 2, "--pruning.iter")
    refused(train(work, "--seed", -1), 2, "--seed")
    refused(train(work, "--devices", 99), 2, "99 devices are asked for, and TensorFlow finds")
    refused(train(work, "--learning-rate", 0), 2, "--learning-rate must be greater than 0")
    refused(train(work, "--pruning.flops_target", 10), 2, "flops_target cannot be reached")
    refused(train(work, "--latency-target", 0.5), 2, "Give flops_target or latency_target, and not both")
    # Nothing was trained yet, so that the mistake may be corrected.
    refused(train(work, "--pruning.flops_target", 11), 2, "flops_target cannot be reached")
    (work / "net.py").write_text(
        "import keras\nfrom maskc.train import MaskLayer\n"
        "def build():\n    x = keras.Input((7,), name='z')\n"
        "    return keras.Model(x, keras.layers.Dense(1)(MaskLayer()(keras.layers.Dense(3)(x))), name='mine')\n"
    )
    refused(train(work, model=f"{work / 'net.py'}:build"), 2, "The model 'mine' or the loss does not fit")
    (work / "two.py").write_text(
        "import keras\nfrom maskc.train import MaskLayer\n"
        "def build():\n    x = keras.Input((4,), name='a')\n    y = MaskLayer()(keras.layers.Dense(3)(x))\n"
        "    return keras.Model(x, {n: keras.layers.Dense(1, name=n)(y) for n in ('like', 'buy')}, name='both')\n"
    )
    both = train(work, model=f"{work / 'two.py'}:build")
    refused(both, 2, "The model 'both' has 2 outputs, and the records one label, 'label'", "maskc.train.PruningTrainer")
    wrong = train(work, "--loss", "sparse_categorical_crossentropy")
    refused(wrong, 2, "loss does not fit the data: Received a label value of 1 which is outside the valid range")
    refused(train(work, data=work), 2, "is a directory: give its files")
    (work / "run/model").mkdir(parents=True)
    (work / "run/model/notes.txt").write_text("mine")
    refused(train(work), 2, "holds other files")
    write_records(work / "bad.tfrecord", [{"a": np.ones(4), "label": 1.0}])
    refused(train(work, data=work / "bad.tfrecord"), 2, "bad.tfrecord, record 0: the field 'b' is missing")
