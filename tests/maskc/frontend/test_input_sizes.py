"""`--shape`: symbolic input sizes fixed at compile time."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import maskc as api
from maskc import frontend
from maskc.errors import InputError
from maskc.frontend.input_sizes import fixed, parse
from passes.model.declarations import dims_of
from tests.maskc import build
from tests.maskc.command import compiled, maskc, refused, reported, succeeded


def padded() -> onnx.ModelProto:
    """x[n,3,h,w] → Conv, mask, shift, padded depthwise Conv, Conv: a border pattern where the sizes are known."""
    body = """
        [first] a = Conv(x, k)
        b = Mul(a, mask)
        c = Add(b, shift)
        [depthwise] e = Conv<group=16, pads=[1,1,1,1]>(c, d)
        [last] y = Conv(e, p)
    """
    weights = {"k": (16, 3, 1, 1), "shift": (1, 16, 1, 1), "d": (16, 1, 3, 3), "p": (64, 16, 1, 1)}
    mask = np.tile([1.0, 0.0, 0.0, 0.0], 4).reshape(1, 16, 1, 1)
    return build.model("(float[n,3,h,w] x) => (float[n,64,h,w] y)", body, mask=mask, **weights)


def two_inputs() -> onnx.ModelProto:
    """y[n,4] = left[n,4] + right[n,4]; the outer one has an inner size of its own."""
    signature = "(float[n,4] left, float[n,4] right) => (float[n,2] y)"
    return build.model(signature, "s = Add(left, right)\n y = MatMul(s, w)", w=(4, 2))


def shapes(model: onnx.ModelProto) -> dict[str, object]:
    return {value.name: dims_of(value) for value in (*model.graph.input, *model.graph.output)}


def test_the_compiled_model_has_the_sizes_and_computes_the_same(tmp_path: Path) -> None:
    source = build.save(padded(), tmp_path / "m.onnx")
    told = reported("compile", source, "--shape", "x=1x3x12x10")
    assert told["verification"]["passed"]
    small = onnx.load(told["output"])
    assert shapes(small) == {"x": [1, 3, 12, 10], "y": [1, 64, 12, 10]}
    x = np.random.default_rng(0).normal(size=(1, 3, 12, 10)).astype(np.float32)
    wanted, got = build.run(source, x=x)["y"], build.run(small, x=x)["y"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_known_sizes_turn_border_patterns_into_maps() -> None:
    """Masked channels need not be computed by the padded depthwise convolution: what they hold is known."""
    result = api.compile(padded(), shapes={"x": (1, 3, 12, 10)}, adapters="always", align="none", verify=True)
    depthwise = next(n for n in result.model.graph.node if n.op_type == "Conv" and n.name == "depthwise")
    weights = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert weights[depthwise.input[1]][0] == 4
    assert result.report.verification is not None and result.report.verification.passed


def test_figures_are_those_at_the_sizes(tmp_path: Path) -> None:
    source = build.save(padded(), tmp_path / "m.onnx")
    counted = reported("flops", source, "--shape", "x=1x3x12x10")["flops"]
    assert counted == reported("flops", source, "--at", "x=1x3x12x10")["flops"]
    assert counted < reported("flops", source)["flops"] / 100
    assert reported("compile", source, "--shape", "x=1x3x12x10")["before"]["flops"] == counted


def test_verify_takes_the_same_sizes(tmp_path: Path) -> None:
    source = build.save(padded(), tmp_path / "m.onnx")
    assert maskc("compile", source, "--shape", "x=?x3x12x10").exit_code == 0
    small = tmp_path / "m.compiled.onnx"
    assert maskc("verify", source, small, "--shape", "x=?x3x12x10").exit_code == 0
    assert maskc("verify", source, small, "--shape", "x=batch,3,12,10").exit_code == 0
    unlike = maskc("verify", source, small)
    assert unlike.exit_code == 1 and "give the same --shape" in " ".join(unlike.stdout.split())
    assert maskc("verify", source, small, "--shape", "x=?x3x12x11").exit_code == 1


def test_a_size_of_minus_one_at_an_output_is_one_that_is_not_known() -> None:
    source = padded()
    for value in (source.graph.input[0], source.graph.output[0]):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_value = -1
    assert shapes(api.compile(source, shapes={"x": (1, 3, 8, 8)}, verify=False).model)["y"] == [1, 64, 8, 8]


def test_a_size_that_inputs_share_is_fixed_in_all_of_them() -> None:
    result = api.compile(two_inputs(), shapes={"left": (3, 4)})
    assert shapes(result.model) == {"left": [3, 4], "right": [3, 4], "y": [3, 2]}


def test_names_and_sizes_to_leave() -> None:
    assert shapes(api.compile(padded(), shapes={"x": (None, 3, 8, None)}).model)["x"] == ["n", 3, 8, "w"]
    renamed = api.compile(padded(), shapes={"x": ("batch", 3, 8, 8)}).model
    assert shapes(renamed) == {"x": ["batch", 3, 8, 8], "y": ["batch", 64, 8, 8]}
    unnamed = padded()
    for axis in (0, 2):
        unnamed.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    unnamed.graph.input[0].type.tensor_type.shape.dim[3].dim_value = -1
    assert shapes(api.compile(unnamed, shapes={"x": ("batch", 3, 8, 9)}).model)["x"] == ["batch", 3, 8, 9]


def test_the_model_in_memory_is_left_as_it_is() -> None:
    source = padded()
    before = source.SerializeToString(deterministic=True)
    api.compile(source, shapes={"x": (1, 3, 8, 8)})
    assert source.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x=1x3x224x224"], {"x": (1, 3, 224, 224)}),
        (["input:0=?x3", "a=b=5"], {"input:0": (None, 3), "a=b": (5,)}),
        (["ids=batch,max"], {"ids": ("batch", "max")}),
        (["v=-1x3"], {"v": (-1, 3)}),
    ],
)
def test_words_that_can_be_read(words: list[str], expected: object) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize("word", ["x", "x=", "=1x3", "x=1xx3", "x=1x3.5", "x=1 3", "x=1,,3", "x=a-b"])
def test_words_that_cannot_be_read(word: str, tmp_path: Path) -> None:
    source = build.save(padded(), tmp_path / "m.onnx")
    for command in (("compile", source), ("flops", source), ("verify", source, source)):
        refused(maskc(*command, "--shape", word), 2, f"The shape '{word}' cannot be read")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["z=1x3x8x8"], ("no input 'z'", "'x'")),
        (["k=16x3x1x1"], ("no input 'k'",)),
        (["x=1x3x8"], ("4 dimensions", "3 sizes")),
        (["x=1x4x8x8"], ("Axis 1", "size 3", "cannot become 4")),
        (["x=1xcx8x8"], ("Axis 1", "size 3", "cannot become c")),
        (["x=0x3x8x8"], ("Axis 0", "at least 1")),
        (["x=1x3x-8x8"], ("Axis 2", "at least 1")),
        (["x=99999999999999999999x3x8x8"], ("Axis 0", "below 2^63")),
        (["x=1x3x8x8", "x=1x3x9x9"], ("'x' is given twice",)),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, given: list[str], words: tuple[str, ...]) -> None:
    source = build.save(padded(), tmp_path / "m.onnx")
    options = [word for shape in given for word in ("--shape", shape)]
    for command in (("compile", source), ("flops", source), ("verify", source, source)):
        refused(maskc(*command, *options), 2, *words)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_sizes_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="'n' is 1 in input 'left' and 2 in input 'right'"):
        api.compile(two_inputs(), shapes={"left": (1, 4), "right": (2, 4)})
    with pytest.raises(InputError, match="both 'a' and 'b'"):
        api.compile(two_inputs(), shapes={"left": ("a", 4), "right": ("b", 4)})


def test_sizes_that_the_graph_does_not_take(tmp_path: Path) -> None:
    model = build.model("(float[n,m] x) => (float[4,2] y)", "[product] y = MatMul(x, w)", checked=False, w=(6, 2))
    source = build.save(model, tmp_path / "m.onnx")
    refused(maskc("compile", source, "--shape", "x=5x5"), 2, "does not work at these input sizes", "product")


@pytest.mark.slow
@pytest.mark.parametrize("computed", [False, True], ids=["plain", "computed"])
@pytest.mark.parametrize("sizes", ["x=5x6", "x=?x6", None])
@pytest.mark.parametrize("declared", ["4,2", "1,rows,columns"])
def test_an_output_of_another_shape_than_it_declares(
    tmp_path: Path, computed: bool, sizes: str | None, declared: str
) -> None:
    """ONNX Runtime warns of such an output, and runs the model. The result declares what is true."""
    body = "r = Reshape(x, shape)\n z = MatMul(r, w)\n m = Mul(z, mask)\n y = MatMul(m, v)"
    weights = {"shape": np.array([-1, 6]), "w": (6, 2), "mask": np.array([1.0, 0]), "v": (2, 3)}
    if computed:  # by a Concat that holds the product of two sizes, which onnx does not see through
        weights |= {"columns": np.array([6]), "first": np.array([0]), "second": np.array([1])}
        del weights["shape"]
        body = f"""
            sizes = Shape(x)
            n = Gather(sizes, first)
            k = Gather(sizes, second)
            elements = Mul(n, k)
            rows = Div(elements, columns)
            shape = Concat<axis=0>(rows, columns)
            {body}
        """
    model = build.model(f"(float[n,m] x) => (float[{declared}] y)", body, checked=False, **weights)
    source, target = build.save(model, tmp_path / "m.onnx"), tmp_path / "small.onnx"
    shapes = [] if sizes is None else ["--shape", sizes]
    report = reported("compile", source, "-o", target, *shapes)
    rows = 5 if sizes == "x=5x6" else None
    assert report["verification"]["passed"] and report["masked"][0]["removed"] == 1
    notes = [note for note in [*report["notes"], *report["warnings"]] if "is declared as" in note]
    assert len(notes) == 1 and "3]; the compiled model declares what it is" in notes[0]
    assert dims_of(onnx.load(target).graph.output[0]) == [rows, 3]
    for command in (("verify", source, target), ("diff", source, target), ("flops", source)):
        succeeded(*command, *shapes if command[0] != "diff" else ())


def test_a_model_without_inputs_to_fix(tmp_path: Path) -> None:
    model = build.model("() => (float[2] y)", "y = Identity(w)", w=(2,))
    refused(compiled(model, tmp_path, "--shape", "x=5"), 2, "its inputs are none")


def test_another_word_for_adapters(tmp_path: Path) -> None:
    source = build.save(padded(), tmp_path / "m.onnx")
    refused(maskc("compile", source, "--adapters", "sometimes"), 2, "--help")
    with pytest.raises(InputError, match="auto, always, never"):
        api.compile(padded(), adapters="sometimes")  # type: ignore[arg-type]


def test_a_note_where_sizes_of_one_input_are_fixed_and_an_output_fixes_what_another_leaves_open() -> None:
    signature = "(float[n,4] a, float[m,2] b) => (float[5,3] c, float[m,2] d)"
    source = frontend.read(build.model(signature, "c = MatMul(a, w)\n d = Relu(b)", checked=False, w=(4, 3)))
    notes = fixed(source, {"b": (7, 2)}).notes
    assert any("Output `c` is declared as [5, 3] and is [n, 3];" in note for note in notes)
