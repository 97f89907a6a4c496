"""Linear attention: channels of heads whose keys and values are multiplied first."""

import numpy as np
import pytest

from tests.passes.attention.heads import HEADS, MERGED, SIZE, WIDTH, attention, columns, independent, widths
from tests.passes.text import Array, compiled

OVER_TOKENS = {
    "product": "s = MatMul(kp, v)  y0 = MatMul(qr, s)",
    "scaled and turned": """s = MatMul(kp, v)  t = Mul(s, scale)  u = Transpose<perm=[0,1,3,2]>(t)
        w = Transpose<perm=[0,1,3,2]>(u)  y0 = MatMul(qr, w)""",
    "quotient": """s = MatMul(kp, v)  a = MatMul(qr, s)  r = ReduceSum<keepdims=1>(kp, last)  z = MatMul(qr, r)
        e = Add(z, scale)  y0 = Div(a, e)""",
    "einsum": """kn = Transpose<perm=[0,1,3,2]>(kp)  s = Einsum<equation="bhnd,bhne->bhed">(kn, v)
        y0 = Einsum<equation="bhed,bhnd->bhne">(s, qr)""",
    "einsum of three": """kn = Transpose<perm=[0,1,3,2]>(kp)  s = Einsum<equation="bhnd,bhne->bhde">(kn, v)
        r = ReduceSum<keepdims=0>(kp, last)  z = Einsum<equation="bhtd,bhd->bht">(qr, r)  e = Add(z, scale)
        i = Reciprocal(e)  y0 = Einsum<equation="bhtd, bhde, bht -> bhte">(qr, s, i)""",
}


@pytest.mark.parametrize("form", OVER_TOKENS)
def test_channels_are_followed_through_products_over_tokens(form: str) -> None:
    """Those of queries, keys and values in linear attention, where each head keeps its own."""
    masks = independent().reshape(3, HEADS, SIZE)
    masks[:2, :, 0] = True  # no head is zero
    masks = masks.reshape(3, WIDTH)
    behind = f"qr = Relu(q)  kp = Relu(k)  {OVER_TOKENS[form]}  {MERGED}"
    assert columns("separate", attention("separate", masks, behind, more={"last": np.array([3])})) == widths(masks)


@pytest.mark.parametrize(
    "more",
    [
        "r = ReduceSum<keepdims=1>(s, two)  y0 = Add(a, r)",
        "r = ReduceSum<keepdims=1>(s, last)  t = Transpose<perm=[0,1,3,2]>(r)  z = MatMul(t, s)  y0 = Add(a, z)",
        "i = QuantizeLinear(s, scale)  r = DequantizeLinear(i, scale)  z = MatMul(q, r)  y0 = Add(a, z)",
        "f = Softmax<axis=2>(s)  z = MatMul(q, f)  y0 = Add(a, z)",
    ],
)
def test_products_over_tokens_of_which_more_is_made(more: str) -> None:
    """What is done to rows and columns counts for the channels of both factors."""
    behind = f"kp = Relu(k)  s = MatMul(kp, v)  a = MatMul(q, s)  {more}  {MERGED}"
    operands = {"two": np.array([2]), "last": np.array([3])}
    compiled(attention("separate", independent(), behind, more=operands))


@pytest.mark.parametrize("feature", ["Relu", "Exp", "Tanh"])
def test_values_and_a_row_of_ones_are_weighted_together(feature: str) -> None:
    """As in EfficientViT: the row of the ones is what the others are divided by."""
    behind = f"""kp = {feature}(k)  kt = Transpose<perm=[0,1,3,2]>(kp)  qp = {feature}(q)
        qt = Transpose<perm=[0,1,3,2]>(qp)  vt = Transpose<perm=[0,1,3,2]>(v)  one_more = Pad(vt, pads, unit)
        s = MatMul(one_more, kt)  r = MatMul(s, qt)
        n = Slice(r, ends0, end, axis)  z = Slice(r, end, past, axis)  e = Add(z, least)  d = Div(n, e)
        y0 = Transpose<perm=[0,1,3,2]>(d)  {MERGED}"""
    more: dict[str, Array] = {"unit": np.float32(1), "least": np.float32(1e-6), "axis": np.asarray([2])}
    more |= {"end": np.asarray([SIZE]), "past": np.asarray([SIZE + 1]), "pads": np.asarray([0, 0, 0, 0, 0, 0, 1, 0])}
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[2] = np.arange(SIZE) < 3
    found = columns("separate", attention("separate", masks.reshape(3, WIDTH), behind, more=more))
    assert found[2] == (WIDTH if feature == "Tanh" else HEADS * 3)


@pytest.mark.parametrize("product", ["MatMul", 'Einsum<equation="bhtc,bhcj->bhtj">'])
@pytest.mark.parametrize(
    "feature", ["q5 = Relu(q)  k5 = Relu(k)", "q4 = Elu(q)  k4 = Elu(k)  q5 = Add(q4, unit)  k5 = Add(k4, unit)"]
)
@pytest.mark.parametrize("heads", [True, False])
def test_linear_attention_divides_by_no_zero(product: str, feature: str, heads: bool) -> None:
    """What is summed of features that are not negative, and a little more, leaves values that are zero as they are."""
    masks = np.ones((3, HEADS, SIZE), bool)
    masks[2] = independent()[2].reshape(HEADS, SIZE) if not heads else np.asarray([1, 0, 0, 1])[:, None]
    behind = f"""{feature}  s = MatMul(k5, v)  n = {product}(q5, s)  z = ReduceSum(k5, rows)  d = {product}(q5, z)
        e = Add(d, least)  y0 = Div(n, e)  {MERGED}"""
    more: dict[str, Array] = {"unit": np.float32(1), "least": np.float32(1e-6), "rows": np.asarray([3])}
    found = columns("separate", attention("separate", masks.reshape(3, WIDTH), behind, more=more))
    assert found == ([WIDTH // 2] * 3 if heads else widths(masks.reshape(3, WIDTH)))
