"""Weights that are read when they are asked for are the same as those in memory, and so is what is made of them."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from maskc.frontend.graph_queries import all_tensors, array_of
from passes import shrink
from passes.errors import GraphError
from passes.graph.tensors import Array
from passes.weights import statistics, streaming
from passes.weights.external_file import Store
from passes.weights.streaming import Cut, External, Inline, Lazy, patched, scaled
from tests.generators import architectures
from tests.generators.net import Masks
from tests.passes import text

SHAPES = [(7,), (6, 5), (1, 9), (1, 1, 4), (4, 3, 2, 2), (3, 1, 5), (2, 6, 4), (5, 0), ()]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 40)


def external(values: Array, path: Path, offset: int = 0) -> External:
    """The values in a file, behind so many other bytes."""
    stored = numpy_helper.from_array(values, "w")
    path.write_bytes(b"\7" * offset + stored.raw_data)
    light = TensorProto(name="w", data_type=stored.data_type, dims=stored.dims, data_location=TensorProto.EXTERNAL)
    light.external_data.add(key="location", value=str(path))
    light.external_data.add(key="offset", value=str(offset))
    return External(light)


def holed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers with some slices alike throughout along each axis, some of them zero, and single zeros at times."""
    values = rng.normal(size=shape).astype(np.float32)
    for axis in range(len(shape)):
        for index in np.flatnonzero(rng.random(shape[axis]) < 0.4):
            values[(slice(None),) * axis + (index,)] = rng.integers(3)
    values[rng.random(shape) < rng.choice([0, 0.3])] = 0
    return values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.int8, np.bool_, np.int64, ml_dtypes.bfloat16, ml_dtypes.int4]
)
def test_values_in_a_file(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    values = np.asarray(np.random.default_rng(0).integers(-3, 4, shape)).astype(dtype)
    found = external(values, tmp_path / "w", offset=3)
    np.testing.assert_array_equal(np.asarray(found), values)
    assert (found.dtype, found.shape, found.size) == (values.dtype, list(shape), values.size)


def test_a_copy_may_be_changed() -> None:
    stored = Inline(numpy_helper.from_array(np.zeros((2, 3), np.float32)))
    for copy in (np.array(stored), np.array(stored, np.int64), np.array(stored, copy=True)):
        copy[0] = 1
    assert not np.asarray(stored).any()


def test_a_file_that_ends_early_or_is_gone(tmp_path: Path) -> None:
    found = external(np.ones((8, 8), np.float32), tmp_path / "w")
    (tmp_path / "w").write_bytes(b"\0" * 100)
    with pytest.raises(GraphError, match="`w` end too early"):
        np.asarray(found)
    (tmp_path / "w").unlink()
    with pytest.raises(GraphError, match="`w` cannot be read"):
        np.asarray(found)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES[:7]), st.integers(0, 2**31), st.booleans())
def test_cut_and_scaled(shape: tuple[int, ...], seed: int, in_order: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32)
    picked, wanted = {}, values
    for axis in rng.permutation(len(shape))[: rng.integers(1, len(shape) + 1)]:
        index = rng.permutation(shape[axis])[: max(1, shape[axis] // 2)]
        picked[int(axis)] = np.sort(index) if in_order else index
        wanted = np.take(wanted, picked[int(axis)], axis)
    cut = Cut(Inline(numpy_helper.from_array(values)), picked)
    np.testing.assert_array_equal(np.asarray(cut), wanted)
    axis = int(rng.integers(len(shape)))
    factors = rng.normal(size=[d if a == axis else 1 for a, d in enumerate(wanted.shape)])
    np.testing.assert_array_equal(np.asarray(scaled(cut, factors)), (wanted * factors).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES[1:7]), st.integers(0, 2**31))
def test_patched_and_contracted(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, axis = rng.normal(size=shape).astype(np.float32), int(rng.integers(len(shape)))
    stored, along = Inline(numpy_helper.from_array(values)), np.moveaxis(values, axis, 0)
    factors = rng.normal(size=(shape[axis], 2)) * rng.integers(2, size=(shape[axis], 1))
    sums = streaming.contracted(stored, axis, factors)
    np.testing.assert_allclose(sums, np.tensordot(factors.T, along.astype(np.float64), axes=1), atol=1e-12)
    places = np.sort(rng.permutation(shape[axis])[: max(1, shape[axis] // 2)])
    slices = rng.normal(size=(places.size, *along.shape[1:])).astype(np.float32)
    expected = values.copy()
    np.moveaxis(expected, axis, 0)[places] = slices
    np.testing.assert_array_equal(np.asarray(patched(stored, axis, places, slices)), expected)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SHAPES[:7]), st.integers(0, 2**31))
def test_a_summary_says_what_all_elements_say(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = holed(rng, shape)
    stored: Lazy = Inline(numpy_helper.from_array(values))
    for axis in range(len(shape)):
        rows = np.moveaxis(values, axis, 0).reshape(shape[axis], -1)
        mask, first = statistics.uniform_slices(stored, axis)
        np.testing.assert_array_equal(mask, (rows == rows[:, :1]).all(axis=1))
        np.testing.assert_array_equal(first[mask], rows[mask, 0])
        np.testing.assert_array_equal(statistics.zeros(stored, axis), (rows == 0).all(axis=1))
    for axes in [(a, b) for a in range(len(shape)) for b in range(len(shape)) if a != b]:
        rest = tuple(a for a in range(len(shape)) if a not in axes)
        matrix = (values != 0).any(axis=rest)
        matrix = matrix if axes[0] < axes[1] else matrix.T
        found = statistics.nonzero(stored, axes)
        np.testing.assert_array_equal(found.matrix, matrix)
        rows_kept, columns_kept = rng.random(matrix.shape[0]) < 0.5, rng.random(matrix.shape[1]) < 0.5
        np.testing.assert_array_equal(found.columns(rows_kept), matrix[rows_kept].any(axis=0))
        np.testing.assert_array_equal(found.rows(columns_kept), matrix[:, columns_kept].any(axis=1))
    assert statistics.lowest(stored) == values.min()
    assert statistics.is_filled_with(stored, values.flat[0]) == bool((values == values.flat[0]).all())


def test_weights_are_read_to_look_for_zeros_and_to_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not to see what channels that are zero add to others."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(256, 256, 1, 1)).astype(np.float32) for _ in range(2))
    first[::2], second[1::2] = 0, 0
    model = text.model(
        "(float[1,256,8,8] x) => (float[1,2,8,8] y)",
        "a = Conv(x, first) b = Relu(a) c = Conv(b, second) d = Relu(c) y = Conv(d, third)",
        first=first,
        second=second,
        third=np.ones((2, 256, 1, 1)),
    )
    reads: list[str] = []
    read = Inline.__array__
    monkeypatch.setattr(
        Inline, "__array__", lambda self, *given, **said: reads.append(self.stored.name) or read(self, *given, **said)
    )
    assert shrink(model).report.after.params == 256 * 128 + 128 * 128 + 128 * 2
    assert sorted(reads) == ["first", "first", "second", "second"]


def test_a_store_holds_what_was_put_there_last(tmp_path: Path) -> None:
    first, second = (np.arange(n, dtype=np.float32) for n in (20, 3000))
    with Store(tmp_path / "weights") as store:
        store.put(TensorProto(data_type=TensorProto.FLOAT, dims=[20]), [first.tobytes()])
        before = store.digest
        store.clear()
        tensors = []
        for values in (second, first):
            tensors.append(TensorProto(data_type=TensorProto.FLOAT, dims=values.shape))
            store.put(tensors[-1], streaming.raw(Inline(numpy_helper.from_array(values))))
        store.flush()
        assert store.digest != before
        for tensor, values in zip(tensors, (second, first), strict=True):
            np.testing.assert_array_equal(np.asarray(External(tensor)), values)
    assert (tmp_path / "weights").stat().st_size == 12288 + 80


def in_files(model: onnx.ModelProto, directory: Path, largest_inside: int = 16) -> onnx.ModelProto:
    """The model with all initializers of the graph of more elements in a file; smaller ones can be shapes."""
    onnx.save_model(model, directory / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    outside = onnx.load(directory / "m.onnx", load_external_data=False)
    stay = [t for t in outside.graph.initializer if np.prod(t.dims) > largest_inside]
    assert stay
    for tensor in stay:
        next(e for e in tensor.external_data if e.key == "location").value = str(directory / "weights")
    for tensor in all_tensors(outside):
        if tensor.data_location == TensorProto.EXTERNAL and not any(tensor is t for t in stay):
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(directory))
            tensor.ClearField("data_location")  # as it was, and as maskc reads it
    return outside


def assert_same(model: onnx.ModelProto, directory: Path, largest_inside: int = 16) -> onnx.ModelProto:
    """What is made of the model is the same with its weights in a file; returns that with its weights in one."""
    expected, outside = shrink(model).model, in_files(model, directory, largest_inside)
    with Store(directory / "compiled") as store:
        found = shrink(outside, store=store).model
        assert [t.name for t in found.graph.initializer] == [t.name for t in expected.graph.initializer]
        for tensor, other in zip(found.graph.initializer, expected.graph.initializer, strict=True):
            np.testing.assert_array_equal(array_of(tensor), numpy_helper.to_array(other), err_msg=tensor.name)
    assert list(found.graph.node) == list(expected.graph.node)
    whole = shrink(outside).model
    assert not any(t.data_location == TensorProto.EXTERNAL for t in all_tensors(whole))
    assert list(whole.graph.initializer) == list(expected.graph.initializer)
    return found


NETWORKS = ("vgg", "resnext", "unet", "vit", "bert", "dlrm", "lstm", "branching", "looping", "quantised", "tied")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_in_files_compiles_to_the_same(name: str, tmp_path: Path) -> None:
    net = architectures.build(getattr(architectures, name), Masks(consistent=True))
    assert_same(net.model(), tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        "g = com.microsoft.QuickGelu <alpha=1.0> (x)\n y = Reshape(g, shape)",
        "c = Conv(x, w)\n k = Clip(c, zero, six)\n q = QuantizeLinear(k, six, steps)\n"
        "y = DequantizeLinear(q, six, steps)",
        "c = Conv(x, w)\n r = Relu(c)\n p = Pad(r, pads, zero)\n y = MaxPool <kernel_shape=[3,3]> (p)",
    ],
)
def test_small_operands_in_files_are_read(body: str, tmp_path: Path) -> None:
    pads, shape = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array([1, 4, 8, 8])
    numbers = {"zero": np.array(0.0), "six": np.array(6.0), "steps": np.array(0, np.uint8)}
    source = text.model(
        "(float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w>", body, pads=pads, shape=shape, **numbers
    )
    assert_same(source, tmp_path, largest_inside=0)


SIGNATURE = "(float[N,24] x) => (float[N,4] y)"


def test_folded_weights_are_computed_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passes.simplify.fold_weight_computations.LARGE", 1)
    body = "t = Transpose <perm=[1, 0]> (w)\n c = Tanh(t)\n m = Mul(x, k)\n y = MatMul(m, c)"
    found = assert_same(text.model(SIGNATURE, body, w=(4, 24), k=np.arange(24.0) % 2), tmp_path)
    assert [n.op_type for n in found.graph.node] == ["Gather", "MatMul"]
    assert [list(t.dims) for t in found.graph.initializer if t.data_location == TensorProto.EXTERNAL] == [[12, 4]]


def test_constants_behind_a_normalisation_go_into_weights_in_files(tmp_path: Path) -> None:
    body = "m = Mul(x, k)\n n = LayerNormalization <axis=-1> (m, s, b)\n y = MatMul(n, w)"
    source = text.model(SIGNATURE, body, w=(24, 4), k=np.arange(24.0) % 2, s=(24,), b=(24,))
    found = assert_same(source, tmp_path)
    assert any(t.data_location == TensorProto.EXTERNAL and t.dims[1:] == [4] for t in found.graph.initializer)


def test_weights_are_those_of_the_graph_that_is_returned(tmp_path: Path) -> None:
    """Behind the If the source counts sizes as 1, so that it is prepared once more, to compare with."""
    branches = "then_branch = yes () => (float[N,16] t) { t = Mul(m, s) }, "
    branches += "else_branch = no () => (float[N,16] e) { c = Unsqueeze(k, zero) e = Mul(m, c) }"
    source = text.model(
        "(float[N,24] x, bool q) => (float[N,30] y)"
        " <int64[1] zero = {0}, float[24,6] a, float[6,16] w, float[16] s, float[16,30] v>",
        f"g = MatMul(x, a)\n n = Mul(g, l)\n h = MatMul(n, w)\n m = Mul(h, k)\ni = If(q) <{branches}>\n y = Gemm(i, v)",
        l=np.arange(6.0) % 2,
        k=(np.arange(16) % 4 != 1).astype(float),
    )
    assert_same(source, tmp_path)
