"""`PruningTrainer`: training, fine-tuning and export of a pruned model."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from maskc.errors import InputError, warn
from maskc.train.arguments import check_count, compiled, path_of, refusing
from maskc.train.export import Exported, check_target, export_model
from maskc.train.mask_layer import mask_layers
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.running import checkpoints
from maskc.train.running.fine_tune import Distiller, check_of_weights
from maskc.train.running.loop import Loop, Monitor, Position, Shrinking
from maskc.train.running.replicas import is_chief, placed
from maskc.train.running.stepping import as_epochs, batches_of, explained
from maskc.train.selection.pruner import diverged
from maskc.train.shrinking.carry_over import carried_over
from maskc.train.shrinking.shrink import rebuild
from maskc.train.summaries import Summaries
from passes.errors import in_brief

# What arguments of `PruningOptimizer` are called here.
WORDS = {"burn_in": "pruning_burn_in", "prune_every": "pruning_iter", "flops_target": "pruning_flops_target"}

# The directories of the two phases.
TRAINING, FINE_TUNING = "training", "fine-tuning"


class PruningTrainer:
    """Trains a Keras model while it prunes it, fine-tunes what is left, and exports it compiled.

    A run can be interrupted at any step, by Ctrl-C or a crash, and the same calls on the same directory then go on
    from the last checkpoint: with the same data they give the same masks and weights as an uninterrupted run, as far
    as TensorFlow's kernels are deterministic (on CPUs they are for nearly all models; elsewhere call
    `tf.config.experimental.enable_op_determinism()`).

    Args:
        model: built, with masks.
        loss: a Keras loss, or its name.
        directory: checkpoints and summaries go into it.
        optimizer: the Keras optimizer (or its name) that trains the weights.
        metrics: Keras metrics.
        pruning_iter: updates between two prunings; by default those of a cubic schedule over half of the updates after
            the burn-in. Given, one channel goes at a time, unless `pruning` has a schedule.
        pruning_burn_in: updates before pruning starts.
        pruning_flops_target: FLOPs per example at which pruning stops; up to 1, a fraction of those without masks.
            There is no default; `pruning={"latency_target": ...}` takes its place.
        pruning_decay: of the moving average of scores, from 0 on and less than 1.
        pruning_shrink_every: updates between two times that training goes on with the smaller model, so that it gets
            faster as channels go; see `shrink`. `model` and `optimizer` are then those of the smaller model, and
            `optimizer.history` begins again. With 0 that is never done.
        pruning: further arguments of `PruningOptimizer`, by name.
        monitor: early stop; epochs count for it once the target is reached.
        teacher: a Keras model of the same outputs, to distill from (see `distill`); usually the unpruned model.
        distillation: further arguments of `Distiller`, by name.
        batch_size: of arrays; other data come in batches.
        seed: of the shuffling of arrays.
        checkpoint_every, summary_every: updates between two of them.
        compile_options: further arguments of `model.compile`, `weighted_metrics` for instance; `jit_compile` is False.

    Example:
        >>> trainer = PruningTrainer(model, keras.losses.BinaryCrossentropy(from_logits=True), "run", metrics=["auc"],
        ...                          pruning_flops_target=0.1)
        >>> trainer.train(Records("train-*.tfrecord", spec), Records("test.tfrecord", spec), epochs=10)
        >>> trainer.fine_tune(Records("train-*.tfrecord", spec), Records("test.tfrecord", spec), epochs=2)
        >>> trainer.export_model("exported")

    Raises:
        InputError: if the model has no masks, or an argument is out of range.
    """

    @refusing
    def __init__(
        self,
        model: keras.Model,
        loss: Any,
        directory: str | os.PathLike[str],
        optimizer: Any = "adam",
        metrics: Any = (),
        *,
        pruning_iter: int | None = None,
        pruning_burn_in: int = 0,
        pruning_flops_target: float | None = None,
        pruning_decay: float = 0.96,
        pruning_shrink_every: int = 0,
        pruning: Mapping[str, Any] | None = None,
        monitor: Monitor | None = None,
        teacher: Any = None,
        distillation: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        seed: int = 0,
        checkpoint_every: int = 1000,
        summary_every: int = 100,
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not mask_layers(model):
            raise InputError(
                f"The model {model.name!r} has no mask to prune: put at least one maskc.train.MaskLayer into it."
            )
        if pruning_flops_target is None and (pruning or {}).get("latency_target") is None:
            raise InputError(
                "PruningTrainer needs to know how far to prune: pruning_flops_target=0.5 keeps half of the FLOPs."
            )
        check_count("checkpoint_every", checkpoint_every, 1)
        check_count("summary_every", summary_every, 1)
        check_count("pruning_shrink_every", pruning_shrink_every, 0)
        check_count("batch_size", batch_size, 1)
        check_count("seed", seed, 0)
        for name, given, own in (
            ("pruning", pruning, {"optimizer"}),
            ("distillation", distillation, {"student", "teacher"}),
            ("compile_options", compile_options, {"optimizer", "loss", "metrics"}),
        ):
            if taken := sorted(own & (given or {}).keys()):
                raise InputError(f"{name} must not have {taken[0]!r}, which PruningTrainer gives itself.")
        self.model, self.loss, self.metrics = model, loss, metrics
        self.directory = path_of("directory", directory)
        self.teacher, self._distillation = teacher, dict(distillation or {})
        self._monitor = monitor
        self._batch_size, self._seed = batch_size, seed
        self._every = {"checkpoint_every": checkpoint_every, "summary_every": summary_every}
        # With Keras's default for GPUs, XLA, decisions would be taken after an execution of several steps.
        self._compile_options = {"jit_compile": False, **(compile_options or {})}
        self._inner = placed(optimizer, model.distribute_strategy)
        self._settings = {
            "prune_every": pruning_iter,
            "burn_in": pruning_burn_in,
            "flops_target": pruning_flops_target,
            "decay": pruning_decay,
            **(pruning or {}),
        }
        self.optimizer = self.get_train_op()
        self._shrink_every = pruning_shrink_every
        self._phases: dict[str, Position] = {}

    def get_train_op(self) -> PruningOptimizer:
        """Returns what makes the updates: a `PruningOptimizer` around the optimizer of the weights."""
        with self.model.distribute_strategy.scope():
            try:
                return PruningOptimizer(self._inner, **self._settings)
            except TypeError as error:  # of an argument that there is not
                raise InputError(f"pruning: {in_brief(error)}.") from error

    @staticmethod
    @refusing
    def add_parser_arguments(parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
        """Adds the flags of pruning to a parser, or to a new one; parsed, they are arguments of this class.

        Example:
            >>> arguments = PruningTrainer.add_parser_arguments().parse_args(["--pruning.iter", "10"])
            >>> arguments.pruning_iter
            10
        """
        parser = argparse.ArgumentParser() if parser is None else parser
        for name, kind, default, text in PRUNING_FLAGS:
            parser.add_argument(
                f"--pruning.{name}", f"--pruning_{name}", type=kind, default=default, dest=f"pruning_{name}", help=text
            )
        return parser

    @property
    def flops(self) -> int | None:
        """FLOPs per example of the compiled model after the last pruning step; None before the first update."""
        return self.optimizer.flops

    @property
    def reached(self) -> bool:
        """Whether pruning reached its target."""
        return TRAINING in self._phases and self._phases[TRAINING].counts

    @refusing
    def train(self, data: Any, validation: Any = None, epochs: int = 1, *, resume: bool = True) -> Position:
        """Trains and prunes, until `epochs` are done or it is time to stop early; returns how far it came.

        Args:
            data: as for `fine_tune`, in batches of `(inputs, label)` or `(inputs, label, weight)`; a `tf.data.Dataset`
                must have the same order whenever it is read for an interrupted run to go on exactly.
            validation: the same, for the metrics that begin with `val_`.
            epochs: in all, those of an interrupted run included.
            resume: go on where an earlier run in this directory was; otherwise begin from scratch.

        Raises:
            InputError: if the data do not fit; the message names the record and the field.
            Interrupted: if the process is asked to end, after writing a checkpoint.
        """
        check_count("epochs", epochs, 0)
        self._plan(data, epochs)
        position = self._run(TRAINING, "Pruning", self.optimizer, data, validation, epochs, resume)
        self._foresee(0)
        if not self.reached and self._settings["flops_target"] != 0:
            burn_in = self._settings["burn_in"]
            late = f"; it was to begin after {burn_in:,}" if position.step <= burn_in else ""
            warn(
                f"Training ended after {position.step:,} updates, before pruning reached its target{late}. "
                f"The model has {self.optimizer.settings.currency.said(self.optimizer.left_now() or 0)}.",
                UserWarning,
            )
        return position

    @refusing
    def fine_tune(
        self, data: Any, validation: Any = None, epochs: int = 1, *, optimizer: Any = None, resume: bool = True
    ) -> Position:
        """Trains what is left, with the masks as they are; to be called after `train`.

        Arguments and errors are those of `train`; `optimizer` is by default a new one like that of `train`.
        """
        check_count("epochs", epochs, 0)
        check_of_weights(optimizer)
        if optimizer is None:
            with self.model.distribute_strategy.scope():
                optimizer = self._inner.from_config(self._inner.get_config())
        optimizer = placed(optimizer, self.model.distribute_strategy)
        return self._run(FINE_TUNING, "Fine-tuning", optimizer, data, validation, epochs, resume)

    @refusing
    def export_model(self, directory: str | os.PathLike[str]) -> Exported:
        """Writes the SavedModel, the manifest and the compiled, verified ONNX model; see `maskc.train.export_model`.

        Of several workers the first one writes, and the others are told the same.
        """
        training = {
            "pruning": {name: value for name, value in self._settings.items() if isinstance(value, (int, float, str))},
            "reached": self.reached,
            "steps": {phase: position.step for phase, position in self._phases.items()},
            "metrics": next((position.metrics for position in reversed(self._phases.values())), {}),
        }
        if is_chief(self.model.distribute_strategy):
            return export_model(self.model, directory, training=training)
        with tempfile.TemporaryDirectory() as unused:
            exported = export_model(self.model, Path(unused) / "model", training=training)
        return dataclasses.replace(exported, directory=Path(directory))

    @refusing
    def check_export(self, directory: str | os.PathLike[str]) -> None:
        """Refuses, before any work is done, a directory that `export_model` would refuse. Raises `InputError`."""
        check_target(path_of("directory", directory))

    def _plan(self, data: Any, epochs: int) -> None:
        """Decides what a schedule leaves open by how many updates all epochs make, also of a run that goes on."""
        settings = self.optimizer.settings
        if settings.schedule == "auto":
            known = settings.ramp or settings.prune_every
            batches = 0 if known else batches_of(data, as_epochs(data, self._batch_size, self._seed))
            self.optimizer.settings = planned = settings.planned(epochs * batches)
            self._settings |= {"schedule": planned.schedule, "ramp": planned.ramp, "prune_every": planned.prune_every}

    def _run(
        self, phase: str, title: str, optimizer: Any, data: Any, validation: Any, epochs: int, resume: bool
    ) -> Position:
        model = self._compiled(optimizer)
        pruning = optimizer is self.optimizer
        shrinking = Shrinking(self._shrink_every, self._shrink, lambda path: self.model.save(path), self._load)
        tuning = self.directory / FINE_TUNING / "checkpoints"
        loop = Loop(
            model,
            self.directory / phase,
            as_epochs(data, self._batch_size, self._seed),
            None if validation is None else as_epochs(validation, self._batch_size),
            monitor=self._monitor,
            summarize=self._summarize,
            counts=(lambda: self.optimizer.reached) if pruning else (lambda: True),
            # What was fine-tuned after an earlier end of training is void when training goes on.
            begins=(lambda: checkpoints.clear(tuning, 0)) if pruning else (lambda: None),
            foresees=self._foresee if pruning else (lambda updates: None),
            title=title,
            shrinking=shrinking if pruning and self._shrink_every else None,
            **self._every,
        )
        with explained(self.optimizer, data, validation):
            position = loop.run(epochs, resume)
        self._phases[phase] = position
        return position

    def _foresee(self, updates: int) -> None:
        self.optimizer.watch.foresee(updates, WORDS)

    def _compiled(self, optimizer: Any) -> Any:
        with self.model.distribute_strategy.scope():
            model = self.model if self.teacher is None else Distiller(self.model, self.teacher, **self._distillation)
            compiled(model, optimizer, self.loss, metrics=self.metrics, **self._compile_options)
        return model

    def _shrink(self) -> tuple[Any, int | None] | None:
        """Goes on with the smaller model, if channels were pruned since the last time."""
        self.optimizer.prune_if_due()
        if all(np.asarray(layer.mask).all() for layer in mask_layers(self.model)):
            return None
        rebuilt = rebuild(self.model, keep_masks=True)
        if rebuilt.model.count_params() == self.model.count_params():
            return None
        with self.model.distribute_strategy.scope():
            self.optimizer = carried_over(self.optimizer, rebuilt.model, rebuilt.successors)
        self.model = rebuilt.model
        return self._compiled(self.optimizer), self.optimizer.settings.flops_before

    def _load(self, path: Path, flops_before: int | None) -> Any:
        """The smaller model in a file, compiled."""
        with self.model.distribute_strategy.scope():
            self.model = keras.models.load_model(path, compile=False)
            inner = placed(self._inner.from_config(self._inner.get_config()), self.model.distribute_strategy)
            self.optimizer = PruningOptimizer(inner, **self._settings, flops_before=flops_before)
        return self._compiled(self.optimizer)

    def _summarize(self, summaries: Summaries, step: int) -> None:
        layers = mask_layers(self.model)
        summaries.pruning(self.optimizer.settings.currency.figures(self.optimizer.counted), layers, step)
        for layer in layers:
            if not np.isfinite(layer.signal.numpy()).all():
                raise diverged(layer.name)
            summaries.histogram(f"pruning/signal/{layer.path}", layer.signal.numpy(), step)


# Name, type, default and help of each flag.
PRUNING_FLAGS: tuple[tuple[str, Any, Any, str], ...] = (
    ("iter", int, None, "Updates from one pruning to the next; by default a cubic schedule's, over half of the run."),
    ("burn_in", int, 0, "Updates before pruning starts."),
    ("flops_target", float, None, "FLOPs per example at which pruning stops; up to 1, a fraction of them."),
    ("shrink_every", int, 0, "Updates after which training goes on with the smaller model; 0 for never."),
    ("decay", float, 0.96, "Decay of the moving average of importance scores: 0.96 averages over about 25 updates."),
)
