"""Keep-vectors per tensor and axis, on top of the analysis."""

import numpy as np
import onnx
import pytest

import passes
from passes import analyse, find_input_mask, find_mask, find_output_mask, pruned_shape
from passes.analysis import find_mask as queries
from passes.errors import GraphError
from tests.passes.text import compiled, model, random


def bits(keep: queries.Keep) -> str:
    found = keep[1]
    assert found is not None and found.dtype == np.bool_
    return "".join("1" if bit else "0" for bit in found)


def all_three(source: onnx.ModelProto, tensor: str) -> tuple[str, str, str]:
    analysis = analyse(source)
    return tuple(bits(find(analysis, tensor)) for find in (find_input_mask, find_output_mask, find_mask))  # type: ignore[return-value]


def test_a_chain() -> None:
    """A mask is seen forward behind it and backward before it, through a bias and an activation."""
    v = random(6, 2, seed=2)
    v[5] = 0
    source = model(
        "(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6] k = {1, 0, 1, 1, 0, 1}, float[6] shift>",
        "a = MatMul(x, w)\n m = Mul(a, k)\n s = Add(m, shift)\n r = Relu(s)\n y = MatMul(r, v)",
        v=v,
    )
    assert all_three(source, "a") == ("111111", "101100", "101100")
    assert all_three(source, "m") == ("101101", "101100", "101100")
    assert all_three(source, "r") == ("101101", "111110", "101100")
    assert [pruned_shape(source, tensor) for tensor in "rxy"] == [("N", 3), ("N", 3), ("N", 2)]
    result = compiled(source)
    stored = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert [3, 3] in stored.values() and [3, 2] in stored.values()


def test_a_residual_sum_needs_what_either_branch_has() -> None:
    source = model(
        "(float[N,4,8,8] x) => (float[N,2,8,8] y)"
        " <float[4,4,1,1] wa, float[4,4,1,1] wb, float[2,4,1,1] wc, float[1,4,1,1] ma = {1, 1, 0, 0}, "
        "float[1,4,1,1] mb = {0, 1, 1, 0}>",
        "a = Conv(x, wa)\n am = Mul(a, ma)\n b = Conv(x, wb)\n bm = Mul(b, mb)\n s = Add(am, bm)\n y = Conv(s, wc)",
    )
    assert all_three(source, "a") == ("1111", "1100", "1100")
    assert all_three(source, "bm") == ("0110", "1110", "0110")
    assert all_three(source, "s") == ("1110", "1111", "1110")
    assert pruned_shape(source, "s") == ("N", 3, 8, 8)


def test_a_concatenation_keeps_the_places_of_its_parts() -> None:
    source = model(
        "(float[N,4] x) => (float[N,2] y)"
        " <float[4,3] wa, float[4,2] wb, float[5,2] v, float[3] ma = {1, 0, 1}, float[2] mb = {0, 1}>",
        "a = MatMul(x, wa)\n am = Mul(a, ma)\n b = MatMul(x, wb)\n bm = Mul(b, mb)\n"
        "c = Concat<axis=1>(am, bm)\n y = MatMul(c, v)",
    )
    assert all_three(source, "c") == ("10101", "11111", "10101")
    assert all_three(source, "b") == ("11", "01", "01")
    assert pruned_shape(source, "c") == ("N", 3)


def test_groups_read_their_own_channels_only() -> None:
    source = model(
        "(float[N,4,8,8] x) => (float[N,2,6,6] y)"
        " <float[4,4,1,1] wa, float[4,2,3,3] wd, float[2,4,1,1] wb, float[1,4,1,1] m = {1, 1, 0, 0}>",
        "a = Conv(x, wa)\n d = Conv<group=2>(a, wd)\n dm = Mul(d, m)\n y = Conv(dm, wb)",
    )
    assert all_three(source, "a") == ("1111", "1100", "1100")
    assert pruned_shape(source, "a") == ("N", 2, 8, 8)
    assert pruned_shape(source, "dm") == ("N", 2, 6, 6)


def test_branches_are_read_by_whoever_reads_most() -> None:
    left, right = random(4, 2), random(4, 2, seed=1)
    left[[0, 1]] = 0
    right[[1, 2]] = 0
    source = model(
        "(float[N,3] x) => (float[N,2] y, float[N,2] z) <float[3,4] w>",
        "a = MatMul(x, w)\n i = Identity(a)\n r = Relu(i)\n y = MatMul(r, left)\n z = MatMul(r, right)",
        left=left,
        right=right,
    )
    for tensor in ("a", "i", "r"):
        assert all_three(source, tensor) == ("1111", "1011", "1011")


def test_a_dead_branch_keeps_nothing() -> None:
    source = model(
        "(float[N,3] x) => (float[N,2] y) <float[3,4] w, float[3,4] u, float[4,2] v, float[4] none = {0, 0, 0, 0}>",
        "a = MatMul(x, w)\n m = Mul(a, none)\n s = Sigmoid(m)\n b = MatMul(x, u)\n p = Mul(b, s)\n y = MatMul(p, v)",
    )
    assert all_three(source, "a") == ("1111", "0000", "0000")
    assert pruned_shape(source, "a") == ("N", 0)
    assert pruned_shape(source, "p") == ("N", 4)


def test_initializers_and_other_axes() -> None:
    weights = random(3, 4)
    weights[:, 2] = 0
    source = model(
        "(float[N,3] x) => (float[M,N] y) <float[4] k = {1, 0, 1, 1}, int64[1] axis = {1}, int64[1] zero = {0}>",
        "a = MatMul(x, w)\n m = Mul(a, k)\n r = ReduceSum<keepdims=0>(m, axis)\n y = Unsqueeze(r, zero)",
        w=weights,
    )
    assert bits(find_input_mask(source, "w")) == "1101"
    assert find_mask(source, "a")[0] is None
    assert find_mask(source, "r") == (None,)
    assert pruned_shape(source, "w") == (3, 2)
    assert pruned_shape(source, "y") == (1, "N")


def test_the_model_is_left_as_it_is_and_one_analysis_serves_many_questions() -> None:
    source = onnx.parser.parse_model(queries.EXAMPLE)
    before = source.SerializeToString(deterministic=True)
    analysis = passes.analyse(source)
    assert pruned_shape(analysis, "h") == pruned_shape(source, "h") == ("N", 1)
    assert source.SerializeToString(deterministic=True) == before


def test_unknown_tensors_and_invalid_graphs() -> None:
    source = onnx.parser.parse_model(queries.EXAMPLE)
    for find in (find_input_mask, find_output_mask, find_mask, pruned_shape):
        with pytest.raises(LookupError, match=r"no tensor 'maks'.*Did you mean 'mask'"):
            find(source, "maks")
    source.graph.node[1].input[0] = "nowhere"
    with pytest.raises(GraphError, match="nowhere"):
        find_mask(source, "h")
