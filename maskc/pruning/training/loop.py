"""Training of a masked ONNX graph towards what its source computes: with fixed masks, or removing channels on the way.

Needs TensorFlow: it is imported with this file, which is to be imported where training begins.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

from maskc.errors import InputError, Terminated
from maskc.frontend.graph_queries import showing
from maskc.pruning.data import counted
from maskc.pruning.training.distance import Distance, targets
from maskc.pruning.training.from_onnx import from_onnx
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.train.importance import METHODS, per_example
from maskc.train.selection.ranking import ranked
from maskc.train.selection.settings import goal
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.cost_model import CostModel, cost_model
from passes.mask_savings.coupled_entries import Coupling
from passes.model.inputs import bind
from passes.sizes.sizes_to_count_at import Sizes

Array = NDArray[Any]
Index = NDArray[np.int64]

#: begins a pass over the data: batches by input name, of few shapes, since each shape is compiled; what is no input of
#: the model, as labels are, goes to the loss
Batches = Callable[[], Iterator[Mapping[str, Array]]]
#: by axis, which slices of the teacher's tensor a model's tensor of the same name holds
Slices = Mapping[int, Index]
#: of the outputs by name and the batch by name: what is to become small, for each example, float32 `(batch,)`
Loss = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]

_WARM_UP = 200  # steps, in which the learning rate rises: short training takes small steps
_SEEN = 4  # batches by which the scale of outputs is known
_FISHER_EVERY, _FISHER_DECAY = 3, 0.9  # steps, and the moving average over them
_FISHER_FIRST = 8  # batches before the first channel goes
_DECISION = 0.01  # of all FLOPs, that go together
_STALE = 0.9  # of the FLOPs that the cost model was made at: then it is made again
_TICKS = 10_000  # of a schedule, which counts in whole numbers
_STEADY = 0.9  # the moving average of the loss
_SAVED = 60.0  # seconds between two states that are handed out
_PATIENCE = 20  # steps in a row that are no numbers
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # of Adam
_SMALL = 1e-3  # root mean square of weights: smaller ones are trained as these


@dataclass(frozen=True)
class Progress:
    """How far training is.

    share: from 0 to 1. loss: a moving average. flops: as the cost model counts them at the present masks; None where
    masks are fixed.
    """

    seconds: float
    share: float
    loss: float
    flops: int | None = None


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Trained:
    """What training made of a model.

    model: the one given, with trained values in place of its own. masks: by name of the graph input. flops: of the
    compiled graph at these masks. reached: whether they are no more than was asked for, which an interrupted run may
    not come to. loss: a moving average at the end.
    """

    model: onnx.ModelProto
    masks: dict[str, Array]
    flops: int
    reached: bool
    loss: float


def finetune(
    model: onnx.ModelProto,
    batches: Batches,
    teacher: onnx.ModelProto,
    *,
    masks: Mapping[str, Array] | None = None,
    coupling: Coupling | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    inner: Mapping[str, Slices] | None = None,
    loss: Loss | None = None,
    learning_rate: float = 3e-3,
    seed: int = 0,
    on_progress: Listener | None = None,
    saved: Mapping[str, Array] | None = None,
    on_state: Callable[[Mapping[str, Array], bool], object] | None = None,
) -> onnx.ModelProto:
    """The model with weights trained towards the outputs of the teacher.

    On KeyboardInterrupt and SIGTERM training stops, and what it made so far is returned.

    model: a masked model, or a compiled one. masks: of a model whose masks are inputs, 0/1 [channels] each; masks that
    are initializers would be trained. coupling: of the masked model. minutes, epochs: how long; whichever is over
    first. inner: tensors that are to agree, too, with which much less training does: `shared_tensors` finds them for a
    compiled model, and for masks that are inputs they are the masked tensors, as far as they are not zero. loss: what
    is to become small in place of the difference from the teacher's outputs. learning_rate: relative to the size of the
    weights. on_state: called after the first step, each minute and at the end, with what goes on from there as `saved`,
    and whether training is over.

    Raises InputError where an operator of the model has no rule (`from_onnx`), and where the loss is no number.
    """
    training = _Training(model, masks or {}, batches, teacher, inner, loss, learning_rate, seed, coupling)
    if saved is not None:
        training.restore(saved)
    due, over = time.monotonic(), False
    with contextlib.suppress(KeyboardInterrupt, Terminated):
        for progress in training.run(minutes, epochs):
            if on_progress is not None:
                on_progress(progress)
            if on_state is not None and time.monotonic() >= due:
                on_state(training.state(), False)
                due = time.monotonic() + _SAVED
        over = True
    if on_state is not None:
        on_state(training.state(), over)
    return training.model()


def prune_gradually(
    gated: onnx.ModelProto,
    masks: Mapping[str, Array],
    groups: Mapping[str, Index],
    coupling: Coupling,
    batches: Batches,
    teacher: onnx.ModelProto,
    *,
    flops: int,
    at: Sizes | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    inner: Mapping[str, Slices] | None = None,
    loss: Loss | None = None,
    learning_rate: float = 2e-2,
    min_channels: int = 1,
    ramp: float = 0.6,
    seed: int = 0,
    on_progress: Listener | None = None,
) -> Trained:
    """Removes the channels that matter least per FLOP while the others are trained towards the outputs of the teacher.

    On KeyboardInterrupt training stops, and what it made so far is returned.

    gated: a model that `passes.mask_savings.gated` made, whose masks are graph inputs of shape [channels]. masks: where
    to begin, 0/1 by name of the input. groups: of the entries of each mask, numbered from 0, those that go together; -1
    for entries that stay. coupling: of the gated model. flops: of the compiled graph at these sizes, to be reached.
    minutes, epochs: how long in all. inner, learning_rate, loss: as for `finetune`. min_channels: that each mask keeps.
    ramp: the share of the time in which channels are removed.

    A channel matters as much as the loss would rise without it, by its Fisher information (Theis et al. 2018,
    arXiv 1801.05787), on labels drawn from the network's own predictions.

    Raises InputError as `finetune`, and where the target cannot be reached.
    """
    training = _Training(gated, masks, batches, teacher, inner, loss, learning_rate, seed, coupling)
    selection = _Selection(gated, masks, groups, coupling, flops, at, min_channels)
    with contextlib.suppress(KeyboardInterrupt):
        for step, progress in enumerate(training.run(minutes, epochs)):
            if selection.due or (step % _FISHER_EVERY == 0 and not selection.reached):
                selection.observe(training.fisher())
            if selection.remove(progress.share / ramp):
                training.mask(selection.masks)
            if on_progress is not None:
                on_progress(Progress(progress.seconds, progress.share, progress.loss, selection.flops))
        selection.remove(1)  # where time was too short for the ramp
    return Trained(training.model(), selection.masks, selection.flops, selection.reached, training.average)


class _Selection:
    """Which channels are gone, by what is observed of their importance and what the cost model says that they save.

    Attributes:
        masks: by name, 0/1 [channels].
        flops: of the graph compiled at these.
    """

    def __init__(
        self,
        gated: onnx.ModelProto,
        masks: Mapping[str, Array],
        groups: Mapping[str, Index],
        coupling: Coupling,
        target: int,
        at: Sizes | None,
        min_channels: int,
    ) -> None:
        self.masks = {name: np.array(mask) for name, mask in masks.items()}
        self._gated, self._groups, self._coupling = gated, {name: groups[name] for name in masks}, coupling
        self._target, self._at, self._min_channels = target, at, min_channels
        self._scores: dict[str, Array] = {}
        self._observed = 0
        self._full = self.flops = self._analysed = self._count()
        self._model: CostModel = cost_model(gated, masks, self._groups, coupling)
        self._actual = 1.0  # of what the cost model says that channels save
        self._begin = 1.0  # how much of the schedule was over before the first decision

    @property
    def reached(self) -> bool:
        """Whether FLOPs are no more than what is to be reached."""
        return self.flops <= self._target

    @property
    def due(self) -> bool:
        """Whether another batch is to be observed before a decision."""
        return not self.reached and self._observed < _FISHER_FIRST

    def _count(self) -> int:
        return compiled_cost(bind(self._gated, self.masks), at=self._at).flops

    def observe(self, statistics: Mapping[str, Array]) -> None:
        """Lets the importance of mask entries, by name, follow what a batch says of it."""
        self._observed += 1
        decay = min(_FISHER_DECAY, 1 - 1 / self._observed)
        for name, seen in statistics.items():
            self._scores[name] = decay * self._scores.get(name, np.zeros_like(seen)) + (1 - decay) * seen

    def remove(self, over: float) -> bool:
        """Removes channels until a schedule is met, of which so much is over, from 0 to 1; whether any went.

        Raises InputError where not enough can go.
        """
        if self.reached or not self._scores or (self.due and over < 1):
            return False
        self._begin = min(self._begin, over)
        ticks = round(_TICKS * min((over - self._begin) / max(1 - self._begin, 1e-9), 1)) if over < 1 else _TICKS
        wanted = goal("linear", ticks, 0, _TICKS, self._full, self._target)
        if self.flops - wanted < _DECISION * self._full and over < 1:
            return False
        while self.flops > wanted:
            self._remove_until(max(wanted, self.flops - 2 * _DECISION * self._full))
        return True

    def _remove_until(self, wanted: float) -> None:
        """Removes so many channels as the cost model has it, and counts what that leaves."""
        masks, groups = list(self.masks.values()), list(self._groups.values())
        savings, left = self._model.savings(), float(self.flops)
        gone: list[int] = []
        scores = [self._scores[name] for name in self.masks]
        for chosen in ranked(masks, scores, groups, savings, "auto", self._min_channels):
            gone.append(chosen)
            left -= savings[chosen] * self._actual
            if left <= wanted:
                break
        if not gone:
            raise InputError(
                f"The target of {self._target:,} FLOPs cannot be reached: with {self._min_channels} channel(s) left of "
                f"each layer the model has {self.flops:,}."
            )
        for name, group in self._groups.items():
            self.masks[name][np.isin(group, gone)] = 0
        before, expected = self.flops, self._model.flops
        self._model, self.flops = self._model.without(gone), self._count()
        expected -= self._model.flops
        if expected > 0:
            self._actual = min(max((before - self.flops) / expected, 0.25), 4.0)
        if self.flops < _STALE * self._analysed:
            self._analysed = self.flops
            self._model = cost_model(self._gated, self.masks, self._groups, self._coupling)


class _Training:
    """Steps of Adam on the distance from a teacher, or on a loss.

    Attributes:
        average: of the loss, moving.
    """

    def __init__(
        self,
        network: onnx.ModelProto,
        masks: Mapping[str, Array],
        batches: Batches,
        teacher: onnx.ModelProto,
        inner: Mapping[str, Slices] | None,
        loss: Loss | None,
        learning_rate: float,
        seed: int,
        coupling: Coupling | None = None,
    ) -> None:
        self._imported = from_onnx(network)
        self._variables = list(self._imported.variables.values())
        self._moments = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in self._variables]
        self._masks = {name: tf.Variable(mask, trainable=False) for name, mask in masks.items()}
        self._inputs = {value.name for value in network.graph.input} - masks.keys()
        columns = {t.name: t.dims[0] for t in network.graph.initializer if t.name.endswith("/shape")}
        self._axes = {name: -columns[f"{name}/shape"] for name in masks if f"{name}/shape" in columns}
        self._batches, self._loss, self._rate, self._seed = batches, loss, learning_rate, seed
        inner = {name: {} for name in _masked(network, masks, teacher)} if inner is None else inner
        self._inner = inner if loss is None else {}
        self._network, self._outputs = network, targets(network)
        self._teacher = OnnxRuntimeSession(showing(teacher, self._inner))
        self._teacher_inputs = {value.name for value in teacher.graph.input}
        self._entries = {} if coupling is None else coupling.entries
        self._targets = self._outputs
        self._latest: dict[str, Any] = {}
        self._steps = self._done = 0  # in all, and of the present pass over the data
        self._seconds = 0.0
        self._step = tf.function(self._updated, autograph=False)
        self._importance = tf.function(self._observed, autograph=False)
        self.average = math.nan

    def run(self, minutes: float | None, epochs: float | None) -> Iterator[Progress]:
        """Trains, step by step, for so long.

        Raises InputError where there is nothing to train on, and where training diverges.
        """
        begin, failed = time.monotonic() - self._seconds, 0
        seen = [self._taught(batch) for batch in islice(self._batches(), _SEEN)]
        if not seen:
            raise InputError("There are no batches to train on.")
        self._targets = targets(self._network, self._shared(next(self._batches()), seen[0]))
        self._distance, self._of_outputs = Distance(self._targets, seen), Distance(self._outputs, seen)
        steps = math.ceil(epochs * counted(self._batches())) if epochs is not None else math.inf
        examples = 0
        while True:
            for batch in islice(self._batches(), self._done, None):
                self._seconds = seconds = time.monotonic() - begin
                share = max(self._steps / steps, seconds / (60 * minutes) if minutes is not None else 0.0)
                if share >= 1:
                    return
                examples = max(examples, *(len(x) for x in batch.values() if np.ndim(x)))
                batch = {name: _filled(x, examples) for name, x in batch.items()}
                self._latest = {name: tf.constant(x) for name, x in batch.items()}
                taught = {} if self._loss is not None else self._taught(batch)
                rate = self._rate * min(1.0, (self._steps + 1) / _WARM_UP) * (1 + math.cos(math.pi * share)) / 2
                self._steps, self._done = self._steps + 1, self._done + 1
                loss = float(self._step(self._latest, taught, tf.constant(rate), tf.constant(float(self._steps))))
                failed = 0 if math.isfinite(loss) else failed + 1
                if failed == _PATIENCE:
                    raise InputError(f"Training has diverged. Lower the learning rate, which is {self._rate:g}.")
                if math.isfinite(loss):
                    steady = min(_STEADY, 1 - 1 / self._steps)
                    self.average = loss if math.isnan(self.average) else steady * self.average + (1 - steady) * loss
                yield Progress(seconds, share, self.average)
            self._done = 0

    def state(self) -> dict[str, Array]:
        """What training goes on from."""
        found: dict[str, Array] = {"position": np.array([self._steps, self._done, self._seconds, self.average])}
        for (name, variable), moments in zip(self._imported.variables.items(), self._moments, strict=True):
            found[f"weight/{name}"] = np.stack([each.numpy() for each in (variable, *moments)])
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """Goes on from a state of the same training."""
        steps, done, self._seconds, self.average = state["position"].tolist()
        self._steps, self._done = int(steps), int(done)
        for (name, variable), moments in zip(self._imported.variables.items(), self._moments, strict=True):
            for each, value in zip((variable, *moments), state[f"weight/{name}"], strict=True):
                each.assign(value)

    def mask(self, masks: Mapping[str, Array]) -> None:
        """Sets the masks."""
        for name, mask in masks.items():
            self._masks[name].assign(mask)

    def model(self) -> onnx.ModelProto:
        """The network with its present weights."""
        return self._imported.to_onnx()

    def fisher(self) -> dict[str, Array]:
        """For each entry of the masks what the latest batch says of its importance, float32 [channels]."""
        found = self._importance(self._latest, tf.constant([self._seed, self._steps]))
        return {name: value.numpy() for name, value in found.items()}

    def _taught(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        values = self._teacher.run({name: x for name, x in batch.items() if name in self._teacher_inputs})
        for name, slices in self._inner.items():
            for axis, held in slices.items():
                values[name] = values[name].take(held, axis)
        return values

    def _shared(self, batch: Mapping[str, Array], taught: Mapping[str, Array]) -> list[str]:
        """The inner tensors that have the teacher's shape: of some a compiler keeps slices for the sake of speed."""
        feeds = {name: value for name, value in batch.items() if name in self._inputs}
        found = self._imported({**feeds, **self._masks}, list(self._inner)) if self._inner else {}
        return [name for name in self._inner if tuple(found[name].shape) == taught[name].shape]

    def _computed(self, batch: Mapping[str, Any], more: Sequence[str] = ()) -> dict[str, Any]:
        feeds = {name: value for name, value in batch.items() if name in self._inputs}
        wanted = [*(target.compared for target in self._targets), *more]
        return dict(self._imported({**feeds, **self._masks}, wanted))

    def _updated(self, batch: Mapping[str, Any], taught: Mapping[str, Any], rate: Any, step: Any) -> Any:
        with tf.GradientTape() as tape:
            tensors = self._computed(batch)
            if self._loss is None:
                loss = self._distance.loss(tensors, taught, self._weights(taught))
            else:
                loss = tf.reduce_mean(self._loss(tensors, batch))
        gradients = tape.gradient(loss, self._variables)
        pairs = [(i, tf.convert_to_tensor(g)) for i, g in enumerate(gradients) if g is not None]
        clipped, norm = tf.clip_by_global_norm([gradient for _, gradient in pairs], 1.0)
        for (i, _), gradient in zip(pairs, clipped, strict=True):
            # A batch that gives no numbers is as good as none.
            self._adam(i, tf.where(tf.math.is_finite(norm), gradient, tf.zeros_like(gradient)), rate, step)
        return loss

    def _adam(self, index: int, gradient: Any, rate: Any, step: Any) -> None:
        variable, (mean, square) = self._variables[index], self._moments[index]
        # Relative to the size of the weights, which differs by file and by layer (Shazeer & Stern 2018, 1804.04235).
        size = tf.sqrt(tf.reduce_mean(tf.square(variable)))
        rate = tf.cast(rate, variable.dtype) * tf.maximum(size, tf.cast(_SMALL, variable.dtype))
        numbers = (_BETA_1**step, _BETA_2**step, rate, _BETA_1, _BETA_2, _EPSILON)
        powers = dict(zip(("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon"), numbers, strict=True))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            grad=gradient,
            **{name: tf.cast(number, gradient.dtype) for name, number in powers.items()},
        )

    def _observed(self, batch: Mapping[str, Any], seed: Any) -> dict[str, Any]:
        masked = {name: f"{name}/masked" for name in self._axes}
        with tf.GradientTape() as tape:
            tensors = self._computed(batch, list(masked.values()))
            if self._loss is None:
                loss = self._of_outputs.of_drawn_labels(tensors, seed)
            else:
                loss = tf.reduce_sum(self._loss(tensors, batch))
        upstream = tape.gradient(loss, {name: tensors[tensor] for name, tensor in masked.items()})
        return {
            name: METHODS["fisher"].statistic(
                per_example(tensors[masked[name]], tf.convert_to_tensor(gradient), self._axes[name])
            )
            if gradient is not None
            else tf.zeros(self._masks[name].shape)
            for name, gradient in upstream.items()
        }

    def _weights(self, taught: Mapping[str, Any]) -> dict[str, Any]:
        """Zero for the slices of targets that are masked."""
        flat = tf.concat(list(self._masks.values()), 0) if self._masks else None
        weights: dict[str, Any] = {}
        for target in self._targets:
            rank = len(taught[target.tensor].shape)
            for axis in range(rank):
                entries = self._entries.get((target.tensor, axis))
                if entries is not None and (entries >= 0).any():
                    alive = tf.where(entries >= 0, tf.gather(flat, np.maximum(entries, 0)), 1)
                    weights[target.tensor] = weights.get(target.tensor, 1) * tf.reshape(
                        alive, (-1, *[1] * (rank - 1 - axis))
                    )
        return weights


def shared_tensors(
    model: onnx.ModelProto,
    teacher: onnx.ModelProto,
    gated: onnx.ModelProto,
    masks: Mapping[str, Array],
    coupling: Coupling,
) -> dict[str, Slices]:
    """The masked tensors that are left in a model compiled at these masks, with what they hold: for `finetune`.

    gated, coupling: as for `prune_gradually`.
    """
    left = {name for node in model.graph.node for name in node.output}
    flat = np.concatenate([np.asarray(masks[name]) for name in coupling.groups])
    found: dict[str, dict[int, Index]] = {name: {} for name in _masked(gated, masks, teacher) if name in left}
    for (name, axis), entries in coupling.entries.items():
        if name in found:
            found[name][axis] = np.flatnonzero((entries < 0) | (flat[np.maximum(entries, 0)] != 0))
    return dict(found)


def _masked(network: onnx.ModelProto, masks: Mapping[str, Array], teacher: onnx.ModelProto) -> list[str]:
    """The tensors that are multiplied with masks, where the teacher has them as well."""
    held = {name for node in teacher.graph.node for name in node.output}
    read = {node.output[0]: node.input[0] for node in network.graph.node if node.op_type == "Mul"}
    found = (read.get(f"{name}/masked") for name in masks)
    return list(dict.fromkeys(name for name in found if name in held and name is not None))


def _filled(values: Array, examples: int) -> Array:
    """A batch of fewer examples than others, filled up with its own, since each shape is compiled."""
    return values if np.ndim(values) == 0 or len(values) == examples else values[np.arange(examples) % len(values)]
