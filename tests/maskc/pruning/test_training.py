"""Training of a masked ONNX graph towards its source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import onnx
import pytest

import passes
from maskc.errors import InputError
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.coupled_entries import coupling
from passes.model.inputs import bind

pytestmark = pytest.mark.tensorflow

tf = pytest.importorskip("tensorflow")

from maskc.pruning.training.distance import Distance, Target, targets  # noqa: E402
from maskc.pruning.training.from_onnx import from_onnx  # noqa: E402
from maskc.pruning.training.loop import Progress, finetune, prune_gradually, shared_tensors  # noqa: E402
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession  # noqa: E402

Array = np.ndarray[Any, Any]

WIDTH = 12
RNG = np.random.default_rng(0)
TEACHER = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 17]> g (float[n,6] x) => (float[n,4] y, float[n,2] z)
    { a = MatMul(x, first) h = Tanh(a) l = MatMul(h, second) y = Softmax(l) z = MatMul(h, third) }"""
)
WEIGHTS = {
    "first": RNG.normal(size=(6, WIDTH)),
    "second": RNG.normal(size=(WIDTH, 4)),
    "third": RNG.normal(size=(WIDTH, 2)),
}
WEIGHTS["second"][:5] = WEIGHTS["third"][:5] = 0.01  # which makes these channels unimportant
TEACHER.graph.initializer.extend(onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in WEIGHTS.items())
GATED = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 17]> g (float[n,6] x, float[12] mask) => (float[n,4] y, float[n,2] z)
    <int64[1] "mask/shape" = {-1}>
    { a = MatMul(x, first) h = Tanh(a) "mask/column" = Reshape(mask, "mask/shape") "mask/masked" = Mul(h, "mask/column")
    l = MatMul("mask/masked", second) y = Softmax(l) z = MatMul("mask/masked", third) }"""
)
GATED.graph.initializer.extend(TEACHER.graph.initializer)
MASKS = {"mask": np.ones(WIDTH, np.float32)}
GROUPS = {"mask": np.arange(WIDTH)}
FLOPS = compiled_cost(bind(GATED, MASKS)).flops


def batches() -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(1)
    for _ in range(8):
        yield {"x": rng.normal(size=(16, 6)).astype(np.float32)}


def distance(model: onnx.ModelProto) -> float:
    """From the teacher, on other data."""
    x = np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)
    found, wanted = (OnnxRuntimeSession(m).run({"x": x}) for m in (model, TEACHER))
    return sum(float(np.square(found[n] - wanted[n]).mean() / wanted[n].var()) for n in wanted)


@pytest.mark.slow
def test_channels_that_matter_least_go_and_others_make_up_for_them() -> None:
    """Those that are hardly read go first, the rest comes nearer to the teacher, and all of it can be repeated."""
    runs = [
        prune_gradually(
            GATED, MASKS, GROUPS, coupling(GATED, {"mask": WIDTH}), batches, TEACHER, flops=FLOPS // 2, epochs=25
        )
        for _ in range(2)
    ]
    result = runs[0]
    assert result.reached and result.flops == compiled_cost(bind(result.model, result.masks)).flops <= FLOPS // 2
    assert not result.masks["mask"][:5].any() and result.masks["mask"].any()
    assert distance(bind(result.model, result.masks)) < 0.8 * distance(bind(GATED, result.masks))
    assert runs[1].model == result.model and np.array_equal(runs[1].masks["mask"], result.masks["mask"])


def test_importance_is_the_curvature_of_the_distance() -> None:
    """The mean of squared derivatives on drawn labels is that of the distance itself, by differences."""
    taught = [OnnxRuntimeSession(TEACHER).run(batch) for batch in batches()]
    measure, imported = Distance(targets(GATED), taught), from_onnx(GATED)
    x = next(batches())["x"][:1]
    with tf.GradientTape() as tape:
        drawn = imported({"x": np.repeat(x, 4000, 0), "mask": MASKS["mask"]}, ["l", "z", "mask/masked"])
        loss = measure.of_drawn_labels(drawn, tf.constant([0, 1]))
    derivatives = tape.gradient(loss, drawn["mask/masked"]) * drawn["mask/masked"]
    step, itself = 0.05, OnnxRuntimeSession(TEACHER).run({"x": x})
    for channel in (6, 9):
        masks = [MASKS["mask"] + way * step * np.eye(WIDTH, dtype=np.float32)[channel] for way in (1, -1)]
        ends = [float(measure.loss(imported({"x": x, "mask": m}, ["l"]), itself, {})) for m in masks]
        assert np.square(derivatives)[:, channel].mean() == pytest.approx(sum(ends) / step**2, rel=0.1)


def test_masks_stay_and_an_interruption_keeps_what_there_is() -> None:
    mask = np.where(np.arange(WIDTH) < 8, 0, 1).astype(np.float32)
    steps = count(1)

    def interrupt(progress: Progress) -> None:
        if next(steps) == 60:
            raise KeyboardInterrupt

    tuned = finetune(
        GATED, batches, TEACHER, masks={"mask": mask}, epochs=1000, learning_rate=2e-2, on_progress=interrupt
    )
    assert next(steps) == 61
    assert distance(bind(tuned, {"mask": mask})) < 0.9 * distance(bind(GATED, {"mask": mask}))
    assert [t.name for t in tuned.graph.initializer] == [t.name for t in GATED.graph.initializer]


def test_a_saved_state_goes_on_as_if_nothing_had_happened() -> None:
    options: dict[str, Any] = {"epochs": 5, "learning_rate": 2e-2}
    states: list[tuple[Any, bool]] = []
    steps = count(1)

    def interrupt(progress: Progress) -> None:
        if next(steps) == 19:  # in the third pass over the data
            raise KeyboardInterrupt

    finetune(TEACHER, batches, TEACHER, **options, on_progress=interrupt, on_state=lambda *each: states.append(each))
    assert [over for _, over in states] == [False, False]  # after the first step, and at the end
    again = finetune(TEACHER, batches, TEACHER, **options, saved=states[-1][0])
    assert again == finetune(TEACHER, batches, TEACHER, **options)


def test_a_compiled_model_is_compared_in_what_is_left_of_its_tensors() -> None:
    mask = np.where(np.arange(WIDTH) % 3, 0, 1).astype(np.float32)
    compiled = passes.shrink(bind(GATED, {"mask": mask})).model
    inner = shared_tensors(compiled, TEACHER, GATED, {"mask": mask}, coupling(GATED, {"mask": WIDTH}))
    assert {name: held[1].tolist() for name, held in inner.items()} == {"h": [0, 3, 6, 9]}
    tuned = finetune(compiled, batches, TEACHER, epochs=10, learning_rate=2e-2, inner=inner)
    assert distance(tuned) < 0.9 * distance(compiled)


def test_a_loss_of_ones_own_reads_labels() -> None:
    def labelled() -> Iterator[dict[str, Array]]:
        yield from ({**batch, "label": batch["x"][:, :2]} for batch in batches())

    def loss(outputs: Any, batch: Any) -> Any:
        return tf.reduce_mean(tf.square(outputs["z"] - batch["label"]), -1)

    tuned = finetune(TEACHER, labelled, TEACHER, epochs=30, learning_rate=2e-2, loss=loss)
    errors = [
        np.square(OnnxRuntimeSession(m).run(b)["z"] - b["x"][:, :2]).mean()
        for m in (tuned, TEACHER)
        for b in [next(batches())]
    ]
    assert errors[0] < 0.3 * errors[1]


def test_what_cannot_be() -> None:
    arguments = (GATED, MASKS, GROUPS, coupling(GATED, {"mask": WIDTH}))
    with pytest.raises(InputError, match="cannot be reached: with 1 channel"):
        prune_gradually(*arguments, batches, TEACHER, flops=1, epochs=4)
    with pytest.raises(InputError, match="There are no batches"):
        finetune(TEACHER, lambda: iter(()), TEACHER, epochs=1)
    with pytest.raises(InputError, match="diverged"):
        finetune(
            TEACHER,
            batches,
            TEACHER,
            epochs=10,
            learning_rate=2e-2,
            loss=lambda outputs, _: outputs["z"][:, 0] * np.nan,
        )


def test_kinds_of_outputs() -> None:
    assert targets(TEACHER, ["h"]) == [
        Target("y", "l", "softmax", 0.25),
        Target("z", "z", "number", 0.25),
        Target("h", "h", "number", 0.5),
    ]
