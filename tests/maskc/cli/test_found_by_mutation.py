"""Models that mutations of good ones led to, which ended in raw errors or were refused without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import maskc as api
from maskc import frontend
from maskc.compilation import compile
from maskc.verification.inputs import Sample
from maskc.verification.intermediate_tensors import where_odd
from tests.maskc import build
from tests.maskc.build import node, value
from tests.maskc.command import maskc, process, refused


def vectorizer(**attributes: Any) -> onnx.NodeProto:
    pool = {"ngram_counts": [0, 2], "ngram_indexes": [0, 1], "pool_int64s": [1, 2, 3, 4, 5, 6], "max_skip_count": 0}
    lengths = {"min_gram_length": 2, "max_gram_length": 2}
    return helper.make_node("TfIdfVectorizer", ["x"], ["y"], mode="TF", **lengths, **pool | attributes)


def test_a_fill_of_two_values(tmp_path: Path) -> None:
    """ONNX wants one, and its checker looks at none."""
    filled = helper.make_node("ConstantOfShape", ["s"], ["c"], value=build.constant("two", [0.5, 0.5]))
    nodes = [node("Shape", "x", "s"), filled, node("Mul", "x c", "y")]
    built = build.model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])])
    result = maskc("compile", build.save(built, tmp_path / "m.onnx"))
    assert result.exit_code == 0 and "Not verified" in result.stderr, result.stderr


def test_a_vector_of_less_than_no_elements(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value=build.constant("five", [5], np.int64)),
        node("Neg", "a", "b"),
        helper.make_node("ConstantOfShape", ["b"], ["c"], value=build.constant("one", [1], np.int64)),
        node("Shape", "x", "s"),
        node("Concat", "s c", "t", axis=0),
        node("Reshape", "x t", "m"),
        node("Relu", "m", "y"),
    ]
    built = build.model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])])
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "ConstantOfShape")


def test_a_scale_of_one_part_of_a_split_is_in_the_weights_before_it() -> None:
    """What is split is another tensor then, and is not to be compared with the source's where outputs hardly move."""
    nodes = [
        node("Conv", "x k bias", "a"),
        node("Conv", "a l bias", "b"),
        node("Split", "b sizes", "p q", axis=1),
        node("Mul", "p mask", "r"),
        node("Cos", "q", "s"),
        node("Concat", "r s", "c", axis=1),
        node("MatMul", "c w", "y"),
    ]
    weights = [
        *(build.weight("k", 4, 3, 1, 1), build.weight("l", 4, 4, 1, 1), build.constant("bias", np.zeros(4))),
        *(build.constant("sizes", [3, 1], np.int64), build.constant("mask", np.reshape([2, 3, 0.5], (3, 1, 1)))),
        build.weight("w", 5, 2),
    ]
    built = build.model(nodes, [value("x", ["n", 3, 4, 5])], [value("y", ["n", 4, 4, 2])], weights)
    compiled = api.compile(built, verify=False).model
    split = next(item for item in compiled.graph.node if item.op_type == "Split")
    assert split.input[0] not in {name for item in built.graph.node for name in item.output}


def test_an_operator_without_its_input(tmp_path: Path) -> None:
    """onnx's inference of it crashes, and so does ONNX Runtime."""
    encoder = helper.make_node("LabelEncoder", [""], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_int64s=[0])
    built = build.model([encoder], [value("x", [5])], [value("y", [5], onnx.TensorProto.INT64)], domains=["ai.onnx.ml"])
    built.opset_import[-1].version = 4
    done = process("compile", build.save(built, tmp_path / "m.onnx"))
    assert done.returncode == 2 and "LabelEncoder -> 'y' has nothing as input 1" in done.stderr, done.stderr


def test_one_of_any_number_of_inputs_that_is_none(tmp_path: Path) -> None:
    """ONNX Runtime crashes at it."""
    least = helper.make_node("Min", ["x", ""], ["y"])
    built = build.model([least], [value("x", [3])], [value("y", [3])])
    done = process("compile", build.save(built, tmp_path / "m.onnx"))
    assert done.returncode == 2 and "Min -> 'y' has nothing as input 2" in done.stderr, done.stderr


def test_a_slice_along_one_axis_twice(tmp_path: Path) -> None:
    sizes = {"starts": [1, 0], "ends": [3, 2, 5], "axes": [1, 1]}
    for starts, ends in (("starts", "ends"), ("axes", "starts")):
        built = build.model(
            [node("Slice", f"x {starts} {ends} axes", "y")],
            [value("x", ["n", 8])],
            [value("y", None)],
            [build.constant(name, values, np.int64) for name, values in sizes.items()],
        )
        result = maskc("compile", build.save(built, tmp_path / "m.onnx"))
        assert "failed unexpectedly" not in result.stderr, result.stderr


def test_an_input_of_no_elements_along_an_endless_axis() -> None:
    shape = [2**62, 0, 4]
    built = build.model([node("Relu", "x", "y")], [value("x", shape)], [value("y", shape)])
    (warning,) = api.compile(built).report.warnings
    assert warning.startswith("Not verified") and "elements" in warning


def test_a_window_larger_than_an_image_of_no_elements(tmp_path: Path) -> None:
    """ONNX does not know the operator, so that its checker infers nothing after it."""
    fused = helper.make_node("FusedConv", ["x", "k"], ["a"], domain="com.microsoft", activation="Relu")
    built = build.model(
        [fused, node("Relu", "a", "y")],
        [value("x", [1, 4, 0, 6])],
        [value("y", [1, 6, 4, 2])],
        [build.weight("k", 6, 4, 5, 5)],
        domains=["com.microsoft"],
    )
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "output of Conv", "would have -4 elements")


def test_a_tensor_of_no_elements_that_onnx_runtime_broadcasts_to_more(tmp_path: Path) -> None:
    nodes = [
        node("Expand", "x none", "a"),
        node("Mul", "a mask", "b"),
        node("Min", "one b", "c"),
        node("MatMul", "c w", "y"),
    ]
    weights = [
        *(build.constant("none", [0, 1], np.int64), build.constant("mask", [[1, 0, 1, 1]])),
        *(build.constant("one", [[1, 1, 1, 1]]), build.weight("w", 4, 3)),
    ]
    built = build.model(nodes, [value("x", [1, 4])], [value("y", [0, 3])], weights)
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 1, "tensor 'a' of the reference has no elements")


def test_elements_of_no_type(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.node[0].attribute.append(helper.make_attribute("unread", build.constant("odd", [1.0])))
    built.graph.node[0].attribute[-1].t.data_type = 2**31 - 1
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "tensor 'odd' are of no type that there is")


def test_data_of_twice_the_declared_size(tmp_path: Path) -> None:
    """A number of 16 bits with the data of one of 32."""
    built = build.mlp()
    built.graph.initializer.append(build.constant("odd", [2.0]))
    built.graph.initializer[-1].data_type = onnx.TensorProto.INT16
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "tensor 'odd' [1] are 4 bytes, and 2 are")


def test_a_shape_that_is_a_number(tmp_path: Path) -> None:
    for operator in ("Reshape", "Expand"):
        built = build.model(
            [node("Foo", "x", "a"), node(operator, "a shape", "b"), node("Relu", "b", "y")],
            [value("x", ["n", 4])],
            [value("y", ["n", 4])],
            [build.constant("shape", 4, np.int64)],
            domains=["com.example"],
        )
        built.graph.node[0].domain = "com.example"
        result = maskc("compile", build.save(built, tmp_path / "m.onnx"), "--no-verify")
        assert "failed unexpectedly" not in result.stderr, result.stderr


def test_a_norm_along_an_axis_that_constants_lack(tmp_path: Path) -> None:
    nodes = [node("Foo", "x", "a"), node("LpNormalization", "c", "b", axis=1), node("Mul", "a b", "y")]
    built = build.model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], [build.weight("c", 4)], domains=["com.example"]
    )
    built.graph.node[0].domain = "com.example"
    result = maskc("compile", build.save(built, tmp_path / "m.onnx"), "--no-verify")
    assert "failed unexpectedly" not in result.stderr, result.stderr


def test_an_axis_padded_beyond_all_memory() -> None:
    built = build.model(
        [node("Mul", "x mask", "a"), node("Pad", "a pads", "y")],
        [value("x", ["n", 2, 4])],
        [value("y", ["n", 2, 2**31 + 4])],
        [build.constant("mask", [[1], [0]]), build.constant("pads", [0, 0, 2**31, 0, 0, 0], np.int64)],
    )
    assert api.compile(built, verify=False).model.graph.node[-1].op_type == "Pad"


@pytest.mark.parametrize("stored", [True, False])
def test_a_mask_of_sizes(tmp_path: Path, stored: bool) -> None:
    built = build.model(
        [node("Split", "x sizes", "y z", axis=1)],
        [value("x", ["n", 8]), *([] if stored else [value("sizes", [2], TensorProto.INT64)])],
        [value("y", ["n", 4]), value("z", ["n", 4])],
        [build.constant("sizes", [4, 4], np.int64)] if stored else [],
    )
    np.savez(tmp_path / "masks.npz", sizes=[1, 0])
    source = build.save(built, tmp_path / "m.onnx")
    refused(maskc("compile", source, "--masks", tmp_path / "masks.npz"), 2, "'sizes' holds sizes or indices")


def test_a_shape_that_only_optimizations_of_onnx_runtime_believe(tmp_path: Path) -> None:
    """They take the number of rows for the one that is noted."""
    nodes = [
        node("Relu", "x", "a"),
        node("Shape", "a", "s"),
        node("Expand", "c s", "b"),
        node("Add", "a b", "y"),
    ]
    built = build.model(nodes, [value("x", ["n", 4])], [value("y", ["m", 4])], [build.weight("c", 1, 1)])
    built.graph.value_info.append(value("a", [7, 4]))
    source = build.save(built, tmp_path / "m.onnx")
    refused(maskc("compile", source), 1, "without ONNX Runtime's optimizations, which believe the shapes")


def test_constants_that_do_not_fit_after_an_operator_of_one_runtime(tmp_path: Path) -> None:
    """Nothing infers their shapes, so nothing says before that they do not."""
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], domain="com.example"),
        node("Mul", "p q", "r"),
        node("Mul", "a r", "y"),
    ]
    weights = [build.weight("p", 7), build.weight("q", 4)]
    built = build.model(nodes, [value("x", ["n", 7])], [value("y", ["n", 7])], weights, domains=["com.example"])
    result = maskc("compile", build.save(built, tmp_path / "m.onnx"), "--no-verify")
    assert "failed unexpectedly" not in result.stderr, result.stderr


def test_an_input_without_a_type_that_nothing_reads(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.input.append(value("unread", ["n"], onnx.TensorProto.UNDEFINED))
    refused(
        maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, "the elements of the input 'unread' have no type"
    )


def test_a_size_is_not_read_off_an_input_of_a_type_that_its_opset_lacks(tmp_path: Path) -> None:
    """No runtime takes the model, and onnx's checker does, as nothing reads the input."""
    built = build.model(
        [node("Mul", "x mask", "a"), node("MatMul", "a w", "b"), node("Add", "b bias", "y")],
        [value("x", ["n", "t", 1]), value("x2", ["n", "t", 1], onnx.TensorProto.UINT2)],
        [value("y", ["n", "t", 3])],
        [build.constant("mask", [0]), build.weight("w", 1, 3), build.weight("bias", 3)],
        opset=20,
        ir_version=10,
    )
    result = maskc("compile", build.save(built, tmp_path / "m.onnx"), "--no-verify")
    assert result.exit_code == 0, result.stderr


def test_a_type_that_shows_once_an_operator_of_one_runtime_is_a_standard_one(tmp_path: Path) -> None:
    """onnx's checker knows no types after FusedMatMul, and ONNX Runtime refuses the model."""
    product = helper.make_node("FusedMatMul", ["x", "w"], ["a"], domain="com.microsoft")
    built = build.model(
        [product, node("BitwiseOr", "a b", "y")],
        [value("x", ["n", 4])],
        [value("y", ["n", 4])],
        [build.weight("w", 4, 4), build.weight("b", 4)],
        opset=18,
        domains=["com.microsoft"],
    )
    source = build.save(built, tmp_path / "m.onnx")
    refused(maskc("compile", source), 2, "m.onnx is not a valid ONNX model", "BitwiseOr")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (helper.make_node("GatherND", ["x", "at"], ["y"], batch_dims=-2), "-2 batch dimensions"),
        (helper.make_node("LayerNormalization", ["x", "s"], ["y"], axis=2**31), "the axis 2147483648"),
        (helper.make_node("Einsum", ["x", "x"], ["y"], equation="abc,\nc"), r"'\n' in its equation"),
        (helper.make_node("Split", ["x"], ["y", "z"], num_outputs=1), "2 outputs, and num_outputs says 1"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16, saturate=5), "saturate = 5, which is 0 or 1"),
    ],
)
def test_attributes_at_which_libraries_end_the_process_or_never_end(
    tmp_path: Path, made: onnx.NodeProto, said: str
) -> None:
    weights = [build.constant("at", [[0], [1]], np.int64), build.weight("s", 2)]
    built = build.model([made], [value("x", [2, 2, 2])], [value("y", [2, 2])], weights, opset=18)
    result = process("compile", build.save(built, tmp_path / "m.onnx"))
    assert result.returncode == 2 and said in result.stderr


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=1, kv_num_heads=2**32), "4294967296 heads"),
        (helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2**33, kv_num_heads=1), "8589934592 heads"),
        (vectorizer(ngram_indexes=[0]), "4 n-grams and 1 indices"),
        (vectorizer(max_skip_count=2**32), "4294967296 elements to skip"),
    ],
)
def test_attributes_at_which_onnx_runtime_ends_the_process(tmp_path: Path, made: onnx.NodeProto, said: str) -> None:
    """Such a model is compiled, and not verified."""
    words = made.op_type == "TfIdfVectorizer"
    given = value("x", [4], TensorProto.INT64) if words else value("x", [1, 2, 2])
    built = build.model([made], [given], [value("y", [2] if words else [1, 2, 2])], opset=23, ir_version=10)
    result = process("compile", build.save(built, tmp_path / "m.onnx"))
    assert result.returncode == 0 and said in " ".join(result.stderr.split()), result


@pytest.mark.parametrize(
    ("made", "weights", "said"),
    [
        (node("Slice", "x zero two one zero", "y"), {}, "step"),
        (node("Resize", "x none scales", "y"), {}, "its scale 0 is not above 0"),
        (node("ScatterND", "x at updates", "y"), {"updates": [3, 2, 2]}, "size 3 along axis 0, and its indices"),
        (node("ScatterND", "x at updates", "y"), {"updates": [1, 2]}, "2 axes, and its indices and data ask for 3"),
    ],
)
def test_operands_that_contradict_an_operator(
    tmp_path: Path, made: onnx.NodeProto, weights: dict[str, list[int]], said: str
) -> None:
    numbers = {"zero": [0], "one": [1], "two": [2], "at": [[0]]}
    constants = [build.constant(name, values, np.int64) for name, values in numbers.items()]
    constants += [build.constant("none", np.zeros(0)), build.constant("scales", [1, 0, 2])]
    constants += [build.weight(name, *shape) for name, shape in weights.items()]
    used = [tensor for tensor in constants if tensor.name in made.input]
    built = build.model([made], [value("x", ["n", 2, 2])], [value("y", [None, None, None])], used, opset=13)
    refused(maskc("compile", build.save(built, tmp_path / "m.onnx")), 2, said)


def test_a_tile_that_repeats_what_onnx_does_not_infer() -> None:
    """It would be larger than what is computed."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s first", "n", axis=0),
        node("Concat", "n ones", "t", axis=0),
        node("Expand", "x t", "e"),
        node("Concat", "x e", "c", axis=1),
        node("Tile", "c often", "y"),
    ]
    weights = [build.constant("first", [0], np.int64), build.constant("ones", [1], np.int64)]
    weights.append(build.constant("often", [1, 2**25], np.int64))
    built = build.model(nodes, [value("x", ["n", 8])], [value("y", ["n", None])], weights, opset=11)
    assert "elements, and up to" in " ".join(api.compile(built).report.warnings)


def test_an_output_of_another_shape_than_declared_is_said() -> None:
    built = build.model([node("Transpose", "x", "y", perm=[1, 0])], [value("x", ["n", "t"])], [value("y", ["n", "t"])])
    for shape, said in (((2, 3), "'y' of the reference is [3, 2], which it declares as [n, t]"), ((2, 2), "None")):
        array = np.ones(shape, np.float32)
        assert said in str(where_odd(built, Sample("given", {"x": array}, {"y": array.T})))


def test_frames_of_no_elements(tmp_path: Path) -> None:
    """ONNX Runtime divides by their length."""
    made = helper.make_node("STFT", ["x", "step", "", "length"], ["y"])
    built = build.model(
        [made],
        [value("x", [1, 64, 1]), value("step", [], TensorProto.INT64), value("length", [], TensorProto.INT64)],
        [value("y", [1, None, None, 2])],
    )
    result = process("compile", build.save(built, tmp_path / "m.onnx"))
    assert result.returncode == 0 and ("Verified" in result.stdout or "Not verified" in result.stderr), result


def test_a_branch_that_declares_a_type_that_there_is_not(tmp_path: Path) -> None:
    branches = []
    for name, kind in (("a", 1000), ("b", TensorProto.FLOAT)):
        branch = onnx.GraphProto(name=name, node=[node("Relu", "x", name)])
        branch.output.add(name=name).type.tensor_type.elem_type = kind
        branches.append(branch)
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    ends = [value("x", ["n", 4]), value("c", [], TensorProto.BOOL)], [value("y", ["n", 4])]
    built = build.save(build.model([chosen], *ends), tmp_path / "m.onnx")
    refused(maskc("compile", built), 2, "'a' has elements of the type 1000, which there is not")


def test_attributes_of_a_local_function_that_its_caller_gives(tmp_path: Path) -> None:
    inner = node("Softmax", "a", "b")
    inner.attribute.add(name="axis", ref_attr_name="along", type=onnx.AttributeProto.INT)
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Scores", ["a"], ["b"], [inner], opsets, attributes=["along"])
    call = helper.make_node("Scores", ["x"], ["y"], domain="own", along=1)
    built = build.model([call], [value("x", ["n", 4])], [value("y", ["n", 4])], domains=["own"], functions=[function])
    assert maskc("compile", build.save(built, tmp_path / "m.onnx")).exit_code == 0


def test_a_compiled_model_that_is_not_valid_may_come_of_a_source_that_is_not() -> None:
    """The checker does not follow what is joined, so what contradicts itself may show only in constants."""
    nodes = [node("Concat", "three four", "wide", axis=0), node("Expand", "x wide", "y")]
    ends = [value("x", [2, 4])], [value("y", [None, None])]
    weights = [build.constant(name, [size], np.int64) for name, size in (("three", 3), ("four", 4))]
    source = frontend.read(build.model(nodes, *ends, weights))
    compiled = build.model(nodes[1:], *ends, [build.constant("wide", [3, 4], np.int64)])
    with pytest.raises(api.InputError, match="is not a valid ONNX model: with its constants computed, "):
        compile._check(compiled, source, source.model)
    good = frontend.read(build.mlp())
    with pytest.raises(api.NotEquivalentError, match="a fault of maskc"):
        compile._check(compiled, good, good.model)
