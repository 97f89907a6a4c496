"""Fused attention between masked products."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from tests.passes.attention.test_heads import HEADS, SIZE, WIDTH, independent, widths
from tests.passes.text import Array, compiled, model, operators, random, weight

THREE = """
    q0 = MatMul(x, wq)  q = Mul(q0, mq)  k0 = MatMul(x, wk)  k = Mul(k0, mk)  v0 = MatMul(x, wv)  v = Mul(v0, mv)
    y = Attention<q_num_heads=4, kv_num_heads=4{attrs}>(q, k, v{mask})  o = MatMul(y, wo)
"""
FOUR = """
    q0 = MatMul(x, wq)  q1 = Mul(q0, mq)  q2 = Reshape(q1, heads)  q = Transpose<perm=[0,2,1,3]>(q2)
    k0 = MatMul(x, wk)  k1 = Mul(k0, mk)  k2 = Reshape(k1, heads)  k = Transpose<perm=[0,2,1,3]>(k2)
    v0 = MatMul(x, wv)  v1 = Mul(v0, mv)  v2 = Reshape(v1, heads)  v = Transpose<perm=[0,2,1,3]>(v2)
    y0 = Attention<scale=0.3{attrs}>(q, k, v{mask})
    y1 = Transpose<perm=[0,2,1,3]>(y0)  y = Reshape(y1, together)  o = MatMul(y, wo)
"""


def attention(
    body: str, masks: Sequence[Array], attrs: str = "", mask: str = "", signature: str = "", groups: int = HEADS
) -> onnx.ModelProto:
    text = body.replace("{attrs}", attrs).replace("{mask}", mask)
    given: dict[str, Array] = {"wo": random(WIDTH, 5, seed=7)}
    given |= {"heads": np.asarray([0, 0, HEADS, SIZE]), "together": np.asarray([0, 0, WIDTH])}
    given["groups"] = np.asarray([0, 0, groups, SIZE])
    for i, name in enumerate("qkv"):
        given |= {f"w{name}": random(16, masks[i].size, seed=i), f"m{name}": masks[i].astype(np.float32)}
    return model(f"(float[B,T,16] x{signature}) => (float[B,T,5] o)", text, 23, constants=given)


@pytest.mark.parametrize("body", [THREE, FOUR], ids=["three axes", "four axes"])
def test_each_head_keeps_its_own_channels(body: str) -> None:
    masks = independent()
    result = compiled(attention(body, masks))
    assert [weight(result, "MatMul", which=i).shape[1] for i in range(3)] == widths(masks)


@pytest.mark.parametrize("body", [THREE, FOUR], ids=["three axes", "four axes"])
def test_each_head_of_keys_keeps_its_own_channels(body: str) -> None:
    """Those of values, and of keys where all heads of queries in its group have the same."""
    groups, masks = HEADS // 2, independent()
    group = masks.reshape(3, groups, 2, SIZE)[:, :, 0]
    queries = np.repeat(group[0], 2, axis=0).reshape(-1)
    forms = {"kv_num_heads=4": "kv_num_heads=2", "(k1, heads)": "(k1, groups)", "(v1, heads)": "(v1, groups)"}
    for old, new in forms.items():
        body = body.replace(old, new)
    source = attention(body, [queries, group[1].reshape(-1), group[2].reshape(-1)], groups=groups)
    result = compiled(source)
    both, values = (group[0] & group[1]).sum(axis=1).max(), group[2].sum(axis=1).max()
    found = [weight(result, "MatMul", which=i).shape[1] for i in range(3)]
    assert found == [both * HEADS, both * groups, values * groups]


@pytest.mark.parametrize("body", [THREE, FOUR], ids=["three axes", "four axes"])
def test_an_added_mask_stays(body: str) -> None:
    compiled(attention(body, independent(), mask=", added", signature=", float[T,T] added"))


@pytest.mark.parametrize("attrs", [", is_causal=1", ", softcap=2.0", ", is_causal=1, scale=0.2"])
@pytest.mark.parametrize("body", [THREE, FOUR.replace("scale=0.3{attrs}", "softmax_precision=1{attrs}")])
def test_what_it_has_beyond_the_formula_stays(body: str, attrs: str) -> None:
    masks = independent()
    result = compiled(attention(body, masks, attrs))
    assert "Attention" in operators(result)
    assert weight(result, "MatMul", which=2).shape[1] == widths(masks)[2]


def test_without_masks_it_stays_as_it_is() -> None:
    result = compiled(attention(THREE, np.ones((3, WIDTH))))
    assert operators(result) == ["MatMul", "MatMul", "MatMul", "Attention", "MatMul"]
