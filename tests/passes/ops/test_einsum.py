"""Sums of products over named axes: what is removed along every letter, and where constants go."""

import numpy as np
import pytest

from tests.passes.text import compiled, exact, model, operators, random, weight


def masks(*axes: tuple[int, int], rank: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    """Zeros and ones that vary along these (axis, size), broadcast over the others."""
    rng = np.random.default_rng(seed)
    shape = [dict(axes).get(a, 1) for a in range(rank)]
    total = np.ones(shape)
    for axis, size in axes:
        keep = rng.random(size) < 0.6
        keep[0], keep[-1] = True, False
        total = total * keep.reshape([-1 if a == axis else 1 for a in range(rank)])
    return total


@pytest.mark.parametrize(
    "equation",
    [
        "bsd,dhk->bshk",  # Keras's query projection
        "bshk,hkd->bsd",  # and its way out: two letters are summed over
        "bshk,khd->bsd",
        "bsd,de->bse",
        "bsd,de->sbe",
        "bsd,ed->ebs",
        "...d,de->...e",
        "...d,...de->...e",
        "bsd,sde->bse",  # weights of their own for each position
        "bsd,sde->be",
        "bsd,de->e",  # letters of the data alone are summed as well
        "bsd,e->bse",
        "bsd,d->bs",
        "bsd,d->bsd",
        "bsd,bsd->bs",
        "bsd,de",
        "bsd->bd",
        "bsd->dbs",
        "bss->b",
        "bss->bs",
        "bss,s->b",
        "...->...",
    ],
)
@pytest.mark.parametrize("shifted", [False, True])
def test_with_constant_weights(equation: str, shifted: bool) -> None:
    terms = equation.split("->")[0].split(",")
    sizes = {"1": 1, "b": 2, "s": 5, "d": 6, "h": 3, "k": 4, "e": 7}
    first = [sizes[c] for c in (terms[0] if "." not in terms[0] else "bsd")]
    rank = len(first)
    text = "m = Mul(x, keep)\n s = Add(m, shift)\n"
    constants = {"keep": masks(*[(a, d) for a, d in enumerate(first) if a], rank=rank)}
    constants["shift"] = (random(*first[-1:]) if shifted else np.zeros(1)) * (first.count(5) < 2)
    operands = "s"
    if len(terms) > 1:
        shape = [5 if c == "." else sizes[c] for c in terms[1].replace("...", "1." if "..." in terms[1] else "")]
        w = random(*shape, seed=1)
        w[..., -1] = 0
        constants["w"], operands = w, "s, w"
    text += f' e = Einsum<equation: string = "{equation}">({operands})\n y = Relu(e)'
    shapes = [np.zeros(first), *([constants["w"]] if len(terms) > 1 else [])]
    dims, out = (",".join(map(str, d)) for d in (first, np.einsum(equation, *shapes).shape))
    exact(model(f"(float[{dims}] x) => (float[{out}] y)".replace("[]", ""), text, **constants))


def test_weights_repeated_along_a_letter_that_is_summed_over() -> None:
    """Their sums count each constant as often as it stands in the data."""
    exact(
        model(
            "(float[2,5,6] x) => (float[2,7] y)"
            " <float[6] keep = {1.0, 0, 1, 0, 0, 1}, float[6] shift = {0.0, 1, 0, 2, 0.5, 0}, float[1,6,7] w>",
            'm = Mul(x, keep)\n s = Add(m, shift)\n e = Einsum<equation: string = "bsd,sde->be">(s, w)\n y = Relu(e)',
        )
    )


def test_both_letters_of_a_projection_shrink_and_constants_become_an_addend() -> None:
    keep = np.array([1.0, 0, 1, 0, 0, 1])
    result = compiled(
        model(
            "(float[N,5,4] x) => (float[N,5,3] y) <float[4,6] w1, float[6] shift, float[6,3,4] w2, float[3,4,3] w3>",
            "p = MatMul(x, w1)\n m = Mul(p, keep)\n s = Add(m, shift)\n"
            'e = Einsum<equation: string = "bsd,dhk->bshk">(s, w2)\n em = Mul(e, heads)\n'
            'y = Einsum<equation: string = "bshk,hko->bso">(em, w3)',
            keep=keep,
            heads=np.array([1.0, 0, 1]).reshape(3, 1) * np.array([1, 1, 0, 1]),
        )
    )
    assert weight(result, "Einsum", which=0).shape == (3, 2, 3)
    assert weight(result, "Einsum", which=1).shape == (2, 3, 3)
    assert "Mul" not in operators(result)


def test_an_attention_of_two_computed_operands_sums_over_the_same_channels() -> None:
    result = compiled(
        model(
            "(float[N,5,8] x) => (float[N,2,5,5] y)"
            " <float[8,8] wq, float[8,8] wk, float[8] mq = {1.0, 0, 1, 1, 1, 0, 1, 1}, "
            "float[8] mk = {1.0, 1, 0, 1, 1, 1, 0, 1}, int64[4] heads = {0, 5, 2, 4}>",
            "q = MatMul(x, wq)\n qm = Mul(q, mq)\n k = MatMul(x, wk)\n km = Mul(k, mk)\n"
            "qh = Reshape(qm, heads)\n kh = Reshape(km, heads)\n"
            'y = Einsum<equation: string = "bqhd,bkhd->bhqk">(qh, kh)',
        )
    )
    assert weight(result, "MatMul", which=0).shape[1] == 4
    assert weight(result, "MatMul", which=1).shape[1] == 4


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("y = MatMul(s, v)", "float[N,5] y"),
        ("r = ReduceMean<axes=[0,1], keepdims=0>(s)\n y = MatMul(r, w)", "float[4] y"),
        ("r = ReduceMean<axes=[0,1], keepdims=0>(s)\n y = MatMul(r, v)", "float y"),
        ("r = ReduceMean<axes=[0,1], keepdims=0>(s)\n y = MatMul(r, w3)", "float[2,4] y"),
    ],
)
def test_products_with_vectors(text: str, signature: str) -> None:
    constants = {"v": random(6), "w": random(6, 4), "w3": random(2, 6, 4)}
    source = model(
        f"(float[N,5,8] x) => ({signature}) <float[8,6] w1, float[6] shift, float[6] keep = {{1.0, 0, 0, 1, 1, 0}}>",
        "p = MatMul(x, w1)\n m = Mul(p, keep)\n s = Add(m, shift)\n" + text,
        constants=constants,
    )
    result = compiled(source)
    assert weight(result, "MatMul").shape == (8, 3)
    exact(source)


def test_weights_that_differ_along_the_batch_take_in_constants() -> None:
    source = model(
        "(float[2,5,6] x) => (float[2,5,7] y)"
        " <float[6] keep = {1.0, 0, 1, 0, 0, 1}, float[6] shift = {0.0, 1, 0, 2, 0.5, 0}, float[2,6,7] w>",
        "m = Mul(x, keep)\n s = Add(m, shift)\n p = MatMul(s, w)\n y = Relu(p)",
    )
    assert weight(compiled(source), "MatMul").shape == (2, 3, 7)
    exact(source)


def test_a_product_written_as_an_einsum_takes_in_constant_maps_as_a_matrix_product_does() -> None:
    """The channels that a mask clears hold nothing but what is added by place."""
    shapes = []
    for product in ('Einsum<equation: string = "bsd,de->bse">(s, w)', "MatMul(s, w)"):
        source = model(
            "(float[N,4,64] x) => (float[N,4,64] y) <float[4,64] place, float[64,64] w>",
            f"m = Mul(x, keep)\n s = Add(m, place)\n e = {product}\n y = Relu(e)",
            keep=(np.arange(64) % 4 == 0).astype(np.float32),
        )
        exact(source)
        shapes.append([list(t.dims) for t in compiled(source).model.graph.initializer if len(t.dims) == 2])
    assert shapes[0] == shapes[1] and [16, 64] in shapes[0]


@pytest.mark.parametrize(
    ("equation", "shape"), [("nik,oik->no", "5,8,3"), ("nik,kio->no", "3,8,5"), ("nik,iko->no", "8,3,5")]
)
def test_masked_channels_that_differ_from_knot_to_knot_go(equation: str, shape: str) -> None:
    """As in layers of splines (Kolmogorov-Arnold networks) whose weights have an axis of knots."""
    source = model(
        f"(float[N,6] x) => (float[N,5] y) <float[6,8] w, float[{shape}] v>",
        f"h = MatMul(x, w)  m = Mul(h, keep)  u = Unsqueeze(m, last)  d = Sub(u, knots)  a = Abs(d)"
        f' y = Einsum<equation = "{equation}">(a, v)',
        constants={
            "keep": np.array([1, 0] * 4, np.float32),
            "knots": np.array([-1, 0, 1.5], np.float32),
            "last": np.array([-1]),
        },
    )
    assert compiled(source).report.after.macs == 6 * 4 + 4 * 3 * 5
