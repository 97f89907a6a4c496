"""A training run by its options: the trainer, the settings that a later run must share, the printed summary."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import keras

from maskc.cli.train.options import TrainingOptions
from maskc.errors import InputError
from maskc.frontend.tensorflow.keras import load
from maskc.frontend.write_model_files import write_bytes, written
from maskc.inspection.options import options_of
from maskc.report.terminal import show_sizes, table
from maskc.report.visible_console import VisibleConsole
from maskc.train.data.features import FeatureSpec
from maskc.train.data.records import Records
from maskc.train.export import Exported
from maskc.train.models.builders import load_model
from maskc.train.running import checkpoints
from maskc.train.running.loop import Monitor
from maskc.train.running.replicas import mirrored
from maskc.train.trainer import FINE_TUNING, TRAINING, PruningTrainer
from passes.errors import in_brief

_SETTINGS = "settings.json"
# Arguments of the optimizer, beside those that `PruningTrainer` has of its own.
_PRUNING = ("method", "schedule", "ramp", "tie", "round_to", "seed", "latency_target", "target", "align_for")
_COUNTED = ("flops", "flops_target", "channels")  # which the export says by itself
# What may differ when a run is taken up again.
_FREE = ("epochs", "fine_tune", "checkpoint_every", "summary_every", "steps_per_execution")


def train(options: TrainingOptions, resume: bool = True) -> Exported:
    """Trains, prunes, fine-tunes and exports; goes on where an earlier run in the same directory was.

    Raises:
        InputError: if something given does not fit.
        Interrupted: if the process is asked to end, after writing a checkpoint.
        NotEquivalentError: if the compiled model is not the same function, which is a fault of maskc.
    """
    if options.monitor.startswith("val_") and options.patience is not None and not options.validation:
        raise InputError(f"Early stop by {options.monitor!r} needs --validation.")
    if options.pruning_flops_target is None and options.latency_target is None:
        raise InputError("Give --pruning.flops_target or --latency-target.")
    keras.utils.set_random_seed(options.seed)
    spec = FeatureSpec.read(options.features)
    records = Records(options.data, spec, options.batch_size, shuffle=options.shuffle, seed=options.seed)
    held_out = Records(options.validation, spec, options.batch_size, shuffle=0) if options.validation else None
    with mirrored(options.devices).scope():
        model = load_model(options.model, spec)
        _check_outputs(model, spec)
        trainer = _trainer(options, model)
    target = options.output / "model"
    trainer.check_export(target)
    _remember(options, resume)
    trainer.train(records, held_out, options.epochs, resume=resume)
    if options.fine_tune:
        trainer.fine_tune(records, held_out, options.fine_tune, resume=resume)
    return trainer.export_model(target)


def _check_outputs(model: Any, spec: FeatureSpec) -> None:
    outputs = len(getattr(model, "outputs", None) or ())  # which are not known of a model that is a class of its own
    if outputs > 1:
        raise InputError(
            f"The model {model.name!r} has {outputs} outputs, and the records one label, {spec.label.name!r}. Join the "
            "outputs into one, or train in Python: maskc.train.PruningTrainer takes data with a label for each."
        )


def _trainer(options: TrainingOptions, model: Any) -> PruningTrainer:
    try:
        optimizer = keras.optimizers.get(options.optimizer)
        loss = _loss(options.loss)
        metrics = [_metric(name, loss) for name in options.metrics or [_usual_metric(loss)]]
    except (ValueError, TypeError) as error:
        raise InputError(f"An optimizer, loss or metric is not Keras's: {in_brief(error)}.") from error
    if options.learning_rate is not None:
        if not 0 < options.learning_rate < math.inf:
            raise InputError(f"--learning-rate must be greater than 0, not {options.learning_rate}.")
        optimizer.learning_rate = options.learning_rate
    return PruningTrainer(
        model,
        loss,
        options.output,
        optimizer,
        metrics,
        **{name: value for name, value in vars(options).items() if name.startswith("pruning_")},
        pruning={name: getattr(options, name) for name in _PRUNING},
        monitor=None if options.patience is None else Monitor(options.monitor, options.patience),
        teacher=None if options.teacher is None else load(options.teacher),
        distillation={"alpha": options.alpha, "temperature": options.temperature},
        checkpoint_every=options.checkpoint_every,
        summary_every=options.summary_every,
        compile_options={"steps_per_execution": options.steps_per_execution},
    )


def _loss(name: str) -> Any:
    """A Keras loss by its name; cross-entropies take logits."""
    by_class = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    loss = keras.losses.get(by_class if hasattr(keras.losses, by_class) else name)
    return type(loss)(from_logits=True) if "from_logits" in getattr(loss, "get_config", dict)() else loss


def _usual_metric(loss: Any) -> str:
    kinds = {keras.losses.BinaryCrossentropy: "auc", keras.losses.SparseCategoricalCrossentropy: "accuracy"}
    return kinds.get(type(loss), "mean_squared_error")


def _metric(name: str, loss: Any) -> Any:
    """A Keras metric by its name; those of classes take logits."""
    if name == "auc":
        return keras.metrics.AUC(from_logits=True, num_thresholds=1000, name="auc")
    if name == "accuracy" and isinstance(loss, keras.losses.BinaryCrossentropy):
        return keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")
    return name if name == "accuracy" else keras.metrics.get(name)


def _remember(options: TrainingOptions, resume: bool) -> None:
    """Writes down what a run is, and refuses to go on with one that is another."""
    path = options.output / _SETTINGS
    places = [options.output / phase / "checkpoints" for phase in (TRAINING, FINE_TUNING)]
    plain = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    now = {name: value for name, value in plain.items() if name not in _FREE}
    with written(options.output):
        options.output.mkdir(parents=True, exist_ok=True)
        if resume and path.is_file() and any(map(checkpoints.latest, places)):
            try:
                before = dict(json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path} is damaged: remove {options.output}, or give --no-resume.") from error
            flags = {name: option.flags for name, option in options_of(TrainingOptions).items()}
            differing = [
                (*flags[name], f"--{name.replace('_', '-')}")[0]
                for name in now
                if before.get(name, now[name]) != now[name]
            ]
            if differing:
                raise InputError(
                    f"{options.output} holds a run with another {', '.join(differing)}: give another directory, or "
                    "--no-resume to start over."
                )
        elif not resume:
            for place in places:
                checkpoints.clear(place, 0)
        write_bytes(path, (json.dumps(now, indent=2) + "\n").encode())


def summary(exported: Exported) -> dict[str, Any]:
    """What came out, as a value that `json` can write."""
    manifest, training = exported.manifest, exported.manifest["training"]
    return {
        "directory": str(exported.directory),
        "reached": training["reached"],
        "steps": sum(training["steps"].values()),
        "metrics": {name: value for name, value in training["metrics"].items() if name not in _COUNTED},
        "flops": manifest["flops"],
        "parameters": manifest["parameters"],
        "kept": {name: [len(mask["kept"]), mask["channels"]] for name, mask in manifest["masks"].items()},
    }


def show_training(exported: Exported, out: VisibleConsole) -> None:
    """FLOPs and parameters before and after, the channels that each mask keeps, and the last metrics."""
    found = summary(exported)
    rows = table("", "Before", "After", "Change")
    show_sizes(out, exported.report.after.at)
    for title, figure in (("FLOPs", "flops"), ("Parameters", "parameters")):
        before, after = found[figure]["before"], found[figure]["after"]
        rows.add_row(title, f"{before:,}", f"{after:,}", f"÷ {before / max(after, 1):.2f}")
    out.print(rows)
    kept = [f"{name} {left} of {channels}" for name, (left, channels) in found["kept"].items()]
    out.print(f"Channels kept: {', '.join(kept)}.", soft_wrap=True)
    if found["metrics"]:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in found["metrics"].items())
        out.print(f"After {found['steps']:,} updates: {metrics}.", soft_wrap=True)
    verified = "" if exported.report.verification is None else ", verified against TensorFlow"
    written_to = f"Wrote {exported.directory}: the compiled model.onnx{verified}"
    out.print(f"{written_to}, and what it was made from.", soft_wrap=True)
