"""Elements picked and written at given indices."""

from typing import Any

import numpy as np
import onnx
import pytest

from tests.passes.text import compiled, exact, mask, model, narrowed, operators, random, weight

HEAD = "a = Conv(x, wa)\n m = Mul(a, keep)\n s = Add(m, shift)\n"
ROW = np.asarray([5, 2, 0, 3, -2])  # along the channels; channel 2 is masked, 1 is not picked


def source(signature: str, text: str, *, shift: bool = False, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """Six channels of which the third is masked, and then the operator."""
    keep = mask(1, 1, 0, 1, 1, 1)
    given = {"wa": random(6, 4, 1, 1), "keep": keep, "shift": random(1, 6, 1, 1, seed=7) * shift}
    return model(signature, HEAD + text, opset, **given, **constants)


@pytest.mark.parametrize("shift", [False, True])
def test_gather_elements_passes_other_axes_and_picks_rows(shift: bool) -> None:
    index = np.broadcast_to(np.asarray([1, 0, 1]), (2, 6, 5, 3)).copy()  # along the columns, the same in every row
    along = source(
        "(float[2,4,5,6] x) => (float[2,3,5,3] y) <float[3,6,1,1] wb>",
        "p = GatherElements<axis = 3>(s, i)\n y = Conv(p, wb)",
        i=index,
        shift=shift,
    )
    assert weight(compiled(along), "Conv", which=0).shape[0] == 5
    exact(along)
    rows = np.broadcast_to(ROW.reshape(1, 5, 1, 1), (2, 5, 5, 6)).copy()
    picked = source(
        "(float[2,4,5,6] x) => (float[2,3,5,6] y) <float[3,5,1,1] wb>",
        "p = GatherElements<axis = 1>(s, i)\n y = Conv(p, wb)",
        i=rows,
        shift=shift,
    )
    result = compiled(picked)
    assert weight(result, "Conv", which=0).shape[0] == 4  # neither the masked one nor the one that nothing picks
    assert weight(result, "Conv", which=1).shape[1] == 4
    exact(picked)


def test_gather_elements_of_other_elements_of_each_slice() -> None:
    index = np.random.default_rng(0).choice([0, 1, 4, 5, -1], size=(2, 3, 5, 6))
    network = source(
        "(float[2,4,5,6] x) => (float[2,3,5,6] y)", "p = GatherElements<axis = 1>(s, i)\n y = Neg(p)", i=index
    )
    assert weight(compiled(network), "Conv").shape[0] == 4
    exact(network)


def test_gather_elements_at_computed_indices() -> None:
    exact(
        source(
            "(float[2,4,5,6] x, int64[2,6,5,2] i) => (float[2,3,5,2] y) <float[3,6,1,1] wb, int64 low = {0}, "
            "int64 high = {5}>",
            "c = Clip(i, low, high)\n p = GatherElements<axis = 3>(s, c)\n y = Conv(p, wb)",
        )
    )


@pytest.mark.parametrize("shift", [False, True])
def test_gather_nd_passes_the_axes_behind_the_indices(shift: bool) -> None:
    last = source(
        "(float[2,4,5,6] x) => (float[4,6,3] y) <float[6,3] wb>",
        "t = Transpose<perm = [2,0,3,1]>(s)\n p = GatherND(t, i)\n y = MatMul(p, wb)",
        i=np.asarray([[0, 1], [4, 0], [-1, 1], [2, 0]]),
        shift=shift,
    )
    assert weight(compiled(last), "Conv").shape[0] == 5
    exact(last)
    first = source(
        "(float[2,4,5,6] x) => (float[5,2,30] y) <int64[3] shape = {5, 2, 30}>",
        "t = Transpose<perm = [1,0,2,3]>(s)\n p = GatherND(t, i)\n y = Reshape(p, shape)",
        i=ROW.reshape(5, 1),
        shift=shift,
    )
    assert weight(narrowed(first), "Conv").shape[0] == 4
    exact(first)


def test_gather_nd_with_batch_axes() -> None:
    network = source(
        "(float[2,4,5,6] x) => (float[2,6,3,6] y)",
        "p = GatherND<batch_dims = 2>(s, i)\n m2 = Mul(p, keep)\n y = Relu(m2)",
        i=np.random.default_rng(0).integers(0, 5, size=(2, 6, 3, 1)),
    )
    assert weight(narrowed(network), "Conv").shape[0] == 5
    exact(network)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_elements_passes_other_axes(reduction: str, shift: bool) -> None:
    network = source(
        "(float[2,4,5,6] x) => (float[2,3,5,6] y) <float[3,6,1,1] wb, float[6,4,1,1] wc>",
        f'b = Conv(x, wc)\n bm = Mul(b, keep)\n p = ScatterElements<axis = 3, reduction = "{reduction}">(s, i, bm)\n'
        "y = Conv(p, wb)",
        i=np.broadcast_to(np.arange(6)[::-1], (2, 6, 5, 6)).copy(),
        shift=shift,
    )
    assert weight(narrowed(network), "Conv", which=0).shape[0] == 5
    exact(network)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max"])
def test_scatter_nd_into_channels(reduction: str) -> None:
    """Rows of zeros, rows of something computed, and rows that a mask takes away behind."""
    network = source(
        "(float[2,4,5,6] x) => (float[2,5,6,3] y) <float[3,4,1,1] wc>",
        "t = Transpose<perm = [1,0,2,3]>(s)\n b = Conv(x, wc)\n u = Transpose<perm = [1,0,2,3]>(b)\n"
        f'p = ScatterND<reduction = "{reduction}">(t, i, u)\n q = Transpose<perm = [1,2,3,0]>(p)\n y = MatMul(q, wb)',
        i=np.asarray([[4], [1], [-1]]),
        wb=random(6, 3, seed=1) * np.asarray([1, 0, 1, 1, 0, 1]).reshape(6, 1),
        opset=18,
    )
    result = compiled(network)
    assert weight(result, "Conv", which=1).shape[0] == 1  # channels 1 and 4 are not read
    assert weight(result, "Conv", which=0).shape[0] <= 3
    exact(network)


def test_scatter_nd_of_constants_masks_channels() -> None:
    network = source(
        "(float[2,4,5,6] x) => (float[2,5,6,3] y) <float[6,3] wb>",
        "t = Transpose<perm = [1,0,2,3]>(s)\n p = ScatterND(t, i, u)\n q = Transpose<perm = [1,2,3,0]>(p)\n"
        "y = MatMul(q, wb)",
        i=np.asarray([[4], [1]]),
        u=np.stack([np.zeros((2, 5, 6)), np.full((2, 5, 6), 0.5)]),
    )
    result = compiled(network)
    assert weight(result, "Conv").shape[0] == 3
    assert "ScatterND" not in operators(result)
    exact(network)


def test_scatter_nd_into_single_elements_of_a_batch() -> None:
    places = np.stack(np.meshgrid([0, 1], [1, 5], np.arange(5), indexing="ij"), axis=-1).reshape(-1, 3)
    network = source(
        "(float[2,4,5,6] x) => (float[2,3,5,6] y) <float[3,6,1,1] wb>",
        "p = ScatterND(s, i, u)\n y = Conv(p, wb)",
        i=places,
        u=np.zeros((len(places), 6)),
    )
    result = compiled(network)
    assert weight(result, "Conv", which=0).shape[0] == 3
    assert "ScatterND" not in operators(result)
    exact(network)


def test_compress_and_one_hot() -> None:
    network = source(
        "(float[N,4,5,6] x) => (float[N,3,5,6] y) <float[3,4,1,1] wb>",
        "p = Compress<axis = 1>(s, c)\n y = Conv(p, wb)",
        c=np.asarray([True, False, True, True, True, False]),
    )
    exact(network)
    codes = source(
        "(float[N,4,5,6] x) => (float[N,2,5,6,3] y) <int64 zero = {0}, int64 two = {2}, int64 depth = {3}, "
        "float[2] values = {0.0, 1.0}, int64[2] pick = {0, 3}>",
        "c = Cast<to = 7>(s)\n k = Clip(c, zero, two)\n h = OneHot(k, depth, values)\n t = Gather<axis = 1>(h, pick)\n"
        "y = Relu(t)",
    )
    assert weight(compiled(codes), "Conv").shape[0] == 2
    exact(codes)


def test_gather_of_a_table_of_indices_reads_only_what_it_picks() -> None:
    network = source(
        "(float[N,4,5,6] x) => (float[N,2,2,5,6] y)",
        "p = Gather<axis = 1>(s, i)\n y = Relu(p)",
        i=np.asarray([[5, 2], [0, 5]]),
    )
    assert weight(narrowed(network), "Conv").shape[0] == 2
    exact(network)


def test_what_is_written_into_known_maps_is_seen() -> None:
    """Data and updates are both known and differ from place to place, and only some places are written."""
    compiled(
        model(
            "(float[3,2,4] x) => (float[3,2,4] y) <float[1,3,4] updates, float[1,2,4] rest>",
            "z = Mul(x, none)  d = Add(z, even)  t = Transpose<perm=[1,0,2]>(d)"
            "  w = ScatterND(t, indices, updates)  b = Transpose<perm=[1,0,2]>(w)  y = Add(b, rest)",
            none=np.zeros((3, 1, 1)),
            even=np.asarray([1.5, -0.5]).reshape(2, 1),
            indices=np.asarray([[0]]),
        )
    )


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("scatters", [False, True])
def test_indices_that_are_repeated_along_the_channels(kind: str, scatters: bool) -> None:
    """They become tuples, which no integers but those of 64 bits may be."""
    moved = "ScatterElements<axis=-2>(rest, e, m)" if scatters else "GatherElements<axis=-2>(m, e)"
    result = compiled(
        model(
            f"(float[5,6] x, {kind}[5,1] i) => (float[5,4] y) <float[6,8] w, float[8,4] v, int64[2] wide = {{5, 8}}>",
            f"p = MatMul(x, w)  m = Mul(p, keep)  e = Expand(i, wide)  g = {moved}  y = MatMul(g, v)",
            keep=(np.arange(8) % 3 > 0).astype(np.float32),
            rest=np.zeros((5, 8), np.float32),
        )
    )
    assert ("ScatterND" if scatters else "GatherND") in operators(result) or kind == "int32"
    assert weight(result, "MatMul").shape[1] == 5
