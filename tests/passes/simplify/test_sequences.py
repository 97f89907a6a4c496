"""Lists of tensors lose channels as the tensors do."""

import numpy as np
import pytest

from tests.passes.text import compiled, model, operators, weight

MASK = np.array([1, 0, 1, 1, 0, 1, 0, 1], np.float32)
HIDDEN = "a = MatMul(x, w)  b = Relu(a)  h = Mul(b, mask)"
GIVEN = (
    "(float[N,6] x, int64 where) => (float[N,3] y) <float[6,8] w, float[8,3] v, float[16,3] wide, float[4,3] half, "
    "int64 zero = {0}, int64 one = {1}, int64 last = {-1}, int64 four = {4}, int64 five = {5}, int64[2] both = {4, 4}>"
)
PARTS = "p = SequenceAt(s, zero)  q = SequenceAt(s, last)"


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    "body",
    [
        "s = SequenceConstruct(h, x, h)  g = SequenceAt(s, last)  y = MatMul(g, v)",
        "s = SequenceConstruct(h, b)  c = ConcatFromSequence<axis=-1>(s)  y = MatMul(c, wide)",
        "e = SequenceEmpty()  s = SequenceInsert(e, h)  t = SequenceInsert(s, b, zero)"
        "  c = ConcatFromSequence<axis=1>(t)  y = MatMul(c, wide)",
        "s = SequenceConstruct(h, x)  t = SequenceInsert(s, h, last)  g = SequenceAt(t, one)  y = MatMul(g, v)",
        "s = SequenceConstruct(h, h)  c = ConcatFromSequence<axis=1, new_axis=1>(s)"
        "  m = ReduceMean<axes=[1], keepdims=0>(c)  y = MatMul(m, v)",
        f"s = SplitToSequence<axis=1>(h, four)  {PARTS}  c = Concat<axis=1>(q, p)  y = MatMul(c, v)",
        f"s = SplitToSequence<axis=-1>(h, both)  {PARTS}  c = Concat<axis=1>(q, p)  y = MatMul(c, v)",
        f"s = SplitToSequence<axis=1>(h, five)  {PARTS}  c = Concat<axis=1>(q, p)  y = MatMul(c, v)",
        "s = SplitToSequence<axis=1, keepdims=0>(h)  c = ConcatFromSequence<axis=1, new_axis=1>(s)  y = MatMul(c, v)",
    ],
)
def test_tensors_in_a_list_lose_what_is_masked(body: str, opset: int) -> None:
    result = compiled(model(GIVEN, f"{HIDDEN}  {body}", opset, mask=MASK), N=(1, 3))
    assert not any("Sequence" in op for op in operators(result))
    assert weight(result, "MatMul").shape[1] == (8 if "b)" in body or "b, " in body else 5)


@pytest.mark.parametrize(
    "body",
    [
        "s = SequenceConstruct(h, b)  p = SequenceAt(s, last)  r = SequenceAt(s, where)  g = Add(p, r)"
        "  y = MatMul(g, v)",
        "s = SplitToSequence<axis=1>(h, four)  r = SequenceAt(s, where)  y = MatMul(r, half)",
        "s = SplitToSequence<axis=0>(h, one)  p = SequenceAt(s, zero)  y = MatMul(p, v)",
    ],
)
def test_what_is_taken_at_run_time_stays_in_a_list(body: str) -> None:
    result = compiled(model(GIVEN, f"{HIDDEN}  {body}", mask=MASK), N=(1, 1))
    assert "SequenceAt" in operators(result)
