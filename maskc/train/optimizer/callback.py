"""The Keras callback that reports pruning decisions during `fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from maskc.errors import InputError
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

    def __init__(
        self, on_pruned: Callable[[Sequence[Pruned]], None] | None = None, log_dir: str | Path | None = None
    ) -> None:
        super().__init__()
        self._on_pruned = on_pruned
        self._summaries = None if log_dir is None else Summaries(Path(log_dir))
        self._told = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the optimizer."""
        optimizer = optimizer_of(self.model)
        if not isinstance(optimizer, PruningOptimizer):
            raise InputError("PruningCallback needs a model that is compiled with a PruningOptimizer.")
        self._optimizer = optimizer
        self._told = optimizer.count_pruned()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports what was pruned since the last batch."""
        if self._optimizer.count_pruned() == self._told:
            return
        pruned = self._optimizer.history[self._told :]
        self._told += len(pruned)
        if self._summaries is not None:
            self._summaries.pruning(pruned[-1].flops, self._optimizer.masked_layers(), pruned[-1].step)
        if self._on_pruned is not None:
            self._on_pruned(pruned)

    def on_train_end(self, logs: Any = None) -> None:
        """Writes out what is left."""
        if self._summaries is not None:
            self._summaries.flush()
