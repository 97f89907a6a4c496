"""Graphs that are valid but seldom: odd outputs, odd dimensions, odd places for masks and initializers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from passes import shrink
from tests.generators.builder import Network
from tests.generators.check import check

RNG = np.random.default_rng(0)
KEEP = [1, 0, 1, 0, 0, 1, 1, 0]


def constant(name: str, value: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def info(name: str, shape: list[int | str | None], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


WEIGHTS = {
    "w1": RNG.normal(size=(6, 8)),
    "b1": RNG.normal(size=8),
    "keep": np.array(KEEP),
    "w2": RNG.normal(size=(8, 3)),
}
LAYERS = (
    node("MatMul", "x w1", "a"),
    node("Add", "a b1", "b"),
    node("Relu", "b", "c"),
    node("Mul", "c keep", "d"),
    node("MatMul", "d w2", "y"),
)


def perceptron(
    *more: NodeProto,
    outputs: tuple[ValueInfoProto, ...] = (),
    inputs: tuple[ValueInfoProto, ...] = (),
    weights: dict[str, object] | None = None,
    layers: tuple[NodeProto, ...] = LAYERS,
    batch: int | str | None = "N",
    opset: int = 17,
) -> ModelProto:
    """x [N, 6] → MatMul, Add, Relu, mask, MatMul → y [N, 3], and what else is asked for."""
    values = {**WEIGHTS, **(weights or {})}
    given = {i.name for i in inputs}
    graph = helper.make_graph(
        [*layers, *more],
        "perceptron",
        [*([] if "x" in given else [info("x", [batch, 6])]), *inputs],
        [info("y", [batch, 3]), *outputs],
        [constant(n, v) if not isinstance(v, TensorProto) else v for n, v in values.items() if n not in given],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def removed(model: ModelProto, **symbols: tuple[int, ...]) -> int:
    """Checks the compiled model; how many masked channels went."""
    return sum(axis.removed for axis in check(Network(model, {}, dict(symbols))).report.masked)


def test_empty_batch() -> None:
    assert removed(perceptron(), N=(0, 1, 4))


@pytest.mark.parametrize("batch", [-1, None, 1], ids=["minus-one", "unnamed", "fixed"])
def test_batch_dimension(batch: int | None) -> None:
    assert removed(perceptron(batch=batch))


def test_inputs_as_outputs() -> None:
    assert removed(perceptron(outputs=(info("x", ["N", 6]),)))


def test_initializer_as_output() -> None:
    assert removed(perceptron(outputs=(info("keep", [8]),)))


def test_masked_tensor_as_output() -> None:
    check(perceptron(outputs=(info("d", ["N", 8]),)))


def test_unmasked_tensor_as_output() -> None:
    check(perceptron(outputs=(info("c", ["N", 8]),)))


def test_two_constant_outputs() -> None:
    zeros = {"zeros": np.zeros(6)}
    more = (node("Mul", "x zeros", "p"), node("Mul", "zeros x", "q"))
    check(perceptron(*more, outputs=(info("p", ["N", 6]), info("q", ["N", 6])), weights=zeros))


def test_mask_that_a_caller_gives() -> None:
    assert not removed(perceptron(inputs=(info("keep", [8]),)))


@pytest.mark.parametrize("dtype", [np.int32, bool, np.float64])
def test_mask_of_another_type(dtype: type) -> None:
    layers = (node("Cast", "keep_as_given", "keep", to=TensorProto.FLOAT), *LAYERS)
    model = perceptron(layers=layers, weights={"keep_as_given": constant("keep_as_given", KEEP, dtype)})
    kept = [t for t in model.graph.initializer if t.name != "keep"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    assert removed(model)


def test_mask_that_is_also_a_bias() -> None:
    layers = (LAYERS[0], node("Add", "a keep", "b"), *LAYERS[2:])
    assert removed(perceptron(layers=layers, weights={"b1": np.zeros(8)}))


def test_mask_used_twice() -> None:
    more = (node("Mul", "d keep", "e"), node("MatMul", "e w2", "z"))
    assert removed(perceptron(*more, outputs=(info("z", ["N", 3]),)))


def test_total_over_everything() -> None:
    model = perceptron(node("ReduceSum", "d", "total", keepdims=0), outputs=(info("total", []),))
    check(Network(model, {}, {"N": (1, 4)}))


def test_scalar_mask_of_zero() -> None:
    check(Network(perceptron(weights={"keep": np.array(0.0)}), {}, {"N": (1, 3)}))


def test_vector_input() -> None:
    model = perceptron()
    model.graph.input[0].CopyFrom(info("x", [6]))
    model.graph.output[0].CopyFrom(info("y", [3]))
    check(model)


def test_graph_without_inputs() -> None:
    model = perceptron(weights={"x": RNG.normal(size=(2, 6))})
    del model.graph.input[:]
    model.graph.output[0].CopyFrom(info("y", [2, 3]))
    check(model)


def test_strings_and_sequences_beside_the_network() -> None:
    pair = helper.make_value_info(
        "pair", helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 8]))
    )
    words = info("words", ["N"], TensorProto.STRING)
    same = info("same", ["N"], TensorProto.STRING)
    more = (node("SequenceConstruct", "d c", "pair"), node("Identity", "words", "same"))
    model = perceptron(*more, outputs=(pair, same), inputs=(words,))
    check(Network(model), cases=[{"x": np.ones((2, 6), np.float32), "words": np.array(["a", "b"], object)}])


def test_attributes_of_any_type_stay() -> None:
    """Empty lists, text that is no text, and types that no operator here reads, at an operator nobody knows."""
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    sparse = helper.make_sparse_tensor(one, numpy_helper.from_array(np.zeros(1, np.int64), "where"), [3])
    body = helper.make_graph([node("Neg", "e", "f")], "body", [], [info("f", [None, 3])])
    given = {"i": 1, "f": 0.5, "s": "text", "ints": [1, 2], "floats": [0.5], "strings": ["a"], "bytes": b"\xff\xfe"}
    given |= {"t": one, "sparse": sparse, "type": helper.make_tensor_type_proto(TensorProto.FLOAT, [3]), "g": body}
    given |= {"tensors": [one, one], "lists": [b"\xff"]}
    foreign = node("Foreign", "e", "y", domain="com.example", **given)
    empty = {"no_ints": onnx.AttributeProto.INTS, "no_floats": onnx.AttributeProto.FLOATS}
    for name, kind in (empty | {"no_strings": onnx.AttributeProto.STRINGS}).items():
        foreign.attribute.add(name=name, type=kind)
    model = perceptron(layers=(*LAYERS[:4], node("MatMul", "d w2", "e"), foreign))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    kept = {a.name: a for a in shrink(model).model.graph.node[-1].attribute}
    assert kept.pop("g").g.node == body.node
    assert kept == {a.name: a for a in foreign.attribute if a.name != "g"}


def test_a_sparse_constant_is_read() -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.ones(1, np.int64), "where"), [3])
    more = (node("MatMul", "d w2", "e"), node("Constant", "", "s", sparse_value=sparse), node("Add", "e s", "y"))
    assert removed(perceptron(layers=(*LAYERS[:4], *more))) == 4


def test_what_a_model_says_of_itself_stays() -> None:
    model = perceptron()
    helper.set_model_props(model, {"author": "somebody"})
    model.doc_string, model.graph.doc_string, model.producer_name = "about", "about the graph", "a producer"
    model.domain, model.model_version = "a.domain", 7
    compiled = check(model).model
    assert compiled.metadata_props == model.metadata_props
    for name in ("doc_string", "producer_name", "domain", "model_version", "ir_version"):
        assert getattr(compiled, name) == getattr(model, name), name
    assert compiled.graph.doc_string == model.graph.doc_string
    assert compiled.graph.name == model.graph.name


def test_stale_shapes_of_removed_tensors() -> None:
    model = perceptron()
    model.graph.value_info.extend([info("a", ["N", 8]), info("d", ["N", 8])])
    assert removed(model)
    onnx.checker.check_model(check(model).model, full_check=True)


def test_initializers_among_the_inputs() -> None:
    """As IR version 3 demands of every initializer, and later versions allow."""
    model = perceptron(opset=9)
    model.graph.input.extend(info(t.name, list(t.dims)) for t in model.graph.initializer)
    assert removed(model)
    model.ir_version = 3
    assert removed(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_that_are_no_numbers_and_that_only_masked_channels_read(value: float, dtype: type) -> None:
    """The source gives no numbers for them: what is infinite times zero is none."""
    weights = {name: array.astype(dtype) for name, array in WEIGHTS.items()}
    weights["w1"][:, 1] = value  # masked
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    source = helper.make_model(
        helper.make_graph(
            LAYERS,
            "g",
            [info("x", [2, 6], kind)],
            [info("y", [2, 3], kind)],
            [constant(n, w, dtype) for n, w in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    (note,) = (note for note in shrink(source).report.notes if "not numbers" in note)
    assert note.startswith("Weights are infinite, not numbers or negative variances: w1. Where only removed channels")
    weights["w1"][:, 1] = 1
    source.graph.initializer[0].CopyFrom(constant("w1", weights["w1"], dtype))
    assert not [note for note in shrink(source).report.notes if "not numbers" in note]


def test_variances_below_zero() -> None:
    """Their roots are no numbers, in channels that are masked as well."""
    layers = (
        node("MatMul", "x w1", "a"),
        node("BatchNormalization", "a ones zeros zeros variance", "b"),
        node("Mul", "b mask", "c"),
        node("MatMul", "c w2", "y"),
    )
    variance = np.where(np.arange(4) == 1, -2.0, 1.0)
    weights = {"w1": np.ones((6, 4)), "w2": np.ones((4, 3)), "ones": np.ones(4), "zeros": np.zeros(4)}
    weights |= {"mask": (variance > 0).astype(float), "variance": variance}
    named = [constant(name, values) for name, values in weights.items()]
    graph = helper.make_graph(layers, "g", [info("x", [2, 6])], [info("y", [2, 3])], named)
    notes = shrink(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).report.notes
    assert any("negative variances: variance" in note for note in notes)


def test_infinite_numbers_that_stay_whole_are_no_news() -> None:
    """As masks of attention have them."""
    layers = (*LAYERS[:-1], node("MatMul", "d w2", "z"), node("Add", "z hidden", "y"))
    hidden = np.array([0, -np.inf, 0])
    named = [constant(n, w) for n, w in {**WEIGHTS, "hidden": hidden}.items()]
    graph = helper.make_graph(layers, "g", [info("x", [2, 6])], [info("y", [2, 3])], named)
    result = shrink(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert result.report.masked and not [note for note in result.report.notes if "not numbers" in note]


def test_a_matrix_that_is_scattered_is_not_stored() -> None:
    """As exporters write filter banks: stored, it would take more room than removed channels leave."""
    layers = (
        *LAYERS,
        node("ConstantOfShape", "size", "zeros"),
        node("ScatterElements", "zeros places values", "flat"),
        node("Reshape", "flat shape", "bank"),
        node("MatMul", "y bank", "z"),
    )
    named = [constant("values", np.arange(24)), *(constant(n, w) for n, w in WEIGHTS.items())]
    integers = {"size": [1536], "places": np.arange(0, 1536, 64), "shape": [3, 512]}
    named += [constant(name, values, np.int64) for name, values in integers.items()]
    graph = helper.make_graph(layers, "g", [info("x", ["n", 6])], [info("z", ["n", 512])], named)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    check(Network(source, {}, {"n": (1, 3)}))
    report = shrink(source).report
    assert [axis.removed for axis in report.masked] == [4] and report.after.params < report.before.params
