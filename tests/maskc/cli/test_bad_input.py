"""Every kind of bad input: the exit code, a plain sentence, and no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from maskc.frontend import write_model_files
from passes.errors import GraphError
from tests.maskc import build
from tests.maskc.command import ROOT, maskc, process, refused


def compile_refused(source: Path, *words: str, masks: Path | None = None) -> None:
    """Assert that compile, flops and verify all refuse the input, and that nothing was written."""
    there = sorted(source.parent.rglob("*"))
    extra = () if masks is None else ("--masks", masks)
    refused(maskc("compile", source, *extra), 2, *words)
    refused(maskc("flops", source, *extra), 2, *words)
    refused(maskc("verify", source, source, *extra), 2, *words)
    assert sorted(source.parent.rglob("*")) == there


# Files and directories.


def test_a_missing_path(tmp_path: Path) -> None:
    compile_refused(tmp_path / "nothing", "nothing does not exist")
    compile_refused(tmp_path / "nothing.onnx", "does not exist")
    compile_refused(
        tmp_path / "nowhere" / "model.onnx", "model.onnx does not exist"
    )  # nor does the place for the output


def test_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    compile_refused(tmp_path / "empty", "is empty")


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("nothing")
    compile_refused(tmp_path / "other", "holds no model")


def test_the_root_of_the_file_system() -> None:
    refused(maskc("compile", "/"), 2, "The directory / holds no model")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_full_disk_behind_stdout(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "maskc", "flops", str(source), *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "Error: What is printed cannot be written: No space left on device.\n"


def test_a_file_in_place_of_a_directory(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    refused(maskc("compile", source, "-o", source / "c.onnx"), 2, "m.onnx is a file, and no directory to write into")


def test_a_directory_with_several_models(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name in ("a.onnx", "b.onnx"):
        build.save(build.mlp(), tmp_path / "many" / name)
    compile_refused(tmp_path / "many", "several models", "a.onnx, b.onnx")


def test_an_empty_file(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.touch()
    compile_refused(source, "is empty")


@pytest.mark.parametrize(
    "content", [b"this is not a model\n", bytes(range(256)), b"\x08\x08"], ids=["text", "bytes", "stub"]
)
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(content)
    compile_refused(source, "not an ONNX file")


def test_half_an_onnx_file(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    source.write_bytes(source.read_bytes()[:700])
    compile_refused(source, "m.onnx")


def test_an_unreadable_file(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    source.chmod(0)
    compile_refused(source, "cannot be read")


# Graphs that are not valid.


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


def format_from_the_future() -> onnx.ModelProto:
    built = build.mlp()
    built.ir_version = 99
    return built


def sparse(*indices: int) -> onnx.ModelProto:
    """The MLP with a first product whose weights are zero but at these places."""
    built = build.mlp()
    del built.graph.initializer[0]
    values = build.constant("w1", np.arange(1, len(indices) + 1))
    places = build.constant("w1_places", indices, np.int64)
    built.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8, 16]))
    return built


def fancy(*nodes: onnx.NodeProto, inputs: tuple[str, ...] = ("i",)) -> onnx.ModelProto:
    """The MLP with its custom operator as a local function of these nodes."""
    built = build.custom()
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    built.functions.append(helper.make_function("com.example", "Fancy", inputs, ["o"], nodes, imports))
    return built


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (undefined_input, ("node Add -> 'b' reads 'nowhere', which nothing writes",)),
        (undefined_in_a_branch, ("node 'branch' (If) reads 'ghost', which nothing writes",)),
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
        (format_from_the_future, ("99",)),
        (lambda: sparse(0, 500), ("w1", "out of range")),
        (lambda: fancy(helper.make_node("Fancy", ["i"], ["o"], domain="com.example")), ("Cycle", "Fancy")),
        (lambda: fancy(build.node("Relu", "ghost", "o")), ("ghost",)),
    ],
)
def test_a_graph_that_is_not_valid(tmp_path: Path, make: Callable[[], onnx.ModelProto], words: tuple[str, ...]) -> None:
    source = build.save(make(), tmp_path / "m.onnx")
    compile_refused(source, "not a valid ONNX model", *words)
    with pytest.raises(InputError):
        frontend.read(make())


def test_a_function_that_is_called_with_too_few_inputs(tmp_path: Path) -> None:
    built = fancy(build.node("Add", "i j", "o"), inputs=("i", "j"))
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


# Graphs that are odd but valid.


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


def test_a_sparse_initializer(tmp_path: Path) -> None:
    told = good(sparse(0, 17, 40, 127), tmp_path)
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
    told = good(fancy(build.node("Relu", "i", "o")), tmp_path)
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


# External data.


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "inner/../../secret",
        "/etc/hostname",
        "C:\\secret",
        "..\\secret",
        "\\\\host\\share",
        "~/../../x",
    ],
)
def test_external_data_outside_the_directory(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 4096)
    (tmp_path / "model" / "inner").mkdir(parents=True)
    source = build.save_external(build.mlp(), tmp_path / "model" / "m.onnx", location)
    compile_refused(source, "outside the model's directory", repr(location).strip("'").replace("\\\\", "\\"))


def test_external_data_behind_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    source = build.save_external(build.mlp(), tmp_path / "model" / "m.onnx")
    weights = tmp_path / "model" / "m.onnx.weights"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    compile_refused(source, "outside the model's directory")


def test_external_data_of_an_attribute_outside_the_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    built = build.mlp()
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    node = helper.make_node("Constant", [], ["unused"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    built.graph.node.insert(0, node)
    compile_refused(build.save(built, tmp_path / "model" / "m.onnx"), "stolen", "outside")


def test_nothing_outside_the_directory_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 4096)
    os.utime(secret, (1, 1))
    source = build.save_external(build.mlp(), tmp_path / "model" / "m.onnx", "../secret")
    opened: list[object] = []
    monkeypatch.setattr("onnx.external_data_helper.load_external_data_for_tensor", lambda *args: opened.append(args))
    monkeypatch.setattr("onnx.checker.check_model", lambda *args, **options: opened.append(args))
    with pytest.raises(InputError):
        frontend.read(source)
    assert opened == []


def test_missing_external_data(tmp_path: Path) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx.weights").unlink()
    compile_refused(source, "is missing", "m.onnx.weights")


@pytest.mark.parametrize("location", ["", "x" * 5000])
def test_external_data_that_no_file_could_hold(tmp_path: Path, location: str) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    light = onnx.load(source, load_external_data=False)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    compile_refused(build.save(light, source), "none is named" if not location else "no name of a file")


@pytest.mark.parametrize(("link", "word"), [(os.symlink, "a symbolic link"), (os.link, "hard links")])
def test_external_data_under_a_second_name(tmp_path: Path, link: Callable[[str, Path], None], word: str) -> None:
    """ONNX's own reader refuses both."""
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    weights = tmp_path / "m.onnx.weights"
    weights.rename(tmp_path / "elsewhere")
    link("elsewhere" if link is os.symlink else str(tmp_path / "elsewhere"), weights)
    compile_refused(source, word, "m.onnx.weights", "Put a copy in its place")


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    weights = tmp_path / "m.onnx.weights"
    weights.write_bytes(weights.read_bytes()[:100])
    compile_refused(source, "m.onnx")


def test_a_model_in_memory_with_its_weights_elsewhere(tmp_path: Path) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="pass the path"):
        frontend.read(onnx.load(source, load_external_data=False))


# Masks.


@pytest.mark.parametrize(
    ("key", "mask", "words"),
    [
        ("nowhere", np.ones(16), ("no tensor 'nowhere'",)),
        ("w3", np.ones(4), ("no tensor 'w3'", "Did you mean")),
        ("c", np.ones(15), ("15 entries", "16 channels")),
        ("c@0", np.ones((2, 3)), ("2 dimensions",)),
        ("c", np.full(16, 0.5), ("0.5", "0 and 1")),
        ("c", np.full(16, 2), ("2", "0 and 1")),
        ("c", -np.ones(16), ("-1", "0 and 1")),
        ("c", np.r_[np.ones(15), np.nan], ("NaN", "0 and 1")),
        ("c", np.r_[np.ones(15), np.inf], ("inf", "0 and 1")),
        ("c", np.array(["1"] * 16), ("0 and 1",)),
        ("c", np.ones(16, np.complex64), ("0 and 1",)),
        ("c", np.float32(1), ("0 dimensions",)),
        ("c@2", np.ones(16), ("2 dimensions", "axis 2")),
        ("c@-3", np.ones(16), ("axis -3",)),
        ("c@one", np.ones(16), ("'one' is not an axis",)),
        ("a@b@1", np.ones(16), ("no tensor 'a@b'",)),
    ],
)
def test_a_mask_that_does_not_fit(tmp_path: Path, key: str, mask: np.ndarray, words: tuple[str, ...]) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "masks.npz", **{key: mask})
    compile_refused(source, f"Mask '{key}", *words, masks=tmp_path / "masks.npz")


def test_mask_files_that_cannot_be_used(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    compile_refused(source, "does not exist", masks=tmp_path / "masks.npz")
    compile_refused(source, "is a directory", masks=tmp_path)
    (tmp_path / "masks.txt").write_text("1 0 1")
    compile_refused(source, "must be an .npz or a .safetensors file", masks=tmp_path / "masks.txt")
    for name in ("bad.npz", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        compile_refused(source, "cannot be read", masks=tmp_path / name)
    np.savez(tmp_path / "none.npz")
    compile_refused(source, "holds no masks", masks=tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", c=np.array([1, "a", None], object))
    compile_refused(source, "cannot be read", masks=tmp_path / "objects.npz")


def test_a_mask_that_removes_everything_compiles_exactly(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "masks.npz", c=np.zeros(16))
    result = maskc("compile", source, "--masks", tmp_path / "masks.npz", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["after"]["flops"] == 0 and told["reduction"] is None
    for batch in (1, 4):
        out = build.run(Path(told["output"]), x=np.ones((batch, 8), np.float32))
        np.testing.assert_array_equal(out["y"], np.zeros((batch, 4)))


# Custom operators.


def test_custom_operators_compile_with_a_warning_and_cannot_be_verified(tmp_path: Path) -> None:
    source = build.save(build.custom(), tmp_path / "m.onnx")
    result = maskc("compile", source)
    assert result.exit_code == 0, result.stderr
    assert "Warning: " in result.stderr
    assert "com.example.Fancy" in result.stderr and "Not verified" in result.stderr
    compiled = tmp_path / "m.compiled.onnx"
    assert any(node.domain == "com.example" for node in onnx.load(compiled).graph.node)
    refused(maskc("verify", source, compiled), 3, "com.example.Fancy")


# Arguments, and what was not foreseen.


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["compile"],
        ["compile", "a", "--bogus"],
        ["verify", "a"],
        ["verify", "a", "b", "--rtol", "much"],
        ["verify", "a", "b", "--provider", "tpu"],
        ["flops"],
        ["--bogus"],
    ],
)
def test_unusable_arguments(arguments: list[str]) -> None:
    refused(maskc(*arguments), 2, "--help")


def test_no_arguments_show_the_help() -> None:
    result = maskc()
    assert result.exit_code == 2
    assert "compile" in result.stdout and "Exit codes" in result.stdout


def test_errors_are_json_too_where_json_is_asked_for(tmp_path: Path) -> None:
    result = maskc("compile", tmp_path / "nothing", "--json")
    refused(result, 2, "does not exist")
    assert json.loads(result.stdout)["exit_code"] == 2
    assert "does not exist" in json.loads(result.stdout)["error"]


def test_what_was_not_foreseen_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")

    def broken(model: onnx.ModelProto, adapters: str, **options: Any) -> None:
        raise KeyError("a fault\nof ours")

    monkeypatch.setattr("passes.shrink", broken)
    refused(maskc("compile", source), 2, "unexpectedly", "KeyError", "--debug")
    for arguments in (("compile", source, "--debug"), ("--debug", "compile", source)):
        result = maskc(*arguments)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr and "in broken" in result.stderr


def test_debug_shows_where_an_error_is_from(tmp_path: Path) -> None:
    result = process("compile", tmp_path / "nothing", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr and result.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_a_process_ends_the_same_way(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_text("not a model")
    result = process("compile", source)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Error: ")
