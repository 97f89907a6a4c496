"""ONNX graphs as differentiable TensorFlow: outputs are those of ONNX Runtime, gradients those of the function."""

from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.published import FOLDER, MODELS, Published
from maskc.errors import InputError
from tests.double_precision.evaluator import NO_DOUBLE, to_double
from tests.generators.node_cases import cases
from tests.generators.running import CannotRunError, Feeds, Runner
from tests.passes import text
from tests.passes.ops.test_node_cases import runs

pytestmark = pytest.mark.tensorflow

tf = pytest.importorskip("tensorflow")

from maskc.pruning.training.from_onnx.imported import RULES, Imported  # noqa: E402

Array = np.ndarray[Any, Any]

LIMIT = 1e-4  # of the scale
STEP = 1e-5


def check_outputs(model: onnx.ModelProto, feeds: Feeds) -> None:
    """TensorFlow gives what ONNX Runtime does."""
    outputs = Imported(model)(feeds)
    for info, wanted in zip(model.graph.output, Runner(model)(feeds), strict=True):
        found = outputs[info.name].numpy()
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-2) if wanted.dtype.kind == "f" else 1
        half = 30 if any(x.dtype == np.float16 for x in (wanted, *feeds.values())) else 1
        np.testing.assert_allclose(found, wanted, rtol=0, atol=half * LIMIT * scale, equal_nan=True)


def check_gradients(model: onnx.ModelProto, feeds: Feeds, entry: str) -> None:
    """In double precision, the derivative along a direction of weights and input is a quotient of differences."""
    rng = np.random.default_rng(0)
    feeds = {name: x.astype(float) if x.dtype.kind == "f" else x for name, x in feeds.items()}
    imported = Imported(to_double(model))
    points = {name: variable.numpy() for name, variable in imported.variables.items()}
    if feeds[entry].dtype.kind == "f":
        points[entry] = feeds[entry]
    # away from where the zeros of masks and equal numbers make kinks
    points = {name: x + 0.01 * rng.normal(size=x.shape) for name, x in points.items()}
    direction = {name: rng.normal(size=x.shape) for name, x in points.items()}
    weights: dict[str, Array] = {}

    def loss_at(step: float, tape: tf.GradientTape | None = None) -> tuple[Any, dict[str, Any]]:
        there = {name: x + step * direction[name] for name, x in points.items()}
        for name, variable in imported.variables.items():
            variable.assign(there[name])
        tensors = {name: tf.constant(there.get(name, x)) for name, x in feeds.items()}
        if tape is not None:
            tape.watch(tensors[entry])
        outputs = {name: y for name, y in imported(tensors).items() if y.dtype.is_floating}
        for name, y in outputs.items():
            weights.setdefault(name, rng.normal(size=y.shape))
        parts = [tf.reduce_sum(tf.cast(y, tf.float64) * weights[name]) for name, y in outputs.items()]
        return tf.add_n(parts or [tf.zeros((), tf.float64)]), {**imported.variables, entry: tensors[entry]}

    with tf.GradientTape() as tape:
        loss, sources = loss_at(0, tape)
    gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
    with np.errstate(invalid="ignore"):
        terms = [np.sum(tf.convert_to_tensor(gradients[n]).numpy() * d) for n, d in direction.items()]
    expected = float((loss_at(STEP)[0] - loss_at(-STEP)[0]) / (2 * STEP))
    if np.isfinite(expected):
        scale = sum(abs(t) for t in terms) + abs(expected)
        assert abs(sum(terms) - expected) <= LIMIT * max(scale, 1e-6), (terms, expected)


def check_cases(op: str) -> None:
    """At least one case is computed, with its gradients; others may be told to be beyond the rule."""
    checked = 0
    for case in filter(runs, cases(op, every=False)):
        entry = next(info.name for info in case.model.graph.input if info.name.endswith("/source"))
        try:
            check_outputs(case.model, case.feeds)
            checked += 1
            if not any(node.op_type in NO_DOUBLE for node in case.model.graph.node):
                check_gradients(case.model, case.feeds, entry)
        except (CannotRunError, InputError):
            continue
        except Exception as error:
            error.add_note(case.name)
            raise
    assert checked, f"no case of {op} is computed"


STANDARD = sorted(op for op in RULES if "." not in op)  # of which onnx has cases


@pytest.mark.slow
@pytest.mark.parametrize("op", STANDARD)
def test_operator_in_all_cases(op: str) -> None:
    check_cases(op)


@pytest.mark.slow
@pytest.mark.parametrize("published", MODELS, ids=lambda p: p.name)
def test_published_model(published: Published) -> None:
    """Outputs are those of ONNX Runtime, gradients inside `tf.function` are finite, and the file is the same."""
    if not (FOLDER / published.wheel).exists():
        pytest.skip("not there")
    model, feeds = published.load(), published.feeds()
    check_outputs(model, feeds)
    imported = Imported(model)

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(tf.square(y)) for y in imported(feeds).values()])
        return tape.gradient(loss, imported.variables)

    for name, gradient in gradients().items():
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), name
    assert imported.to_onnx() == model


MODEL = """<ir_version: 8, opset_import: ["" : 20, "own" : 1]> g (float[2,3,4,4] x) => (float[2,2,4,4] y)
    <float[2,3,1,1] weights = {1, 2, 3, 4, 5, 6}, float16[2] bias = {1, 2}, float[1] half = {0.5},
    int64[3] q = {2, 1, 1}>
    { h = Conv(x, weights) s = Mul(h, half) b = Cast<to = 1>(bias) a = Reshape(b, q) z = Add(s, a) y = Relu(z) }"""


def test_the_last_block_of_steps_may_be_shorter() -> None:
    body = "q = QuantizeLinear<axis=1, block_size=4>(x, s, z) y = DequantizeLinear<axis=1, block_size=4>(q, s, z)"
    s, z = np.float32([[0.1, 0.2, 0.3]] * 2), np.zeros((2, 3), np.int8)
    model = text.model("(float[2,10] x) => (float[2,10] y)", body, 21, ir=10, s=s, z=z)
    check_outputs(model, {"x": np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)})


@pytest.mark.parametrize(
    "node",
    [
        "Scaler<offset = [1.0, 2.0, 3.0], scale = [0.5, 2.0, 4.0]>",
        "Scaler<offset = [1.0], scale = [0.5]>",
        "Imputer<imputed_value_floats = [1.0, 2.0, 3.0], replaced_value_float = 0.5>",
        "Imputer<imputed_value_floats = [1.0]>",
    ],
)
def test_features_of_tables_are_scaled(node: str) -> None:
    words = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[4,3] x) => (float[4,3] y)'
    model = onnx.parser.parse_model(f"{words} {{ y = ai.onnx.ml.{node}(x) }}")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x[[0, 1, 2], [0, 1, 2]] = 0, 0.5, 0
    check_outputs(model, {"x": x})


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_dilated_convolutions_have_gradients(axes: int, stride: int) -> None:
    """In groups, with padding on one side."""
    given = {"dilations": [2, 1, 1], "strides": [stride] * 3}
    words = ", ".join(f"{name} = {values[:axes]}" for name, values in given.items())
    rng = np.random.default_rng(0)
    w, x = (rng.normal(size=size).astype(np.float32) for size in ((6, 2, *[2] * axes), (2, 4, *[9, 5, 6][:axes])))
    body = f"y = Conv<group = 2, {words}, pads = {[1] * axes + [0] * axes}>(x, w)"
    shapes = f"(float[2,4,{','.join('956'[:axes])}] x) => (float[2,6,{','.join('abc'[:axes])}] y)"
    model = text.model(shapes, body, w=w)
    check_outputs(model, {"x": x})
    check_gradients(model, {"x": x}, "x")


def test_trained_values_go_back_into_the_file() -> None:
    """Only the elements of weights differ, which are trained in single precision; a number of a formula is none."""
    model = onnx.parser.parse_model(MODEL)
    imported = Imported(model)
    assert imported.variables.keys() == {"weights", "bias"}
    assert imported.to_onnx() == model
    imported.variables["bias"].assign([3, 4])
    changed = imported.to_onnx()
    bias = next(t for t in changed.graph.initializer if t.name == "bias")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(bias), np.array([3, 4], np.float16))
    bias.CopyFrom(next(t for t in model.graph.initializer if t.name == "bias"))
    assert changed == model


def test_inner_tensors_are_given_by_name() -> None:
    outputs = Imported(onnx.parser.parse_model(MODEL))({"x": np.ones((2, 3, 4, 4), np.float32)}, ["h"])
    assert outputs.keys() == {"h", "y"}
    np.testing.assert_array_equal(outputs["h"][0, :, 0, 0], [6, 15])


def test_an_operator_without_a_rule_is_named() -> None:
    model = onnx.parser.parse_model(MODEL.replace("Relu(z)", "own.Strange(z)"))
    with pytest.raises(InputError, match=r"The node `.*` is a own\.Strange, which training has no rule for\."):
        Imported(model)
