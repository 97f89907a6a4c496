"""Training of an ONNX graph towards what its source computes.

Needs TensorFlow: it is imported with this file, which is to be imported where training begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

from maskc.errors import InputError, Terminated
from maskc.frontend.graph_queries import showing
from maskc.progress import stage
from maskc.pruning.data import counted, samples_in
from maskc.pruning.training.distance import Distance, targets
from maskc.pruning.training.from_onnx.imported import Imported
from maskc.runtime.given_inputs import declared
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.runtime.random_inputs import ports
from passes.errors import in_brief

Array = NDArray[Any]
Batch = Mapping[str, Array]

#: begins a pass over the data: batches by input name, of few shapes, since each shape is compiled; what is no input of
#: the model, as labels are, goes to the loss
Batches = Callable[[], Iterator[Batch]]


class Student(Protocol):
    """What is trained: variables by name, the outputs that they make of inputs, by name, and the graph of these."""

    variables: dict[str, Any]

    def __call__(self, feeds: Mapping[str, Any], tensors: Sequence[str] = ()) -> Mapping[str, Any]:
        """The outputs, and the tensors asked for, if it has them."""

    def to_onnx(self) -> onnx.ModelProto:
        """The graph at the present values."""


_WARM_UP, _RISING = 200, 0.2  # steps in which the learning rate rises, or, of short training, the share of it
_SEEN = 4  # batches by which the scale of outputs is known
_STEADY = 0.9  # the moving average of the loss
_SAVED = 60.0  # seconds between two states that are handed out
_PATIENCE = 20  # steps in a row that are no numbers
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # of Adam
_SMALL = 1e-3  # root mean square of weights: smaller ones are trained as these
_FAR = 10.0  # times as large as the weights of a slice are others, of which it does not take the steps
_TICKS = 1000  # of the progress
_POOL = 2**26  # bytes that are shuffled together
_EXAMPLES, _BYTES = 64, 2**20  # of a batch
# Around a sentence of TensorFlow: lines of Python, and the node.
_NOISE = (r"(?s)\A.*\n\n(?=.)", r"(?s)\n\s*\[\[.*")


@dataclass(frozen=True)
class Loss:
    """What is to become small: the mean over a batch of what a user's function gives for each example, `(batch,)`.

    The function is given the outputs and the batch, by name; `who` it is in messages.
    """

    function: Callable[[Mapping[str, Any], Batch], Any]
    who: str = "the function for the loss"

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
        """The mean, a scalar. Raises InputError where the function fails, or gives no numbers."""
        try:
            tensors = ({name: tf.convert_to_tensor(x) for name, x in each.items()} for each in (outputs, batch))
            return tf.reduce_mean(self.function(*tensors))
        except (InputError, Terminated):
            raise
        except (Exception, SystemExit) as error:
            raise self.failed(error) from error

    def failed(self, error: BaseException) -> InputError:
        """What to say where the function fails, which it may do when a step runs."""
        reason = ": ".join(filter(None, (type(error).__name__, in_brief(error, *_NOISE))))
        return InputError(f"There is no loss to train by, since {self.who} failed: {reason}.")


def finetune(
    model: onnx.ModelProto,
    batches: Batches,
    teacher: onnx.ModelProto,
    *,
    minutes: float | None = None,
    epochs: float | None = None,
    count: int | None = None,
    student: Student | None = None,
    loss: Loss | None = None,
    learning_rate: float = 3e-3,
    seed: int = 0,
    saved: Mapping[str, Array] | None = None,
    keep: Callable[[Mapping[str, Array]], object] = lambda state: None,
) -> tuple[onnx.ModelProto, bool]:
    """The model with weights trained towards the outputs of the teacher; whether it was interrupted, and so for less.

    On KeyboardInterrupt and SIGTERM training stops, and what it made so far is returned.

    minutes, epochs: how long; whichever is over first. count: of the samples in an epoch, if it is known. student: what
    computes the model, of which it gives no more than the outputs, and is trained in its place. loss: what is to become
    small in place of the difference from the teacher's outputs. learning_rate: relative to the size of the weights.
    keep: called before the first step, each minute and at the end, with what goes on from there as `saved`.

    Raises InputError where an operator of the model has no rule, and where the loss fails or is no number.
    """
    training = _Training(model, batches, teacher, student, loss, learning_rate, seed)
    if saved is not None:
        training.restore(saved)
    keep(training.state())
    due, over = time.monotonic() + _SAVED, False
    with stage("Training", _TICKS, slow=True) as shown, contextlib.suppress(KeyboardInterrupt, Terminated):
        for seconds, share, average in training.run(minutes, epochs, count):
            left = seconds / max(share, 1e-3) * (1 - share)
            note = f"loss {average:.4g}, {max(1, math.ceil(left / 60))} min left"
            shown.advance(int(share * _TICKS) - shown.done, note=note)
            if time.monotonic() >= due:
                keep(training.state())
                due = time.monotonic() + _SAVED
        over = True
    keep(training.state())
    return training.imported.to_onnx(), not over


class _Training:
    """Steps of Adam on the distance from a teacher, or on a loss."""

    def __init__(
        self,
        network: onnx.ModelProto,
        batches: Batches,
        teacher: onnx.ModelProto,
        student: Student | None,
        loss: Loss | None,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.imported: Student = Imported(network) if student is None else student
        self._variables = list(self.imported.variables.values())
        self._shares = [_shares(variable.numpy()) for variable in self._variables]
        self._moments = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in self._variables]
        self._network, self._inputs = network, {value.name for value in network.graph.input}
        self._batches, self._loss, self._rate, self._seed = batches, loss, learning_rate, seed
        self._targets = targets(network, teacher)
        if student is not None:
            made = {output.name for output in network.graph.output}
            self._targets = [dataclasses.replace(t, compared=t.tensor) for t in self._targets if t.tensor in made]
        self._teacher = OnnxRuntimeSession(showing(teacher, [target.tensor for target in self._targets]))
        self._teacher_inputs = {value.name for value in teacher.graph.input}
        self._steps = self._samples = self._passes = self._done = 0  # batches of the present pass are done
        self._seconds, self._average = 0.0, math.nan
        self._step = tf.function(self._updated, autograph=False)

    def run(
        self, minutes: float | None, epochs: float | None, count: int | None
    ) -> Iterator[tuple[float, float, float]]:
        """Trains, step by step, for so long: the seconds so far, the share done, and a moving average of the loss.

        Raises InputError where there is nothing to train on, and where training diverges.
        """
        begin, failed = time.monotonic() - self._seconds, 0
        seen = [self._taught(batch) for batch in islice(self._batches(), _SEEN)]
        if not seen:
            raise InputError("There are no batches to train on.")
        self._distance = Distance(self._targets, seen)
        if self._loss is None and not self._distance.targets:
            raise InputError("No output holds finite floating-point numbers to train towards: give a loss.")
        samples = math.inf if epochs is None else epochs * (count or counted(self._batches()))
        examples = 0
        while True:
            rng = np.random.default_rng([self._seed, self._passes])
            for batch in islice(shuffled(self._batches(), self._network, rng), self._done, None):
                self._seconds = seconds = time.monotonic() - begin
                share = max(self._samples / samples, seconds / (60 * minutes) if minutes is not None else 0.0)
                if share >= 1:
                    if math.isnan(self._average):  # of too few steps for patience
                        raise self._diverged()
                    return
                examples = max(examples, samples_in(batch))
                loss = self._trained({name: _filled(x, examples) for name, x in batch.items()}, share)
                failed = 0 if math.isfinite(loss) else failed + 1
                if failed == _PATIENCE:
                    raise self._diverged()
                self._samples, self._done = self._samples + samples_in(batch), self._done + 1
                yield seconds, share, self._average
            self._passes, self._done = self._passes + 1, 0

    def _diverged(self) -> InputError:
        other = "" if self._loss is None else ", or give a --loss of finite values"
        return InputError(
            f"Training has diverged: its loss is not finite. Leave it out, without --epochs and --minutes{other}."
        )

    def state(self) -> dict[str, Array]:
        """What training goes on from."""
        position = [self._steps, self._samples, self._passes, self._done, self._seconds, self._average]
        found: dict[str, Array] = {"position": np.array(position)}
        for (name, variable), moments in zip(self.imported.variables.items(), self._moments, strict=True):
            found[f"weight/{name}"] = np.stack([each.numpy() for each in (variable, *moments)])
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """Goes on from a state of the same training."""
        *counts, self._seconds, self._average = state["position"].tolist()
        self._steps, self._samples, self._passes, self._done = map(int, counts)
        for (name, variable), moments in zip(self.imported.variables.items(), self._moments, strict=True):
            for each, value in zip((variable, *moments), state[f"weight/{name}"], strict=True):
                each.assign(value)

    def _trained(self, batch: Mapping[str, Array], share: float) -> float:
        """The loss on a batch, after which a step is done."""
        rising = min(1.0, max((self._steps + 1) / _WARM_UP, share / _RISING))
        rate = self._rate * rising * (1 + math.cos(math.pi * share)) / 2
        self._steps += 1
        taught = {} if self._loss is not None else self._taught(batch)
        tensors = {name: tf.constant(x) for name, x in batch.items()}
        try:
            loss = float(self._step(tensors, taught, tf.constant(rate), tf.constant(float(self._steps))))
        except tf.errors.InvalidArgumentError as error:
            if self._loss is None:
                raise
            raise self._loss.failed(error) from error
        if math.isfinite(loss):
            steady = min(_STEADY, 1 - 1 / self._steps)
            self._average = loss if math.isnan(self._average) else steady * self._average + (1 - steady) * loss
        return loss

    def _taught(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        made = self._teacher.run({name: x for name, x in batch.items() if name in self._teacher_inputs})
        # other outputs, as the boxes that are kept, may have a new shape each time, for which a step would be traced
        return {target.tensor: made[target.tensor] for target in self._targets}

    def _updated(self, batch: Mapping[str, Any], taught: Mapping[str, Any], rate: Any, step: Any) -> Any:
        feeds = {name: value for name, value in batch.items() if name in self._inputs}
        with tf.GradientTape() as tape:
            if self._loss is None:
                tensors = self.imported(feeds, [target.compared for target in self._targets])
                loss = self._distance.loss(tensors, taught)
            else:
                loss = self._loss(self.imported(feeds), batch)
        gradients = tape.gradient(loss, self._variables)
        if all(gradient is None for gradient in gradients):
            who = "the comparison with the source" if self._loss is None else self._loss.who
            raise InputError(f"What {who} gives does not follow from the outputs by operations of TensorFlow.")
        pairs = [(i, tf.convert_to_tensor(g)) for i, g in enumerate(gradients) if g is not None]
        clipped, norm = tf.clip_by_global_norm([gradient for _, gradient in pairs], 1.0)
        for (i, _), gradient in zip(pairs, clipped, strict=True):
            # A batch that gives no numbers is as good as none.
            self._adam(i, tf.where(tf.math.is_finite(norm), gradient, tf.zeros_like(gradient)), rate, step)
        return loss

    def _adam(self, index: int, gradient: Any, rate: Any, step: Any) -> None:
        variable, (mean, square), shares = self._variables[index], self._moments[index], self._shares[index]
        before = None if shares is None else variable.read_value()
        # Relative to the size of the weights, which differs by file and by layer (Shazeer & Stern 2018, 1804.04235).
        size = tf.sqrt(tf.reduce_mean(tf.square(variable)))
        rate = tf.cast(rate, variable.dtype) * tf.maximum(size, tf.cast(_SMALL, variable.dtype))
        powers = {"beta1_power": _BETA_1**step, "beta2_power": _BETA_2**step}
        numbers = {**powers, "lr": rate, "beta1": _BETA_1, "beta2": _BETA_2, "epsilon": _EPSILON}
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            grad=gradient,
            **{name: tf.cast(number, gradient.dtype) for name, number in numbers.items()},
        )
        if before is not None:
            variable.assign(before + shares * (variable - before))


def _shares(weights: Array) -> Array | None:
    """Which share of a step of all weights is one of each: less in slices of far smaller ones; None if there are none.

    So small are those of an input in large units, where its normalisation is part of them.
    """
    square, result = np.square(weights.astype(np.float64)), np.ones([1] * weights.ndim)
    for axis in range(weights.ndim if weights.ndim > 1 else 0):
        own = square.mean(tuple(np.delete(range(weights.ndim), axis)), keepdims=True)
        relative = _FAR * np.sqrt(own / max(square.mean(), _SMALL**2))
        result = np.minimum(result, np.where(own > 0, relative, 1))
    return None if (result == 1).all() else result.astype(weights.dtype)


def _filled(values: Array, examples: int) -> Array:
    """A batch of fewer examples than others, filled up with its own, since each shape is compiled."""
    return values if np.ndim(values) == 0 or len(values) == examples else values[np.arange(examples) % len(values)]


def shuffled(batches: Iterable[Batch], model: onnx.ModelProto, rng: np.random.Generator) -> Iterator[Batch]:
    """The examples of batches in another order; those of equal shapes together, where a model leaves their number open.

    Only so many are held at a time as fit in 64 MB.
    """
    joins = all(shape and shape[0] is None for shape in map(declared, ports(model)))
    pool: list[Batch] = []
    size = 0
    for batch in batches:
        pool.append(batch)
        size += sum(array.nbytes for array in batch.values())
        if size >= _POOL:
            yield from _drawn(pool, joins, rng)
            pool, size = [], 0
    yield from _drawn(pool, joins, rng)


def _drawn(pool: Sequence[Batch], joins: bool, rng: np.random.Generator) -> Iterator[Batch]:
    alike: dict[object, list[Batch]] = {}
    for number, batch in enumerate(pool):
        key = [(name, array.shape[1:], array.dtype) for name, array in batch.items()]
        counts = {array.shape[:1] for array in batch.values()}
        alone = not joins or len(counts) != 1 or () in counts
        alike.setdefault(number if alone else str(key), []).append(batch)
    found = [part for group in alike.values() for part in (_joined(group, rng) if len(group) > 1 else group)]
    for number in rng.permutation(len(found)):
        yield found[number]


def _joined(batches: Sequence[Batch], rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of examples drawn from batches of equal shapes."""
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = rng.permutation(len(next(iter(arrays.values()))))
    each = sum(array.nbytes for array in arrays.values()) / len(order)
    size = max(len(next(iter(batches[0].values()))), min(_EXAMPLES, int(_BYTES / max(each, 1))))
    for part in np.array_split(order, -(-len(order) // size)):  # into equal ones: a small batch would be filled up
        yield {name: array[part] for name, array in arrays.items()}
