"""Graphs that are odd but valid compile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import passes
from maskc.frontend import write_model_files
from tests.maskc import build
from tests.maskc.command import compile_refused, maskc, refused


def good(built: onnx.ModelProto, directory: Path) -> dict[str, Any]:
    """The report of a compilation from the shell that must work; what it wrote is valid."""
    result = maskc("compile", build.save(built, directory / "m.onnx"), "--json")
    assert result.exit_code == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    onnx.checker.check_model(told["output"], full_check=True)
    return told


def test_node_names_given_twice(tmp_path: Path) -> None:
    """ONNX Runtime refuses them, and they mean nothing."""
    built = build.mlp()
    for node in built.graph.node[:3]:
        node.name = "same"
    told = good(built, tmp_path)
    assert told["verification"]["passed"] and "same" in told["warnings"][0]
    names = [node.name for node in onnx.load(told["output"]).graph.node if node.name]
    assert len(names) == len(set(names))


def test_a_function_of_the_standard_whose_default_onnx_forgets(tmp_path: Path) -> None:
    """Its inference of MeanVarianceNormalization of opset 13 fails where the axes are left to their default."""
    shape = [2, 3, 4, 5]
    nodes = [build.node("MeanVarianceNormalization", "x", "m"), build.node("Relu", "m", "y")]
    built = build.model(nodes, [build.value("x", shape)], [build.value("y", shape)], opset=13)
    assert good(built, tmp_path)["verification"]["passed"]


def test_a_sparse_initializer(tmp_path: Path) -> None:
    told = good(build.sparse(0, 17, 40, 127), tmp_path)
    assert told["verification"]["passed"] and "w1" in told["warnings"][0]
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    wanted, got = (build.run(path, x=x)["y"] for path in (tmp_path / "m.onnx", Path(told["output"])))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_training_information_is_left_out(tmp_path: Path) -> None:
    built = build.mlp()
    training = built.training_info.add()
    training.algorithm.CopyFrom(
        helper.make_graph([build.node("Relu", "w1", "next")], "step", [], [build.value("next", [8, 16])])
    )
    training.update_binding.add(key="w1", value="next")
    told = good(built, tmp_path)
    assert "training information" in told["notes"][0]
    assert not onnx.load(told["output"]).training_info


def test_a_local_function(tmp_path: Path) -> None:
    told = good(build.fancy("o = Relu(i)"), tmp_path)
    assert told["verification"]["passed"] and told["channels"]["held"] == 0


def test_a_format_that_onnx_runtime_does_not_read_yet(tmp_path: Path) -> None:
    built = build.mlp()
    built.ir_version = 14
    told = good(built, tmp_path)
    assert told["verification"]["passed"]
    try:
        build.run(Path(told["output"]), x=np.ones((1, 8), np.float32))
    except Exception:
        assert "IR version 14" in told["warnings"][0]
    else:
        assert told["warnings"] == []


@pytest.mark.parametrize(
    "shapes",
    [((8, 0), (0, 4)), ((8, 16), (16, 0)), ((0, 16), (16, 4))],
    ids=["inner", "output", "input"],
)
def test_axes_of_size_zero(tmp_path: Path, shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (rows, inner), (_, columns) = shapes
    nodes = [build.node("MatMul", "x w", "h"), build.node("Relu", "h", "r"), build.node("MatMul", "r v", "y")]
    weights = [build.weight("w", rows, inner), build.weight("v", inner, columns)]
    built = build.model(nodes, [build.value("x", ["n", rows])], [build.value("y", ["n", columns])], weights)
    told = good(built, tmp_path)
    assert told["verification"]["passed"] and 0 <= told["after"]["flops"] <= told["before"]["flops"]


@pytest.mark.parametrize(("where", "size"), [("input", -1), ("output", -1), ("output", -7), ("value_info", -(2**63))])
def test_a_size_below_zero_is_open(tmp_path: Path, where: str, size: int) -> None:
    """Exporters write -1 for a batch of any size, and ONNX Runtime takes it for that; onnx dies of some notes."""
    built = build.mlp()
    built.graph.node.extend([build.node("Shape", "x", "sizes"), build.node("Slice", "sizes zero one", "batch")])
    built.graph.initializer.extend([build.constant(n, [v], np.int64) for n, v in (("zero", 0), ("one", 1))])
    built.graph.output.append(build.value("batch", [1], TensorProto.INT64))
    built.graph.value_info.append(build.value("sizes", [2], TensorProto.INT64))
    getattr(built.graph, where)[0].type.tensor_type.shape.dim[0].dim_value = size
    assert good(built, tmp_path)["verification"]["passed"]


def test_sizes_are_read_off_an_input_whose_type_shape_takes(tmp_path: Path) -> None:
    """An input of 8 bits has the same open size, and no Shape of this opset takes it."""
    nodes = [build.node("Mul", "x none", "a"), build.node("Add", "a shift", "y")]
    weights = [build.constant("none", np.zeros(4)), build.weight("shift", 4)]
    inputs = [build.value("x", ["n", 4]), build.value("other", ["n", 3], TensorProto.FLOAT8E5M2)]
    built = build.model(nodes, inputs, [build.value("y", ["n", 4])], weights, opset=17, ir_version=9)
    good(built, tmp_path)


@pytest.mark.parametrize(("op", "inputs"), [("LayerNormalization", ["x", "scale", ""]), ("DFT", ["x", "", ""])])
def test_an_operator_at_which_onnx_runtime_dies(tmp_path: Path, op: str, inputs: list[str]) -> None:
    """It has an empty name in place of an input that it may leave out."""
    nodes = [helper.make_node(op, inputs, ["z"], name="norm"), build.node("Mul", "z scale", "y")]
    ends = [build.value("x", ["n", 4, 1])], [build.value("y", ["n", 4, 1 if op == "LayerNormalization" else 2])]
    built = build.model(nodes, *ends, [build.weight("scale", 1)], opset=20)
    (note,) = good(built, tmp_path)["warnings"]
    assert note.startswith("Not verified: ") and f"ends the process at {op} 'norm'" in note


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (["n", 2**28], "its inputs have 268,435,456 elements, and up to 16,777,216 are drawn"),
        ([2**21, "n"], "its inputs hold 2,097,152 examples, and up to 1,048,576 are drawn"),
    ],
)
def test_inputs_too_large_to_draw_are_not_loaded(
    shape: list[int | str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime takes all memory for some."""
    monkeypatch.setattr("maskc.verification.compare.load", None)
    built = build.model(
        [build.node("ReduceMax", "x", "y", keepdims=1)], [build.value("x", shape)], [build.value("y", [1, 1])]
    )
    (note,) = good(built, tmp_path)["warnings"]
    assert note == (
        f"Not verified: No random input was found that the reference accepts ({said}). Give real data with --inputs."
    )


def test_padding_around_nothing() -> None:
    nodes = [
        build.node("Mul", "x none", "a"),
        build.node("Add", "a shift", "b"),
        helper.make_node("Pad", ["b", "pads"], ["c"]),
        build.node("Conv", "c w", "y"),
    ]
    weights = [
        build.constant("none", np.zeros((3, 1, 1))),
        build.weight("shift", 3, 1, 1),
        numpy_helper.from_array(np.array([0, 0, 2, 2, 0, 0, 2, 2]), "pads"),
        build.weight("w", 5, 3, 3, 3),
    ]
    built = build.model(nodes, [build.value("x", ["n", 3, 0, 4])], [build.value("y", ["n", 5, 2, 6])], weights)
    result = passes.shrink(built)
    onnx.checker.check_model(result.model, full_check=True)
    x = np.zeros((2, 3, 0, 4), np.float32)
    np.testing.assert_allclose(build.run(result.model, x=x)["y"], build.run(built, x=x)["y"], rtol=1e-5, atol=1e-5)


def test_a_part_of_size_zero(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["x", "none"], ["c"], axis=1), build.node("MatMul", "c w", "y")]
    weights = [build.weight("none", 2, 0), build.weight("w", 8, 2)]
    built = build.model(nodes, [build.value("x", [2, 8])], [build.value("y", [2, 2])], weights)
    assert good(built, tmp_path)["verification"]["passed"]


def test_graphs_without_nodes(tmp_path: Path) -> None:
    through = build.model([], [build.value("x", [2])], [build.value("x", [2])])
    assert good(through, tmp_path)["verification"]["passed"]
    constant = build.model([], [], [build.value("w", [2])], [build.weight("w", 2)])
    assert good(constant, tmp_path)["verification"]["passed"]


def test_nothing_invalid_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled model that the checker rejects stays unwritten, in one file or with its weights in another."""
    right = passes.shrink

    def wrong(model: onnx.ModelProto, adapters: passes.Policy, **options: Any) -> passes.Shrunk:
        shrunk = right(model, adapters)
        for tensor in shrunk.model.graph.initializer:
            if list(tensor.dims) == [8, 4]:
                tensor.CopyFrom(build.weight(tensor.name, 7, 4))
        return shrunk

    source = build.save(build.mlp(hidden=16), tmp_path / "m.onnx")
    monkeypatch.setattr(passes, "shrink", wrong)
    for limit in (write_model_files.EMBEDDED_LIMIT, 0):
        monkeypatch.setattr(write_model_files, "embeds", lambda model, limit=limit: limit > 0)
        refused(maskc("compile", source, "--no-verify"), 1, "not valid ONNX", "second", "Nothing was written")
        assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(model: onnx.ModelProto, adapters: str, **options: Any) -> None:
        raise MemoryError("8 TiB were asked for")

    monkeypatch.setattr("passes.shrink", huge)
    refused(maskc("compile", build.save(build.mlp(), tmp_path / "m.onnx")), 2, "not enough memory (8 TiB")


def test_an_opset_from_the_future(tmp_path: Path) -> None:
    built = build.mlp()
    built.opset_import[0].version = 999
    compile_refused(build.save(built, tmp_path / "m.onnx"), "opset 999", "Upgrade onnx")


def test_shape_notes_that_contradict_the_graph_are_ignored(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.value_info.append(build.value("c", ["n", 17]))
    source = build.save(built, tmp_path / "m.onnx")
    result = maskc("compile", source, "--json")
    assert result.exit_code == 0, result.stderr
    assert any("contradict" in note for note in json.loads(result.stdout)["warnings"])


@pytest.mark.parametrize("where", ["output", "value_info"])
def test_shapes_that_a_body_declares_wrongly_are_ignored(tmp_path: Path, where: str) -> None:
    """As Paddle's exporter writes Loops; ONNX Runtime warns and goes by what is computed."""
    branches = {
        f"{name}_branch": helper.make_graph([build.node("Neg", term, name)], name, [], [build.value(name, None)])
        for name, term in (("then", "one"), ("else", "two"))
    }
    choice = helper.make_node("If", ["on"], ["shift"], name="choice", **branches)
    nodes = [build.node("Identity", "on", "still"), choice, build.node("Add", "h shift", "next")]
    ends = [build.value("round", [], TensorProto.INT64), build.value("on", [], TensorProto.BOOL)]
    outs = [build.value("still", [], TensorProto.BOOL), build.value("next", None)]
    body = helper.make_graph(nodes, "body", [*ends, build.value("h", None)], outs)
    branch = next(attribute.g for attribute in body.node[1].attribute if attribute.name == "then_branch")
    wrong = {"output": (branch.output, "then"), "value_info": (body.value_info, "shift")}
    declared, name = wrong[where]
    declared.extend([build.value(name, [])])  # it is a vector
    del declared[:-1]
    constants = [build.constant("rounds", 2, np.int64), build.constant("yes", True, np.bool_)]
    constants += [build.constant("one", np.ones(16)), build.constant("two", np.full(16, 2.0))]
    built = build.mlp()
    built.graph.node[3].input[0] = "looped"
    built.graph.node.insert(3, helper.make_node("Loop", ["rounds", "yes", "c"], ["looped"], name="loop", body=body))
    built.graph.initializer.extend(constants)
    told = good(built, tmp_path)
    assert told["verification"]["passed"] and "contradict the graph" in told["warnings"][0]


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
@pytest.mark.parametrize("external", [True, False], ids=["external", "embedded"])
def test_outputs_without_a_shape_are_given_the_inferred_one(tmp_path: Path, typed: bool, external: bool) -> None:
    """Editors of graphs write such outputs, and runtimes take them."""
    built = build.mlp()
    (output,) = built.graph.output
    output.type.tensor_type.ClearField("shape") if typed else output.ClearField("type")
    save = build.save_external if external else build.save
    result = maskc("compile", save(built, tmp_path / "m.onnx"), "-o", tmp_path / "c.onnx")
    assert result.exit_code == 0, result.stderr
    assert onnx.load(tmp_path / "c.onnx").graph.output[0] == build.value("y", ["n", 4])
    assert maskc("verify", tmp_path / "m.onnx", tmp_path / "c.onnx").exit_code == 0


def test_what_a_graph_takes_and_gives_must_have_a_shape(tmp_path: Path) -> None:
    nodes = [build.node("Reshape", "x s", "y")]
    inputs = [build.value("x", ["n", 4]), build.value("s", ["k"], TensorProto.INT64)]
    built = build.model(nodes, inputs, [onnx.ValueInfoProto(name="y")])
    compile_refused(build.save(built, tmp_path / "m.onnx"), "the output 'y' has no shape, and none can be inferred")
    built = build.mlp()
    built.graph.input[0].type.tensor_type.ClearField("shape")
    compile_refused(build.save(built, tmp_path / "m.onnx"), "the input 'x' has no shape", "names for sizes that vary")


@pytest.mark.parametrize("masked", [False, True], ids=["as it is", "masks from a file"])
def test_a_format_in_which_initializers_are_inputs(tmp_path: Path, masked: bool) -> None:
    """Constants are initializers afterwards, which that format would have among the inputs."""
    nodes = [
        build.node("Constant", "", "bias", value=build.constant("bias", [1.0, 2.0, 3.0, 4.0])),
        build.node("Add", "x bias", "sum"),
        build.node("Relu", "sum", "y"),
    ]
    built = build.model(nodes, [build.value("x", [2, 4])], [build.value("y", [2, 4])], ir_version=3)
    source = build.save(built, tmp_path / "m.onnx")
    np.savez(tmp_path / "masks.npz", sum=np.array([1, 0, 1, 0]))
    options = ("--masks", tmp_path / "masks.npz") if masked else ()
    result = maskc("compile", source, "-o", tmp_path / "out.onnx", *options)
    assert result.exit_code == 0, result.output
    given = np.ones((2, 4), np.float32)
    expected = build.run(source, x=given)["y"] * ([1, 0, 1, 0] if masked else 1)
    np.testing.assert_array_equal(build.run(tmp_path / "out.onnx", x=given)["y"], expected)
