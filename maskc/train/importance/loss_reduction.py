"""How a compiled model's loss is reduced over the batch."""

from __future__ import annotations

from typing import Any, Literal

import keras

Reduction = Literal["mean", "sum"]


def loss_reduction(model: Any) -> Reduction | None:
    """Returns "sum" or "mean" as the loss given to `model.compile` adds up examples or averages them.

    Names of losses and plain functions are averaged by Keras. Returns None where there is no telling: the
    model is not compiled with a loss (a custom training step, `add_loss`), or its outputs' losses are
    reduced in different ways.
    """
    losses = [loss for loss in keras.tree.flatten(getattr(model, "loss", None)) if loss is not None]
    found = {_reduction(loss) for loss in losses}
    return found.pop() if len(found) == 1 else None


def _reduction(loss: Any) -> Reduction:
    if isinstance(loss, keras.losses.Loss) and loss.reduction in ("sum", "none", None):
        # Without a reduction the loss stays a vector, and differentiating a vector differentiates its sum.
        return "sum"
    return "mean"
