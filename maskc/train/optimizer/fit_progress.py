"""Progress of `fit` under pruning: what is left, as a metric, and warnings that it does not come to the target."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from maskc.errors import PruningWarning
from maskc.train.mask_layer import Pruning
from maskc.train.selection.pruner import Pruner


class PruningProgress(keras.metrics.Metric):  # type: ignore[misc]
    """What is left, and the target, as metrics of the model of a `PruningOptimizer`, in training only.

    In validation and `evaluate` there is nothing to say, so the metric has no result.

    Attributes:
        training: whether it is a training step that asks.
    """

    def __init__(self, optimizer: Pruning) -> None:
        super().__init__(name="pruning")
        self._optimizer = weakref.ref(optimizer)
        self.training = False

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: all is known already."""

    def result(self) -> dict[str, Any]:
        """Returns scalars by name. Raises, at the end of an epoch, what a decision failed at."""
        optimizer = self._optimizer()
        if optimizer is None or not self.training:
            return {}
        if not tf.inside_function():
            optimizer.raise_failure()
            optimizer.prune_if_due()
        return optimizer.left()


def begun(model: Any) -> Any:
    """Returns the `keras.callbacks.History` of a call of `fit` that has just begun; None if there is none."""
    history = getattr(model, "history", None)
    return None if history is None or getattr(history, "epoch", None) else history


def updates_of(history: Any) -> int:
    """Returns how many updates a call of `fit` makes; 0 if the data do not say that."""
    epochs, steps = (history.params.get(name) for name in ("epochs", "steps"))
    return (epochs or 0) * (steps or 0)


def warn_of_begin(
    pruner: Pruner, step: int, updates: int, who: str = "fit makes", words: Mapping[str, str] | None = None
) -> None:
    """Warns if training that goes on from update number `step` is too short to come to the target.

    Args:
        pruner: of the model.
        step: updates made.
        updates: that are to be made.
        who: does, as the sentence begins.
        words: what arguments of pruning are called there.
    """
    left = pruner.updates_left(step)
    if left <= updates:
        return
    settings, end = pruner.settings, step + updates
    arguments = ("burn_in", "prune_every", pruner.currency.target)
    burn_in, every, target = ((words or {}).get(name, name) for name in arguments)
    first = settings.burn_in + settings.every
    if end < first:
        what = f"and the first pruning comes after {first:,} ({burn_in} + {every}): nothing will be pruned"
    else:
        what = f"and pruning takes at least {left:,} to reach {target}: it will not be reached"
    names = f"{burn_in}, {every} or ramp" if settings.ramp else f"{burn_in} or {every}"
    faster = "" if settings.schedule else '; schedule="cubic" with a ramp prunes several channels at a time'
    _warn(f"{who} {updates:,} updates, {what}. Train longer, or lower {names}{faster}.")


def warn_of_end(pruner: Pruner, step: int, flops: int, restored: bool, stopped: bool) -> None:
    """Warns if a call of `fit` that ended at update number `step` left the model above the target.

    Args:
        pruner: of the model.
        step: updates made.
        flops: which the model has.
        restored: whether entries of masks that had been pruned are ones again.
        stopped: whether training was stopped before all epochs were done.
    """
    left = pruner.updates_left(step)
    if not left or flops <= pruner.target:
        return
    currency = pruner.currency
    what = f"the model has {currency.said(flops)}, and {currency.target} is {currency.shown(pruner.target)}"
    if restored:
        _warn(
            f"Masks were set back to what they were before, as EarlyStopping(restore_best_weights=True) does: {what}. "
            "maskc.train.at_target(callback) lets a callback see only epochs at the target."
        )
        return
    early = " maskc.train.at_target(callback) keeps a callback from stopping before." if stopped else ""
    _warn(f"fit ended before pruning did: {what}. It takes at least {left:,} more update(s).{early}")


def warn_of_saved(pruner: Pruner, saved: int, flops: int) -> None:
    """Warns if a call of `fit` came to the target, and what was last saved of it has `saved` FLOPs, which are more."""
    if flops <= pruner.target < saved:
        _warn(
            f"The model was last saved before it came to the target, with {pruner.currency.said(saved)}, as "
            "ModelCheckpoint(save_best_only=True) does: save it, or let the callback see only epochs at the target by "
            "maskc.train.at_target(callback)."
        )


def at_end(history: Any, owner: Pruning) -> None:
    """Lets a call of `fit` end with `owner.end_fit(model)`, after all that callbacks do."""
    original, reference = history.on_train_end, weakref.ref(owner)

    def end(logs: Any = None) -> None:
        del history.on_train_end  # the class's own again
        original(logs)
        if (alive := reference()) is not None:
            alive.end_fit(history.model)

    history.on_train_end = end


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=2)
