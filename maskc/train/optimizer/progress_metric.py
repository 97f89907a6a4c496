"""The Keras metric that shows remaining FLOPs, or milliseconds, their target and remaining channels in `fit`."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import tensorflow as tf

from maskc.train.mask_layer import Pruning


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
