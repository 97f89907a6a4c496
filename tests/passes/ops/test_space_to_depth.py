"""Channels traded for positions, and repeated ones."""

import numpy as np
import pytest

from tests.passes.text import compiled, exact, mask, model, operators, random, weight

DEEP = "(float[N,4,H,W] x) => (float[N,2,K,L] y)"


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_frees_the_channels_that_make_up_an_output_channel(mode: str) -> None:
    keep = mask(1, 0, 1)
    source = model(
        DEEP,
        f'a = Conv(x, wa)\n d = DepthToSpace<blocksize = 2, mode = "{mode}">(a)\n m = Mul(d, keep)\n y = Conv(m, wb)',
        wa=random(12, 4, 1, 1),
        wb=random(2, 3, 1, 1, seed=1),
        keep=keep,
    )
    result = compiled(source)
    assert weight(result, "Conv", which=0).shape[0] == 8
    assert weight(result, "Conv", which=1).shape[1] == 2
    exact(source, H=(3, 4), W=(5,))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("shift", [0.0, 1.5, None])
def test_constants_before_depth_to_space_become_constants_or_patterns_behind(mode: str, shift: float | None) -> None:
    place = np.arange(12) % 3 if mode == "DCR" else np.arange(12) // 4
    keep = (place != 1).astype(np.float32).reshape(1, 12, 1, 1)
    source = model(
        "(float[N,200,5,6] x) => (float[N,2,10,12] y) <float[12,200,1,1] wa, float[2,3,1,1] wb>",
        "a = Conv(x, wa)\n m = Mul(a, keep)\n s = Add(m, shift)\n"
        f'd = DepthToSpace<blocksize = 2, mode = "{mode}">(s)\n r = Relu(d)\n y = Conv(r, wb)',
        keep=keep,
        shift=(1 - keep) * (random(1, 12, 1, 1) if shift is None else shift),
    )
    result = compiled(source)
    assert weight(result, "Conv", which=0).shape[0] == 8
    assert shift is None or weight(result, "Conv", which=1).shape[1] == 2
    exact(source)


def test_space_to_depth_frees_a_channel_when_all_its_parts_go() -> None:
    keep = np.tile([1, 0, 1], 4)
    keep[[1, 3]] = 1, 0  # a part of channel 1 is read, one of channel 0 is not
    source = model(
        "(float[N,4,4,6] x) => (float[N,2,2,3] y)"
        " <float[3,4,1,1] wa, float[2,12,1,1] wb, float[1,3,1,1] first = {1, 1, 0}>",
        "a = Conv(x, wa)\n am = Mul(a, first)\n s = SpaceToDepth<blocksize = 2>(am)\n m = Mul(s, keep)\n"
        "y = Conv(m, wb)",
        keep=keep.reshape(1, 12, 1, 1).astype(np.float32),
    )
    assert weight(compiled(source), "Conv", which=0).shape[0] == 2
    exact(source)


def test_a_pattern_through_space_to_depth() -> None:
    exact(
        model(
            "(float[N,4,6,6] x) => (float[N,2,3,3] y)"
            " <float[3,4,1,1] wa, float[3,1,3,3] wd, float[2,12,1,1] wb, float[1,3,1,1] keep = {1, 0, 1}, "
            "float[1,3,1,1] shift>",
            "a = Conv(x, wa)\n m = Mul(a, keep)\n s = Add(m, shift)\n d = Conv<group = 3, pads = [1,1,1,1]>(s, wd)\n"
            "e = SpaceToDepth<blocksize = 2>(d)\n r = Relu(e)\n y = Conv(r, wb)",
        )
    )


def test_tile_repeats_what_is_stored() -> None:
    source = model(
        "(float[N,5] x) => (float[N,2] y)"
        " <float[5,4] wa, float[4] keep = {1.0, 0, 1, 1}, float[4] shift = {0.0, 0.5, 0, 1}, "
        "int64[2] repeats = {1, 3}>",
        "a = MatMul(x, wa)\n m = Mul(a, keep)\n s = Add(m, shift)\n t = Tile(s, repeats)\n y = MatMul(t, wb)",
        wb=random(12, 2, seed=1) * (np.arange(12) % 4 != 3).reshape(12, 1),
    )
    result = compiled(source)
    assert weight(result, "MatMul", which=0).shape[1] == 2
    assert weight(result, "MatMul", which=1).shape[0] == 6
    assert "Tile" in operators(result)
    exact(source)
