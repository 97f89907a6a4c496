"""Knowledge distillation: a pruned model learns from the outputs of the unpruned one."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from maskc.errors import InputError
from maskc.train.finetune import fine_tune

Soft = Literal["softmax", "sigmoid", "mse"]


class Distiller(keras.Model):  # type: ignore[misc]
    """A student that is trained on the labels and on the outputs of a teacher (Hinton et al. 2015, arXiv 1503.02531).

    The loss is `(1 - alpha) · loss(labels) + alpha · temperature² · soft`, where `soft` is the cross-entropy between
    the teacher's and the student's probabilities, both from logits divided by `temperature`, less the entropy of the
    teacher's (so that it is 0 where they agree). It is averaged over the examples, weighted as they are.

    Args:
        student: gives logits of shape `(batch, ..., outputs)`. Its weights are the ones that are trained.
        teacher: takes the same inputs and gives logits of the same shape. It is not trained, nor saved with this.
        temperature: greater than 0.
        alpha: from 0 (labels alone) to 1 (the teacher alone).
        soft: what the logits stand for, "softmax" or "sigmoid", or "mse" for the mean squared difference of outputs
            that are no logits (without `temperature²`). "auto" is "sigmoid" for one output and "softmax" for more.

    Example:
        >>> distiller = Distiller(student, teacher)
        >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> distiller.fit(x, y)

    Raises:
        InputError: if an argument is out of range, or the two models' outputs differ in shape.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        temperature: float = 2.0,
        alpha: float = 0.5,
        soft: Soft | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not temperature > 0 or not 0 <= alpha <= 1:
            raise InputError("The temperature must be greater than 0, and alpha from 0 to 1.")
        if soft not in ("auto", "softmax", "sigmoid", "mse"):
            raise InputError(f'soft must be "auto", "softmax", "sigmoid" or "mse", not {soft!r}.')
        self.student = student

        # Inside a function Keras does not find it: the teacher's weights and masks are no part of this model.
        def teach(inputs: Any) -> Any:
            return teacher(inputs, training=False)

        self._teach = teach
        self.temperature, self.alpha, self.soft = temperature, alpha, soft

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the student's output."""
        return self.student(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the loss of a batch, a scalar."""
        hard = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return hard
        taught = ops.stop_gradient(self._teach(x))
        if taught.shape[1:] != y_pred.shape[1:]:
            raise InputError(f"The teacher's outputs have shape {taught.shape}, and the student's {y_pred.shape}.")
        soft = self._soft_loss(ops.cast(taught, "float32"), ops.cast(y_pred, "float32"))
        soft = ops.reshape(soft, (ops.shape(soft)[0], -1))
        soft = ops.mean(soft, axis=-1)
        if sample_weight is not None:
            soft = soft * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return (1 - self.alpha) * hard + self.alpha * ops.mean(soft)

    def _soft_loss(self, taught: Any, given: Any) -> Any:
        """The loss of each example against the teacher, over the outputs."""
        kind = self.soft if self.soft != "auto" else ("sigmoid" if given.shape[-1] == 1 else "softmax")
        if kind == "mse":
            return ops.mean(ops.square(taught - given), axis=-1)
        taught, given = taught / self.temperature, given / self.temperature
        if kind == "softmax":
            target = ops.softmax(taught)
            divergence = ops.sum(target * (ops.log_softmax(taught) - ops.log_softmax(given)), axis=-1)
        else:
            target = ops.sigmoid(taught)
            agree = target * (ops.log_sigmoid(taught) - ops.log_sigmoid(given))
            divergence = ops.sum(agree + (1 - target) * (ops.log_sigmoid(-taught) - ops.log_sigmoid(-given)), axis=-1)
        return self.temperature**2 * divergence


def distill(
    student: Any,
    teacher: Any,
    data: Any,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    soft: Soft | Literal["auto"] = "auto",
    **options: Any,
) -> dict[str, list[float]]:
    """Trains a pruned model on labels and on the outputs of the unpruned one, with its masks as they are.

    Args:
        student: the pruned model.
        teacher: the unpruned one; for instance `keras.models.clone_model(model)` with its weights set, before pruning.
        data: see `fine_tune`.
        temperature, alpha, soft: see `Distiller`.
        options: further arguments of `fine_tune`.

    Returns:
        The metrics of each epoch, by name.

    Raises:
        InputError: as `Distiller` and `fine_tune` do.
    """
    distiller = Distiller(student, teacher, temperature, alpha, soft, name=student.name)
    options.setdefault("loss", getattr(student, "loss", None))
    return fine_tune(distiller, data, **options)
