"""Fine-tuning and distillation with fixed masks."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from maskc.errors import InputError
from maskc.frontend.tensorflow.importing import reason
from maskc.train.arguments import check_choice, check_count, compiled, is_number, refusing
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.running.replicas import placed
from maskc.train.running.stepping import as_epochs, end_epoch, explained, prepare, steps
from passes.errors.arguments import shown

Soft = Literal["softmax", "sigmoid", "mse"]


@refusing
def fine_tune(
    model: keras.Model,
    data: Any,
    *,
    epochs: int = 5,
    optimizer: Any = "adam",
    loss: Any = None,
    metrics: Any = None,
    validation_data: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Trains what pruning left of a model, and leaves its masks and importance scores as they are.

    Args:
        model: built; it is compiled again.
        data: a tuple of arrays `(x, y)` or `(x, y, weight)`, `Records`, a `tf.data.Dataset` of batches, or a function
            of the epoch that gives one.
        epochs: how often to go through the data.
        optimizer: a Keras optimizer or its name, but no `PruningOptimizer`.
        loss: by default that which the model was compiled with.
        metrics: Keras metrics.
        validation_data: like `data`, for metrics that begin with `val_`.
        batch_size: of arrays.
        seed: of the shuffling of arrays.

    Returns:
        The metrics of each epoch, by name.

    Example:
        >>> model.compile(PruningOptimizer("adam", flops_target=0.1), "mse")
        >>> model.fit(x, y, epochs=20)
        >>> fine_tune(model, (x, y), epochs=5)

    Raises:
        InputError: if there is no loss, or the data are of another kind.
    """
    check_count("epochs", epochs, 0)
    check_count("seed", seed, 0)
    check_of_weights(optimizer)
    loss = getattr(model, "loss", None) if loss is None else loss
    if loss is None:
        raise InputError(f"There is no loss to train the model {model.name!r} with: pass loss=.")
    with model.distribute_strategy.scope():
        compiled(model, placed(optimizer, model.distribute_strategy), loss, metrics=metrics)
    train = as_epochs(data, batch_size, seed)
    held_out = None if validation_data is None else as_epochs(validation_data, batch_size)
    history: dict[str, list[float]] = {}
    with explained(data, validation_data):
        prepare(model, train, held_out)
        for epoch in range(epochs):
            model.reset_metrics()
            for _ in steps(model, train(epoch, 0)):
                pass
            for name, value in end_epoch(model, held_out).items():
                history.setdefault(name, []).append(value)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    return history


def check_of_weights(optimizer: Any) -> None:
    """Raises InputError for an optimizer that prunes."""
    if isinstance(optimizer, PruningOptimizer):
        raise InputError("fine_tune leaves the masks as they are: give it the optimizer of the weights alone.")


class Distiller(keras.Model):  # type: ignore[misc]
    """A student that is trained on the labels and on the outputs of a teacher (Hinton et al. 2015, arXiv 1503.02531).

    The loss is `(1 - alpha) · loss(labels) + alpha · temperature² · soft`, where `soft` is the cross-entropy between
    the teacher's and the student's probabilities, both from logits divided by `temperature`, less the entropy of the
    teacher's (so that it is 0 where they agree). It is averaged over the examples, weighted as they are, and added up
    over the outputs, if there are several.

    Args:
        student: gives logits of shape `(batch, ..., outputs)`, or several such. Its weights are the ones that are
            trained.
        teacher: takes the same inputs and gives logits of the same shapes. It is not trained, nor saved with this.
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

    @refusing
    def __init__(
        self,
        student: keras.Model,
        teacher: Any,
        temperature: float = 2.0,
        alpha: float = 0.5,
        soft: Soft | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not callable(teacher):
            raise InputError(f"The teacher must be a Keras model, not a {type(teacher).__name__}.")
        if not (is_number(temperature) and temperature > 0 and is_number(alpha) and 0 <= alpha <= 1):
            raise InputError("The temperature must be greater than 0, and alpha from 0 to 1.")
        check_choice("soft", soft, ("auto", "softmax", "sigmoid", "mse"))
        self.student = student

        # Inside a function Keras does not find it: the teacher's weights and masks are no part of this model.
        def teach(inputs: Any) -> Any:
            try:
                return teacher(inputs, training=False)
            except Exception as error:  # of inputs of other names, numbers or shapes
                raise InputError(f"The teacher does not take what the student is given: {reason(error)}.") from error

        self._teach = teach
        self.alpha, self._soft = alpha, _SoftLoss(temperature, soft)

    def get_config(self) -> dict[str, Any]:
        """Raises InputError: the teacher is no part of what could be saved."""
        raise InputError(
            f"The Distiller {self.name!r} cannot be saved, as its teacher is no part of it. Save its student, "
            "distiller.student, or with ModelCheckpoint the weights alone (save_weights_only=True)."
        )

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
        expected, actual = (keras.tree.flatten(outputs) for outputs in (self._teach(x), y_pred))
        for output in expected:
            if not hasattr(output, "shape"):
                raise InputError(f"The teacher gives {shown(output)}, and no tensor.")
        shapes = [[tuple(output.shape) for output in side] for side in (expected, actual)]
        if [shape[1:] for shape in shapes[0]] != [shape[1:] for shape in shapes[1]]:
            theirs, own = (" and ".join(map(str, side)) for side in shapes)
            raise InputError(f"The teacher's outputs have shape {theirs}, and the student's {own}.")
        weights = keras.tree.flatten(sample_weight)  # one for all outputs, or one for each
        weights = weights * len(actual) if len(weights) == 1 else weights
        soft = sum(
            # Keras's losses know how many replicas share a batch.
            self._soft(ops.stop_gradient(ops.cast(output, "float32")), ops.cast(own, "float32"), sample_weight=weight)
            for output, own, weight in zip(expected, actual, weights, strict=True)
        )
        return (1 - self.alpha) * hard + self.alpha * soft


class _SoftLoss(keras.losses.Loss):  # type: ignore[misc]
    """How far a student's outputs are from those of its teacher, averaged over examples."""

    def __init__(self, temperature: float, soft: Soft | Literal["auto"]) -> None:
        super().__init__(name="soft", reduction="sum_over_batch_size")
        self.temperature, self.soft = temperature, soft

    def call(self, expected: Any, actual: Any) -> Any:
        """Returns the loss of each example, of shape `(batch,)`: a mean over all but the last axis."""
        losses = self._by_position(expected, actual)
        return ops.mean(ops.reshape(losses, (ops.shape(losses)[0], -1)), axis=-1)

    def _by_position(self, expected: Any, actual: Any) -> Any:
        kind = self.soft if self.soft != "auto" else ("sigmoid" if actual.shape[-1] == 1 else "softmax")
        if kind == "mse":
            return ops.mean(ops.square(expected - actual), axis=-1)
        expected, actual = expected / self.temperature, actual / self.temperature
        if kind == "softmax":
            target = ops.softmax(expected)
            divergence = ops.sum(target * (ops.log_softmax(expected) - ops.log_softmax(actual)), axis=-1)
        else:
            target = ops.sigmoid(expected)
            agree = target * (ops.log_sigmoid(expected) - ops.log_sigmoid(actual))
            divergence = ops.sum(
                agree + (1 - target) * (ops.log_sigmoid(-expected) - ops.log_sigmoid(-actual)), axis=-1
            )
        return self.temperature**2 * divergence


@refusing
def distill(
    student: keras.Model,
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
    with student.distribute_strategy.scope():
        distiller = Distiller(student, teacher, temperature, alpha, soft, name=student.name)
    options.setdefault("loss", getattr(student, "loss", None))
    return fine_tune(distiller, data, **options)
