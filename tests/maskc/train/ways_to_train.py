"""Ways in which people train Keras models with masks and a `PruningOptimizer`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from maskc.train import MaskLayer, PruningOptimizer, prunable

BATCH, STEPS = 4, 30
RNG = np.random.default_rng(0)


@dataclass
class Trained:
    """A compiled model, its data, and how it is trained for `STEPS` steps."""

    model: Any
    x: Any = None
    y: Any = None
    fit: "Callable[[Trained, Path], None]" = lambda t, _: t.fits()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x is None:
            self.x = examples(self.model)
        if self.y is None:
            outputs = self.model.output
            self.y = keras.tree.map_structure(lambda t: RNG.normal(size=(BATCH * STEPS, *t.shape[1:])), outputs)

    def fits(self, **options: Any) -> Any:
        return self.model.fit(self.x, self.y, batch_size=BATCH, verbose=0, **{**self.options, **options})

    def batches(self) -> Any:
        return tf.data.Dataset.from_tensor_slices((self.x, self.y)).batch(BATCH)


#: by name what makes each, and the sentence that it ends in, "" if it works to the end
STRUCTURES: dict[str, tuple[Callable[[], Trained], str]] = {}


def structure(make: Callable[[], Trained]) -> Callable[[], Trained]:
    STRUCTURES[make.__name__.replace("_", " ")] = make, ""
    return make


def refused(sentence: str) -> Callable[[Callable[[], Trained]], Callable[[], Trained]]:
    def structure(make: Callable[[], Trained]) -> Callable[[], Trained]:
        STRUCTURES[make.__name__.replace("_", " ")] = make, sentence
        return make

    return structure


def examples(model: Any) -> Any:
    """Random inputs; the end of sequences of numbers is padded with zeros."""

    def made(tensor: Any) -> Any:
        shape = (BATCH * STEPS, *tensor.shape[1:])
        if keras.backend.is_float_dtype(tensor.dtype):
            return RNG.normal(size=shape).astype(np.float32)
        numbers = RNG.integers(1, 20, shape)
        return np.where(np.arange(shape[1]) < RNG.integers(3, shape[1] + 1, (shape[0], 1)), numbers, 0)

    return keras.tree.map_structure(made, model.input)


def numbers() -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(size=(BATCH * STEPS, 8)).astype(np.float32), RNG.normal(size=(BATCH * STEPS, 2))


def pruning(inner: Any = "adam", **settings: Any) -> PruningOptimizer:
    return PruningOptimizer(inner, **{"prune_every": 1, "burn_in": 2, "flops_target": 0.6, **settings})


def compiled(model: Any, loss: Any = "mse", optimizer: Any = None, **options: Any) -> Any:
    model.compile(pruning() if optimizer is None else optimizer, loss, **options)
    return model


def dense(units: int = 12, name: str | None = None, **options: Any) -> Any:
    return layers.Dense(units, activation="relu", name=name, **options)


def mlp(kind: Any = None, **options: Any) -> Any:
    inputs = x = keras.Input((8,))
    for name in ("first", "second"):
        x = MaskLayer(name=f"{name}_mask")(dense(name=name, **options)(x))
    return (kind or keras.Model)(inputs, layers.Dense(2, name="out", dtype="float32")(x))


def cnn(channels: int = 8) -> Any:
    inputs = x = keras.Input((8, 8, 3))
    for strides in (1, 2):
        x = layers.Conv2D(channels, 3, strides=strides, padding="same")(x)
        x = MaskLayer()(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(layers.GlobalAveragePooling2D()(x)))


def under(policy: str, make: Callable[[], Any]) -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return make()
    finally:
        keras.config.set_dtype_policy(before)


# Loops


def loop(optimizer: Any, changed: Callable[[Any], Any] = lambda gradients: gradients, graph: bool = True) -> Any:
    def run(t: Trained, _: Path) -> None:
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    tf.square(tf.cast(t.model(x, training=True), tf.float32) - tf.cast(y, tf.float32))
                )
                scaled = optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, t.model.trainable_variables)
            optimizer.apply_gradients(zip(changed(gradients), t.model.trainable_variables, strict=True))

        function = tf.function(step) if graph else step
        for x, y in t.batches():
            function(x, y)

    return run


@structure
def minimizing() -> Trained:
    model = mlp()
    optimizer = pruning(model=model, loss_reduction="mean")

    def run(t: Trained, _: Path) -> None:
        for x, y in t.batches():
            optimizer.minimize(
                lambda x=x, y=y: tf.reduce_mean(tf.square(model(x, training=True) - tf.cast(y, "float32")))
            )

    return Trained(model, fit=run)


@structure
def batches_one_by_one() -> Trained:
    def run(t: Trained, _: Path) -> None:
        for x, y in t.batches():
            t.model.train_on_batch(x, y)

    return Trained(compiled(mlp()), fit=run)


@structure
def data_without_a_length() -> Trained:
    def run(t: Trained, _: Path) -> None:
        spec = tf.TensorSpec((None, 8)), tf.TensorSpec((None, 2))
        batches = [(x.numpy(), y.numpy()) for x, y in t.batches()]
        t.model.fit(tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec), verbose=0)

    return Trained(compiled(mlp()), fit=run)


# What `compile` can be given, and `fit`


@keras.saving.register_keras_serializable("structures")
class TwiceTheLoss(keras.Model):
    """A model with a step of its own, and a state that is no weight."""

    factor = 1.0

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.factor * self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"my_loss": loss}


def a_plain_loss(y: Any, predicted: Any) -> Any:
    return ops.mean(ops.square(y - predicted), axis=-1)


class Unregistered(keras.losses.Loss):
    def call(self, y: Any, predicted: Any) -> Any:
        return ops.mean(ops.square(y - predicted), axis=-1)


def in_a_loop(model: Any, optimizer: Any = None, **options: Any) -> Trained:
    optimizer = optimizer or pruning(model=model, loss_reduction="mean")
    return Trained(model, fit=loop(optimizer, **options))


def scaled_in_a_loop() -> Trained:
    model = under("mixed_float16", mlp)
    inner = pruning(model=model, loss_reduction="mean")
    return in_a_loop(model, keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**8))


def a_step_of_its_own() -> Trained:
    model = compiled(mlp(TwiceTheLoss))
    model.factor = 2.0
    return Trained(model)


def decayed() -> Trained:
    inner = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, STEPS))
    inner.exclude_from_weight_decay(var_names=["bias"])
    return optimized(inner)


def optimized(inner: Any, **options: Any) -> Trained:
    return Trained(compiled(mlp(), optimizer=pruning(inner)), options=options)


def scaled(model: Any) -> Trained:
    around = keras.optimizers.LossScaleOptimizer(pruning(), initial_scale=2.0**8)
    return Trained(compiled(model, optimizer=around))


#: by name, ways to train that only have other arguments
WAYS: dict[str, Callable[[], Trained]] = {
    "half precision": lambda: Trained(compiled(under("mixed_float16", cnn))),
    "brain floats": lambda: Trained(compiled(under("mixed_bfloat16", cnn))),
    "loss scaling around": lambda: scaled(under("mixed_float16", mlp)),
    "loss scaling in a loop": scaled_in_a_loop,
    "an eager loop": lambda: in_a_loop(mlp(), graph=False),
    "a loop in a graph": lambda: in_a_loop(mlp()),
    "a loop that clips": lambda: in_a_loop(mlp(), changed=lambda gradients: tf.clip_by_global_norm(gradients, 0.1)[0]),
    "a step of its own": a_step_of_its_own,
    "a loss in Python": lambda: Trained(compiled(mlp(), a_plain_loss)),
    "a lambda as loss and metric": lambda: Trained(
        compiled(mlp(), lambda y, z: ops.mean(ops.abs(y - z)), metrics=[lambda y, z: ops.mean(z)])
    ),
    "a loss that is not registered": lambda: Trained(compiled(mlp(), Unregistered())),
    "losses that add up": lambda: Trained(
        compiled(mlp(), keras.losses.MeanSquaredError(reduction="sum"), metrics=["mae"], weighted_metrics=["mse"])
    ),
    "moving averages of weights": lambda: optimized(
        keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=10)
    ),
    "moving averages swapped in": lambda: optimized(
        keras.optimizers.Adam(0.01, use_ema=True), callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    ),
    "accumulated gradients": lambda: optimized(keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)),
    "clipped by the optimizer": lambda: optimized(keras.optimizers.SGD(0.1, 0.9, global_clipnorm=0.5)),
    "Muon": lambda: optimized(keras.optimizers.Muon(0.01, exclude_layers=["out"])),
    "weight decay and a schedule": decayed,
    "compiled by XLA": lambda: Trained(compiled(mlp(), jit_compile=True)),
    "several steps in one": lambda: Trained(compiled(cnn(), steps_per_execution=5)),
    "an early stop": lambda: optimized(
        "adam", callbacks=[keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)]
    ),
}


@refused("loss scaling goes around PruningOptimizer")
def loss_scaling_inside() -> Trained:
    return optimized(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))


# Callbacks


@structure
def checkpoints_of_the_best() -> Trained:
    def run(t: Trained, path: Path) -> None:
        best = keras.callbacks.ModelCheckpoint(path / "best.keras", monitor="loss", save_best_only=True)
        t.fits(callbacks=[best])
        t.model = keras.models.load_model(path / "best.keras")

    return Trained(compiled(mlp()), fit=run)


@structure
def backups() -> Trained:
    def run(t: Trained, path: Path) -> None:
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if batch == 14:
                    raise KeyboardInterrupt

        backup = keras.callbacks.BackupAndRestore(path / "backup", save_freq=5)
        try:
            t.fits(callbacks=[backup, Stop()])
        except KeyboardInterrupt:
            t.model = compiled(mlp())
        t.fits(callbacks=[keras.callbacks.BackupAndRestore(path / "backup", save_freq=5)])

    return Trained(compiled(mlp()), fit=run)


@structure
def saved_and_trained_further() -> Trained:
    def run(t: Trained, path: Path) -> None:
        t.fits(steps_per_epoch=10)
        t.model.save(path / "between.keras")
        t.model = keras.models.load_model(path / "between.keras")
        t.fits()

    return Trained(compiled(mlp(), metrics=["mae"]), fit=run)


@structure
def masks_put_into_a_saved_model() -> Trained:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(dense()(dense()(inputs))))

    def run(t: Trained, path: Path) -> None:
        model.compile("adam", a_plain_loss)
        t.fits(steps_per_epoch=2)
        model.save(path / "plain.keras")
        prunable(model)
        with keras.saving.custom_object_scope({"a_plain_loss": a_plain_loss}):
            t.model = compiled(prunable(keras.models.load_model(path / "plain.keras")))
        t.fits()

    return Trained(model, fit=run)
