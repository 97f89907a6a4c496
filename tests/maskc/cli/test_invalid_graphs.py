"""Graphs that are not valid: what is wrong with them is said, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import passes
from maskc import frontend
from maskc.errors import InputError
from maskc.frontend import onnx_file
from passes.errors import GraphError
from passes.model import outline
from tests.maskc import build
from tests.maskc.command import compile_refused, compiled, maskc, refused


def branching(*nodes: str) -> onnx.ModelProto:
    """The MLP whose last product reads what the one or the other of two branches of these nodes writes."""
    branches = (f"{n}_branch = {n} () => (float[n,16] {n}) {{ {node} }}" for n, node in zip(SIDES, nodes, strict=True))
    chosen = f"[branch] chosen = If(yes) <{', '.join(branches)}> d = Mul(chosen, mask)"
    return build.mlp(edits={"d = Mul(c, mask)": chosen}, yes=np.array(True), three=(3,))


def altered(change: Callable[[onnx.ModelProto], Any], built: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """The MLP, or another model, after a change in place."""
    built = built or build.mlp()
    change(built)
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


def shortened(built: onnx.ModelProto) -> None:
    built.graph.initializer[0].raw_data = built.graph.initializer[0].raw_data[:-4]


SIDES = ("then", "else")
JOIN = "(float[2,3] x) => (float[2,m] y)", "[join] y = Concat(x, w)"
# Each with words of the message. Nodes after the unnamed one have no types, so that none of them can be blamed.
INVALID: dict[str, tuple[onnx.ModelProto, tuple[str, ...]]] = {
    "undefined input": (
        build.mlp(edits={"Add(a, b1)": "Add(a, nowhere)"}),
        ("node Add -> 'b' reads 'nowhere', which nothing writes",),
    ),
    "undefined in a branch": (
        branching("then = Relu(c)", "else = Relu(ghost)"),
        ("node 'branch' (If) reads 'ghost', which nothing writes",),
    ),
    "contradiction in a branch": (
        branching("[then_sum] then = Add(c, three)", "[else_sum] else = Add(c, three)"),
        ("node 'then_sum' (Add): Incompatible dimensions",),
    ),
    "unknown operator": (build.mlp(edits={"Relu": "Erfc"}), ("Erfc -> c",)),
    "unknown attribute": (build.mlp(edits={"MatMul(x": "MatMul<bogus=1>(x"}), ("bogus", "'first'")),
    "missing attribute": (build.model(*JOIN, checked=False, w=(2, 3)), ("'axis'", "'join'")),
    "contradiction": (build.mlp(w2=(12, 4)), ("node 'second' (MatMul)", "Incompatible dimensions")),
    "contradiction at an unnamed node": (build.mlp(b1=(5,)), ("node 'Add -> b' (Add): Incompatible dimensions",)),
    "other type": (build.mlp(b1=np.zeros(16, np.float16)), ("node 'Add -> b' (Add)", "inconsistent type")),
    "cycle": (
        build.mlp(edits={"MatMul(x": "MatMul(c"}),
        ("cycle through 'first' (MatMul) and Add -> 'b' and Relu -> 'c'",),
    ),
    "cycle of one": (build.mlp(edits={"Relu(b)": "Relu(c)"}), ("cycle through Relu -> 'c'.",)),
    "duplicate": (build.mlp(edits={"c =": "a ="}), ("nodes 'first' (MatMul) and Relu -> 'a' both write 'a'",)),
    "duplicate of an input": (
        build.mlp(edits={"c =": "x ="}),
        ("node Relu -> 'x' writes 'x', which has a value already",),
    ),
    "two inputs": (build.mlp(edits={"float[n,8] x": "float[n,8] x, float[n,8] x"}), ("two inputs are called 'x'",)),
    "two initializers": (
        altered(lambda built: built.graph.initializer.append(build.weight("w1", 8, 16))),
        ("two initializers are called 'w1'",),
    ),
    "no domain": (altered(lambda built: built.opset_import.pop(), build.custom()), ("com.example", "Fancy -> c")),
    "no opset": (altered(lambda built: built.opset_import.pop()), ("opset_import",)),
    "no outputs": (build.mlp(edits={"(float[n,4] y)": "()"}), ("no outputs",)),
    "nothing at all": (build.model("() => ()", "", checked=False), ("no outputs",)),
    "output from nowhere": (
        build.mlp(edits={"float[n,4] y": "float[n,4] y, float[n,4] ghost"}),
        ("nothing writes the output 'ghost'",),
    ),
    "short data": (altered(shortened), ("w1",)),
    "data twice": (
        altered(lambda built: built.graph.initializer[0].float_data.extend([1.0] * 128)),
        ("the data of tensor 'w1' are there twice",),
    ),
    "data of another shape": (data_of_another_shape(), ("tensor 'b1' []", "64 bytes", "4 are")),
    "numbers of another shape": (data_of_another_shape(float_data=[1.0] * 16), ("b1",)),
    "sparse out of range": (build.sparse(0, 500), ("w1", "out of range")),
    "undefined in a function": (build.fancy("o = Relu(ghost)"), ("ghost",)),
}


@pytest.mark.parametrize(("built", "words"), INVALID.values(), ids=INVALID)
def test_a_graph_that_is_not_valid(
    tmp_path: Path, built: onnx.ModelProto, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_refused(build.save(built, tmp_path / "m.onnx"), "not a valid ONNX model", *words)
    with pytest.raises(InputError):
        frontend.read(built)
    monkeypatch.setattr(onnx_file, "_SOON_SHOWN", 0)  # as if there were many weights, which the checker is not shown
    monkeypatch.setattr(outline, "SHAPE_DATA", 8)
    with pytest.raises(InputError):
        frontend.read(built)


def test_a_format_from_the_future(tmp_path: Path) -> None:
    built = altered(lambda built: setattr(built, "ir_version", 99))
    compile_refused(build.save(built, tmp_path / "m.onnx"), "has IR version 99, and the installed onnx")


def test_a_function_that_is_called_with_too_few_inputs(tmp_path: Path) -> None:
    built = build.fancy("o = Add(i, j)", inputs="i, j")
    compile_refused(build.save(built, tmp_path / "m.onnx"), "once its local functions are inlined", "Add")


@pytest.mark.parametrize(("operator", "shape"), [("Conv", (6, 4, 3, 3)), ("ConvTranspose", (4, 6, 3, 3))])
def test_a_convolution_for_another_number_of_channels(tmp_path: Path, operator: str, shape: tuple[int, ...]) -> None:
    """The checker does not look at it, and ONNX Runtime only when it runs."""
    built = build.cnn(k=shape)
    built.graph.node[0].name, built.graph.node[0].op_type = "stem", operator
    source = build.save(built, tmp_path / "m.onnx")
    words = ("node `stem`", "its input has 3 channels and its weights are for 4")
    refused(maskc("compile", source), 2, *words)
    refused(maskc("flops", source), 2, *words)


def test_a_reshape_to_another_number_of_elements(tmp_path: Path) -> None:
    shape = np.array([4, 2])
    built = build.model("(float[2,3] x) => (float[a,b] y)", "[re] y = Reshape(x, s)", checked=False, s=shape)
    refused(compiled(built, tmp_path), 2, "node `re`", "(2, 3) cannot be given the shape (4, 2)")


def test_parameters_for_another_number_of_channels(tmp_path: Path) -> None:
    built = build.cnn(bias=(5,))
    built.graph.node[0].input.append("bias")
    refused(compiled(built, tmp_path), 2, "Conv -> conv", "6 channels", "bias is for 5")
    with pytest.raises(GraphError, match=r"its weights have shape \[6\], and must have as many axes as its input"):
        passes.shrink(build.cnn(k=(6,)))
    for shape, words in (
        ((5,), "contradict each other: its input has 6 channels and `mean` is for 5"),
        ((6, 1), r".* `mean` has shape \[6, 1\] and must be a vector"),
    ):
        built = build.cnn(mean=shape)
        built.graph.node[1].name = "norm"
        refused(compiled(built, tmp_path), 2, "norm")
        with pytest.raises(GraphError, match=f"`norm` {words}"):
            passes.shrink(built)


@pytest.mark.parametrize(("name", "shape"), [("r", (1, 12, 3)), ("b", (1, 23))])
def test_a_recurrent_layer_whose_weights_do_not_fit_together(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    weights = {"w": (1, 12, 2), "r": (1, 12, 4), "b": (1, 24)} | {name: shape}
    layer = "[gru] y = GRU<hidden_size=4>(x, w, r, b)"
    built = build.model("(float[3,n,2] x) => (float[3,1,n,4] y)", layer, checked=False, **weights)
    refused(compiled(built, tmp_path), 2, "gru", str(shape))


@pytest.mark.parametrize(("name", "shape"), [("scale", (5,)), ("zero", (3,)), ("scale", (0,)), ("zero", (6, 1))])
@pytest.mark.parametrize("computed", [False, True])
def test_scales_that_do_not_fit_their_weight(tmp_path: Path, name: str, shape: tuple[int, ...], computed: bool) -> None:
    sizes: dict[str, tuple[int, ...]] = {"scale": (6,), "zero": (6,)} | {name: shape}
    built = build.model(
        f"(float[n,4] x{', int8[6,4] p' if computed else ''}) => (float[n,6] y)",
        f"{'w = Transpose(p)' if computed else ''} [dequantise] d = DequantizeLinear(w, scale, zero) y = MatMul(x, d)",
        checked=False,
        scale=sizes["scale"],
        zero=np.zeros(sizes["zero"], np.int8),
        **({} if computed else {"w": np.arange(24, dtype=np.int8).reshape(4, 6)}),
    )
    refused(compiled(built, tmp_path), 2, "`dequantise`", str(list(shape)), "[4, 6]")


def test_indices_beside_the_data(tmp_path: Path) -> None:
    pick, i = "[pick] y = GatherElements<axis=1>(x, i)", np.zeros((4, 2), np.int64)
    built = build.model("(float[3,2] x) => (float[4,2] y)", pick, checked=False, i=i)
    refused(compiled(built, tmp_path), 2, "`pick`", "size 4 along axis 0", "its data 3")


def test_an_order_of_fewer_axes(tmp_path: Path) -> None:
    built = build.model("(float[3,2,4] x) => (float[a,b] y)", "[turn] y = Transpose<perm=[1,0]>(x)", checked=False)
    refused(compiled(built, tmp_path), 2, "`turn`", "perm [1, 0]", "3 axes")


def test_operands_whose_sizes_are_computed_and_do_not_fit(tmp_path: Path) -> None:
    """Only with its constants folded does the graph show that two rows meet three."""
    body = "two = Add(one, one)\n t, i = TopK<axis=1>(x, two)\n [product] y = MatMul(t, w)"
    built = build.model("(float[n,4] x) => (float[n,5] y)", body, checked=False, one=np.array([1]), w=(3, 5))
    refused(compiled(built, tmp_path), 2, "'product' (MatMul)", "Incompatible")


@pytest.mark.parametrize("opset", [1, 6, 999])
def test_an_opset_that_is_too_old_or_from_the_future(tmp_path: Path, opset: int) -> None:
    built = build.mlp()
    built.opset_import[0].version = opset
    advice = "Upgrade onnx" if opset == 999 else "onnx.version_converter"
    compile_refused(build.save(built, tmp_path / "m.onnx"), f"opset {opset}", advice)


def test_an_old_operator_that_no_later_opset_has(tmp_path: Path) -> None:
    """Statistics for each position, which version 9 of the operator gave up."""
    body = "y = BatchNormalization<spatial=0>(x, scale, shift, mean, var)"
    signature = "(float[2,4,8] x) => (float[2,4,8] y)"
    weights = dict.fromkeys(("scale", "shift", "mean", "var"), (4, 8))
    built = build.model(signature, body, opset=8, checked=False, **weights)
    compile_refused(build.save(built, tmp_path / "m.onnx"), "uses opset 8", "cannot be read as opset 9", "newer opset")


@pytest.mark.parametrize(
    "built",
    [
        build.mlp(edits={"[first]": "[zzzz]"}),
        build.mlp(edits={"a = ": "zzzz = ", "(a,": "(zzzz,"}),
        build.mlp(edits={"Relu": "zzzz"}),
        build.mlp(edits={"float[n,8]": "float[zzzz,8]"}),
        altered(lambda built: setattr(built, "doc_string", "zzzz")),
    ],
    ids=["node", "tensor", "operator", "size", "description"],
)
def test_a_name_that_is_no_text(tmp_path: Path, built: onnx.ModelProto) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(built.SerializeToString().replace(b"zzzz", b"zz\xff\xfe"))
    compile_refused(source, "'zz��'", "no text in UTF-8")


@pytest.mark.parametrize("bound", [[0.0, 1.0, 2.0, 3.0], []])
def test_a_clip_whose_bounds_are_not_numbers(tmp_path: Path, bound: list[float]) -> None:
    low = np.array(bound, np.float32)
    built = build.model("(float[n,4] x) => (float[n,4] y)", "y = Clip(x, low)", checked=False, low=low)
    refused(compiled(built, tmp_path), 2, "`low`", "must be one number")


def test_a_recurrent_layer_whose_weights_have_two_axes(tmp_path: Path) -> None:
    body = "a = com.example.Odd(x)\n y = LSTM(a, w, w)"
    built = build.model("(float[n,3,8] x) => (float[?,?,?,?] y)", body, checked=False, w=(12, 8))
    refused(compiled(built, tmp_path), 2, "LSTM -> y", "three axes")


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    built = build.fancy("o = com.example.Fancy(i)")
    compile_refused(build.save(built, tmp_path / "m.onnx"), "call each other in a circle", "Fancy")


def test_a_function_that_is_called_for_too_many_outputs(tmp_path: Path) -> None:
    built = build.fancy("o = Relu(i)")
    next(n for n in built.graph.node if n.op_type == "Fancy").output.append("more")
    result = compiled(built, tmp_path)
    refused(result, 2, "cannot be inlined: Number of actual parameters")
    assert "/onnx/" not in result.stderr and "Assertion" not in result.stderr
