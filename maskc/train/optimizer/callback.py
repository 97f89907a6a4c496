"""The Keras callback that reports pruning decisions during `fit`, and others at the target alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from maskc.errors import InputError
from maskc.train.arguments import path_of, refusing
from maskc.train.mask_layer import optimizer_of
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.selection.pruner import Pruned
from maskc.train.summaries import Summaries


class PruningCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports each decision of a `PruningOptimizer`. FLOPs and channels left are in the logs of `fit` without it.

    Args:
        on_pruned: called after each batch in which entries were pruned, with these.
        log_dir: where to write, at each decision and for TensorBoard, the FLOPs and the channels that each mask keeps;
            steps are updates.

    Example:
        >>> model.compile(PruningOptimizer("adam", flops_target=0.5), "mse")
        >>> callback = PruningCallback(lambda pruned: print(len(pruned), pruned[-1].flops))
        >>> history = model.fit(x, y, callbacks=[callback])

    Raises:
        InputError: when training begins, if the model's optimizer prunes nothing.
    """

    @refusing
    def __init__(
        self, on_pruned: Callable[[Sequence[Pruned]], None] | None = None, log_dir: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__()
        self._on_pruned = on_pruned
        self._summaries = None if log_dir is None else Summaries(path_of("log_dir", log_dir))
        self._told = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the optimizer."""
        self._optimizer = _optimizer(self, "PruningCallback")
        self._told = self._optimizer.count_pruned()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports what was pruned since the last batch."""
        if self._optimizer.count_pruned() == self._told:
            return
        pruned = self._optimizer.history[self._told :]
        self._told += len(pruned)
        if self._summaries is not None:
            left = self._optimizer.settings.currency.figures(self._optimizer.counted)
            self._summaries.pruning(left, self._optimizer.masked_layers(), pruned[-1].step)
        if self._on_pruned is not None:
            self._on_pruned(pruned)

    def on_train_end(self, logs: Any = None) -> None:
        """Writes out what is left."""
        if self._summaries is not None:
            self._summaries.flush()


@refusing
def at_target(callback: keras.callbacks.Callback) -> Any:
    """Returns a Keras callback that is told of epochs and batches only where the model is at its FLOPs target.

    The best epoch by a loss is usually the least pruned one. So put this around what looks for the best:
    `EarlyStopping`, `ModelCheckpoint(save_best_only=True)`, `ReduceLROnPlateau`.

    Args:
        callback: which is changed, and returned.

    Example:
        >>> model.compile(PruningOptimizer("adam", flops_target=0.5), "mse")
        >>> stop = at_target(keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True))
        >>> model.fit(x, y, validation_split=0.25, epochs=9, callbacks=[stop])

    Raises:
        InputError: if it is no callback; in training, if the model's optimizer prunes nothing.
    """

    def gated(hook: Callable[..., None]) -> Callable[..., None]:
        def at(number: int, logs: Any = None) -> None:
            if _optimizer(callback, "at_target").reached:
                hook(number, logs)

        return at

    for name in ("on_epoch_end", "on_train_batch_end"):
        setattr(callback, name, gated(getattr(callback, name)))
    return callback


def _optimizer(callback: Any, name: str) -> PruningOptimizer:
    optimizer = optimizer_of(callback.model)
    if not isinstance(optimizer, PruningOptimizer):
        raise InputError(f"{name} needs a model that is compiled with a PruningOptimizer.")
    return optimizer
