"""The Keras layer `MaskLayer`: a mask on the channels, with an importance score for each."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import keras
import tensorflow as tf

from maskc.errors import InputError, MaskcError, warn
from maskc.train.arguments import Refusing, channels_of, refusing, restore
from maskc.train.importance import Gathering, Reduction, activity, copies_of, masked, over_axis
from maskc.train.keras_internals import all_layers, forward_pass, raised_plainly, seen_from
from passes.errors.arguments import shown

raised_plainly(MaskcError)

#: models that may be saved with no channel masked: that was said of them, or what was masked is gone
unmasked: weakref.WeakSet[Any] = weakref.WeakSet()


@runtime_checkable
class Pruning(Protocol):
    """An optimizer that prunes: it reads importance scores out of the gradients of `MaskLayer.probe`."""

    settings: Any
    watch: Any

    def gathering(self, model: Any) -> Gathering:
        """How importance is to be estimated in a training call of `model`."""

    def left(self) -> dict[str, Any]:
        """FLOPs and channels left, as tensors."""

    def prune_if_due(self) -> None:
        """Takes decisions that are still open, and counts what they left."""

    def settle(self) -> None:
        """Does the same, and warns where a loop left several open."""

    def raise_failure(self) -> None:
        """Raises what a decision failed at, if any did."""


@dataclass
class Observation:
    """What a layer saw of the last training call that an optimizer follows.

    `model` is the outermost model of the call, `reduction` how the loss was taken to be reduced, and `apart` whether
    calls in one forward pass could not share each example's copy of the mask.
    """

    model: weakref.ref[Any]
    forward_pass: weakref.ref[Any]
    reduction: Reduction | None
    apart: bool = False


@keras.saving.register_keras_serializable(package="maskc")
class MaskLayer(Refusing, keras.layers.Layer):  # type: ignore[misc]
    """Multiplies the channels (the last axis, or another) of its input by a binary mask.

    Input and output: any floating-point tensor of shape `(batch, ..., channels)`; the output has the input's
    shape and dtype.

    Weights, each of shape `(channels,)`:
        mask: ones and zeros in the layer's variable dtype, not trainable, so that no optimizer can move it.
            `PruningOptimizer` sets its entries to zero.
        signal: float32, not trainable, the importance of each entry: a moving average, by the method of the optimizer.
            With "fisher" (Theis et al. 2018, arXiv 1801.05787) it is the mean over examples of
            `(d l_n / d mask_n[c])²`, where `l_n` is the loss of one example and `mask_n` that example's own copy of
            the mask.
        probe: float32 and always zero. It counts as trainable, in `model.summary()` as well, because that is how the
            ordinary backward pass of `fit` delivers the statistic to the optimizer: as its gradient, so small that who
            clips gradients by their norm clips those of the weights as without masks. Under any optimizer but
            `PruningOptimizer` that gradient is zero. It is not saved.

    Args:
        groups: a name. Layers of one model with the same name share one mask: their entries, of which they have
            equally many, are pruned together.
        axis: of the channels, any but the first; -2 for heads, in `(batch, positions, heads, size)`.

    Importance is estimated in calls with `training=True`. The first axis must run over the examples. Where a layer is
    called several times in a forward pass, as in a siamese network, in `TimeDistributed` or in a recurrent cell, each
    example has one copy of the mask for all calls. Losses that mix examples (contrastive losses, say) have no
    per-example gradient, and batch normalisation mixes a little as well: as in the paper, what is squared is the
    derivative of the whole batch's loss by one example's mask.

    Example:
        >>> import keras
        >>> from maskc.train import MaskLayer
        >>> inputs = keras.Input((28, 28, 1))
        >>> hidden = MaskLayer()(keras.layers.Conv2D(16, 3, activation="relu")(inputs))
        >>> outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(hidden))
        >>> model = keras.Model(inputs, outputs)
    """

    def __init__(self, groups: str | None = None, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise InputError(f"axis must be that of the channels, which is not the first, not {shown(axis)}.")
        if groups is not None and not isinstance(groups, str):
            raise InputError(f"groups must be a name or None, not {shown(groups)}.")
        self.groups = groups
        self.axis = axis
        self.supports_masking = True
        self.observation: Observation | None = None
        # Of the last forward pass that no optimizer follows: each example's copy of the mask, `(batch, channels)`, by
        # which `update_pruning_signals` differentiates, and what was masked in each call.
        self.passage: tuple[Any, tuple[Any, ...]] | None = None
        # These give None where there is none; what a layer is given directly it takes for its state.
        self._optimizer: Callable[[], Any] = _nothing
        self._progress: Callable[[], Any] = _nothing
        # The outermost models of the last call that was no training call, and of the last one that was.
        self.seen_by: Callable[[], Any] = _nothing
        self._trained_in: Callable[[], Any] = _nothing
        # By forward pass: each example's copy of the mask, and what was masked in the calls of a pass.
        self._passes: weakref.WeakKeyDictionary[Any, tuple[Any, tuple[Any, ...]]] = weakref.WeakKeyDictionary()
        # What was masked, by thread: TensorFlow traces each replica in one of its own.
        self._activity: dict[int, tuple[Any, ...]] = {}

    def build(self, input_shape: tuple[int | None, ...] | None) -> None:
        """Creates the weights for an input of shape `(batch, ..., channels)`.

        Raises:
            InputError: if the input has no batch axis, or the number of channels is not known.
        """
        shape = (channels_of(f"The mask {self.name!r}", input_shape, self.axis),)
        # On several replicas all copies are given the same values, so that of the first one stands for all.
        same = {"autocast": False, "aggregation": "only_first_replica", "shape": shape}
        zeros = {"initializer": "zeros", "dtype": "float32"}
        self.mask = self.add_weight(initializer="ones", trainable=False, name="mask", **same)
        self.signal = self.add_weight(trainable=False, name="signal", **zeros, **same)
        # Of zeros, neither weight decay nor a penalty on all that is trained has a gradient.
        self.probe = self.add_weight(name="probe", **zeros, **same)
        # An optimizer is given variables and must find its way to the mask.
        self.probe._maskc_layer = weakref.ref(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns `inputs · mask`.

        Raises:
            InputError: if the rank of the input is not known, or its elements are no floating-point numbers.
        """
        if not inputs.dtype.is_floating:
            raise InputError(f"The mask {self.name!r} needs floating-point numbers, not {inputs.dtype.name}.")
        if inputs.shape.rank is None:
            raise InputError(
                f"The mask {self.name!r} needs an input of known rank: give its shape with tf.ensure_shape."
            )
        mask = tf.cast(self.mask, inputs.dtype)
        model, identity = forward_pass(self)
        gathering = self._observe(model, identity) if training else None
        if (progress := self._progress()) is not None:
            progress.training = gathering is not None
        if not training:
            self.seen_by = weakref.ref(model)
            return inputs * _along(mask, inputs.shape.rank, self.axis)
        copies, seen = self._passes[identity] = self._pass_of(identity, inputs, gathering)
        if gathering is None:
            self.passage = copies, seen
        elif gathering.method.reads == "activations":
            self._activity[threading.get_ident()] = seen
        with tf.control_dependencies([copies] if len(seen) > 1 else []):  # before what fails if the check would
            return masked(inputs, mask, copies, self.axis)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns `input_shape`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "groups": self.groups, "axis": self.axis}

    def save_own_variables(self, store: Any) -> None:
        """Saves the weights, with the decisions about them taken that are due."""
        if not self.built:
            return
        if not self.note_saved():
            warn_of_ones(self._trained_in())
        for number, variable in enumerate((self.signal, self.mask)):
            store[str(number)] = variable.numpy()

    @refusing
    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` saved."""
        if not self.built:
            super().load_own_variables(store)  # says so if there are any
            return
        restore(self.name, store, (self.signal, self.mask))

    def deliver_to(self, optimizer: Pruning) -> None:
        """Makes training calls outside of a compiled model's `fit` estimate importance for an optimizer."""
        self._optimizer = weakref.ref(optimizer)

    def note_saved(self) -> bool:
        """Lets the optimizer that prunes this mask decide what is due, and warn of what is left; whether there is one.

        For a mask that is saved, or goes into a smaller model.
        """
        optimizer = self._optimizer()
        if optimizer is not None:
            optimizer.settle()
            optimizer.watch.save()
        return optimizer is not None

    def show(self, progress: Any) -> None:
        """Adds a metric to those of the models that this layer is in; its `training` says what it is a call of."""
        progress.training = self.observation is not None  # the first step is under way
        self._progress = lambda: progress

    @property
    def metrics(self) -> list[Any]:
        """The metrics of this layer: that of pruning, where it is the first mask of what is pruned."""
        progress = self._progress()
        return [*super().metrics, *([] if progress is None else [progress])]

    def take_activity(self, statistic: Callable[[Any], Any]) -> Any:
        """Takes what a statistic makes of the last forward pass on this replica, `(channels,)`; None without one."""
        seen = self._activity.pop(threading.get_ident(), None)
        return None if seen is None else statistic(activity(seen, self.axis))

    def _pass_of(self, identity: Any, inputs: Any, gathering: Gathering | None) -> tuple[Any, tuple[Any, ...]]:
        """Each example's copy of the mask, and what was masked in this call and those before it in a forward pass.

        All calls of a pass share the copies, whose derivatives so add up to those of the example's loss.
        """
        copies, seen = self._passes.get(identity, (None, ()))
        if copies is None or not seen_from(inputs, copies):
            if copies is not None and self.observation is not None:
                self.observation.apart = True
            return copies_of(tf.convert_to_tensor(self.probe), tf.shape(inputs)[0], gathering), (inputs,)
        if not seen_from(copies, inputs):  # in a loop, whose tensors nothing outside of it sees
            if gathering is not None and gathering.method.reads == "activations":
                raise InputError(f"The mask {self.name!r} is called in a loop, where only gradients are gathered.")
            return copies, seen
        told = f"The mask {self.name!r} is called several times in a forward pass: all calls need a row per example."
        if None not in (rows := {inputs.shape[0], seen[0].shape[0]}) and len(rows) > 1:
            raise InputError(told)
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(inputs)[0], tf.shape(copies)[0], told)]):
            return tf.identity(copies), (*seen, inputs)

    def _observe(self, model: Any, identity: Any) -> Gathering | None:
        """What a pruning optimizer wants of this training call; None if there is no such optimizer."""
        self._trained_in = weakref.ref(model)
        optimizer = optimizer_of(model)
        if optimizer is None:
            optimizer = self._optimizer()
        if not isinstance(optimizer, Pruning):
            return None
        gathering = optimizer.gathering(model)
        if self.observation is None or self.observation.forward_pass() is not identity:
            self.observation = Observation(weakref.ref(model), weakref.ref(identity), gathering.reduction)
        return gathering


def optimizer_of(model: Any) -> Any:
    """Returns the optimizer that a model is compiled with, without the loss scaling around it; None without one."""
    optimizer = getattr(model, "optimizer", None)
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def layer_of(variable: Any) -> MaskLayer | None:
    """Returns the layer whose `probe` is `variable`, or None for any other variable."""
    layer: MaskLayer | None = getattr(variable, "_maskc_layer", _nothing)()
    return layer


def mask_layers(model: Any) -> list[MaskLayer]:
    """Returns every `MaskLayer` of a Keras model, those of nested models as well, each once."""
    return [layer for layer in all_layers(model) if isinstance(layer, MaskLayer)]


def _nothing() -> None:
    """Where there is no weak reference."""


def warn_of_rest(model: Any) -> None:
    """Warns of what is left to prune in a model that is compiled or made smaller, as where it is saved."""
    for layer in mask_layers(model):
        layer.note_saved()
    warn_of_ones(model)


def warn_of_ones(model: Any) -> None:
    """Warns, once for each model, that nothing has been pruned, where it is trained and then saved or compiled."""
    layers = [] if model is None or model in unmasked else mask_layers(model)
    if not layers or not all(layer.mask.numpy().all() for layer in layers):
        return
    unmasked.add(model)
    warn(
        f"No channel of the model {model.name!r} is masked: updates by a maskc.train.PruningOptimizer mask channels, "
        "and there was none that did."
    )


def _along(mask: Any, rank: int, axis: int) -> Any:
    """The mask over one of so many axes, brought to the last by a transposition.

    A converter that lays images out with channels first takes a product of two that it transposed back for one that
    it need not; so a graph whose masks are inputs is converted as it is where they are constants, and costs the same.
    """
    if rank < 3 or axis % rank < rank - 1:
        return over_axis(mask, rank, axis)
    return tf.transpose(tf.reshape(mask, (1, -1, *[1] * (rank - 2))), (0, *range(2, rank), 1))
