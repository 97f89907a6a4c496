"""What `fit` shows of pruning: FLOPs and channels left, among the metrics of training."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import keras
import tensorflow as tf

#: the names of what is shown
LEFT = ("flops", "channels")


class Prunes(Protocol):
    """An optimizer that prunes."""

    def left(self) -> dict[str, Any]:
        """FLOPs and channels left, as tensors."""

    def prune_if_due(self) -> None:
        """Takes decisions that are still open, and counts what they left."""

    def raise_failure(self) -> None:
        """Raises what a decision failed at, if any did."""


class PruningProgress(keras.metrics.Metric):  # type: ignore[misc]
    """FLOPs and channels left, as metrics of the model of a `PruningOptimizer`, in training only.

    In validation and `evaluate` there is nothing to say, so the metric has no result.

    Attributes:
        training: whether it is a training step that asks.
    """

    def __init__(self, optimizer: Prunes) -> None:
        super().__init__(name="pruning")
        self._optimizer = weakref.ref(optimizer)
        self.training = False

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: all is known already."""

    def result(self) -> dict[str, Any]:
        """Returns scalars by name.

        Raises:
            MaskcError: at the end of an epoch, what a decision failed at.
        """
        optimizer = self._optimizer()
        if optimizer is None or not self.training:
            return {}
        if not tf.inside_function():
            optimizer.raise_failure()
            optimizer.prune_if_due()
        return optimizer.left()
