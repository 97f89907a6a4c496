"""Masks put into a graph compute what numpy says a masked tensor is, wherever the tensor is."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from maskc.errors import InputError
from maskc.frontend import npz_files
from maskc.frontend.mask_files import apply_masks
from maskc.frontend.write_model_files import write_arrays
from tests.maskc import build

X = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


def chain(shape: str = "n,4,5", name: str = "t", kind: str = "float", opset: int = 17) -> onnx.ModelProto:
    """x → Relu → t → Neg → y, and t an output as well; where the type has no such operators, Identity."""
    inner, last = ("Relu", "Neg") if kind == "float" else ("Identity", "Identity")
    element, body = f"{kind}[{shape}]", f'"{name}" = {inner}(x) y = {last}("{name}")'
    return build.model(f'({element} x) => ({element} y, {element} "{name}")', body, opset, checked=False)


@pytest.mark.parametrize(
    ("key", "axis"), [("t", 1), ("t@0", 0), ("t@1", 1), ("t@2", 2), ("t@-1", 2), ("t@-2", 1), ("t@-3", 0)]
)
def test_axes_of_any_size(key: str, axis: int) -> None:
    mask = np.arange(X.shape[axis]) % 2
    masked = check(apply_masks(chain("n,m,5"), {key: mask}))
    expected = np.maximum(X, 0) * mask.reshape([-1 if i == axis else 1 for i in range(3)])
    out = build.run(masked, x=X)
    np.testing.assert_array_equal(out["y"], -expected)
    np.testing.assert_array_equal(out["t"], expected)


@pytest.mark.parametrize(("shape", "axis"), [((4, 5), 1), ((5,), 0), ((2, 3, 4, 5), 1), ((2, 3, 4), 1)])
def test_the_default_axis(shape: tuple[int, ...], axis: int) -> None:
    x = np.ones(shape, np.float32)
    mask = np.arange(shape[axis]) % 2
    out = build.run(apply_masks(chain(",".join(map(str, shape))), {"t": mask}), x=x)
    np.testing.assert_array_equal(out["t"], x * mask.reshape([-1 if i == axis else 1 for i in range(len(shape))]))


@pytest.mark.parametrize("name", ["block/out:0", "a@b", "a@1", "t@-1", "name with blanks", "@"])
def test_names_may_hold_anything(name: str) -> None:
    mask = np.array([1, 0, 1, 0])
    for key in (name, f"{name}@1", f"{name}@-2"):
        out = build.run(apply_masks(chain(name=name), {key: mask}), x=X)
        np.testing.assert_array_equal(out[name], np.maximum(X, 0) * mask[:, None])


def test_the_whole_key_is_tried_as_a_name_first() -> None:
    body = 't = Relu(x) "t@2" = Abs(x) y = Add(t, "t@2")'
    model = build.model("(float[3,4,5] x) => (float[3,4,5] y)", body)
    out = build.run(apply_masks(model, {"t@2": np.zeros(4)}), x=X)
    np.testing.assert_array_equal(out["y"], np.maximum(X, 0))


def test_inputs_keep_their_names() -> None:
    mask = np.array([1, 0, 1, 1])
    masked = check(apply_masks(chain(), {"x": mask}))
    assert [item.name for item in masked.graph.input] == ["x"]
    np.testing.assert_array_equal(build.run(masked, x=X)["t"], np.maximum(X, 0) * mask[:, None])


def test_initializers_are_multiplied_in_place() -> None:
    model = build.mlp(masked=False)
    masked = check(apply_masks(model, {"w1": [1, 0] * 8, "b1": [0, 1] * 8, "w2@0": [1] * 8 + [0] * 8}))
    assert len(masked.graph.node) == len(model.graph.node)
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, masked))
    np.testing.assert_array_equal(after["w1"], before["w1"] * ([1, 0] * 8))
    np.testing.assert_array_equal(after["b1"], before["b1"] * ([0, 1] * 8))
    np.testing.assert_array_equal(after["w2"], before["w2"] * np.array([1] * 8 + [0] * 8)[:, None])


def test_an_initializer_that_is_an_input_is_only_a_default() -> None:
    model = build.mlp(masked=False)
    model.graph.input.append(build.value("b1", [16]))
    mask = np.arange(16) % 2
    masked = check(apply_masks(model, {"b1": mask}))
    x = np.ones((2, 8), np.float32)
    given = np.full(16, 5, np.float32)
    expected = build.run(model, x=x, b1=(given * mask).astype(np.float32))
    np.testing.assert_array_equal(build.run(masked, x=x, b1=given)["y"], expected["y"])


def test_several_masks_on_one_tensor_multiply() -> None:
    rows, columns = np.array([1, 0, 1, 1]), np.array([1, 1, 0, 1, 0])
    for key in ("t", "x"):
        out = build.run(check(apply_masks(chain(), {key: rows, f"{key}@2": columns})), x=X)
        np.testing.assert_array_equal(out["t"], np.maximum(X, 0) * rows[:, None] * columns)


def test_nested_graphs_read_the_masked_tensor() -> None:
    # The second branch hands an outer tensor on as it is.
    body = """
        t = Relu(x)
        sum = ReduceSum<keepdims=0>(x)
        positive = Greater(sum, zero)
        y = If(positive) <
            then_branch = then () => (float[n,4] then) { then = Neg(t) },
            else_branch = else () => (float[n,4] then) { then = Identity(x) }
        >
    """
    model = build.model("(float[n,4] x) => (float[n,4] y)", body, zero=np.array(0.0))
    masked = check(apply_masks(model, {"t": [1, 0, 1, 0], "x": [1, 1, 1, 0]}))
    up, down = np.ones((2, 4), np.float32), -np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(build.run(masked, x=up)["y"], -up * [1, 0, 1, 0])
    np.testing.assert_array_equal(build.run(masked, x=down)["y"], down * [1, 1, 1, 0])


@pytest.mark.parametrize("kind", ["double", "float16", "int32", "int64", "bool"])
def test_other_types(kind: str) -> None:
    x = np.array([[0, 1, 2, 3], [4, 5, 6, 7]]).astype(kind)
    for key in ("t", "x"):
        masked = check(apply_masks(chain("n,4", kind=kind), {key: np.array([True, False, True, False])}))
        out = build.run(masked, x=x)["y"]
        assert out.dtype == x.dtype
        np.testing.assert_array_equal(out, np.where([True, False, True, False], x, np.zeros((), kind)))


def test_small_integers_of_opset_14() -> None:
    check(apply_masks(chain("n,4", kind="int8", opset=14), {"y": [1, 0, 1, 0]}))


BRANCHES = ", ".join(f"{n}_branch = {n} () => (float[n,4] inner) {{ inner = Neg(x) }}" for n in ("then", "else"))


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        (chain("n,4", kind="int8", opset=13), "y", "int8"),
        (chain("n,4", kind="string"), "y", "string"),
        (
            build.model("(float[n,4] x, bool c) => (float[n,4] y)", f"y = If(c) <{BRANCHES}>", checked=False),
            "inner",
            "inside an If",
        ),
        (
            build.model("(float[4] x) => (float[4] y, float[4] x)", "y = Neg(x)", checked=False),
            "x",
            "both an input and an output",
        ),
        (chain(name="block/out:0"), "out", "Did you mean 'block/out:0'"),
        (chain(name="block/out:0"), "blok/out:0@1", "Did you mean 'block/out:0'"),
    ],
)
def test_what_cannot_be_masked(model: onnx.ModelProto, key: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        apply_masks(model, {key: [1, 0, 1, 0]})


def test_where_the_rank_is_not_known_the_axis_counts_from_the_end() -> None:
    model = build.custom()
    with pytest.raises(InputError, match="type of tensor 'c' is not known"):
        apply_masks(model, {"c@-1": [1, 0] * 8})
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    with pytest.raises(InputError, match="'c@-1'"):
        apply_masks(model, {"c": [1, 0] * 8})
    masked = apply_masks(model, {"c@-1": [1, 0] * 8})
    assert [item.op_type for item in masked.graph.node].count("Mul") == 2


def test_a_tensor_may_be_called_as_an_argument_of_numpy_is(tmp_path: Path) -> None:
    """`numpy.savez` takes no array of the name `file`, which a tensor may well have."""
    masks = {"file": np.ones(3), "allow_pickle": np.zeros(2, bool), "a/b:0": np.arange(4)}
    write_arrays(tmp_path / "masks.npz", masks, {"of": "these"})
    arrays, state = npz_files.with_state(tmp_path / "masks.npz")
    assert state == {"of": "these"} and arrays.keys() == masks.keys()
    assert all(np.array_equal(arrays[name], masks[name]) and arrays[name].dtype == masks[name].dtype for name in masks)
