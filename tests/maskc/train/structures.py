"""Ways in which people build and train Keras models, each with masks and a `PruningOptimizer`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from maskc.train import MaskLayer, PruningOptimizer, apply_mask, prunable

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


#: what makes each, and the sentence that it ends in, "" if it works to the end
STRUCTURES: list[tuple[Callable[[], Trained], str]] = []


def structure(make: Callable[[], Trained]) -> Callable[[], Trained]:
    STRUCTURES.append((make, ""))
    return make


def refused(sentence: str) -> Callable[[Callable[[], Trained]], Callable[[], Trained]]:
    def structure(make: Callable[[], Trained]) -> Callable[[], Trained]:
        STRUCTURES.append((make, sentence))
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


# Mixed precision


@structure
def half_precision() -> Trained:
    return Trained(compiled(under("mixed_float16", cnn)))


@structure
def loss_scaling_around() -> Trained:
    model = under("mixed_float16", mlp)
    return Trained(compiled(model, optimizer=keras.optimizers.LossScaleOptimizer(pruning(), initial_scale=2.0**8)))


@refused("loss scaling goes around PruningOptimizer")
def loss_scaling_inside() -> Trained:
    return Trained(compiled(mlp(), optimizer=pruning(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))))


@structure
def loss_scaling_in_a_loop() -> Trained:
    model = under("mixed_float16", mlp)
    optimizer = keras.optimizers.LossScaleOptimizer(pruning(model=model, loss_reduction="mean"), initial_scale=2.0**8)
    return Trained(model, fit=loop(optimizer))


@structure
def brain_floats() -> Trained:
    return Trained(compiled(under("mixed_bfloat16", cnn)))


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
def an_eager_loop() -> Trained:
    model = mlp()
    return Trained(model, fit=loop(pruning(model=model, loss_reduction="mean"), graph=False))


@structure
def a_loop_in_a_graph() -> Trained:
    model = mlp()
    return Trained(model, fit=loop(pruning(model=model, loss_reduction="mean")))


@structure
def a_loop_that_clips() -> Trained:
    model = mlp()

    def clipped(gradients: Any) -> Any:
        return tf.clip_by_global_norm(gradients, 0.1)[0]

    return Trained(model, fit=loop(pruning(model=model, loss_reduction="mean"), clipped))


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


# What `compile` can be given


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


@structure
def a_step_of_its_own() -> Trained:
    model = compiled(mlp(TwiceTheLoss))
    model.factor = 2.0
    return Trained(model)


def a_plain_loss(y: Any, predicted: Any) -> Any:
    return ops.mean(ops.square(y - predicted), axis=-1)


@structure
def a_loss_in_python() -> Trained:
    return Trained(compiled(mlp(), a_plain_loss))


@structure
def a_lambda_as_loss_and_metric() -> Trained:
    loss = lambda y, predicted: ops.mean(ops.abs(y - predicted))  # noqa: E731
    return Trained(compiled(mlp(), loss, metrics=[lambda y, predicted: ops.mean(predicted)]))


class Unregistered(keras.losses.Loss):
    def call(self, y: Any, predicted: Any) -> Any:
        return ops.mean(ops.square(y - predicted), axis=-1)


@structure
def a_loss_that_is_not_registered() -> Trained:
    return Trained(compiled(mlp(), Unregistered()))


@structure
def losses_that_add_up() -> Trained:
    return Trained(
        compiled(mlp(), keras.losses.MeanSquaredError(reduction="sum"), metrics=["mae"], weighted_metrics=["mse"])
    )


@structure
def moving_averages_of_weights() -> Trained:
    inner = keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=10)
    return Trained(compiled(mlp(), optimizer=pruning(inner)))


@structure
def moving_averages_swapped_in() -> Trained:
    model = compiled(mlp(), optimizer=pruning(keras.optimizers.Adam(0.01, use_ema=True)))
    return Trained(model, options={"callbacks": [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]})


@structure
def accumulated_gradients() -> Trained:
    return Trained(compiled(mlp(), optimizer=pruning(keras.optimizers.Adam(0.01, gradient_accumulation_steps=3))))


@structure
def clipped_by_the_optimizer() -> Trained:
    return Trained(compiled(mlp(), optimizer=pruning(keras.optimizers.SGD(0.1, 0.9, global_clipnorm=0.5))))


@structure
def muon() -> Trained:
    return Trained(compiled(mlp(), optimizer=pruning(keras.optimizers.Muon(0.01, exclude_layers=["out"]))))


@structure
def weight_decay_and_a_schedule() -> Trained:
    rate = keras.optimizers.schedules.CosineDecay(0.01, STEPS)
    inner = keras.optimizers.AdamW(rate)
    inner.exclude_from_weight_decay(var_names=["bias"])
    return Trained(compiled(mlp(), optimizer=pruning(inner)))


@structure
def compiled_by_xla() -> Trained:
    return Trained(compiled(mlp(), jit_compile=True))


@structure
def several_steps_in_one() -> Trained:
    return Trained(compiled(cnn(), steps_per_execution=5))


# Callbacks


@structure
def checkpoints_of_the_best() -> Trained:
    def run(t: Trained, path: Path) -> None:
        best = keras.callbacks.ModelCheckpoint(path / "best.keras", monitor="loss", save_best_only=True)
        t.fits(callbacks=[best])
        t.model = keras.models.load_model(path / "best.keras")

    return Trained(compiled(mlp()), fit=run)


@structure
def an_early_stop() -> Trained:
    stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True, start_from_epoch=0)
    return Trained(compiled(mlp()), options={"callbacks": [stop]})


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


# Layers


@structure
def a_nested_model() -> Trained:
    inputs = keras.Input((8,))
    inner = mlp()
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(MaskLayer()(dense()(inner(dense(8)(inputs))))))))


@structure
def nested_sequences() -> Trained:
    inner = keras.Sequential([dense(), MaskLayer(), keras.Sequential([dense(), MaskLayer()])])
    return Trained(compiled(keras.Sequential([keras.Input((8,)), inner, layers.Dense(2)])), *numbers())


@structure
def a_sequence_without_an_input() -> Trained:
    model = keras.Sequential([dense(), MaskLayer(), dense(), MaskLayer(), layers.Dense(2)])
    return Trained(compiled(model), *numbers())


@structure
def shared_layers() -> Trained:
    first, second = keras.Input((8,)), keras.Input((8,))
    shared, further = dense(name="shared"), dense(name="further")
    sides = [MaskLayer(groups="one")(further(MaskLayer(groups="two")(shared(x)))) for x in (first, second)]
    return Trained(compiled(keras.Model([first, second], layers.Dense(2)(layers.Concatenate()(sides)))))


@structure
def a_shared_model() -> Trained:
    inputs = keras.Input((8,))
    tower = keras.Model(inputs, dense(name="last")(dense()(inputs)), name="tower")
    sides = [keras.Input((8,)) for _ in range(2)]
    joined = dense(32, name="joined")(layers.Concatenate()([tower(x) for x in sides]))
    model = prunable(keras.Model(sides, layers.Dense(2)(joined)))
    return Trained(compiled(model, optimizer=pruning(flops_target=0.8)))


@structure
def a_frozen_backbone() -> Trained:
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.ReLU(), MaskLayer(name="cold")])
    backbone.trainable = False
    x = layers.GlobalAveragePooling2D()(backbone(inputs, training=False))
    return Trained(
        compiled(
            keras.Model(inputs, layers.Dense(2)(MaskLayer(name="warm")(dense(32)(x)))),
            optimizer=pruning(flops_target=0.99),
        )
    )


@structure
def layers_frozen_one_by_one() -> Trained:
    model = prunable(keras.Sequential([keras.Input((8,)), dense(name="cold"), dense(), layers.Dense(2)]))
    model.get_layer("cold").trainable = False
    return Trained(compiled(model))


@structure
def an_application_with_a_head() -> Trained:
    backbone = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None, pooling="avg")
    inputs = keras.Input((32, 32, 3))
    model = prunable(keras.Model(inputs, layers.Dense(2)(backbone(layers.Rescaling(1 / 127)(inputs)))))
    return Trained(compiled(model, optimizer=pruning(schedule="linear", ramp=10)))


@structure
def recurrent() -> Trained:
    inputs = keras.Input((6, 5))
    x = MaskLayer()(layers.LSTM(8, return_sequences=True)(MaskLayer()(dense(16)(inputs))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GRU(8)(MaskLayer()(dense(16)(x)))))))


@structure
def both_directions() -> Trained:
    inputs = keras.Input((6, 5))
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(MaskLayer()(dense(16)(inputs)))
    x = layers.Dense(2)(MaskLayer()(dense(16)(layers.GlobalMaxPooling1D()(x))))
    return Trained(compiled(keras.Model(inputs, x)))


@structure
def cells() -> Trained:
    inputs = keras.Input((6, 5))
    x = layers.RNN([layers.LSTMCell(6), layers.GRUCell(6)])(MaskLayer()(dense(16)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(MaskLayer()(dense(16)(x))))
    return Trained(compiled(model, optimizer=pruning(flops_target=0.8)))


@structure
def an_encoder() -> Trained:
    inputs = keras.Input((6, 16))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(4, 4)(inputs, inputs))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, "gelu")(x)))
    return Trained(compiled(prunable(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))))


@structure
def grouped_queries() -> Trained:
    inputs = keras.Input((6, 16))
    x = inputs + layers.GroupQueryAttention(4, 4, 2)(inputs, inputs, use_causal_mask=True)
    return Trained(compiled(prunable(keras.Model(inputs, layers.Dense(2)(layers.Dense(32, "silu")(x))))))


def _tokens() -> tuple[Any, Any]:
    inputs = keras.Input((7,), dtype="int32")
    return inputs, layers.Embedding(20, 12, mask_zero=True)(inputs)


@structure
def padded_into_a_recurrence() -> Trained:
    inputs, x = _tokens()
    x = layers.LSTM(8)(MaskLayer()(dense(16)(MaskLayer()(x))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(x))))


@structure
def padded_into_every_step() -> Trained:
    inputs, x = _tokens()
    x = layers.TimeDistributed(dense(16))(MaskLayer()(x))
    x = layers.TimeDistributed(layers.Dense(8))(MaskLayer()(x))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))))


@structure
def padded_into_a_nested_model() -> Trained:
    inputs, x = _tokens()
    inside = keras.Input((7, 12))
    y = layers.GRU(8)(MaskLayer()(dense(16)(inside)))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(keras.Model(inside, y)(MaskLayer()(x))))))


@structure
def padded_into_attention() -> Trained:
    inputs, x = _tokens()
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(3, 4)(x, x))
    x = layers.Dense(12)(layers.Dense(24, "relu")(x))
    return Trained(compiled(prunable(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))))))


@structure
def a_network_at_every_step() -> Trained:
    inputs = keras.Input((5, 8, 8, 3))
    frame = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3, activation="relu"), layers.GlobalMaxPooling2D()]
    )
    x = MaskLayer()(dense(16)(layers.GRU(8)(MaskLayer()(layers.TimeDistributed(frame)(inputs)))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(x)), optimizer=pruning(flops_target=0.8)))


@structure
def low_rank_updates() -> Trained:
    model = prunable(keras.Sequential([keras.Input((8,)), dense(name="a"), dense(name="b"), layers.Dense(2, name="c")]))
    for name in "abc":
        model.get_layer(name).enable_lora(2)
    return Trained(compiled(model))


@structure
def low_rank_embeddings_and_convolutions() -> Trained:
    inputs, x = _tokens()
    inputs.name = "tokens"
    embedding = layers.Embedding(20, 12)
    x = layers.Conv1D(8, 3, activation="relu", lora_rank=2)(MaskLayer()(embedding(inputs)))
    x = layers.EinsumDense("abc,cd->abd", (None, 8), activation="relu")(MaskLayer()(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(MaskLayer()(x))))
    embedding.enable_lora(2)
    return Trained(compiled(model))


@structure
def several_inputs_and_outputs() -> Trained:
    image, number = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="number")
    x = layers.GlobalAveragePooling2D()(MaskLayer()(layers.Conv2D(8, 3, activation="relu")(image)))
    x = MaskLayer()(dense(16)(layers.Concatenate()([x, dense()(number)])))
    outputs = {"left": layers.Dense(2, name="left")(x), "right": layers.Dense(3, name="right")(x)}
    model = keras.Model({"image": image, "number": number}, outputs)
    losses = {"left": "mse", "right": "mae"}
    return Trained(compiled(model, losses, loss_weights={"left": 1.0, "right": 0.5}, metrics={"left": ["mae"]}))


@structure
def nested_inputs_and_preprocessing() -> Trained:
    image, bins = keras.Input((10, 10, 3), name="image"), keras.Input((4,), name="bins")
    x = layers.CenterCrop(8, 8)(layers.RandomFlip()(layers.Rescaling(1 / 255)(image)))
    x = layers.GlobalAveragePooling2D()(MaskLayer()(layers.Conv2D(8, 3, activation="relu")(x)))
    y = layers.Flatten()(layers.Embedding(4, 3)(layers.Discretization([-1.0, 0.0, 1.0])(bins)))
    x = MaskLayer()(dense(16)(layers.Concatenate()([x, y])))
    return Trained(compiled(keras.Model({"seen": {"image": image}, "rest": [bins]}, layers.Dense(2)(x))))


@structure
def recurrent_images() -> Trained:
    inputs = keras.Input((3, 8, 8, 3))
    x = MaskLayer()(layers.TimeDistributed(layers.SpectralNormalization(layers.Conv2D(12, 3)))(inputs))
    x = MaskLayer()(layers.Conv2D(32, 3, activation="relu")(MaskLayer()(layers.ConvLSTM2D(8, 3)(x))))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    return Trained(compiled(model, optimizer=pruning(flops_target=0.95)))


@structure
def losses_of_layers() -> Trained:
    inputs = x = keras.Input((8,))
    for _ in range(2):
        x = MaskLayer()(dense(kernel_regularizer="l2", activity_regularizer=keras.regularizers.L1(1e-3))(x))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2, kernel_constraint="max_norm")(x))))


@keras.saving.register_keras_serializable("structures")
class Block(layers.Layer):
    """A layer around others, with a mask."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.wide, self.mask, self.narrow = dense(2 * units), MaskLayer(), layers.Dense(units)

    def call(self, x: Any) -> Any:
        return x + self.narrow(self.mask(self.wide(x)))

    def get_config(self) -> Any:
        return {**super().get_config(), "units": self.units}


@structure
def blocks() -> Trained:
    inputs = keras.Input((8,))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(Block(8)(Block(8)(inputs))))))


@keras.saving.register_keras_serializable("structures")
class Subclass(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.mask, self.last = dense(32), MaskLayer(), layers.Dense(2)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.last(self.mask(self.first(x)))


@refused("shrink needs a functional or Sequential model .* `maskc compile` takes what model.export")
def a_subclass() -> Trained:
    return Trained(compiled(Subclass()), *numbers())


@structure
def masks_as_functions() -> Trained:
    inputs = keras.Input((8,))
    x = ops.relu(layers.Dense(16)(apply_mask(ops.gelu(layers.Dense(16)(inputs)))))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(apply_mask(x)))))


@structure
def kinds_of_convolutions() -> Trained:
    inputs = keras.Input((8, 8, 3))
    x = MaskLayer()(layers.Conv2D(8, 1, activation="relu")(inputs))
    x = MaskLayer()(layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))))
    x = MaskLayer()(layers.SeparableConv2D(8, 3, activation="relu")(x))
    x = MaskLayer()(layers.Conv2D(8, 3, groups=4, activation="relu")(x))
    x = MaskLayer()(layers.Conv2DTranspose(6, 2, activation="relu")(x))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))))


@structure
def normalised_weights() -> Trained:
    inputs = keras.Input((8,))
    x = MaskLayer()(layers.SpectralNormalization(dense(16))(inputs))
    x = MaskLayer()(layers.UnitNormalization()(dense(16)(x)))
    return Trained(compiled(keras.Model(inputs, layers.Dense(2)(layers.GaussianNoise(0.1)(x)))))
