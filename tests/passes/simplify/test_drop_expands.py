"""Operators that broadcast read what is repeated for them as it was before."""

import pytest

from tests.passes.text import compiled, model, operators

SIGNATURE = "(float[N,T,8] x, float[N,1,8] s) => (float[N,T,8] y) <int64[3] wide = {1, 5, 1}, float tiny = {0.01}>"
NORM = "n = ReduceL2<axes=[2]>(x)  l = Clip(n, tiny)  sizes = Shape(x)"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{NORM}  e = Expand(l, sizes)  y = Div(x, e)", 0),
        (f"{NORM}  e = Expand(l, sizes)  d = Div(x, e)  z = Sub(e, e)  y = Add(d, z)", 1),  # nothing else is as large
        ("sizes = Shape(x)  e = Expand(s, sizes)  y = Tanh(e)", 1),
        ("sizes = Shape(x)  e = Expand(s, sizes)  c = Mul(e, s)  y = Mul(c, x)", 1),
        ("e = Expand(s, wide)  y = Add(x, e)", 1),  # T need not be 5
        ("sizes = Shape(x)  t = Greater(s, tiny)  e = Expand(t, sizes)  y = Where(e, x, tiny)", 1),
    ],
)
def test_an_expand_is_left_out_where_its_readers_broadcast(body: str, left: int) -> None:
    result = compiled(model(SIGNATURE, body), N=(1, 3), T=(5,))
    assert operators(result).count("Expand") == left
