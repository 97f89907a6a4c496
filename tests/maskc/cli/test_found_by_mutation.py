"""Models that mutations of good ones led to, which ended in raw errors or were refused without a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import maskc as api
from maskc import frontend
from maskc.compilation import compile
from maskc.runtime.session import load
from maskc.verification.inputs import Sample
from maskc.verification.odd_references import where_odd
from tests.maskc import build
from tests.maskc.command import compiled, in_turn, process, refused

SIDES = ("then", "else")


def matrix(body: str, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    """A model of a matrix of four columns to another."""
    return build.model("(float[n,4] x) => (float[n,4] y)", body, opset, checked=False, **weights)


def vectorizer(indexes: str = "0,1", skips: int = 0) -> str:
    """A node that counts pairs of words."""
    pool = f"ngram_counts=[0,2], ngram_indexes=[{indexes}], pool_int64s=[1,2,3,4,5,6], max_skip_count={skips}"
    return f'y = TfIdfVectorizer<mode="TF", min_gram_length=2, max_gram_length=2, {pool}>(x)'


def test_a_fill_of_two_values(tmp_path: Path) -> None:
    """ONNX wants one, and its checker looks at none."""
    built = matrix("s = Shape(x)\n c = ConstantOfShape<value = float[2] {0.5, 0.5}>(s)\n y = Mul(x, c)")
    result = compiled(built, tmp_path)
    assert result.exit_code == 0 and "Not verified" in result.stderr, result.stderr


def test_a_vector_of_less_than_no_elements(tmp_path: Path) -> None:
    body = """
        a = Constant<value = int64[1] {5}>()
        b = Neg(a)
        c = ConstantOfShape<value = int64[1] {1}>(b)
        s = Shape(x)
        t = Concat<axis=0>(s, c)
        m = Reshape(x, t)
        y = Relu(m)
    """
    refused(compiled(matrix(body), tmp_path), 2, "ConstantOfShape")


def test_a_scale_of_one_part_of_a_split_is_in_the_weights_before_it() -> None:
    """What is split is another tensor then, and is not to be compared with the source's where outputs hardly move."""
    body = """
        a = Conv(x, k, bias)
        b = Conv(a, l, bias)
        p, q = Split<axis=1>(b, sizes)
        r = Mul(p, mask)
        s = Cos(q)
        c = Concat<axis=1>(r, s)
        y = MatMul(c, w)
    """
    weights = {"k": (4, 3, 1, 1), "l": (4, 4, 1, 1), "bias": np.zeros(4), "w": (5, 2), "sizes": np.array([3, 1])}
    mask = np.reshape([2, 3, 0.5], (3, 1, 1))
    built = build.model("(float[n,3,4,5] x) => (float[n,4,4,2] y)", body, mask=mask, **weights)
    result = api.compile(built, verify=False).model
    split = next(item for item in result.graph.node if item.op_type == "Split")
    assert split.input[0] not in {name for item in built.graph.node for name in item.output}


def assert_told(directory: Path, code: int, models: dict[str, onnx.ModelProto]) -> None:
    """Compiling each of the models ends with this exit code, and says what it is here by."""
    sources = [build.save(built, directory / f"{number}.onnx") for number, built in enumerate(models.values())]
    for said, done in zip(models, in_turn(*(("compile", source) for source in sources)), strict=True):
        assert done.returncode == code and said in " ".join(done.stderr.split()), done


def test_an_input_that_is_needed_and_omitted(tmp_path: Path) -> None:
    """onnx's inference crashes at the first one, and ONNX Runtime at both."""
    encoder = 'y = ai.onnx.ml.LabelEncoder<keys_strings=["a"], values_int64s=[0]>("")'
    models = {
        "LabelEncoder -> 'y' has nothing as input 1": ("(float[5] x) => (int64[5] y)", encoder),
        "Min -> 'y' has nothing as input 2": ("(float[3] x) => (float[3] y)", 'y = Min(x, "")'),
    }
    assert_told(tmp_path, 2, {said: build.model(*text, checked=False) for said, text in models.items()})


@pytest.mark.parametrize("operands", ["starts, ends, axes", "axes, starts, axes"])
def test_a_slice_along_one_axis_twice(tmp_path: Path, operands: str) -> None:
    sizes = {"starts": np.array([1, 0]), "ends": np.array([3, 2, 5]), "axes": np.array([1, 1])}
    built = build.model("(float[n,8] x) => (float y)", f"y = Slice(x, {operands})", checked=False, **sizes)
    built.graph.output[0].type.tensor_type.ClearField("shape")
    assert "failed unexpectedly" not in compiled(built, tmp_path).stderr


def test_an_input_of_no_elements_along_an_endless_axis() -> None:
    shape = f"float[{2**62},0,4]"
    (warning,) = api.compile(build.model(f"({shape} x) => ({shape} y)", "y = Relu(x)")).report.warnings
    assert warning.startswith("Not verified") and "elements" in warning


def test_a_window_larger_than_an_image_of_no_elements(tmp_path: Path) -> None:
    """ONNX does not know the operator, so that its checker infers nothing after it."""
    body = 'a = com.microsoft.FusedConv<activation="Relu">(x, k)\n y = Relu(a)'
    built = build.model("(float[1,4,0,6] x) => (float[1,6,4,2] y)", body, checked=False, k=(6, 4, 5, 5))
    refused(compiled(built, tmp_path), 2, "output of Conv", "would have -4 elements")


def test_a_tensor_of_no_elements_that_onnx_runtime_broadcasts_to_more(tmp_path: Path) -> None:
    body = "a = Expand(x, none)\n b = Mul(a, mask)\n c = Min(one, b)\n y = MatMul(c, w)"
    weights = {"none": np.array([0, 1]), "mask": np.array([[1.0, 0, 1, 1]]), "one": np.ones((1, 4)), "w": (4, 3)}
    built = build.model("(float[1,4] x) => (float[0,3] y)", body, checked=False, **weights)
    refused(compiled(built, tmp_path), 1, "tensor 'a' of the reference has no elements")


def test_elements_of_no_type(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.node[0].attribute.append(helper.make_attribute("unread", build.constant("odd", [1.0])))
    built.graph.node[0].attribute[-1].t.data_type = 2**31 - 1
    refused(compiled(built, tmp_path), 2, "tensor 'odd' are of no type that there is")


def test_data_of_twice_the_declared_size(tmp_path: Path) -> None:
    """A number of 16 bits with the data of one of 32."""
    built = build.mlp()
    built.graph.initializer.append(build.constant("odd", [2.0]))
    built.graph.initializer[-1].data_type = onnx.TensorProto.INT16
    refused(compiled(built, tmp_path), 2, "tensor 'odd' [1] are 4 bytes, and 2 are")


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("b = Reshape(a, shape)\n y = Relu(b)", {"shape": np.array(4)}),
        ("b = Expand(a, shape)\n y = Relu(b)", {"shape": np.array(4)}),
        ("b = LpNormalization<axis=1>(c)\n y = Mul(a, b)", {"c": (4,)}),
        ("r = Mul(p, q)\n y = Mul(a, r)", {"p": (7,), "q": (4,)}),
    ],
)
def test_constants_that_do_not_fit_after_an_operator_of_one_runtime(tmp_path: Path, body: str, weights: Any) -> None:
    """A shape that is a number, an axis that is not there, sizes: nothing infers shapes, so nothing says it before."""
    built = matrix(f"a = com.example.Foo(x)\n {body}", **weights)
    assert "failed unexpectedly" not in compiled(built, tmp_path, "--no-verify").stderr


def test_an_axis_padded_beyond_all_memory() -> None:
    built = build.model(
        f"(float[n,2,4] x) => (float[n,2,{2**31 + 4}] y)",
        "a = Mul(x, mask)\n y = Pad(a, pads)",
        mask=np.array([[1.0], [0]]),
        pads=np.array([0, 0, 2**31, 0, 0, 0]),
    )
    assert api.compile(built, verify=False).model.graph.node[-1].op_type == "Pad"


@pytest.mark.parametrize("stored", [True, False])
def test_a_mask_of_sizes(tmp_path: Path, stored: bool) -> None:
    signature = f"(float[n,8] x{'' if stored else ', int64[2] sizes'}) => (float[n,4] y, float[n,4] z)"
    built = build.model(signature, "y, z = Split<axis=1>(x, sizes)", **({"sizes": np.array([4, 4])} if stored else {}))
    np.savez(tmp_path / "masks.npz", sizes=[1, 0])
    refused(compiled(built, tmp_path, "--masks", tmp_path / "masks.npz"), 2, "'sizes' holds sizes or indices")


def test_a_shape_that_only_optimizations_of_onnx_runtime_believe(tmp_path: Path) -> None:
    """They take the number of rows for the one that is noted."""
    signature = "(float[n,4] x) => (float[m,4] y) <float[7,4] a>"
    body = "a = Relu(x)\n s = Shape(a)\n b = Expand(c, s)\n y = Add(a, b)"
    built = build.model(signature, body, checked=False, c=(1, 1))
    refused(compiled(built, tmp_path), 1, "without ONNX Runtime's optimizations, which believe the shapes")


def test_an_input_without_a_type_that_nothing_reads(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.input.append(build.value("unread", ["n"], onnx.TensorProto.UNDEFINED))
    refused(compiled(built, tmp_path), 2, "the elements of the input 'unread' have no type")


def test_a_size_is_not_read_off_an_input_of_a_type_that_its_opset_lacks(tmp_path: Path) -> None:
    """No runtime takes the model, and onnx's checker does, as nothing reads the input."""
    signature = "(float[n,t,1] x, uint8[n,t,1] x2) => (float[n,t,3] y)"
    body = "a = Mul(x, mask)\n b = MatMul(a, w)\n y = Add(b, bias)"
    built = build.model(signature, body, 20, ir=10, mask=np.array([0.0]), w=(1, 3), bias=(3,))
    built.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.UINT2
    result = compiled(built, tmp_path, "--no-verify")
    assert result.exit_code == 0, result.stderr


def test_a_type_that_shows_once_an_operator_of_one_runtime_is_a_standard_one(tmp_path: Path) -> None:
    """onnx's checker knows no types after FusedMatMul, and ONNX Runtime refuses the model."""
    built = matrix("a = com.microsoft.FusedMatMul(x, w)\n y = BitwiseOr(a, b)", 18, w=(4, 4), b=(4,))
    refused(compiled(built, tmp_path), 2, "m.onnx is not a valid ONNX model", "BitwiseOr")


def test_attributes_at_which_libraries_end_the_process_or_never_end(tmp_path: Path) -> None:
    weights = {"at": np.array([[0], [1]]), "s": (2,)}
    nodes = {
        "-2 batch dimensions": "y = GatherND<batch_dims=-2>(x, at)",
        "the axis 2147483648": f"y = LayerNormalization<axis={2**31}>(x, s)",
        r"'\n' in its equation": 'y = Einsum<equation="abc,\nc">(x, x)',
        "2 outputs, and num_outputs says 1": "y, z = Split<num_outputs=1>(x)",
        "saturate = 5, which is 0 or 1": f"y = Cast<to={TensorProto.BFLOAT16}, saturate=5>(x)",
    }
    signature = "(float[2,2,2] x) => (float[2,2] y)"
    models = {said: build.model(signature, node, 18, checked=False, **weights) for said, node in nodes.items()}
    assert_told(tmp_path, 2, models)


def test_attributes_at_which_onnx_runtime_ends_the_process(tmp_path: Path) -> None:
    """Such a model is compiled, and not verified."""
    words, numbers = "(int64[4] x) => (float[2] y)", "(float[1,2,2] x) => (float[1,2,2] y)"
    models = {
        "4294967296 heads": (numbers, f"y = Attention<q_num_heads=1, kv_num_heads={2**32}>(x, x, x)"),
        "8589934592 heads": (numbers, f"y = Attention<q_num_heads={2**33}, kv_num_heads=1>(x, x, x)"),
        "4 n-grams and 1 indices": (words, vectorizer(indexes="0")),
        "4294967296 elements to skip": (words, vectorizer(skips=2**32)),
    }
    assert_told(tmp_path, 0, {said: build.model(*text, 23, ir=10, checked=False) for said, text in models.items()})


@pytest.mark.parametrize(
    ("node", "weights", "said"),
    [
        ("Slice(x, zero, two, one, zero)", {"zero": [0], "one": [1], "two": [2]}, "step"),
        ("Resize(x, none, scales)", {"none": np.zeros(0), "scales": [1.0, 0, 2]}, "its scale 0 is not above 0"),
        ("ScatterND(x, at, new)", {"at": [[0]], "new": (3, 2, 2)}, "size 3 along axis 0, and its indices"),
        ("ScatterND(x, at, new)", {"at": [[0]], "new": (1, 2)}, "2 axes, and its indices and data ask for 3"),
    ],
)
def test_operands_that_contradict_an_operator(tmp_path: Path, node: str, weights: dict[str, Any], said: str) -> None:
    signature = "(float[n,2,2] x) => (float[?,?,?] y)"
    refused(compiled(build.model(signature, f"y = {node}", 13, checked=False, **weights), tmp_path), 2, said)


def test_a_tile_that_repeats_what_onnx_does_not_infer() -> None:
    """It would be larger than what is computed."""
    body = """
        s = Shape(x)
        n = Gather<axis=0>(s, first)
        t = Concat<axis=0>(n, ones)
        e = Expand(x, t)
        c = Concat<axis=1>(x, e)
        y = Tile(c, often)
    """
    weights = {"first": np.array([0]), "ones": np.array([1]), "often": np.array([1, 2**25])}
    built = build.model("(float[n,8] x) => (float[n,?] y)", body, 11, **weights)
    assert "elements, and up to" in " ".join(api.compile(built).report.warnings)


def test_an_output_of_another_shape_than_declared_is_said() -> None:
    built = build.model("(float[n,t] x) => (float[n,t] y)", "y = Transpose<perm=[1,0]>(x)", checked=False)
    for shape, said in (((2, 3), "'y' of the reference is [3, 2], which it declares as [n, t]"), ((2, 2), "None")):
        array = np.ones(shape, np.float32)
        assert said in str(where_odd(built, Sample("given", {"x": array}, {"y": array.T})))


def test_frames_of_no_elements(tmp_path: Path) -> None:
    """ONNX Runtime divides by their length."""
    signature = "(float[1,64,1] x, int64 step, int64 length) => (float[1,?,?,2] y)"
    built = build.model(signature, "y = STFT(x, step, , length)")
    result = process("compile", build.save(built, tmp_path / "m.onnx"))
    assert result.returncode == 0 and ("Verified" in result.stdout or "Not verified" in result.stderr), result


def test_a_branch_that_declares_a_type_that_there_is_not(tmp_path: Path) -> None:
    branches = ", ".join(f"{name}_branch = {name} () => (float {name}) {{ {name} = Relu(x) }}" for name in SIDES)
    signature = "(float[n,4] x, bool c) => (float[n,4] y)"
    built = build.model(signature, f"y = If<{branches}>(c)", checked=False)
    for attribute in built.graph.node[0].attribute:
        kind = attribute.g.output[0].type.tensor_type
        kind.ClearField("shape")
        kind.elem_type = 1000 if attribute.name == "then_branch" else TensorProto.FLOAT
    refused(compiled(built, tmp_path), 2, "'then' has elements of the type 1000, which there is not")


def test_attributes_of_a_local_function_that_its_caller_gives(tmp_path: Path) -> None:
    built = matrix("y = own.Scores<along=1>(x)")
    head = '<opset_import: ["": 17], domain: "own">'
    function = onnx.parser.parse_function(f"{head} Scores <along> (a) => (b) {{ b = Softmax<axis: int = @along>(a) }}")
    built.functions.append(function)
    assert compiled(built, tmp_path).exit_code == 0


def test_a_compiled_model_that_is_not_valid_may_come_of_a_source_that_is_not() -> None:
    """The checker does not follow what is joined, so what contradicts itself may show only in constants."""
    signature, last = "(float[2,4] x) => (float[?,?] y)", "y = Expand(x, wide)"
    sizes = {"three": np.array([3]), "four": np.array([4])}
    joined = build.model(signature, f"wide = Concat<axis=0>(three, four)\n {last}", checked=False, **sizes)
    source = frontend.read(joined)
    result = build.model(signature, last, checked=False, wide=np.array([3, 4]))
    with pytest.raises(api.InputError, match="is not a valid ONNX model: with its constants computed, "):
        compile._check(result, source, source.model)
    good = frontend.read(build.mlp())
    with pytest.raises(api.NotEquivalentError, match="a fault of maskc"):
        compile._check(result, good, good.model)


def test_an_output_that_optimizations_compute_wrongly_is_said() -> None:
    """ONNX Runtime takes zeros around what is negative for the padding of the MaxPool behind them."""
    body = """
        padded = Pad(x, pads)
        y = MaxPool<kernel_shape=[2, 2]>(padded)
    """
    model = build.model("(float[1,1,2,2] x) => (float[1,1,3,3] y)", body, 13, pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    x = np.full((1, 1, 2, 2), -3, np.float32)
    run = load(model).run({"x": x})
    assert "optimizations compute the reference wrongly" in str(where_odd(model, Sample("given", {"x": x}, run)))
    assert where_odd(model, Sample("given", {"x": -x}, load(model).run({"x": -x}))) is None
