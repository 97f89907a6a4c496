"""Graphs that are not valid: what is wrong with them is said, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import passes
from maskc import frontend
from maskc.errors import InputError
from maskc.frontend import graph_queries, onnx_file
from passes.errors import GraphError
from tests.maskc import build
from tests.maskc.command import compile_refused, maskc, refused


def undefined_input() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[1].input[1] = "nowhere"
    return built


def undefined_in_a_branch() -> onnx.ModelProto:
    built = build.mlp()
    branches = {
        f"{name}_branch": helper.make_graph(
            [build.node("Relu", source, name)], name, [], [build.value(name, ["n", 16])]
        )
        for name, source in (("then", "c"), ("else", "ghost"))
    }
    built.graph.initializer.append(build.constant("yes", True, np.bool_))
    built.graph.node.insert(3, helper.make_node("If", ["yes"], ["chosen"], name="branch", **branches))
    return built


def contradiction_in_a_branch() -> onnx.ModelProto:
    built = undefined_in_a_branch()
    built.graph.initializer.append(build.weight("three", 3))
    for branch in built.graph.node[3].attribute:
        branch.g.node[0].CopyFrom(build.node("Add", "c three", branch.g.name, name=f"{branch.g.name} sum"))
    return built


def unknown_operator() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[2].op_type = "Erfc"
    return built


def unknown_attribute() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[0].attribute.append(helper.make_attribute("bogus", 1))
    return built


def missing_attribute() -> onnx.ModelProto:
    nodes = [build.node("Concat", "x w", "y", name="join")]
    return build.model(nodes, [build.value("x", [2, 3])], [build.value("y", [2, "m"])], [build.weight("w", 2, 3)])


def contradiction() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.initializer[2].CopyFrom(build.weight("w2", 12, 4))
    return built


def contradiction_at_an_unnamed_node() -> onnx.ModelProto:
    """The nodes behind it have no types then, and one of them has a name: it is not the one to name."""
    built = build.mlp()
    built.graph.initializer[1].CopyFrom(build.weight("b1", 5))
    return built


def other_type() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.initializer[1].CopyFrom(build.weight("b1", 16, dtype=np.float64))
    return built


def cycle() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[0].input[0] = "c"
    return built


def cycle_of_one() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[2].input[0] = "c"
    return built


def out_of_order() -> onnx.ModelProto:
    built = build.mlp()
    last = built.graph.node.pop()
    built.graph.node.insert(0, last)
    return built


def duplicate() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[2].output[0] = "a"
    return built


def duplicate_of_an_input() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.node[2].output[0] = "x"
    return built


def two_inputs() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.input.append(build.value("x", ["n", 8]))
    return built


def two_initializers() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.initializer.append(build.weight("w1", 8, 16, seed=1))
    return built


def no_domain() -> onnx.ModelProto:
    built = build.custom()
    del built.opset_import[1]
    return built


def no_opset() -> onnx.ModelProto:
    built = build.mlp()
    del built.opset_import[:]
    return built


def no_outputs() -> onnx.ModelProto:
    built = build.mlp()
    del built.graph.output[:]
    return built


def nothing_at_all() -> onnx.ModelProto:
    return build.model([], [], [])


def output_from_nowhere() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.output.append(build.value("ghost", ["n", 4]))
    return built


def short_data() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.initializer[0].raw_data = built.graph.initializer[0].raw_data[:-4]
    return built


def data_twice() -> onnx.ModelProto:
    built = build.mlp()
    built.graph.initializer[0].float_data.extend([1.0] * 128)
    return built


def data_of_another_shape(**data: Any) -> onnx.ModelProto:
    """The bias of the MLP as a scalar in name, with the data of 16 numbers, or these."""
    built = build.mlp()
    bias = built.graph.initializer[1]
    del bias.dims[:]
    for key, values in data.items():
        bias.ClearField("raw_data")
        getattr(bias, key).extend(values)
    return built


def format_from_the_future() -> onnx.ModelProto:
    built = build.mlp()
    built.ir_version = 99
    return built


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (undefined_input, ("node Add -> 'b' reads 'nowhere', which nothing writes",)),
        (undefined_in_a_branch, ("node 'branch' (If) reads 'ghost', which nothing writes",)),
        (contradiction_in_a_branch, ("node 'then sum' (Add): Incompatible dimensions",)),
        (unknown_operator, ("Erfc -> c",)),
        (unknown_attribute, ("bogus", "'first'")),
        (missing_attribute, ("'axis'", "'join'")),
        (contradiction, ("node 'second' (MatMul)", "Incompatible dimensions")),
        (contradiction_at_an_unnamed_node, ("node 'Add -> b' (Add): Incompatible dimensions",)),
        (other_type, ("node 'Add -> b' (Add)", "inconsistent type")),
        (cycle, ("cycle through 'first' (MatMul) and Add -> 'b' and Relu -> 'c'",)),
        (cycle_of_one, ("cycle through Relu -> 'c'.",)),
        (out_of_order, ("node 'second' (MatMul) reads 'd' before node Mul -> 'd' writes it",)),
        (duplicate, ("nodes 'first' (MatMul) and Relu -> 'a' both write 'a'",)),
        (duplicate_of_an_input, ("node Relu -> 'x' writes 'x', which has a value already",)),
        (two_inputs, ("two inputs are called 'x'",)),
        (two_initializers, ("two initializers are called 'w1'",)),
        (no_domain, ("com.example", "Fancy -> c")),
        (no_opset, ("opset_import",)),
        (no_outputs, ("no outputs",)),
        (nothing_at_all, ("no outputs",)),
        (output_from_nowhere, ("nothing writes the output 'ghost'",)),
        (short_data, ("w1",)),
        (data_twice, ("the data of tensor 'w1' are there twice",)),
        (data_of_another_shape, ("tensor 'b1' []", "64 bytes", "4 are")),
        (lambda: data_of_another_shape(float_data=[1.0] * 16), ("b1",)),
        (format_from_the_future, ("99",)),
        (lambda: build.sparse(0, 500), ("w1", "out of range")),
        (lambda: build.fancy(build.node("Relu", "ghost", "o")), ("ghost",)),
    ],
)
def test_a_graph_that_is_not_valid(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build.save(make(), tmp_path / "m.onnx")
    compile_refused(source, "not a valid ONNX model", *words)
    with pytest.raises(InputError):
        frontend.read(make())
    monkeypatch.setattr(onnx_file, "_SOON_SHOWN", 0)  # as if there were many weights, which the checker is not shown
    monkeypatch.setattr(graph_queries, "_SHAPE_DATA", 8)
    with pytest.raises(InputError):
        frontend.read(make())


def test_a_function_that_is_called_with_too_few_inputs(tmp_path: Path) -> None:
    built = build.fancy(build.node("Add", "i j", "o"), inputs=("i", "j"))
    compile_refused(build.save(built, tmp_path / "m.onnx"), "once its local functions are inlined", "Add")


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_for_another_number_of_channels(tmp_path: Path, transposed: bool) -> None:
    """The checker does not look at it, and ONNX Runtime only when it runs."""
    built = build.cnn()
    built.graph.node[0].name = "stem"
    built.graph.initializer[0].CopyFrom(build.weight("k", *((4, 6) if transposed else (6, 4)), 3, 3))
    if transposed:
        built.graph.node[0].op_type = "ConvTranspose"
    source = build.save(built, tmp_path / "m.onnx")
    words = ("node `stem`", "its input has 3 channels and its weights are for 4")
    refused(maskc("compile", source), 2, *words)
    refused(maskc("flops", source), 2, *words)


def test_a_reshape_to_another_number_of_elements(tmp_path: Path) -> None:
    nodes = [build.node("Reshape", "x s", "y", name="re")]
    shape = build.constant("s", [4, 2], np.int64)
    built = build.model(nodes, [build.value("x", [2, 3])], [build.value("y", ["a", "b"])], [shape])
    source = build.save(built, tmp_path / "m.onnx")
    refused(maskc("compile", source), 2, "node `re`", "(2, 3) cannot be given the shape (4, 2)")


def test_parameters_for_another_number_of_channels(tmp_path: Path) -> None:
    built = build.cnn()
    built.graph.node[0].input.append("bias")
    built.graph.initializer.append(build.weight("bias", 5))
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "Conv -> conv", "6 channels", "bias is for 5")
    built = build.cnn()
    built.graph.initializer[0].CopyFrom(build.weight("k", 6))
    with pytest.raises(GraphError, match=r"its weights have shape \[6\], and must have as many axes as its input"):
        passes.shrink(built)
    built = build.cnn()
    built.graph.node[1].name = "norm"
    built.graph.initializer[3].CopyFrom(build.weight("mean", 5))
    source = build.save(built, tmp_path / "n.onnx")
    refused(maskc("compile", source), 2, "norm")
    with pytest.raises(GraphError, match="`norm` contradict each other: its input has 6 channels and `mean` is for 5"):
        passes.shrink(built)
    built.graph.initializer[3].CopyFrom(build.weight("mean", 6, 1))
    with pytest.raises(GraphError, match=r"`norm` .* `mean` has shape \[6, 1\] and must be a vector"):
        passes.shrink(built)


@pytest.mark.parametrize(("name", "shape"), [("r", (1, 12, 3)), ("b", (1, 23))])
def test_a_recurrent_layer_whose_weights_do_not_fit_together(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    nodes = [helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], name="gru", hidden_size=4)]
    shapes: dict[str, tuple[int, ...]] = {"w": (1, 12, 2), "r": (1, 12, 4), "b": (1, 24)} | {name: shape}
    weights = [build.weight(key, *value) for key, value in shapes.items()]
    built = build.model(nodes, [build.value("x", [3, "n", 2])], [build.value("y", [3, 1, "n", 4])], weights)
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "gru", str(shape))


@pytest.mark.parametrize(("name", "shape"), [("scale", (5,)), ("zero", (3,)), ("scale", (0,)), ("zero", (6, 1))])
@pytest.mark.parametrize("computed", [False, True])
def test_scales_that_do_not_fit_their_weight(tmp_path: Path, name: str, shape: tuple[int, ...], computed: bool) -> None:
    weight = helper.make_tensor("w", TensorProto.INT8, [4, 6], list(range(24)))
    sizes: dict[str, tuple[int, ...]] = {"scale": (6,), "zero": (6,)} | {name: shape}
    scale = build.weight("scale", *sizes["scale"])
    zero = helper.make_tensor("zero", TensorProto.INT8, sizes["zero"], [0] * int(np.prod(sizes["zero"])))
    nodes = [
        helper.make_node("DequantizeLinear", ["q" if computed else "w", "scale", "zero"], ["d"], name="dequantise"),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    inputs = [build.value("x", ["n", 4])]
    if computed:
        nodes.insert(0, helper.make_node("Transpose", ["p"], ["q"]))
        inputs.append(helper.make_tensor_value_info("p", TensorProto.INT8, [6, 4]))
    built = build.model(nodes, inputs, [build.value("y", ["n", 6])], [weight, scale, zero])
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "`dequantise`", str(list(shape)), "[4, 6]")


def test_indices_beside_the_data(tmp_path: Path) -> None:
    nodes = [helper.make_node("GatherElements", ["x", "i"], ["y"], name="pick", axis=1)]
    weights = [numpy_helper.from_array(np.zeros((4, 2), np.int64), "i")]
    built = build.model(nodes, [build.value("x", [3, 2])], [build.value("y", [4, 2])], weights)
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "`pick`", "size 4 along axis 0", "its data 3")


def test_an_order_of_fewer_axes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["y"], name="turn", perm=[1, 0])]
    built = build.model(nodes, [build.value("x", [3, 2, 4])], [build.value("y", ["a", "b"])], [])
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "`turn`", "perm [1, 0]", "3 axes")


def test_operands_whose_sizes_are_computed_and_do_not_fit(tmp_path: Path) -> None:
    """Only with its constants folded does the graph show that two rows meet three."""
    nodes = [
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("TopK", ["x", "two"], ["t", "i"], axis=1),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="product"),
    ]
    weights = [numpy_helper.from_array(np.array([1]), "one"), build.weight("w", 3, 5)]
    built = build.model(nodes, [build.value("x", ["n", 4])], [build.value("y", ["n", 5])], weights)
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "'product' (MatMul)", "Incompatible")


@pytest.mark.parametrize("opset", [1, 6, 8])
def test_an_opset_that_is_too_old(tmp_path: Path, opset: int) -> None:
    built = build.mlp()
    built.opset_import[0].version = opset
    compile_refused(build.save(built, tmp_path / "m.onnx"), f"opset {opset}", "onnx.version_converter")


@pytest.mark.parametrize("place", ["node", "tensor", "operator", "size", "description"])
def test_a_name_that_is_no_text(tmp_path: Path, place: str) -> None:
    built = build.mlp()
    if place == "node":
        built.graph.node[0].name = "zzzz"
    elif place == "tensor":
        built.graph.node[0].output[0] = built.graph.node[1].input[0] = "zzzz"
    elif place == "operator":
        built.graph.node[0].op_type = "zzzz"
    elif place == "size":
        built.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "zzzz"
    else:
        built.doc_string = "zzzz"
    source = tmp_path / "m.onnx"
    source.write_bytes(built.SerializeToString().replace(b"zzzz", b"zz\xff\xfe"))
    compile_refused(source, "'zz��'", "no text in UTF-8")


@pytest.mark.parametrize("bound", [[0.0, 1.0, 2.0, 3.0], []])
def test_a_clip_whose_bounds_are_not_numbers(tmp_path: Path, bound: list[float]) -> None:
    x, y = build.value("x", ["n", 4]), build.value("y", ["n", 4])
    built = build.model([build.node("Clip", "x low", "y")], [x], [y], [build.constant("low", bound)])
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "`low`", "must be one number")


def test_a_recurrent_layer_whose_weights_have_two_axes(tmp_path: Path) -> None:
    nodes = [build.node("Odd", "x", "a"), build.node("LSTM", "a w w", "y")]
    nodes[0].domain = "com.example"
    x, y = build.value("x", ["n", 3, 8]), build.value("y", [None, None, None, None])
    built = build.model(nodes, [x], [y], [build.weight("w", 12, 8)], domains=["com.example"])
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "LSTM -> y", "three axes")


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    built = build.fancy(helper.make_node("Fancy", ["i"], ["o"], domain="com.example"))
    compile_refused(build.save(built, tmp_path / "m.onnx"), "call each other in a circle", "Fancy")


def test_a_function_that_is_called_for_too_many_outputs(tmp_path: Path) -> None:
    built = build.fancy(build.node("Relu", "i", "o"))
    next(n for n in built.graph.node if n.op_type == "Fancy").output.append("more")
    result = maskc("compile", build.save(built, tmp_path / "m.onnx"))
    refused(result, 2, "cannot be inlined: Number of actual parameters")
    assert "/onnx/" not in result.stderr and "Assertion" not in result.stderr
