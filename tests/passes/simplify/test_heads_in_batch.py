"""Heads that are merged with the batch get an axis of their own."""

import numpy as np
import onnx
import pytest

from passes.sizes.prepare import prepared
from tests.passes.text import Array, compiled, model, random

HEADS, SIZE = 4, 6
WIDTH = HEADS * SIZE
PROJECTED = """q0 = MatMul(x, wq)  q1 = Mul(q0, k)  q2 = Reshape(q1, merged)  q = Transpose<perm=[1,0,2]>(q2)
    k0 = MatMul(x, wk)  k1 = Mul(k0, k)  k2 = Reshape(k1, merged)  kt = Transpose<perm=[1,2,0]>(k2)
    v0 = MatMul(x, wv)  v1 = Mul(v0, l)  v2 = Reshape(v1, merged)  v = Transpose<perm=[1,0,2]>(v2)"""
ATTEND = "s = MatMul(q, kt)  t = Mul(s, scale)  a = Softmax<axis=-1>(t)  y0 = MatMul(a, v)"
MERGED = "y1 = Transpose<perm=[1,0,2]>(y0)  y2 = Reshape(y1, flat)  y3 = MatMul(y2, wo)  y = Reshape(y3, back)"

BETWEEN = {
    "plain": ATTEND,
    "a mask of time": ATTEND.replace("a = Softmax<axis=-1>(t)", "u = Add(t, causal)  a = Softmax<axis=2>(u)"),
    "a mask of the batch": """many = Expand(padding, by_head)  p = Reshape(many, merged_mask)
        """
    + ATTEND.replace("a = Softmax<axis=-1>(t)", "u = Add(t, p)  a = Softmax<axis=-1>(u)"),
    "sizes that are read": f"""{ATTEND.replace("y0", "z")}  g = Shape(z)  h = Gather(g, two)  c = Cast<to=1>(h)
        y0 = Div(z, c)""",
}


def network(between: str, whole: bool) -> onnx.ModelProto:
    """Half of the heads, or of the channels of each, masked."""
    rng = np.random.default_rng(0)
    masks = [np.concatenate([rng.permutation(SIZE) < SIZE // 2 for _ in range(HEADS)]) for _ in "kl"]
    if whole:
        masks = [np.repeat([True, False, False, True], SIZE)] * 2
    given: dict[str, Array] = {name: random(16, WIDTH, seed=i) for i, name in enumerate(("wq", "wk", "wv"))}
    given |= {name: mask.astype(np.float32) for name, mask in zip("kl", masks, strict=True)}
    given |= {"wo": random(WIDTH, 5, seed=3), "scale": np.array(0.4, np.float32), "two": np.array(2)}
    given |= {"merged": np.array([5, -1, SIZE]), "flat": np.array([-1, WIDTH]), "back": np.array([5, -1, 5])}
    given |= {"causal": np.triu(np.full((5, 5), -9, np.float32), 1), "merged_mask": np.array([-1, 1, 5])}
    given |= {"by_head": np.array([1, HEADS, 1, 1])}
    signature = "(float[5,n,16] x, float[n,1,1,5] padding) => (float[5,n,5] y)"
    return model(signature, f"{PROJECTED}  {BETWEEN[between]}  {MERGED}", constants=given)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("whole", [True, False])
def test_channels_of_heads_in_the_batch(between: str, whole: bool) -> None:
    result = compiled(network(between, whole))
    widths = [t.dims[1] for t in result.model.graph.initializer if t.dims[:1] == [16]]
    assert widths == [WIDTH // 2] * 3


def test_channels_of_heads_in_the_batch_of_an_image() -> None:
    """As in the U-Nets of diffusion models: from a convolution, by Split and Einsum."""
    rng = np.random.default_rng(0)
    mask = np.concatenate([rng.permutation(SIZE) < SIZE // 2 for _ in range(3 * HEADS)])
    source = model(
        "(float[n,8,3,3] x) => (float[n,5,3,3] y)",
        """p = Conv(x, w)  m = Mul(p, k)  r = Reshape(m, merged)  q, kt, v = Split<axis=1>(r, parts)
        s = Einsum<equation="bct,bcs->bts">(q, kt)  a = Softmax<axis=2>(s)  j = Einsum<equation="bts,bcs->bct">(a, v)
        c = Concat<axis=1>(j, q)  f = Reshape(c, image)  y = Conv(f, u)""",
        w=random(3 * WIDTH, 8, 1, 1),
        k=mask.astype(np.float32).reshape(-1, 1, 1),
        merged=np.array([-1, 3 * SIZE, 9]),
        parts=np.array([SIZE] * 3),
        image=np.array([-1, 2 * WIDTH, 3, 3]),
        u=random(5, 2 * WIDTH, 1, 1, seed=1),
    )
    assert any(list(t.shape or ())[1:] == [HEADS, 9, 9] for t in prepared(source).tensors().values())
    compiled(source)


@pytest.mark.parametrize(
    "between",
    [
        f"{ATTEND.replace('y0', 'z')}  y0 = MatMul(z, square)",  # as in windows of an image
        ATTEND.replace("MatMul(a, v)", "CumSum(v, none)"),  # along the batch and heads
        ATTEND.replace("Mul(s, scale)", "Mul(s, rows)"),  # another number for each
        f"{ATTEND.replace('y0', 'z')}  y0 = Gather(z, order)",
        f"{ATTEND.replace('y0', 'z')}  y0 = Add(z, given)",  # an input
    ],
)
def test_heads_stay_in_the_batch_where_something_tells_them_apart(between: str) -> None:
    given = {name: random(16, WIDTH, seed=i) for i, name in enumerate(("wq", "wk", "wv"))}
    given |= {"k": np.ones(WIDTH), "l": np.ones(WIDTH), "wo": random(WIDTH, 5), "scale": np.array(0.4, np.float32)}
    given |= {"merged": np.array([5, -1, SIZE]), "flat": np.array([-1, WIDTH]), "back": np.array([5, -1, 5])}
    given |= {
        "none": np.array(0),
        "rows": random(3 * HEADS, 1, 1),
        "order": np.array([3, 0, 1, 2] * 3),
        "square": random(SIZE, SIZE),
    }
    signature = "(float[5,3,16] x, float[12,5,6] given) => (float[5,3,5] y)"
    source = model(signature, f"{PROJECTED}  {between}  {MERGED}", constants=given)
    assert all(len(t.shape) < 4 for t in prepared(source).tensors().values() if t.shape is not None)
    compiled(source)
