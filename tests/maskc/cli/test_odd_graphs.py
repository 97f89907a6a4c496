"""Graphs that are odd but valid compile."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import passes
from maskc.frontend import write_model_files
from maskc.frontend.graph_queries import rename_tensors
from tests.maskc import build
from tests.maskc.command import compile_refused, compiled, maskc, refused, succeeded
from tests.passes.text import drawn


def good(built: onnx.ModelProto, directory: Path, *options: Any) -> dict[str, Any]:
    """The report of a compilation from the shell that must work; what it wrote is valid."""
    result = compiled(built, directory, "--json", *options)
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


def test_a_graph_without_a_name_and_nodes_in_the_domain_of_the_standard(tmp_path: Path) -> None:
    """ONNX Runtime takes both, and the checker neither."""
    built = build.mlp()
    built.graph.name = ""
    for node in built.graph.node:
        node.domain = "ai.onnx"
    assert good(built, tmp_path)["verification"]["passed"]


def test_a_function_of_the_standard_whose_default_onnx_forgets(tmp_path: Path) -> None:
    """Its inference of MeanVarianceNormalization of opset 13 fails where the axes are left to their default."""
    body = "m = MeanVarianceNormalization(x)\n y = Relu(m)"
    built = build.model("(float[2,3,4,5] x) => (float[2,3,4,5] y)", body, 13, checked=False)
    assert good(built, tmp_path)["verification"]["passed"]


def test_a_spectrum_that_is_one_sided_without_saying_so(tmp_path: Path) -> None:
    """Its inference takes one for two-sided that leaves this to the default, and then no bias fits."""
    signature = "(float[2,64,1] x) => (float[2,7,9,2] y) <int64 step = {8}, float[16] window, float[9,1] shift>"
    built = build.model(signature, "s = STFT(x, step, window)\n y = Add(s, shift)", 17, checked=False)
    assert good(built, tmp_path)["verification"]["passed"]


def test_a_sparse_initializer(tmp_path: Path) -> None:
    told = good(build.sparse(0, 17, 40, 127), tmp_path)
    assert told["verification"]["passed"] and "w1" in told["warnings"][0]
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    wanted, got = (build.run(path, x=x)["y"] for path in (tmp_path / "m.onnx", Path(told["output"])))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


LOOP = """Loop (rounds, , x) <body = body (int64 i, bool on, float[n,4] s) => (bool still, float[n,4] t, float[n,4] u) {
    still = Identity(on) t = Sin(s) u = Cos(s)
}>"""
BRANCHES = f"""If (yes) <
    then_branch = then () => (float[?,n,4] b) {{ b, gone = If (yes) <
        then_branch = inner () => (float[?,n,4] c, float[n,4] e) {{ gone, c = {LOOP} e = Sin(x) }},
        else_branch = other () => (float[?,n,4] d, float[n,4] f) {{ f, d = {LOOP} }}
    > }},
    else_branch = no () => (float[?,n,4] g) {{ gone, g = {LOOP} }}
>"""


@pytest.mark.parametrize(
    "made", [f"gone, a = {LOOP}", f"a, gone = {LOOP}", f"a = {BRANCHES}"], ids=["state", "collected", "inside"]
)
def test_outputs_of_control_flow_may_be_left_out(tmp_path: Path, made: str) -> None:
    """ONNX Runtime crashes at a Loop without one of its states, and refuses models without another of these outputs."""
    body = f"total = ReduceMax<keepdims=0>(x) yes = Greater(total, one) {made} m = Mul(a, mask) y = Relu(m)"
    given = {"rounds": np.array(3), "one": np.array(1.0), "mask": np.array([1.0, 0, 1, 0])}
    built = build.model("(float[n,4] x) => (float[?,?,4] y)", body, checked=False, **given)
    if made.startswith("a, gone"):
        built.graph.output[0].CopyFrom(build.value("y", [None, 4]))
    rename_tensors(built.graph, {"gone": ""})
    assert good(built, tmp_path)["verification"]["passed"]


def test_training_information_is_left_out(tmp_path: Path) -> None:
    built = build.mlp()
    training = built.training_info.add()
    training.algorithm.CopyFrom(onnx.parser.parse_graph("step () => (float[8,16] next) { next = Relu(w1) }"))
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


@pytest.mark.parametrize("opset", [7, 8])
def test_opsets_of_old_files(tmp_path: Path, opset: int) -> None:
    """Where sizes of an Upsample were an attribute, and initializers are inputs, too."""
    body = """
        [first] a = Conv(x, k)  b = BatchNormalization<spatial=1>(a, scale, shift, mean, var)  c = Mul(b, mask)
        d = Upsample<scales=[1.0, 1.0, 2.0, 2.0]>(c)  e = GlobalAveragePool(d)  f = Flatten(e)  y = Gemm(f, w, bias)
    """
    shapes = {"k": (4, 3, 1, 1), "scale": (4,), "shift": (4,), "mean": (4,), "w": (4, 5), "bias": (5,)}
    weights = {"var": np.ones(4), "mask": np.array([1.0, 0, 1, 0]).reshape(4, 1, 1)}
    signature = "(float[n,3,6,6] x) => (float[n,5] y)"
    built = build.model(signature, body, opset=opset, ir=3, checked=False, **shapes, **weights)
    for stored in built.graph.initializer:
        built.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info(stored.name, 1, stored.dims))
    told = good(built, tmp_path)
    assert told["verification"]["passed"] and told["channels"]["removed"] == 2
    assert told["warnings"] == [f"Opset {opset} is read as opset 9, which the compiled model has, too."]
    assert onnx.load(told["output"]).opset_import[0].version == 9


@pytest.mark.parametrize(("rows", "inner", "columns"), [(8, 0, 4), (8, 16, 0), (0, 16, 4)])
def test_axes_of_size_zero(tmp_path: Path, rows: int, inner: int, columns: int) -> None:
    signature = f"(float[n,{rows}] x) => (float[n,{columns}] y)"
    body = "h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, v)"
    told = good(build.model(signature, body, checked=False, w=(rows, inner), v=(inner, columns)), tmp_path)
    assert told["verification"]["passed"] and 0 <= told["after"]["flops"] <= told["before"]["flops"]


@pytest.mark.parametrize(("where", "size"), [("input", -1), ("output", -1), ("output", -7), ("value_info", -(2**63))])
def test_a_size_below_zero_is_open(tmp_path: Path, where: str, size: int) -> None:
    """Exporters write -1 for a batch of any size, and ONNX Runtime takes it for that; onnx dies of some notes."""
    more = "sizes = Shape(x) batch = Slice(sizes, zero, one) [first]"
    edits = {"float[n,4] y)": "float[n,4] y, int64[1] batch) <int64[2] sizes>", "[first]": more}
    built = build.mlp(edits=edits, zero=np.array([0]), one=np.array([1]))
    getattr(built.graph, where)[0].type.tensor_type.shape.dim[0].dim_value = size
    assert good(built, tmp_path)["verification"]["passed"]


def test_sizes_are_read_off_an_input_whose_type_shape_takes(tmp_path: Path) -> None:
    """An input of 8 bits has the same open size, and no Shape of this opset takes it."""
    signature = "(float[n,4] x, float8e5m2[n,3] other) => (float[n,4] y)"
    good(build.model(signature, "a = Mul(x, none)\n y = Add(a, shift)", ir=9, none=np.zeros(4), shift=(4,)), tmp_path)


@pytest.mark.parametrize(("call", "size"), [('LayerNormalization(x, scale, "")', 1), ('DFT(x, "", "")', 2)])
def test_an_operator_at_which_onnx_runtime_dies(tmp_path: Path, call: str, size: int) -> None:
    """It has an empty name in place of an input that it may leave out."""
    signature = f"(float[n,4,1] x) => (float[n,4,{size}] y)"
    built = build.model(signature, f"[norm] z = {call}\n y = Mul(z, scale)", 20, checked=False, scale=(1,))
    (note,) = good(built, tmp_path)["warnings"]
    assert note.startswith("Not verified: ") and f"ends the process at {call.partition('(')[0]} 'norm'" in note


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (f"n,{2**28}", "its inputs have 268,435,456 elements, and up to 16,777,216 are drawn"),
        (f"{2**21},n", "its inputs hold 2,097,152 examples, and up to 1,048,576 are drawn"),
    ],
)
def test_inputs_too_large_to_draw_are_not_loaded(
    shape: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime takes all memory for some."""
    monkeypatch.setattr("maskc.verification.compare.load", None)
    built = build.model(f"(float[{shape}] x) => (float[1,1] y)", "y = ReduceMax<keepdims=1>(x)")
    (note,) = good(built, tmp_path)["warnings"]
    assert note == (
        f"Not verified: No random input was found that the reference accepts ({said}). Compare on real data with "
        "`maskc verify --inputs`."
    )


def test_padding_around_nothing() -> None:
    weights = {"none": np.zeros((3, 1, 1)), "shift": (3, 1, 1), "pads": np.array([0, 0, 2, 2, 0, 0, 2, 2])}
    body = "a = Mul(x, none)\n b = Add(a, shift)\n c = Pad(b, pads)\n y = Conv(c, w)"
    built = build.model("(float[n,3,0,4] x) => (float[n,5,2,6] y)", body, w=(5, 3, 3, 3), **weights)
    result = passes.shrink(built)
    onnx.checker.check_model(result.model, full_check=True)
    x = np.zeros((2, 3, 0, 4), np.float32)
    np.testing.assert_allclose(build.run(result.model, x=x)["y"], build.run(built, x=x)["y"], rtol=1e-5, atol=1e-5)


def test_a_part_of_size_zero(tmp_path: Path) -> None:
    body = "c = Concat<axis=1>(x, none)\n y = MatMul(c, w)"
    built = build.model("(float[2,8] x) => (float[2,2] y)", body, none=(2, 0), w=(8, 2))
    assert good(built, tmp_path)["verification"]["passed"]


def test_graphs_without_nodes(tmp_path: Path) -> None:
    for signature, weights in (("(float[2] x) => (float[2] x)", {}), ("() => (float[2] w)", {"w": (2,)})):
        assert good(build.model(signature, "", checked=False, **weights), tmp_path)["verification"]["passed"]


def test_nothing_invalid_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled model that the checker rejects stays unwritten, in one file or with its weights in another."""
    source = build.save(build.mlp(hidden=16), tmp_path / "m.onnx")
    build.break_compiler(monkeypatch, lambda weight: weight[:7] if weight.shape == (8, 4) else weight)
    for limit in (write_model_files.EMBEDDED_LIMIT, 0):
        monkeypatch.setattr(write_model_files, "embeds", lambda model, limit=limit: limit > 0)
        refused(maskc("compile", source, "--no-verify"), 1, "not valid ONNX", "second", "Nothing was written")
        assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_shape_notes_that_contradict_the_graph_are_ignored(tmp_path: Path) -> None:
    told = good(build.mlp(edits={"float[n,4] y)": "float[n,4] y) <float[n,17] c>"}), tmp_path)
    assert any("contradict" in note for note in told["warnings"])


@pytest.mark.parametrize("where", ["output", "value_info"])
def test_shapes_that_a_body_declares_wrongly_are_ignored(tmp_path: Path, where: str) -> None:
    """As Paddle's exporter writes Loops; ONNX Runtime warns and goes by what is computed."""
    loop = """
    [loop] looped = Loop(rounds, yes, c) <body = body (int64 round, bool on, float h) => (bool still, float next)
        <float shift>
        {
            still = Identity(on)
            [choice] shift = If(on) <
                then_branch = then () => (float then) { then = Neg(one) },
                else_branch = else () => (float else) { else = Neg(two) }
            >
            next = Add(h, shift)
        }
    >
    d = Mul(looped, mask)"""
    weights = {"rounds": np.array(2), "yes": np.array(True), "one": np.ones(16), "two": np.full(16, 2.0)}
    built = build.mlp(edits={"d = Mul(c, mask)": loop}, **weights)
    body = next(node for node in built.graph.node if node.op_type == "Loop").attribute[0].g
    branches = [attribute.g for attribute in body.node[1].attribute]
    untyped = [body.input[2], body.output[1], *(branch.output[0] for branch in branches)]
    if where == "output":
        untyped.remove(branches[0].output[0])  # it is a vector, declared as a number
        del body.value_info[:]
    for value in untyped:
        value.type.tensor_type.ClearField("shape")
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
    succeeded("compile", save(built, tmp_path / "m.onnx"), "-o", tmp_path / "c.onnx")
    assert onnx.load(tmp_path / "c.onnx").graph.output[0] == build.value("y", ["n", 4])
    assert maskc("verify", tmp_path / "m.onnx", tmp_path / "c.onnx").exit_code == 0


def test_what_a_graph_takes_and_gives_must_have_a_shape(tmp_path: Path) -> None:
    built = build.model("(float[n,4] x, int64[k] s) => (float y)", "y = Reshape(x, s)", checked=False)
    built.graph.output[0].ClearField("type")
    compile_refused(build.save(built, tmp_path / "m.onnx"), "the output 'y' has no shape, and none can be inferred")
    built = build.mlp()
    built.graph.input[0].type.tensor_type.ClearField("shape")
    compile_refused(build.save(built, tmp_path / "m.onnx"), "the input 'x' has no shape", "names for sizes that vary")


@pytest.mark.parametrize("masked", [False, True], ids=["as it is", "masks from a file"])
def test_a_format_in_which_initializers_are_inputs(tmp_path: Path, masked: bool) -> None:
    """Constants are initializers afterwards, which that format would have among the inputs."""
    body = "bias = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()\n sum = Add(x, bias)\n y = Relu(sum)"
    source = build.save(build.model("(float[2,4] x) => (float[2,4] y)", body, ir=3), tmp_path / "m.onnx")
    np.savez(tmp_path / "masks.npz", sum=np.array([1, 0, 1, 0]))
    options = ("--masks", tmp_path / "masks.npz") if masked else ()
    succeeded("compile", source, "-o", tmp_path / "out.onnx", *options)
    given = np.ones((2, 4), np.float32)
    expected = build.run(source, x=given)["y"] * ([1, 0, 1, 0] if masked else 1)
    np.testing.assert_array_equal(build.run(tmp_path / "out.onnx", x=given)["y"], expected)


def test_results_of_branches_named_as_those_of_their_node_and_constants_of_one_name(tmp_path: Path) -> None:
    """As decoders with and without a past have them that were merged into one file."""
    branch = """{name} () => (float[n,3] y) {{ c = Constant<value = int64{rank} {{0}}>() r = Gather(s, c) {more}
        e = Concat<axis=0>(r0, wide) a = Reshape(m, e) y = MatMul(a, v) }}"""
    first = branch.format(name="t", rank="[1]", more="r0 = Identity(r)")
    second = branch.format(name="e", rank="", more="o = Constant<value = int64[1] {0}>() r0 = Unsqueeze(r, o)")
    body = f"""h = MatMul(x, w) s = Shape(h) m = Mul(h, mask)
        y = If (q) <then_branch = {first}, else_branch = {second}> z = MatMul(y, u)"""
    weights = {"w": drawn("w", 6, 8), "v": drawn("v", 8, 3), "u": drawn("u", 3, 2), "mask": np.arange(8) % 2.0}
    built = build.model("(float[n,6] x, bool q) => (float[n,2] z)", body, wide=np.array([8]), **weights)
    told = good(built, tmp_path)
    assert told["verification"]["passed"] and told["after"]["params"] < told["before"]["params"]
