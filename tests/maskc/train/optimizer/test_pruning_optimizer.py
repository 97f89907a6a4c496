"""What the pruning optimizer does to masks, when, and what it leaves alone."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import maskc
from maskc.errors import InputError
from maskc.results.measurements import Latency
from maskc.train import MaskLayer, PruningOptimizer, computational_cost
from passes.mask_savings.compiled_cost import compiled_cost
from passes.targets.registry import table
from passes.targets.widths.rates import Rates
from tests.maskc.train.networks import (
    LOSS,
    check_pause,
    check_weights,
    compiled_flops,
    data,
    depthwise,
    fit,
    masks,
    mlp,
    plain,
    pruned,
    residual,
    trained,
    wide,
)


class Record(keras.callbacks.Callback):
    """Keeps the masks after every update."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.masks.append([*masks(self.model).values()])

    def counts(self) -> list[int]:
        return [sum(int(np.sum(mask == 0)) for mask in step) for step in self.masks]


def train(model: Any, optimizer: Any, steps: int, traced: bool = True) -> Record:
    """`traced`: as `fit` does it by default, which takes longer than a few steps without."""
    keras.utils.set_random_seed(2)
    record = Record()
    model.compile(optimizer, LOSS, run_eagerly=not traced)
    x, y = data(model, count=4 * steps)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[record])
    return record


INNER = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.5),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.RMSprop(0.01, global_clipnorm=0.1),
    "averages": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize(
    "inner",
    [pytest.param(name, marks=[] if name == "adam" else [pytest.mark.slow]) for name in INNER],
)
def test_training_is_the_inner_optimizers_and_masks_are_not(inner: str) -> None:
    """The same weights as the inner optimizer alone, which must therefore not have seen masks or signals."""
    keras.utils.set_random_seed(1)
    model = mlp()
    start = model.get_weights()
    model.layers[2].mask.assign([1, 0, 1, 1, 0, 1])
    expected = keras.models.clone_model(model)
    expected.set_weights(model.get_weights())
    train(model, PruningOptimizer(INNER[inner](), prune_every=10**9, flops_target=0), steps=6)
    train(expected, INNER[inner](), steps=6)
    for ours, theirs in zip(model.layers, expected.layers, strict=True):
        if isinstance(ours, MaskLayer):
            np.testing.assert_array_equal(ours.mask, theirs.mask)
        else:
            check_weights(ours, theirs)
    assert not np.array_equal(model.layers[1].kernel, start[0])


def test_one_entry_every_few_updates_after_the_burn_in() -> None:
    record = train(mlp(), PruningOptimizer("sgd", prune_every=3, burn_in=4, flops_target=0), steps=14, traced=False)
    assert record.counts() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.slow
def test_pruned_entries_never_come_back() -> None:
    optimizer = PruningOptimizer(keras.optimizers.Adam(0.05), prune_every=2, tie="none", flops_target=0)
    record = train(residual(), optimizer, steps=10, traced=False)
    for before, after in zip(record.masks, record.masks[1:], strict=False):
        for old, new in zip(before, after, strict=True):
            assert set(np.unique(new)) <= {0.0, 1.0}
            assert np.all(new <= old)
    assert record.counts()[-1] == 5


def test_the_entry_with_the_smallest_signal_per_flop_goes() -> None:
    model = plain()
    optimizer = PruningOptimizer(keras.optimizers.SGD(0.0), burn_in=2, prune_every=1, decay=0.5, flops_target=0)
    cost = computational_cost(model).gradient()
    train(model, optimizer, steps=3, traced=False)
    layers = {layer.name: layer for layer in model.layers if isinstance(layer, MaskLayer)}
    score = {
        (name, channel): layers[name].signal.numpy()[channel] / cost[name][channel]
        for name in layers
        for channel in range(layers[name].mask.shape[0])
    }
    (entry,) = optimizer.history
    assert (entry.mask, entry.channel) == min(score, key=lambda key: score[key])
    assert layers[entry.mask].mask.numpy()[entry.channel] == 0


@pytest.mark.parametrize(("missing", "goes"), [(1, "third"), pytest.param(2000, "first", marks=pytest.mark.slow)])
def test_what_would_be_saved_beyond_the_target_does_not_count(missing: int, goes: str) -> None:
    """Where one FLOP is missing, which any entry saves, the smallest signal goes though it is large for its FLOPs."""
    model = plain()
    cost = computational_cost(model)
    savings = cost.gradient()
    signals = {name: saving.astype(np.float32) for name, saving in savings.items()}
    signals["first"][2] *= 0.9
    assert savings["third"].max() < 0.9 * savings["first"][2] < 2000
    optimizer = PruningOptimizer(
        keras.optimizers.SGD(0.0), prune_every=1, decay=0.9999, flops_target=cost.flops() - missing
    )
    for name, signal in signals.items():
        model.get_layer(name).signal.assign(signal)
    train(model, optimizer, steps=1, traced=False)
    assert optimizer.history[0].mask == goes


@pytest.mark.parametrize("weight", [0, 1e6])
def test_no_flops_weight_goes_by_the_signal_and_a_large_one_by_flops(weight: float) -> None:
    model = mlp()
    cost = computational_cost(model).gradient()
    optimizer = PruningOptimizer("sgd", prune_every=1, flops_weight=weight, flops_target=0)
    train(model, optimizer, steps=1, traced=False)
    (entry,) = optimizer.history
    signals = {layer.name: layer.signal.numpy() for layer in model.layers if isinstance(layer, MaskLayer)}
    order = {name: -saving for name, saving in cost.items()} if weight else signals
    assert order[entry.mask][entry.channel] == min(values.min() for values in order.values())


@pytest.mark.slow
@pytest.mark.parametrize("build", [residual, plain, depthwise])
def test_stops_at_the_target_with_the_compiled_files_flops(build: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    model = build()
    full = computational_cost(model).flops()
    optimizer = PruningOptimizer(keras.optimizers.SGD(0.01), prune_every=1, burn_in=2, flops_target=0.5)
    record = train(model, optimizer, steps=25)
    counts = record.counts()
    assert counts.index(counts[-1]) < len(counts) - 3
    assert optimizer.reached
    assert optimizer.flops is not None and optimizer.flops <= full / 2
    assert all(entry.flops > full / 2 for entry in optimizer.history if entry.step < optimizer.history[-1].step)
    assert optimizer.history[-1].flops == optimizer.flops
    assert compiled_flops(model, tmp_path / "exported") == optimizer.flops


@pytest.mark.slow
@pytest.mark.parametrize(("target", "processor"), [("any", "avx512"), ("openvino", "avx2")])
def test_channels_go_in_blocks_until_the_table_predicts_the_latency(
    target: str, processor: str, tmp_path: Path, monkeypatch: Any
) -> None:
    measured = []
    monkeypatch.setattr("maskc.train.selection.pruner.table_name", lambda: processor)
    fast = Latency((9, 9, 9), (1, 1, 1), 20, {}, 9.0, "cpu")
    monkeypatch.setattr("maskc.train.selection.pruner.timed", lambda *given: measured.append(given) or fast)
    model, rates = trained(wide()), table(target, processor)
    assert isinstance(rates, Rates)

    def predicted(name: str) -> int:
        model.export(tmp_path / name, verbose=False)
        return compiled_cost(maskc.compile(tmp_path / name, align="none", verify=False).model).priced(rates)

    before = predicted("before")
    time = {"latency_target": 0.6, "target": target, "align_for": processor}
    optimizer = PruningOptimizer("sgd", prune_every=1, schedule="cubic", ramp=4, **time)
    train(model, optimizer, steps=6, traced=False)
    assert optimizer.reached and optimizer.flops is None and optimizer.ms is not None
    assert optimizer.ms * 1e6 == predicted("after") <= 0.6 * before
    assert [row.ms for row in optimizer.history][-1] == optimizer.ms
    widths = [int(mask.sum()) for mask in masks(model).values()]
    assert pruned(model) and all(width % rates.channels_per_block == 0 or width < 16 for width in widths[:2])
    assert len(measured) == 1 and measured[0][2] == ("openvino" if target == "openvino" else "cpu")


def test_surrogate_and_compilation_may_disagree_and_the_compilation_decides(monkeypatch: Any) -> None:
    """Where the count of the real compilation is still above the target, pruning goes on."""
    model = mlp()
    full = computational_cost(model).flops()
    counts = itertools.chain([full, full], itertools.repeat(1))
    monkeypatch.setattr("maskc.train.selection.pruner.compiled_flops", lambda *_: next(counts))
    optimizer = PruningOptimizer("sgd", prune_every=1, flops_target=full - 1)
    train(model, optimizer, steps=6, traced=False)
    assert pruned(model) == 3
    assert optimizer.flops == 1


def test_recounts_with_the_weights_after_the_update(monkeypatch: Any) -> None:
    model = mlp()
    seen = []

    def count(model: Any, *_: Any) -> int:
        seen.append([value.copy() for value in model.get_weights()])
        return 1

    monkeypatch.setattr("maskc.train.selection.pruner.compiled_flops", count)
    train(model, PruningOptimizer("sgd", prune_every=3, flops_target=0.99), steps=3)
    (weights,) = seen
    np.testing.assert_equal(weights, model.get_weights())


def test_learning_rate_is_the_inner_optimizers() -> None:
    optimizer = PruningOptimizer(keras.optimizers.SGD(0.25), flops_target=0)
    assert float(optimizer.learning_rate) == 0.25
    optimizer.learning_rate = 0.5
    assert float(optimizer.inner_optimizer.learning_rate) == 0.5
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=2, decay_rate=0.5)
    optimizer = PruningOptimizer(keras.optimizers.SGD(schedule), prune_every=100, flops_target=0)
    train(mlp(), optimizer, steps=4)
    assert float(optimizer.learning_rate) == pytest.approx(0.1 * 0.5**2)


def test_the_first_step_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow traces a step that makes variables, as those of Adam, a second time."""
    model, traced = mlp(), []
    step = model.train_step

    def watched(data: Any) -> Any:
        traced.append(data)
        return step(data)

    monkeypatch.setattr(model, "train_step", watched)
    train(model, PruningOptimizer("adam", prune_every=2, flops_target=0), steps=3)
    assert len(traced) == 1 and pruned(model) == 1


def test_config_round_trip() -> None:
    inner = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10), momentum=0.5)
    arguments = {
        "prune_every": 3,
        "burn_in": 4,
        "decay": 0.5,
        "flops_target": 0.25,
        "flops_weight": 0.125,
        "update_params": False,
        "method": "taylor",
        "schedule": "cubic",
        "ramp": 40,
        "tie": "none",
        "min_channels": 2,
        "round_to": 8,
        "seed": 7,
        "loss_reduction": "sum",
    }
    time = {"latency_target": None, "target": "any", "align_for": None}
    optimizer = PruningOptimizer(inner, **{"flops_target": 0, **arguments})
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, PruningOptimizer)
    assert again.get_config() == optimizer.get_config()
    assert dataclasses.asdict(again.settings) == {**arguments, "sizes": None, "flops_before": None, **time}
    assert again.inner_optimizer.momentum == 0.5


@pytest.mark.parametrize("steps", [1, 12])
def test_a_loaded_model_is_at_the_target_that_it_was_saved_at(steps: int, tmp_path: Path) -> None:
    model, optimizer = mlp(), PruningOptimizer("sgd", flops_target=0.5, prune_every=1, schedule=None)
    model.compile(optimizer, LOSS)
    fit(model, 0, steps)
    assert optimizer.reached == (steps > 1)
    model.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").optimizer.reached == optimizer.reached


def test_arguments_of_another_version_are_refused_in_a_sentence() -> None:
    saved = keras.optimizers.serialize(PruningOptimizer("sgd", flops_target=0.5))
    saved["config"]["importance_of"] = "all"
    with pytest.raises(InputError, match="has no argument 'importance_of', with which another version of maskc saved"):
        keras.optimizers.deserialize(saved)


@pytest.mark.slow
def test_time_is_saved_as_on_the_processor_that_training_began_on(tmp_path: Path, monkeypatch: Any) -> None:
    def fresh() -> Any:
        keras.utils.set_random_seed(4)
        model = wide()
        model.compile(
            PruningOptimizer("sgd", 2, burn_in=1, latency_target=0.7, target="openvino"), LOSS, run_eagerly=True
        )
        return model

    def on(processor: str) -> None:
        monkeypatch.setattr("maskc.compilation.compile.table_name", lambda: processor)

    on("avx2")
    check_pause(fresh, 4, 12, tmp_path, meanwhile=lambda: on("xeon"))


@pytest.mark.slow
def test_mixed_precision_prunes_and_resumes(tmp_path: Path) -> None:
    model = plain(dtype="mixed_float16")
    optimizer = PruningOptimizer(keras.optimizers.SGD(0.01), prune_every=2, flops_target=0.6)
    train(model, keras.optimizers.LossScaleOptimizer(optimizer), steps=12)
    assert optimizer.flops is not None and len(optimizer.history) > 1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.inner_optimizer.history == optimizer.history
    x, y = data(model)
    loaded.fit(x, y, verbose=0)
    assert loaded.optimizer.inner_optimizer.flops == optimizer.flops


@pytest.mark.slow
def test_an_h5_file_begins_with_a_fresh_optimizer(tmp_path: Path) -> None:
    """As Keras says of each: where it reads one it knows no variables when it builds the optimizer."""
    model = mlp()
    model.compile(PruningOptimizer("adam", prune_every=2, flops_target=0.5), LOSS, run_eagerly=True)
    x, y = data(model)
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    np.testing.assert_equal(masks(loaded), masks(model))
    loaded.fit(x, y, batch_size=4, verbose=0)
    assert loaded.optimizer.flops == loaded.optimizer.counted


def test_a_tensorflow_checkpoint_holds_the_whole_state(tmp_path: Path) -> None:
    def fresh() -> Any:
        model = mlp()
        model.compile(PruningOptimizer(keras.optimizers.Adam(0.01), prune_every=2, flops_target=0), LOSS)
        return model

    model = fresh()
    x, y = data(model)
    model.fit(x, y, batch_size=4, verbose=0)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(tmp_path / "checkpoint"))
    other = fresh()
    other.optimizer.build(other.trainable_variables)
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).read(path).assert_existing_objects_matched()
    state, restored = ([v.numpy() for v in m.optimizer.variables] for m in (model, other))
    np.testing.assert_equal(restored, state)
    assert pruned(other) == pruned(model) == 2


def test_data_that_end_without_notice_are_no_update() -> None:
    """Keras begins a step to find out that there are no more batches; that is not one more update to prune by."""
    model = mlp()
    optimizer = PruningOptimizer("sgd", prune_every=1, flops_target=0)
    model.compile(optimizer, LOSS)
    x, y = data(model, count=12)
    unknown = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).filter(lambda x, y: True)
    model.fit(unknown, epochs=3, verbose=0)
    assert int(optimizer.iterations) == 9
    assert pruned(model) == 9
