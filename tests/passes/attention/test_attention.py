"""Fused attention between masked products."""

import numpy as np
import pytest

from tests.passes.attention.heads import (
    HEADS,
    MASKED,
    MERGED,
    SEPARATE,
    SIZE,
    WIDTH,
    attention,
    independent,
    of_fewer_keys,
    widths,
)
from tests.passes.text import compiled, model, operators, random, weight

BY_HEAD = SEPARATE.replace("0,2,3,1", "0,2,1,3")
#: how queries, keys and values are made, and what is behind them
THREE = MASKED, "y2 = Attention<q_num_heads=4, kv_num_heads=4{attrs}>(q2, k2, v2{mask})  o = MatMul(y2, wo)"
FOUR = BY_HEAD, "y0 = Attention<scale=0.3{attrs}>(q, k, v{mask}) " + MERGED
UNSCALED = BY_HEAD, "y0 = Attention<softmax_precision=1{attrs}>(q, k, v{mask}) " + MERGED
FORMS = pytest.mark.parametrize(("form", "behind"), [THREE, FOUR], ids=["three axes", "four axes"])


@FORMS
def test_each_head_keeps_its_own_channels(form: str, behind: str) -> None:
    masks = independent()
    result = compiled(attention(form, masks, behind.format(attrs="", mask=""), opset=23))
    assert [weight(result, "MatMul", which=i).shape[1] for i in range(3)] == widths(masks)


@FORMS
def test_each_head_of_keys_keeps_its_own_channels(form: str, behind: str) -> None:
    """Those of values, and of keys where all heads of queries in its group have the same."""
    groups, masks = HEADS // 2, independent()
    masks[0] = np.repeat(masks[0].reshape(groups, 2, SIZE)[:, :1], 2, axis=1).reshape(-1)
    for name in "kv":
        form = form.replace(f"({name}2, heads)", f"({name}2, fewer)")
    behind = behind.format(attrs="", mask="").replace("kv_num_heads=4", "kv_num_heads=2")
    result = compiled(attention(form, masks, behind, more=of_fewer_keys(masks, groups), opset=23))
    query, (key, value) = masks[0].reshape(groups, 2, SIZE)[:, 0], masks[1:, : groups * SIZE].reshape(2, groups, SIZE)
    both, values = (query & key).sum(axis=1).max(), value.sum(axis=1).max()
    found = [weight(result, "MatMul", which=i).shape[1] for i in range(3)]
    assert found == [both * HEADS, both * groups, values * groups]


@FORMS
def test_an_added_mask_stays(form: str, behind: str) -> None:
    text = behind.format(attrs="", mask=", added")
    compiled(attention(form, independent(), text, opset=23, inputs=", float[T,T] added"))


@pytest.mark.parametrize("attrs", [", is_causal=1", ", softcap=2.0", ", is_causal=1, scale=0.2"])
@pytest.mark.parametrize(("form", "behind"), [THREE, UNSCALED])
def test_what_it_has_beyond_the_formula_stays(form: str, behind: str, attrs: str) -> None:
    masks = independent()
    result = compiled(attention(form, masks, behind.format(attrs=attrs, mask=""), opset=23))
    assert "Attention" in operators(result)
    assert weight(result, "MatMul", which=2).shape[1] == widths(masks)[2]


def test_without_masks_it_stays_as_it_is() -> None:
    form, behind = THREE
    source = attention(form, np.ones((3, WIDTH)), behind.format(attrs="", mask=""), opset=23)
    assert operators(compiled(source)) == ["MatMul", "Add"] * 3 + ["Attention", "MatMul"]


@pytest.mark.parametrize("packed", [False, True])
def test_heads_of_examples_and_tokens_in_one_axis_behind_steps(packed: bool) -> None:
    """As quantisers write it: a Gemm over all tokens, of which a Reshape divides both axes, and steps between all."""
    rng, steps = np.random.default_rng(0), "step, zero"
    heads = [np.concatenate([rng.permutation(8) < 4 for _ in range(4)]) for _ in range(2)]
    keep = [heads[0], heads[0], heads[1]]

    def rounded(name: str) -> str:
        return f"{name}q = QuantizeLinear({name}, {steps}) {name}d = DequantizeLinear({name}q, {steps})"

    if packed:
        body = f"""p = Gemm(x, w, b) {rounded("p")} r = Reshape(pd, divided) {rounded("r")}
            s0, s1, s2 = Split<axis=2>(rd, ones)
            {" ".join(f"{rounded(f's{k}')} t{k} = Squeeze(s{k}d, two)" for k in range(3))}"""
    else:
        body = " ".join(
            f"p{k} = Gemm(x, w{k}, b{k}) {rounded(f'p{k}')} t{k} = Reshape(p{k}d, divided)" for k in range(3)
        )
    body += f"""
        {" ".join(f"h{k} = Transpose<perm=[0,2,1,3]>(t{k}) {rounded(f'h{k}')}" for k in range(3))}
        g = Transpose<perm=[0,1,3,2]>(h1d) l = MatMul(h0d, g) a = Softmax(l) o = MatMul(a, h2d) {rounded("o")}
        u = Transpose<perm=[0,2,1,3]>(od) {rounded("u")} j = Reshape(ud, joined) y = MatMul(j, v)"""
    masked = [(random(16, 32, seed=k) * each, random(32, seed=k + 9) * each) for k, each in enumerate(keep)]
    weights = {f"{name}{k}": each[i] for k, each in enumerate(masked) for i, name in enumerate("wb")}
    if packed:
        weights = {name: np.concatenate([each[i] for each in masked], axis=-1) for i, name in enumerate("wb")}
    source = model(
        "(float[20,16] x) => (float[20,5] y)",
        body,
        step=np.float32(0.05),
        zero=np.uint8(128),
        divided=np.array([2, 10, 3, 4, 8] if packed else [2, 10, 4, 8]),
        joined=np.array([20, 32]),
        two=np.array([2]),
        ones=np.array([1, 1, 1]),
        v=random(32, 5, seed=3),
        **weights,
    )
    result = compiled(source)
    widths = [weight(result, "Gemm", which=k).shape[1] for k in range(operators(result).count("Gemm"))]
    assert sum(widths) == 3 * 16
    assert weight(result, "MatMul", which=-1).shape[0] == 16
