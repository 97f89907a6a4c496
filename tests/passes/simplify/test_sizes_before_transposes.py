"""Sizes of transposed keys, as PyTorch asks for them, keep no channels and no transposition."""

import numpy as np

from tests.passes.attention.heads import HEADS, MERGED, SEPARATE, SIZE, WIDTH, attention
from tests.passes.text import compiled, operators, weight


def test_transposed_keys_that_are_only_measured_are_not_made() -> None:
    """Of tokens of which some are left out, so that no size of an input is theirs."""
    form = "t = Compress<axis=1>(x, kept)" + SEPARATE.replace("MatMul(x,", "MatMul(t,")
    behind = f"""kt = Transpose<perm=[0,2,1,3]>(k3) sz = Shape(kt) n = Gather(sz, second)
        b = Slice(bias, first, n, last) s0 = MatMul(q, k) s1 = Mul(s0, scale) s = Add(s1, b)
        a = Softmax<axis=-1>(s) y0 = MatMul(a, v) {MERGED}"""
    more = {"second": np.array([-2]), "bias": np.linspace(-1, 1, 99, dtype=np.float32), "last": np.array([0])}
    masks = np.tile(np.repeat(np.arange(HEADS) % 2 == 1, SIZE), (3, 1))
    result = compiled(attention(form, masks, behind, more=more, inputs=", bool[T] kept"))
    assert [weight(result, "MatMul", which=i).shape[1] for i in range(3)] == [WIDTH // 2] * 3
    assert operators(result).count("Transpose") == 4 and "Pad" not in operators(result)
