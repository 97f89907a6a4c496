"""What `maskc train` does: from names and files to a trainer, to what it wrote, and what it says of that."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

from maskc.errors import InputError
from maskc.frontend.write_model_files import write_bytes, written
from maskc.report.terminal import show_sizes
from maskc.train.data.features import FeatureSpec
from maskc.train.data.records import Records
from maskc.train.export import Exported
from maskc.train.models.builders import load_model, load_saved
from maskc.train.optimizer.progress_metric import LEFT
from maskc.train.running import checkpoints
from maskc.train.running.loop import Monitor
from maskc.train.running.replicas import mirrored
from maskc.train.trainer import FINE_TUNING, TRAINING, PruningTrainer
from passes.errors import in_brief

_SETTINGS = "settings.json"
# What may differ when a run is taken up again.
_FREE = ("epochs", "fine_tune", "checkpoint_every", "summary_every", "steps_per_execution")


@dataclass(frozen=True)
class Arguments:
    """The arguments of `maskc train`; see there. `pruning` are those of `PruningOptimizer` and of the trainer."""

    model: str
    features: Path
    data: Sequence[str]
    output: Path
    validation: Sequence[str] = ()
    epochs: int = 1
    fine_tune: int = 0
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float | None = None
    loss: str = "binary_crossentropy"
    metrics: Sequence[str] = ()
    teacher: Path | None = None
    alpha: float = 0.5
    temperature: float = 2.0
    patience: int | None = None
    monitor: str = "val_loss"
    shuffle: int = 10_000
    seed: int = 0
    pruning: dict[str, Any] = field(default_factory=dict)
    checkpoint_every: int = 1000
    summary_every: int = 100
    steps_per_execution: int = 1
    devices: int = 1


@dataclass(frozen=True)
class Trained:
    """What came out: the export, whether pruning reached its target, updates, and the last metrics."""

    exported: Exported
    reached: bool
    steps: int
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns a value that `json` can write."""
        manifest = self.exported.manifest
        return {
            "directory": str(self.exported.directory),
            "reached": self.reached,
            "steps": self.steps,
            "metrics": self.metrics,
            "flops": manifest["flops"],
            "parameters": manifest["parameters"],
            "kept": {name: [len(mask["kept"]), mask["channels"]] for name, mask in manifest["masks"].items()},
        }


def train(arguments: Arguments, resume: bool = True) -> Trained:
    """Trains, prunes, fine-tunes and exports; goes on where an earlier run in the same directory was.

    Raises:
        InputError: if something given does not fit.
        Interrupted: if the process is asked to end, after writing a checkpoint.
        NotEquivalentError: if the compiled model is not the same function, which is a fault of maskc.
    """
    if arguments.monitor.startswith("val_") and arguments.patience is not None and not arguments.validation:
        raise InputError(f"Early stop by {arguments.monitor!r} needs --validation.")
    keras.utils.set_random_seed(arguments.seed)
    spec = FeatureSpec.read(arguments.features)
    records = Records(arguments.data, spec, arguments.batch_size, shuffle=arguments.shuffle, seed=arguments.seed)
    held_out = Records(arguments.validation, spec, arguments.batch_size, shuffle=0) if arguments.validation else None
    with mirrored(arguments.devices).scope():
        model = load_model(arguments.model, spec)
        _check_outputs(model, spec)
        trainer = _trainer(arguments, model)
    target = arguments.output / "model"
    trainer.check_export(target)
    _remember(arguments, resume)
    position = trainer.train(records, held_out, arguments.epochs, resume=resume)
    steps = position.step
    if arguments.fine_tune:
        position = trainer.fine_tune(records, held_out, arguments.fine_tune, resume=resume)
        steps += position.step
    exported = trainer.export_model(target)
    metrics = {name: value for name, value in position.metrics.items() if name not in LEFT}  # `flops` says it by itself
    return Trained(exported, trainer.reached, steps, metrics)


def _check_outputs(model: Any, spec: FeatureSpec) -> None:
    outputs = len(getattr(model, "outputs", None) or ())  # which are not known of a model that is a class of its own
    if outputs > 1:
        raise InputError(
            f"The model {model.name!r} has {outputs} outputs, and the records one label, {spec.label.name!r}. Join the "
            "outputs into one, or train in Python: maskc.train.PruningTrainer takes data with a label for each."
        )


def _trainer(arguments: Arguments, model: Any) -> PruningTrainer:
    try:
        optimizer = keras.optimizers.get(arguments.optimizer)
        loss = _loss(arguments.loss)
        metrics = [_metric(name, loss) for name in arguments.metrics or [_usual_metric(loss)]]
    except (ValueError, TypeError) as error:
        raise InputError(f"An optimizer, loss or metric is not Keras's: {in_brief(error)}.") from error
    if arguments.learning_rate is not None:
        if not 0 < arguments.learning_rate < math.inf:
            raise InputError(f"--learning-rate must be greater than 0, not {arguments.learning_rate}.")
        optimizer.learning_rate = arguments.learning_rate
    pruning = {name: value for name, value in arguments.pruning.items() if not name.startswith("pruning_")}
    return PruningTrainer(
        model,
        loss,
        arguments.output,
        optimizer,
        metrics,
        **{name: value for name, value in arguments.pruning.items() if name.startswith("pruning_")},
        pruning=pruning,
        monitor=None if arguments.patience is None else Monitor(arguments.monitor, arguments.patience),
        teacher=None if arguments.teacher is None else load_saved(arguments.teacher),
        distillation={"alpha": arguments.alpha, "temperature": arguments.temperature},
        checkpoint_every=arguments.checkpoint_every,
        summary_every=arguments.summary_every,
        compile_options={"steps_per_execution": arguments.steps_per_execution},
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


def _remember(arguments: Arguments, resume: bool) -> None:
    """Writes down what a run is, and refuses to go on with one that is another."""
    path = arguments.output / _SETTINGS
    places = [arguments.output / phase / "checkpoints" for phase in (TRAINING, FINE_TUNING)]
    now = _flat({name: value for name, value in dataclasses.asdict(arguments).items() if name not in _FREE})
    with written(arguments.output):
        arguments.output.mkdir(parents=True, exist_ok=True)
        if resume and path.is_file() and any(map(checkpoints.latest, places)):
            try:
                before = _flat(json.loads(path.read_text()))
            except (ValueError, AttributeError) as error:
                raise InputError(f"{path} is damaged: remove {arguments.output}, or give --no-resume.") from error
            differing = [_flag(name) for name in now if before.get(name, now[name]) != now[name]]
            if differing:
                raise InputError(
                    f"{arguments.output} holds a run with another {', '.join(differing)}: give another directory, or "
                    "--no-resume to start over."
                )
        elif not resume:
            for place in places:
                checkpoints.clear(place, 0)
        write_bytes(path, (json.dumps(now, indent=2) + "\n").encode())


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, those of pruning among the others."""
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    pruning: dict[str, Any] = plain.pop("pruning", {})
    return plain | pruning


def _flag(name: str) -> str:
    """What the setting is called on the command line."""
    if name.startswith("pruning_"):
        return f"--pruning.{name.removeprefix('pruning_')}"
    return {"metrics": "--metric"}.get(name, f"--{name.replace('_', '-')}")


def show_training(result: Trained, out: Console) -> None:
    """FLOPs and parameters before and after, the channels that each mask keeps, and the last metrics."""
    manifest = result.exported.manifest
    table = Table(box=None, pad_edge=False)
    for title in ("", "Before", "After", "Change"):
        table.add_column(title, justify="right" if title else "left")
    show_sizes(out, result.exported.report.after.at)
    for title, figure in (("FLOPs", "flops"), ("Parameters", "parameters")):
        before, after = manifest[figure]["before"], manifest[figure]["after"]
        table.add_row(title, f"{before:,}", f"{after:,}", f"÷ {before / max(after, 1):.2f}")
    out.print(table)
    kept = [f"{name} {len(mask['kept'])} of {mask['channels']}" for name, mask in manifest["masks"].items()]
    out.print(f"Channels kept: {', '.join(kept)}.", markup=False, soft_wrap=True)
    if result.metrics:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
        out.print(f"After {result.steps:,} updates: {metrics}.", markup=False, soft_wrap=True)
    verification = manifest["verification"]
    verified = "" if verification is None else ", verified against TensorFlow"
    out.print(f"Wrote {result.exported.directory}: the compiled model.onnx{verified}, and what it was made from.",
              markup=False, soft_wrap=True)  # fmt: skip
