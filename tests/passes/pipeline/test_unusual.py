"""Graphs that are valid but seldom: odd outputs, odd dimensions, odd places for masks and initializers."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from passes import shrink
from tests.generators.builder import Network
from tests.generators.check import check
from tests.passes.text import model

RNG = np.random.default_rng(0)
KEEP = [1, 0, 1, 0, 0, 1, 1, 0]
WEIGHTS = {"w1": RNG.normal(size=(6, 8)), "b1": RNG.normal(size=8), "keep": np.array(KEEP, np.float32)}
WEIGHTS["w2"] = RNG.normal(size=(8, 3))
LAYERS = "a = MatMul(x, w1) b = Add(a, b1) c = Relu(b) d = Mul(c, keep)"


def perceptron(
    more: str = "",
    *,
    inputs: str = "float[N,6] x",
    outputs: str = "float[N,3] y",
    noted: str = "",
    layers: str = LAYERS,
    last: str = "y = MatMul(d, w2)",
    opset: int = 17,
    **weights: Any,
) -> ModelProto:
    """x [N, 6] → MatMul, Add, Relu, mask, MatMul → y [N, 3], with what else is given; without weights that are None."""
    given = {name: values for name, values in (WEIGHTS | weights).items() if values is not None}
    return model(f"({inputs}) => ({outputs}) {noted}", f"{layers} {last} {more}", opset, checked=False, **given)


def removed(source: ModelProto, **symbols: tuple[int, ...]) -> int:
    """Checks the compiled model; how many masked channels went."""
    return sum(axis.removed for axis in check(Network(source, {}, dict(symbols))).report.masked)


ODD = {
    "constant outputs": perceptron(
        "p = Mul(x, zeros) q = Mul(zeros, x)",
        outputs="float[N,3] y, float[N,6] p, float[N,6] q",
        zeros=np.zeros(6),
    ),
    "a total": perceptron("total = ReduceSum<keepdims=0>(d)", outputs="float[N,3] y, float total"),
    "a mask that is one zero": perceptron(keep=np.array(0.0)),
    "a vector": perceptron(inputs="float[6] x", outputs="float[3] y"),
    "no inputs": perceptron(inputs="", outputs="float[2,3] y", x=RNG.normal(size=(2, 6))),
}


@pytest.mark.parametrize("source", ODD.values(), ids=ODD)
def test_odd_graphs(source: ModelProto) -> None:
    check(Network(source, {}, {"N": (1, 4)}))


def test_empty_batch() -> None:
    assert removed(perceptron(), N=(0, 1, 4))


@pytest.mark.parametrize("batch", [-1, "?", 1], ids=["minus-one", "unnamed", "fixed"])
def test_batch_dimension(batch: int | str) -> None:
    source = perceptron(inputs=f"float[{max(batch, 0) if isinstance(batch, int) else batch},6] x")
    for value in (*source.graph.input, *source.graph.output) if batch != "?" else ():
        value.type.tensor_type.shape.dim[0].dim_value = batch
    assert removed(source)


@pytest.mark.parametrize(
    ("output", "goes"),
    [("float[N,6] x", True), ("float[8] keep", True), ("float[N,8] d", False), ("float[N,8] c", False)],
    ids=["input", "initializer", "masked", "unmasked"],
)
def test_other_tensors_as_outputs(output: str, goes: bool) -> None:
    assert bool(removed(perceptron(outputs=f"float[N,3] y, {output}"))) >= goes


def test_mask_that_a_caller_gives() -> None:
    assert not removed(perceptron(inputs="float[N,6] x, float[8] keep", keep=None))


@pytest.mark.parametrize("dtype", [np.int32, bool, np.float64])
def test_mask_of_another_type(dtype: type) -> None:
    source = perceptron(layers=f"keep = Cast<to=1>(given) {LAYERS}", keep=None)
    source.graph.initializer.append(numpy_helper.from_array(np.array(KEEP, dtype), "given"))
    assert removed(source)


def test_mask_that_is_also_a_bias() -> None:
    assert removed(perceptron(layers=LAYERS.replace("b1", "keep"), b1=None))


def test_mask_used_twice() -> None:
    assert removed(perceptron("e = Mul(d, keep) z = MatMul(e, w2)", outputs="float[N,3] y, float[N,3] z"))


def test_strings_and_sequences_beside_the_network() -> None:
    source = perceptron(
        "pair = SequenceConstruct(d, c) same = Identity(words)",
        inputs="float[N,6] x, string[N] words",
        outputs="float[N,3] y, seq(float[N,8]) pair, string[N] same",
    )
    check(Network(source), cases=[{"x": np.ones((2, 6), np.float32), "words": np.array(["a", "b"], object)}])


def test_attributes_of_any_type_stay() -> None:
    """Empty lists, text that is no text, and types that no operator here reads, at an operator nobody knows."""
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    sparse = helper.make_sparse_tensor(one, numpy_helper.from_array(np.zeros(1, np.int64), "where"), [3])
    body = onnx.parser.parse_graph("body () => (float[?,3] f) { f = Neg(e) }")
    given = {"i": 1, "f": 0.5, "s": "text", "ints": [1, 2], "floats": [0.5], "strings": ["a"], "bytes": b"\xff\xfe"}
    given |= {"t": one, "sparse": sparse, "type": helper.make_tensor_type_proto(TensorProto.FLOAT, [3]), "g": body}
    given |= {"tensors": [one, one], "lists": [b"\xff"]}
    foreign = helper.make_node("Foreign", ["e"], ["y"], domain="com.example", **given)
    empty = {"no_ints": onnx.AttributeProto.INTS, "no_floats": onnx.AttributeProto.FLOATS}
    for name, kind in (empty | {"no_strings": onnx.AttributeProto.STRINGS}).items():
        foreign.attribute.add(name=name, type=kind)
    source = perceptron(last="e = MatMul(d, w2)")
    source.graph.node.append(foreign)
    source.opset_import.append(helper.make_opsetid("com.example", 1))
    kept = {a.name: a for a in shrink(source).model.graph.node[-1].attribute}
    assert kept.pop("g").g.node == body.node
    assert kept == {a.name: a for a in foreign.attribute if a.name != "g"}


def test_a_sparse_constant_is_read() -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.ones(1, np.int64), "where"), [3])
    source = perceptron(last="e = MatMul(d, w2) y = Add(e, s)")
    source.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    assert removed(source) == 4


def test_stale_shapes_of_removed_tensors() -> None:
    source = perceptron(outputs="float[N,3] y", noted="<float[N,8] a, float[N,8] d>")
    assert removed(source)
    onnx.checker.check_model(check(source).model, full_check=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_that_are_no_numbers_and_that_only_masked_channels_read(value: float, dtype: type) -> None:
    """The source gives no numbers for them: what is infinite times zero is none."""
    weights = {name: array.astype(dtype) for name, array in WEIGHTS.items()}
    weights["w1"][:, 1] = value  # masked
    kind = np.dtype(dtype).name.replace("float32", "float")
    signature = f"({kind}[2,6] x) => ({kind}[2,3] y)"
    source = model(signature, f"{LAYERS} y = MatMul(d, w2)", checked=False, **weights)
    (note,) = (note for note in shrink(source).report.notes if "Where only" in note)
    assert note.startswith("Some weights are NaN or infinite, or variances are negative: w1. Where only removed ch")
    told = [note for note in shrink(source).report.notes if note.startswith("Weights hold NaN: w1. ")]
    assert len(told) == np.isnan(value)
    weights["w1"][:, 1] = 1
    source.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights["w1"], "w1"))
    assert not [note for note in shrink(source).report.notes if "Where only" in note]


def test_variances_below_zero() -> None:
    """Their roots are no numbers, in channels that are masked as well."""
    source = model(
        "(float[2,6] x) => (float[2,3] y) <float[6,4] w1, float[4,3] w2, float[4] ones = {1, 1, 1, 1}, "
        "float[4] zeros = {0, 0, 0, 0}, float[4] variance = {1, -2, 1, 1}, float[4] mask = {1, 0, 1, 1}>",
        "a = MatMul(x, w1) b = BatchNormalization(a, ones, zeros, zeros, variance) c = Mul(b, mask) y = MatMul(c, w2)",
    )
    notes = shrink(source).report.notes
    assert any("variances are negative: variance" in note for note in notes)


def test_infinite_numbers_that_stay_whole_are_no_news() -> None:
    """As masks of attention have them."""
    result = shrink(perceptron(last="z = MatMul(d, w2) y = Add(z, hidden)", hidden=np.array([0, -np.inf, 0])))
    assert result.report.masked and not [note for note in result.report.notes if "Where only" in note]


def test_a_matrix_that_is_scattered_is_not_stored() -> None:
    """As exporters write filter banks: stored, it would take more room than removed channels leave."""
    more = """
        zeros = ConstantOfShape(size)
        flat = ScatterElements(zeros, places, values)
        bank = Reshape(flat, shape)
        z = MatMul(y, bank)
    """
    integers = {"size": [1536], "places": np.arange(0, 1536, 64), "shape": [3, 512]}
    stored = {name: np.array(values) for name, values in integers.items()}
    source = perceptron(
        more, inputs="float[n,6] x", outputs="float[n,512] z", opset=18, values=np.arange(24.0), **stored
    )
    check(Network(source, {}, {"n": (1, 3)}))
    report = shrink(source).report
    assert [axis.removed for axis in report.masked] == [4] and report.after.params < report.before.params
