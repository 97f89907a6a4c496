"""Training of a masked ONNX graph towards its source."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import maskc
from maskc.errors import InputError
from maskc.frontend.graph_queries import copied
from maskc.progress import Stage, listening
from tests.maskc import build
from tests.maskc.pruning.networks import drawn, gemm, network

pytestmark = pytest.mark.tensorflow

tf = pytest.importorskip("tensorflow")

from maskc.pruning.training.distance import Target, targets  # noqa: E402
from maskc.pruning.training.loop import Loss, finetune, shuffled  # noqa: E402
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession  # noqa: E402

Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(0)
WEIGHTS = {"first": (6, 12), "second": (12, 4), "third": (12, 2)}
TEACHER = network(
    """g (float[n,6] x) => (float[n,4] y, float[n,2] z)
    { a = MatMul(x, first) h = Tanh(a) l = MatMul(h, second) y = Softmax(l) z = MatMul(h, third) }""",
    {name: RNG.normal(size=shape).astype(np.float32) for name, shape in WEIGHTS.items()},
)
PRUNED = build.changed(TEACHER, "first", lambda weights: weights * (np.arange(12) >= 8))


def batches() -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(1)
    for _ in range(8):
        yield {"x": rng.normal(size=(16, 6)).astype(np.float32)}


def distance(model: onnx.ModelProto) -> float:
    """From the teacher, on other data."""
    x = np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)
    found, wanted = (OnnxRuntimeSession(m).run({"x": x}) for m in (model, TEACHER))
    return sum(float(np.square(found[n] - wanted[n]).mean() / wanted[n].var()) for n in wanted)


def interrupt_after(steps: int) -> Callable[[Stage | str], None]:
    """A listener that interrupts training after so many steps."""
    told = count()  # the first time as the stage begins

    def listen(event: Stage | str) -> None:
        if isinstance(event, Stage) and event.title == "Training" and event.seconds is None and next(told) == steps:
            raise KeyboardInterrupt

    return listen


def test_an_interruption_keeps_what_there_is() -> None:
    with listening(interrupt_after(60)):
        tuned, interrupted = finetune(PRUNED, batches, TEACHER, epochs=1000, learning_rate=2e-2)
    assert interrupted
    assert distance(tuned) < 0.9 * distance(PRUNED)
    assert [t.name for t in tuned.graph.initializer] == [t.name for t in PRUNED.graph.initializer]


def classified(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the number of a class, and what a ZipMap makes of probabilities, as classifiers of scikit-learn have."""
    model = copied(model)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("ArgMax", ["y"], ["index"], axis=1),
            helper.make_node("ArrayFeatureExtractor", ["classes", "index"], ["row"], domain="ai.onnx.ml"),
            helper.make_node("Cast", ["row"], ["label"], to=onnx.TensorProto.INT32),
            helper.make_node("ZipMap", ["y"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[3, 1, 4, 2]),
        ]
    )
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 1, 4, 2]), "classes"))
    probabilities = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("label", onnx.TensorProto.INT32, [1, None]))
    graph.output.append(helper.make_value_info("p", helper.make_sequence_type_proto(probabilities)))
    onnx.checker.check_model(model)
    return model


def test_what_a_zip_map_reads_is_trained() -> None:
    teacher, pruned = classified(TEACHER), classified(PRUNED)
    assert [target.compared for target in targets(pruned, teacher)] == ["l", "l"]
    tuned, _ = finetune(pruned, batches, teacher, epochs=40, learning_rate=2e-2)
    assert tuned.graph.node == pruned.graph.node and tuned.graph.output == pruned.graph.output
    x = {"x": np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)}
    before, after, wanted = (OnnxRuntimeSession(m).run(x) for m in (pruned, tuned, teacher))
    numbers = [name for name in wanted if name.startswith("p[")]
    error = [sum(float(np.square(made[n] - wanted[n]).sum()) for n in numbers) for made in (before, after)]
    assert 0 < error[1] < 0.7 * error[0]


def test_training_can_be_repeated_and_goes_on_from_a_state() -> None:
    runs = [finetune(PRUNED, batches, TEACHER, epochs=3, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    states: list[Any] = []
    with listening(interrupt_after(4)):  # in the second pass over the data
        assert finetune(PRUNED, batches, TEACHER, epochs=3, keep=states.append)[1]
    assert [int(state["position"][0]) for state in states] == [0, 4]
    assert finetune(PRUNED, batches, TEACHER, epochs=3, saved=states[-1]) == runs[0]


def test_inputs_in_units_of_their_own_are_trained_on() -> None:
    """The weights of an input that is large are small, where a normalisation went into them."""
    units = (10.0 ** np.arange(-2, 4)).astype(np.float32)
    teacher, pruned = (build.changed(model, "first", lambda w: w / units[:, None]) for model in (TEACHER, PRUNED))
    tuned, _ = finetune(pruned, lambda: ({"x": b["x"] * units} for b in batches()), teacher, epochs=100)
    found = build.changed(tuned, "first", lambda weights: weights * units[:, None])
    assert distance(found) < 0.5 * distance(PRUNED)


def test_examples_are_drawn_anew_and_joined() -> None:
    """Each is seen once in a pass, in batches of up to 64, or as many as before where a model fixes their number."""
    rng = np.random.default_rng(0)
    seen = list(shuffled(batches(), TEACHER, rng))
    assert [len(batch["x"]) for batch in seen] == [64, 64]
    given, drawn = (np.concatenate([batch["x"] for batch in each]) for each in (list(batches()), seen))
    assert (given != drawn).any() and np.array_equal(np.sort(given, axis=0), np.sort(drawn, axis=0))
    fixed = copied(TEACHER)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    assert [len(batch["x"]) for batch in shuffled(batches(), fixed, rng)] == [16] * 8


def test_a_loss_of_ones_own_reads_labels() -> None:
    def labelled() -> Iterator[dict[str, Array]]:
        yield from ({**batch, "label": batch["x"][:, :2]} for batch in batches())

    def loss(outputs: Any, batch: Any) -> Any:
        assert outputs.keys() == {"y", "z"}
        return tf.reduce_mean(tf.square(outputs["z"] - batch["label"]), -1)

    tuned, _ = finetune(TEACHER, labelled, TEACHER, epochs=100, learning_rate=2e-2, loss=Loss(loss))
    x = next(batches())["x"]
    errors = [np.square(OnnxRuntimeSession(m).run({"x": x})["z"] - x[:, :2]).mean() for m in (tuned, TEACHER)]
    assert errors[0] < 0.3 * errors[1]


def test_a_loss_of_ones_own_says_what_is_better() -> None:
    """However far that is from the source."""
    x = drawn(400, 6)
    given = [{"x": part, "label": np.full((40, 3), 5, np.float32)} for part in np.split(x, 10)]

    def loss(outputs: Any, batch: Any) -> Any:
        return tf.reduce_mean(tf.square(outputs["y"] - batch["label"]), -1)

    pruned = maskc.prune(gemm(), given, flops=0.5, epochs=20, loss=loss)
    assert not any("untrained" in warning for warning in pruned.report.warnings)
    assert pruned.loss is not None and pruned.loss[1] < 0.8 * pruned.loss[0]
    y = OnnxRuntimeSession(pruned.model).run({"x": x})["y"]
    assert np.square(y - 5).mean() < 0.8 * np.square(OnnxRuntimeSession(gemm()).run({"x": x})["y"] - 5).mean()
    with pytest.raises(InputError, match="There is no loss to train by"):
        maskc.prune(gemm(), given, flops=0.5, epochs=1, loss=lambda outputs, batch: batch["labels"])


def test_a_state_is_handed_out_before_a_step_may_fail() -> None:
    states: list[Any] = []
    with pytest.raises(InputError):
        finetune(PRUNED, batches, TEACHER, epochs=3, loss=Loss(lambda outputs, _: None), keep=states.append)
    assert len(states) == 1


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda outputs, batch: outputs["w"], "KeyError: 'w'"),
        (lambda outputs: outputs["z"], "TypeError: .* takes 1 positional argument but 2 were given"),
        (lambda outputs, batch: None, "ValueError: None values not supported"),
        (lambda outputs, batch: np.square(outputs["z"].numpy()), "AttributeError: .* has no attribute 'numpy'"),
        (
            lambda outputs, _: tf.nn.sparse_softmax_cross_entropy_with_logits(tf.fill([64], 7), outputs["y"]),
            "InvalidArgumentError: Received a label value of 7 which is outside the valid range",
        ),
    ],
)
def test_a_loss_that_fails_is_named(loss: Any, told: str) -> None:
    with pytest.raises(InputError, match=rf"^There is no loss to train by, since loss.py:f failed: {told}"):
        finetune(TEACHER, batches, TEACHER, epochs=1, loss=Loss(loss, "loss.py:f"))


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="does not follow from the outputs"):
        finetune(TEACHER, batches, TEACHER, epochs=1, loss=Loss(lambda *_: np.zeros(3, np.float32)))
    with pytest.raises(InputError, match="There are no batches"):
        finetune(TEACHER, lambda: iter(()), TEACHER, epochs=1)
    nothing = Loss(lambda outputs, _: outputs["z"][:, 0] * np.nan)
    for epochs in (1, 10):
        with pytest.raises(InputError, match="diverged"):
            finetune(TEACHER, batches, TEACHER, epochs=epochs, loss=nothing)


def test_outputs_of_no_use_are_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of places at which a unit is positive is another for each batch."""
    model = copied(TEACHER)
    model.graph.node.append(helper.make_node("Relu", ["a"], ["positive"]))
    model.graph.node.append(helper.make_node("NonZero", ["positive"], ["places"]))
    model.graph.output.append(helper.make_tensor_value_info("places", onnx.TensorProto.INT64, [2, None]))
    traced, clip = count(), tf.clip_by_global_norm
    monkeypatch.setattr(tf, "clip_by_global_norm", lambda *given: (next(traced), clip(*given))[1])
    finetune(model, batches, model, epochs=3)
    assert next(traced) == 1


def test_kinds_of_outputs() -> None:
    """Probabilities are compared as such and by their logits, where both sides have them."""
    number = Target("z", "z", "number", 0.5)
    assert targets(TEACHER, TEACHER) == [Target("l", "l", "number", 0.25), Target("y", "l", "softmax", 0.25), number]
    other = copied(TEACHER)
    other.graph.node[3].op_type = "Identity"
    assert targets(TEACHER, other) == [Target("y", "l", "softmax", 0.5), number]
