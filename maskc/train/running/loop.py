"""Resumable training loop: position, checkpoints, summaries, validation, early stopping."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskc import progress
from maskc.errors import InputError
from maskc.frontend.write_model_files import in_the_making
from maskc.train.arguments import check_choice, check_count, refusing
from maskc.train.running import checkpoints
from maskc.train.running.replicas import any_of, is_chief
from maskc.train.running.stepping import Epochs, end_epoch, number, prepare, steps
from maskc.train.summaries import Summaries
from passes.errors.arguments import check_fields

# Seconds within which a second signal is the same one, told to a group of processes and to each of them.
_SAME = 0.5

# Checkpoints that are kept of a run.
KEPT = 3

# Models that were shrunk, beside their checkpoints, by the updates made until then.
_STRUCTURE = "model-{:08d}.keras"


@dataclass
class Position:
    """How far a run is: what a checkpoint says beside weights and optimizer.

    Attributes:
        step: batches that were trained on.
        epoch: the present epoch, from 0 on.
        batch: batches of it that are done.
        best: the best value of the monitored metric so far; None before there is one.
        waited: epochs since then.
        counts: whether the last epoch counted for early stop: while pruning, whether the target was reached.
        done: whether the run came to its end.
        flops_before: FLOPs without masks of the model that training began with, where it was shrunk since.
        shrunk_at: the step at which it was shrunk last; 0 where it was not.
        metrics: of the last epoch that was completed (at the end of early stop: of the best one), by name; those of
            validation begin with `val_`.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    waited: int = 0
    counts: bool = False
    done: bool = False
    flops_before: int | None = None
    shrunk_at: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Monitor:
    """Early stop: after `patience` epochs in which `metric` did not improve, the best weights are taken back.

    Attributes:
        metric: as Keras names it, `val_loss` for instance.
        patience: epochs to wait.
        mode: whether less or more is better; "auto" takes more for names that hold "auc", "acc", "precision" or
            "recall".
    """

    metric: str = "val_loss"
    patience: int = 3
    mode: Literal["auto", "min", "max"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self, InputError)
        check_count("patience", self.patience, 1)
        check_choice("mode", self.mode, ("auto", "min", "max"))

    @refusing
    def better(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; what is not a number never is.

        Raises InputError for what is no float.
        """
        if best is None or math.isnan(value):
            return not math.isnan(value)
        more = self.mode == "max" or any(word in self.metric for word in ("auc", "acc", "precision", "recall"))
        return value > best if more and self.mode != "min" else value < best


@dataclass(frozen=True)
class Shrinking:
    """How a run goes on with a smaller model every so many updates.

    Attributes:
        every: updates from one to the next; it is done when channels were pruned since the last.
        shrink: makes the smaller model and returns it compiled, and the FLOPs that pruning began with.
        save: writes the present model, from which `load` makes it again with these FLOPs, compiled.
    """

    every: int
    shrink: Callable[[], tuple[Any, int | None] | None]
    save: Callable[[Path], None]
    load: Callable[[Path, int | None], Any]


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; the checkpoint holds all that was done."""


@dataclass(eq=False)
class Loop:
    """Trains a compiled model over epochs of batches, and goes on exactly where an earlier run was interrupted.

    Args:
        directory: `checkpoints/` and `logs/` go into it.
        train, validation: the batches of an epoch; those of metrics that begin with `val_`.
        checkpoint_every: updates between two checkpoints; one is written after each epoch in any case.
        monitor: when to stop early; by default never.
        summarize: writes more summaries at a step.
        counts: whether an epoch counts for early stop already.
        shrinking: when to go on with a smaller model; by default never.
        begins: called when it is clear that there is something to train.
        foresees: told how many updates are still to be made, after the first one if the data say how many there are,
            else after an epoch.
        title: what the run is called where its progress is shown.

    Of several workers, which must share the file system, the first one alone writes.
    """

    model: Any
    directory: Path
    train: Epochs
    validation: Epochs | None = None
    checkpoint_every: int = 1000
    summary_every: int = 100
    monitor: Monitor | None = None
    summarize: Callable[[Summaries, int], None] = lambda summaries, step: None
    counts: Callable[[], bool] = lambda: True
    shrinking: Shrinking | None = None
    begins: Callable[[], None] = lambda: None
    foresees: Callable[[int], None] = lambda updates: None
    title: str = "Training"

    def __post_init__(self) -> None:
        self.strategy = self.model.distribute_strategy
        self.writes = is_chief(self.strategy)
        self.checkpoints = self.directory / "checkpoints"
        self._end, self._best = self.checkpoints / "end.npz", self.checkpoints / "best.npz"
        self._summaries: Summaries | None = None  # only the first worker writes some
        self.position = Position()
        self._batches: int | None = None  # of an epoch, where the data say that, or one is done
        self._foreseen = False

    def run(self, epochs: int, resume: bool = True) -> Position:
        """Trains until `epochs` are done, or it is time to stop early.

        Raises:
            InputError: if the data cannot be read, a checkpoint does not fit, or the monitored metric is not there.
            Interrupted: if the process is asked to end (SIGINT, SIGTERM), after writing a checkpoint.
        """
        prepare(self.model, self.train, self.validation)
        latest = checkpoints.latest(self.checkpoints) if resume else None
        if latest is not None:
            earlier = _position(latest, checkpoints.state(latest))
            if self.shrinking is not None and (step := earlier.shrunk_at):
                self.model = self.shrinking.load(self.checkpoints / _STRUCTURE.format(step), earlier.flops_before)
                prepare(self.model, self.train, self.validation)
            self._warm_up()
            self.position = _position(latest, checkpoints.restore(latest, self.model))
        if self.position.done:
            if self._is_over(epochs):
                return self.position
            if self._end.exists():
                # More epochs than before: they follow on what was trained last, not on averages or the best weights.
                self.position = _position(self._end, checkpoints.restore(self._end, self.model))
        self._check_monitor()
        batches = int(self.train(0, 0).cardinality())
        self._batches = batches if batches > 0 else None
        if self.writes:
            self.begins()
            if latest is None:
                checkpoints.clear(self.checkpoints, 0)
            self._summaries = Summaries(self.directory / "logs", anew=latest is None)
        try:
            with _end_signals() as received:
                while not self._is_over(epochs):
                    title = f"{self.title}, epoch {self.position.epoch + 1} of {epochs}"
                    with progress.stage(title, self._batches) as stage:
                        self._epoch(stage, received, epochs)
                    self._end_epoch()
                    if not self._is_over(epochs):
                        self._save()
                    self._stop_if(received)
        finally:
            if self._summaries is not None:
                self._summaries.close()
        self._finish()
        return self.position

    def _is_over(self, epochs: int) -> bool:
        stopped = self.monitor is not None and self.position.waited >= self.monitor.patience
        return stopped or self.position.epoch >= epochs

    def _stop_if(self, received: Callable[[], bool]) -> None:
        """Ends the run where any of the workers has received a signal."""
        if any_of(self.strategy, received()):
            self._save()
            raise Interrupted

    def _warm_up(self) -> None:
        """Makes the optimizer count the model's FLOPs as the first run did: before anything was trained.

        The count takes a fresh scale of one for what it is, and a trained one costs more. So one step is made, and all
        that it changes is then restored. (XLA's steps decide afterwards, by how many there were since the last.)
        """
        if not self.model.jit_compile:
            next(steps(self.model, self.train(0, 0)), None)

    def _check_monitor(self) -> None:
        names = list(self.model.get_metrics_result())
        names += [f"val_{name}" for name in names if self.validation is not None]
        if self.monitor is not None and self.monitor.metric not in names:
            raise InputError(
                f"There is no metric {self.monitor.metric!r} to stop early by; there are: {', '.join(sorted(names))}."
            )

    def _epoch(self, stage: progress.Stage, received: Callable[[], bool], epochs: int) -> None:
        """Trains on what is left of the present epoch of so many."""
        position = self.position
        if not position.batch:
            self.model.reset_metrics()
        for done, logs in self._steps():
            before = position.step
            position.batch += done
            position.step += done
            stage.advance(done)
            if self._batches and not self._foreseen:
                self._foreseen = True
                self.foresees((epochs - position.epoch) * self._batches - position.batch)
            if position.step // self.summary_every > before // self.summary_every:
                stage.note = f"loss {number(logs['loss']):.4g}" if "loss" in logs else ""
                self._write({f"train/{name}": number(value) for name, value in logs.items()})
            self._stop_if(received)
            if position.step // self.checkpoint_every > before // self.checkpoint_every:
                self._save()
        self._batches = position.batch

    def _steps(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The steps of what is left of the epoch, of smaller and smaller models."""
        position, ended = self.position, False
        while not ended:
            ended = True
            before = position.step
            for done, logs in steps(self.model, self.train(position.epoch, position.batch)):
                yield done, logs
                # The best weights so far are those of the present model.
                every = self.shrinking.every if self.shrinking is not None and position.best is None else 0
                if every and position.step // every > before // every and self._shrink():
                    ended = False
                    break

    def _shrink(self) -> bool:
        """Goes on with a smaller model, if there is one."""
        assert self.shrinking is not None
        smaller = self.shrinking.shrink()
        if smaller is None:
            return False
        metrics = [np.asarray(variable) for variable in self.model.metrics_variables]
        self.model, self.position.flops_before = smaller
        self.position.shrunk_at = self.position.step
        prepare(self.model, self.train, self.validation)
        for variable, value in zip(self.model.metrics_variables, metrics, strict=False):
            variable.assign(value)
        if self.writes:
            with in_the_making(self.checkpoints / _STRUCTURE.format(self.position.step)) as part:
                self.shrinking.save(part)
        self._save()
        return True

    def _end_epoch(self) -> None:
        """Validates, and sees whether this was the best epoch so far."""
        position = self.position
        position.metrics = metrics = end_epoch(self.model, self.validation)
        position.counts = self.counts()
        position.epoch, position.batch = position.epoch + 1, 0
        validated = {name: value for name, value in metrics.items() if name.startswith("val_")}
        self._write({f"validation/{name.removeprefix('val_')}": value for name, value in validated.items()})
        if self._summaries is not None:
            self._summaries.flush()
        if self.monitor is None or not position.counts:
            return
        if self.monitor.better(metrics[self.monitor.metric], position.best):
            position.best, position.waited = metrics[self.monitor.metric], 0
            checkpoints.save(self._best, self.model, {"metrics": metrics})
        else:
            position.waited += 1

    def _write(self, scalars: Mapping[str, float]) -> None:
        """Writes summaries at the present step."""
        if self._summaries is not None:
            for name, value in scalars.items():
                self._summaries.scalar(name, value, self.position.step)
            self.summarize(self._summaries, self.position.step)

    def _finish(self) -> None:
        """Takes back the best weights, or lets the optimizer put in its averages."""
        model, position = self.model, self.position
        checkpoints.save(self._end, model, dataclasses.asdict(position))
        if self.monitor is not None and position.best is not None:
            any_of(self.strategy, False)  # the workers wait until the first one has written
            position.metrics = checkpoints.restore(self._best, model)["metrics"]
        else:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        position.done = True
        self._save()

    def _save(self) -> None:
        position = self.position
        checkpoints.save(self.checkpoints / checkpoints.name(position.step), self.model, dataclasses.asdict(position))
        if self.writes:
            checkpoints.clear(self.checkpoints, KEPT)


def _position(path: Path, state: Any) -> Position:
    """How far a run was, by the state in a checkpoint. Raises InputError for one of other fields."""
    try:
        return Position(**state)
    except TypeError as error:
        raise InputError(
            f"The checkpoint {path} is of another version of maskc: finish the run with that, give another directory, "
            "or start without resuming."
        ) from error


@contextlib.contextmanager
def _end_signals() -> Iterator[Callable[[], bool]]:
    """Whether a signal asked this process to end; a second one, some time later, ends it at once."""
    received = threading.Event()
    first = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if received.is_set() and time.monotonic() - first > _SAME:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        received.set()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received.is_set
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
