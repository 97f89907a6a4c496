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


@pytest.mark.parametrize("form", ["apart", "packed", "sliced", "in the batch"])
def test_heads_of_examples_and_tokens_in_one_axis_behind_steps(form: str) -> None:
    """As quantisers write it: a Gemm over all tokens, of which a Reshape divides both axes, and steps between all."""
    rng, steps, parts = np.random.default_rng(0), "step, zero", range(3)
    heads = [np.concatenate([rng.permutation(8) < 4 for _ in range(4)]) for _ in range(2)]
    keep = [heads[0], heads[0], heads[1]]

    def rounded(name: str) -> str:
        return f"{name}q = QuantizeLinear({name}, {steps}) {name}d = DequantizeLinear({name}q, {steps})"

    together = form in ("packed", "sliced")
    if form == "packed":
        body = f"""p = Gemm(x, w, b) {rounded("p")} r = Reshape(pd, of_all) {rounded("r")}
            s0, s1, s2 = Split<axis=2>(rd, ones)
            {" ".join(f"{rounded(f's{k}')} t{k} = Squeeze(s{k}d, two)" for k in parts)}"""
    elif form == "sliced":
        body = f"""p = Gemm(x, w, b) {rounded("p")} r = Reshape(pd, tokens) {rounded("r")}
            s0, s1, s2 = Split<axis=2>(rd)
            {" ".join(f"{rounded(f's{k}')} t{k} = Reshape(s{k}d, divided)" for k in parts)}"""
    else:
        body = " ".join(f"p{k} = Gemm(x, w{k}, b{k}) {rounded(f'p{k}')} t{k} = Reshape(p{k}d, divided)" for k in parts)
    body += " ".join(f" h{k} = Transpose<perm=[0,2,1,3]>(t{k}) {rounded(f'h{k}')}" for k in parts)
    if form == "in the batch":
        body += " ".join(f" m{k} = Reshape(h{k}d, merged) {rounded(f'm{k}')}" for k in parts)
        body += f"""  g = Transpose<perm=[0,2,1]>(m1d) l = MatMul(m0d, g) a = Softmax(l) n = MatMul(a, m2d)
            {rounded("n")} o = Reshape(nd, by_head)"""
    else:
        body += " g = Transpose<perm=[0,1,3,2]>(h1d) l = MatMul(h0d, g) a = Softmax(l) o = MatMul(a, h2d)"
    body += f"""  {rounded("o")} u = Transpose<perm=[0,2,1,3]>(od) {rounded("u")}
        j = Reshape(ud, joined) y = MatMul(j, v)"""
    masked = [(random(16, 32, seed=k) * each, random(32, seed=k + 9) * each) for k, each in enumerate(keep)]
    weights = {f"{name}{k}": each[i] for k, each in enumerate(masked) for i, name in enumerate("wb")}
    if together:
        weights = {name: np.concatenate([each[i] for each in masked], axis=-1) for i, name in enumerate("wb")}
    shapes = {"of_all": [2, 10, 3, 4, 8], "divided": [2, 10, 4, 8], "tokens": [2, 10, 96], "joined": [20, 32]}
    shapes |= {"merged": [8, 10, 8], "by_head": [2, 4, 10, 8], "two": [2], "ones": [1, 1, 1]}
    given = {name: np.array(sizes) for name, sizes in shapes.items()} | weights
    given |= {"step": np.float32(0.05), "zero": np.uint8(128), "v": random(32, 5, seed=3)}
    result = compiled(model("(float[20,16] x) => (float[20,5] y)", body, constants=given))
    widths = [weight(result, "Gemm", which=k).shape[1] for k in range(operators(result).count("Gemm"))]
    assert sum(widths) == 3 * 16
    assert weight(result, "MatMul", which=-1).shape[0] == 16
