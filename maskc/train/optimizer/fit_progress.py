"""Progress of `fit` under pruning: what is left, as a metric, and warnings that it does not come to the target."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from maskc.errors import warn
from maskc.train.mask_layer import Pruning
from maskc.train.selection.pruner import Pruner

_AT_TARGET = "maskc.train.at_target(callback)"


class PruningProgress(keras.metrics.Metric):  # type: ignore[misc]
    """What is left, and the target, as metrics of the model of a `PruningOptimizer`, in training only.

    In validation and `evaluate` there is nothing to say, so the metric has no result.

    Attributes:
        training: whether it is a step that prunes which asks.
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


class Watch:
    """What there is to know of an optimizer's `fit`, and of saving, to warn where these leave something to prune.

    Attributes:
        watched: whether something warns when training ends before pruning does, or that was said.
        gave_ramp: whether the ramp is one that the present call of `fit` gave.
    """

    def __init__(self, optimizer: Any) -> None:
        self.watched = self.gave_ramp = False
        self._reference = weakref.ref(optimizer)
        self._fit: weakref.ref[Any] | None = None  # the history of the last call of `fit`
        self._saved = 0  # FLOPs of what was last saved in it
        self._before = 0  # updates made when it ended
        self._first: int | None = None  # made when it began, until it is known how many it makes
        self._data: weakref.ref[Any] | None = None  # that the last execution of steps read: they live as long as `fit`
        self._finished: weakref.ref[Any] | None = None  # the history of the call of `fit` that Keras ended last

    @property
    def _optimizer(self) -> Any:
        return self._reference()  # which owns this, and so lives

    def _updates(self) -> int:
        """How many the optimizer has made, in a function that is traced as well."""
        with tf.init_scope():
            return int(self._optimizer.updates.numpy())

    def begin(self) -> None:
        """Warns of what a call of `fit` does not prune, as soon as it is known how many updates it makes.

        That is when it begins, or after an epoch where the data do not say how many batches they are, or the first one
        was another than 0.
        """
        pruner = self._optimizer.prepare()
        history: Any = getattr(pruner.model(), "history", None)
        if history is None:
            return
        same = self._fit is not None and self._fit() is history
        if history.epoch:
            if same and self._first is not None:
                epochs, number = history.epoch, self._updates()
                left = (number - self._first) // len(epochs) * (history.params["epochs"] - epochs[-1] - 1)
                if epochs[0] or not history.params.get("steps"):
                    if self.gave_ramp:
                        self._optimizer.settings = pruner.settings = pruner.settings.ending(number + left)
                    more = "" if history.params.get("steps") else " With steps_per_epoch it goes by the length of fit."
                    warn_of_begin(pruner, number, left, more=more)
                self._first = None
        elif not same:
            self._fit, self._data, self._saved, self.watched = weakref.ref(history), None, 0, True
            updates, number = updates_of(history), self._updates()
            if updates:
                warn_of_begin(pruner, number, updates)
            self._first = number
            at_end(history, self)

    def reads(self, data: Any) -> None:
        """Notes the data of an execution of steps in `fit`, which are gone when an error or Ctrl-C has ended it."""
        with contextlib.suppress(TypeError):  # of other loops, which give tuples
            self._data = weakref.ref(data)

    def foresee(self, updates: int, words: Mapping[str, str]) -> None:
        """Warns if so many more updates, of another loop, do not come to the target; see `warn_of_begin`.

        With 0 that loop has said so.
        """
        self.watched, self._data = True, None
        if updates:
            warn_of_begin(self._optimizer.prepare(), self._updates(), updates, "Training goes on for", words)

    def end(self, model: Any) -> None:
        """Warns if a call of `fit` ended above the target, or what was last saved in it is."""
        pruner, step, flops = self._optimizer.prepare(), self._updates(), self._optimizer.present() or 0
        self.gave_ramp, self._data = False, None
        if self._optimizer.was_restored():
            what = "Masks were set back to what they were before, as EarlyStopping(restore_best_weights=True) does"
            _warn_of_rest(pruner, step, flops, what, f" {_AT_TARGET} lets a callback see only epochs at the target.")
        else:
            early = f" {_AT_TARGET} keeps a callback from stopping before." if model.stop_training else ""
            _warn_of_rest(pruner, step, flops, "fit ended before pruning was done", early)
        if flops <= pruner.target < self._saved:
            warn(
                "The model was last saved or compiled before it came to the target, with "
                f"{pruner.currency.said(self._saved)}, as ModelCheckpoint(save_best_only=True) does: save it, or let "
                f"the callback see only epochs at the target by {_AT_TARGET}."
            )

    def finish(self) -> None:
        """Warns of a call of `fit` that ended without an update."""
        pruner, updates = self._optimizer.pruner, int(self._optimizer.iterations.numpy())
        history = None if pruner is None else getattr(pruner.model(), "history", None)
        again = history is not None and self._finished is not None and self._finished() is history
        self._finished = None if history is None else weakref.ref(history)
        if not again and (pruner is None or updates == self._before):
            warn(
                "fit ended without an update by its PruningOptimizer, so it pruned nothing: no epoch was left, nothing "
                "can be trained, no gradient was finite under loss scaling, or a train_step of one's own does not call "
                "self.optimizer.apply."
            )
        self._before = updates

    def save(self) -> None:
        """Notes that masks are saved as they are, and warns, once, of what is left to prune if nobody else does.

        In a call of `fit` there are more updates to come, and its end tells.
        """
        pruner = self._optimizer.pruner
        self._saved = flops = self._optimizer.counted or 0
        broken_off = False
        if self._data is not None and pruner is not None and flops > pruner.target:
            gc.collect()  # Keras's iterators refer to themselves
            broken_off = self._data() is None
        if pruner is not None and (broken_off or not self.watched):
            self._data = None
            self.watched = True
            _warn_of_rest(pruner, self._updates(), flops, "Masks are saved, compiled or shrunk before pruning was done")


def updates_of(history: keras.callbacks.History | None) -> int:
    """Returns how many updates a call of `fit` makes that has just begun; 0 if there is none or its data do not say."""
    if history is None or getattr(history, "epoch", None):
        return 0
    epochs, steps = (history.params.get(name) for name in ("epochs", "steps"))
    return (epochs or 0) * (steps or 0)


def warn_of_begin(
    pruner: Pruner,
    step: int,
    updates: int,
    who: str = "fit makes",
    words: Mapping[str, str] | None = None,
    more: str = "",
) -> None:
    """Warns if the updates to be made after update number `step` are too few to come to the target.

    The sentence begins with `who` makes them, and calls arguments of pruning by these `words`; `more` follows it.
    """
    left = pruner.updates_left(step)
    if left <= updates:
        return
    settings, end = pruner.settings, step + updates
    arguments = ("burn_in", "prune_every", pruner.currency.target)
    burn_in, every, target = ((words or {}).get(name, name) for name in arguments)
    first = settings.burn_in + settings.every
    if end < first:
        after = f"{first - step:,} more" if step else f"{first:,}"
        what = f"and the first pruning comes after {after} ({burn_in} + {every}): nothing will be pruned"
    else:
        what = f"and pruning takes at least {left:,} to reach {target}: it will not be reached"
    names = f"{burn_in}, {every} or ramp" if settings.ramp else f"{burn_in} or {every}"
    faster = "" if settings.schedule else '; schedule="cubic" with a ramp prunes several channels at a time'
    warn(f"{who} {updates:,} {'more ' * bool(step)}updates, {what}. Train longer, or lower {names}{faster}.{more}")


def at_end(history: Any, watch: Watch) -> None:
    """Lets a call of `fit` end with `watch.end(model)`, after all that callbacks do."""
    original, reference = history.on_train_end, weakref.ref(watch)

    def end(logs: Any = None) -> None:
        del history.on_train_end  # the class's own again
        original(logs)
        if (alive := reference()) is not None:
            alive.end(history.model)

    history.on_train_end = end


def _warn_of_rest(pruner: Pruner, step: int, flops: int, before: str, after: str = "") -> None:
    left, currency = pruner.updates_left(step), pruner.currency
    if left and flops > pruner.target:
        what = f"the model has {currency.said(flops)}, and {currency.target} is {currency.shown(pruner.target)}"
        warn(f"{before}: {what}. It takes at least {left:,} more update(s).{after}")
