"""The mask on a tensor's channels, and the Fisher signal that tells what each channel is worth."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import keras
import tensorflow as tf

from maskc.train.settings import Reduction


@runtime_checkable
class Gatherer(Protocol):
    """An optimizer that reads Fisher signals out of the gradients of `MaskLayer.signal`."""

    def reduction_for(self, model: Any) -> Reduction | None:
        """How the loss of `model` is reduced over the batch; None if that is not known."""
        ...


@dataclass
class Observation:
    """What a layer saw of the last training call that gathered signals.

    `model` is the outermost model of the call, `calls` how often that one call came through the layer, and
    `reduction` how the loss was taken to be reduced.
    """

    model: weakref.ref[Any]
    context: weakref.ref[Any]
    reduction: Reduction | None
    calls: int = field(default=1)


@keras.saving.register_keras_serializable(package="maskc")
class MaskLayer(keras.layers.Layer):  # type: ignore[misc]
    """Multiplies the channels (the last axis) of its input by a binary mask.

    Input and output: any floating-point tensor of shape `(batch, ..., channels)`; the output has the input's
    shape and dtype.

    Weights, both of shape `(channels,)`:
        mask: ones and zeros in the layer's variable dtype, not trainable, so that no optimizer can move it.
            `PruningOptimizer` sets its entries to zero.
        signal: float32, the moving average of the Fisher signal of each entry (Theis et al. 2018,
            arXiv 1801.05787): the mean over examples of `(d l_n / d mask_n[c])²`, where `l_n` is the loss of
            one example and `mask_n` that example's own copy of the mask. It counts as trainable, because
            that is how the ordinary backward pass of `fit` delivers the statistic to the optimizer. Under
            any optimizer but `PruningOptimizer` its gradient is zero.

    Signals are gathered in calls with `training=True`. The first axis must run over the examples, so this
    layer does not go into `TimeDistributed`. Losses that mix examples (contrastive losses, say) have no
    per-example gradient, and batch normalisation mixes a little as well: as in the paper, what is squared is
    the derivative of the whole batch's loss by one example's mask.

    Example:
        >>> import keras
        >>> from maskc.train import MaskLayer
        >>> inputs = keras.Input((28, 28, 1))
        >>> hidden = MaskLayer()(keras.layers.Conv2D(16, 3, activation="relu")(inputs))
        >>> outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(hidden))
        >>> model = keras.Model(inputs, outputs)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        # What to prune is decided on the host in the middle of the training step, where XLA cannot go.
        self.supports_jit = False
        self._gatherer: weakref.ref[Any] | None = None
        self._observation: Observation | None = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights for an input of shape `(batch, ..., channels)`.

        Raises:
            ValueError: if the input has no batch axis, or the number of channels is not known.
        """
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                f"The mask {self.name!r} needs an input of shape (batch, ..., channels) with a known "
                f"number of channels, not {tuple(input_shape)}."
            )
        shape = (input_shape[-1],)
        self.mask = self.add_weight(shape=shape, initializer="ones", trainable=False, autocast=False, name="mask")
        self.signal = self.add_weight(
            shape=shape, initializer="zeros", trainable=True, autocast=False, dtype="float32", name="signal"
        )
        # An optimizer is given variables and must find its way to the mask.
        self.signal._maskc_layer = weakref.ref(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns `inputs · mask`."""
        mask = tf.cast(self.mask, inputs.dtype)
        if not training:
            return inputs * mask
        gathers, reduction = self._observe()
        return _multiply(inputs, mask, tf.convert_to_tensor(self.signal), gathers, reduction)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns `input_shape`."""
        return input_shape

    def deliver_to(self, gatherer: Gatherer) -> None:
        """Makes training calls outside of a compiled model's `fit` gather signals for `gatherer`."""
        self._gatherer = weakref.ref(gatherer)

    def observation(self) -> Observation | None:
        """What the last training call that gathered signals looked like; None if there was none."""
        return self._observation

    def _observe(self) -> tuple[bool, Reduction | None]:
        """Whether a pruning optimizer waits for this training call's signal, and how the loss is reduced."""
        context = self._get_call_context()
        model = context.entry_layer
        optimizer = getattr(model, "optimizer", None)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if optimizer is None and self._gatherer is not None:
            optimizer = self._gatherer()
        if not isinstance(optimizer, Gatherer):
            return False, None
        reduction = optimizer.reduction_for(model)
        if self._observation is not None and self._observation.context() is context:
            self._observation.calls += 1
        else:
            self._observation = Observation(weakref.ref(model), weakref.ref(context), reduction)
        return True, reduction


def layer_of(variable: Any) -> MaskLayer | None:
    """Returns the layer whose `signal` is `variable`, or None for any other variable."""
    reference = getattr(variable, "_maskc_layer", None)
    return None if reference is None else reference()


def mask_layers(model: Any) -> list[MaskLayer]:
    """Returns every `MaskLayer` of a Keras model, those of nested models as well, each once."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, MaskLayer)]


def _multiply(inputs: Any, mask: Any, signal: Any, gathers: bool, reduction: Reduction | None) -> Any:
    """`inputs · mask`, with the Fisher statistic as the gradient of `signal`.

    The product does not depend on `signal`. The backward pass has everything at hand that the per-example
    gradients of a mask need: example n's derivative by its own mask entry c is the sum over positions of
    `upstream · inputs`. So no copies of the mask are ever made.

    The gradient is the *square root* of the statistic. That makes it proportional to the loss, as gradients
    are: a scaled loss (mixed precision) gives a scaled gradient, and whoever divides gradients by the scale
    is right.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def multiply(inputs: Any, mask: Any, signal: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, None, Any]:
            if not gathers:
                return upstream * mask, None, tf.zeros_like(signal)
            statistic = fisher_statistic(inputs, upstream, reduction or "mean")
            return upstream * mask, None, tf.stop_gradient(tf.sqrt(statistic))

        return inputs * mask, gradient

    return multiply(inputs, mask, signal)


def fisher_statistic(inputs: Any, upstream: Any, reduction: Reduction) -> Any:
    """Returns the mean over examples of the squared derivative of an example's loss by its mask, per channel.

    Theis et al. 2018 (arXiv 1801.05787), without their constant factor 1/2.

    Args:
        inputs: what the mask multiplies, of shape `(batch, ..., channels)`.
        upstream: the derivative of the batch's loss by the product, of the same shape.
        reduction: "mean" if the batch's loss is the mean of its examples' losses, "sum" if it is their sum.

    Returns:
        A float32 tensor of shape `(channels,)`. With `g_n` the derivative of the batch's loss by example n's
        mask and B the batch size it is `B · Σ g_n²` for a mean and `Σ g_n² / B` for a sum: the same,
        whatever B is.
    """
    product = tf.cast(inputs, tf.float32) * tf.cast(upstream, tf.float32)
    per_example = tf.reduce_sum(product, axis=list(range(1, product.shape.rank - 1)))
    total = tf.reduce_sum(tf.square(per_example), axis=0)
    size = tf.cast(tf.shape(inputs)[0], tf.float32)
    return total * size if reduction == "mean" else tf.math.divide_no_nan(total, size)
