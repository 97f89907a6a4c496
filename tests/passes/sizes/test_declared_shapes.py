"""What a model declares of its outputs and inner tensors is not believed where inference can tell."""

from contextlib import nullcontext

import numpy as np
import onnx
import pytest

from passes import fix_sizes, shrink
from passes.analysis.find_mask import analyse
from passes.errors import GraphError
from passes.model.declarations import declare, dims_of
from tests.generators.check import assert_same_function
from tests.maskc import build
from tests.passes.text import compiled, model, operators, random

SUM = """
    a = MatMul(x, w)
    b = Mul(a, none)
    c = Add(b, shift)
    y = ReduceSum<keepdims=0>(c, first)
"""
CONSTANTS = {"w": random(4, 3), "none": np.zeros(3), "shift": random(3, seed=1), "first": np.array([0], np.int64)}


def summed(*declared: list[int | str]) -> onnx.ModelProto:
    """A product and its sum over the batch, N times the shift; what the outputs declare."""
    source = model("(float[N,4] x) => (float[N,3] c, float[3] y)", SUM, **CONSTANTS)
    for value, dims in zip(source.graph.output, declared, strict=False):
        declare(value, dims)
    return source


@pytest.mark.parametrize("declared", ["M", -1])
def test_an_output_that_declares_another_batch(declared: int | str) -> None:
    source = summed([declared, 3])
    assert compiled(source).model.graph.output[0] == source.graph.output[0]


def test_an_output_that_fixes_what_an_input_leaves_open() -> None:
    source = summed([5, 3])
    result = shrink(source)
    assert dims_of(result.model.graph.output[0]) == ["N", 3]
    assert "Output `c` is declared as [5, 3] and is [N, 3];" in result.report.notes[0]
    assert_same_function(source, result.model, symbols={"N": (1, 3, 5)})


def test_an_inner_tensor_that_declares_another_batch() -> None:
    compiled(model("(float[N,4] x) => (float[3] y) <float[5,3] c>", SUM, checked=False, **CONSTANTS))


def test_a_branch_that_declares_another_batch() -> None:
    body = """
        a = MatMul(x, w)
        b = Mul(a, none)
        c = If (p) <then_branch = t () => (float[5,3] t0) { t0 = Add(b, shift) },
                    else_branch = e () => (float[5,3] e0) { e0 = Add(b, shift) }>
        y = ReduceSum<keepdims=0>(c, first)
    """
    source = model("(float[N,4] x, bool p) => (float[3] y)", body, **CONSTANTS)  # ONNX Runtime takes no such model
    assert analyse(source).tensors["c"].shape[0] != 5


@pytest.mark.parametrize("declared", [[1000, 2, 4], [4], [1, 2, 3], [1, "N"], []])
def test_an_output_that_contradicts_what_is_computed(declared: list[int | str]) -> None:
    """Runtimes warn and run it. The shape is computed, so that only folding tells it."""
    body = "s = Shape(x)  e = Expand(v, s)  m = Mul(x, e)  y = MatMul(m, w)"
    source = model("(float[1,2,2] x) => (float[1,2,4] y)", body, v=random(2), w=random(2, 4))
    assert not shrink(source).report.notes
    declare(source.graph.output[0], declared)
    result = shrink(source)
    assert dims_of(result.model.graph.output[0]) == [1, 2, 4]
    (note,) = result.report.notes
    assert note.startswith("Output `y` is declared as [") and "] and is [1, 2, 4];" in note
    assert_same_function(source, result.model)


def test_an_output_that_contradicts_the_sizes_asked_for() -> None:
    source = summed([5, 3])
    compiled(fix_sizes(source, {"x": (5, 4)}))
    fixed = fix_sizes(source, {"x": (2, 4)})
    assert dims_of(fixed.graph.output[0]) == [2, 3]
    assert dims_of(compiled(fixed).model.graph.output[0]) == [2, 3]


def test_an_open_size_that_an_output_calls_otherwise_stays_open() -> None:
    result = shrink(summed(["M", "M"], ["M", 3]))
    assert [dims_of(value) for value in result.model.graph.output] == [["M", "M"], [3]]


def test_what_an_output_declares_is_no_evidence_for_what_reads_it() -> None:
    """Not either where the rest of the graph is inferred again, without the node that writes it."""
    body = """
        y = Add(x, v)
        r = Reshape(y, rows)
        half = Cast <to = 1> (wanted)
        whole = Cast <to = 7> (half)
        z = Reshape(r, whole)
    """
    weights = {"v": random(3, 2), "rows": np.array([-1, 2]), "wanted": np.array([-1, 2, 1])}
    source = model("(float[N,1,2] x) => (float[N,2] y, float[M,2,1] z)", body, checked=False, **weights)
    made = shrink(source).model
    for rows in (1, 5):
        x = random(rows, 1, 2)
        for name, expected in build.run(source, x=x).items():
            np.testing.assert_allclose(build.run(made, x=x)[name], expected, rtol=1e-6)


@pytest.mark.parametrize("size", [2**27, 2**63 - 1])
def test_axes_of_any_length_take_no_memory(size: int) -> None:
    """Merged, an axis too long to be told apart, or more than a file can say."""
    source = model(f"(float[N,4,{size}] x) => (float[N,C] y)", "y = Flatten <axis = 1> (x)", checked=False)
    with nullcontext() if size < 2**30 else pytest.raises(GraphError, match="elements at most"):
        shrink(source)


def test_a_long_vector_that_is_made_of_sizes_is_not_followed() -> None:
    body = """
        s = Shape(x)
        r = Size(s)
        n = Sub(r, many)
        c = ConstantOfShape <value = int64[1] {1}> (n)
        y = Concat <axis = 0> (s, c)
    """
    source = model("(float[N,3] x) => (int64[k] y)", body, many=np.array([-(2**33)]))
    assert shrink(source).report.before.flops == 0


def test_sizes_that_are_known_one_after_the_other() -> None:
    """Those of two reshapes, the second from what the first gives, by ways that inference does not go."""
    body = """
        a = MatMul (x, v)
        b = Mul (a, keep)
        half = Cast <to = 1> (sizes)
        whole = Cast <to = 7> (half)
        c = Reshape (b, whole)
        d = Mul (c, c)
        at = Shape (d)
        real = Cast <to = 1> (at)
        down = Floor (real)
        again = Cast <to = 7> (down)
        e = Reshape (d, again)
        y = MatMul (e, w)
    """
    constants = {"v": random(4, 4), "keep": np.array([1.0, 0, 1, 0]), "sizes": np.array([-1, 2, 2])}
    fits, wrong = (model("(float[3,4] x) => (float[3,2,5] y)", body, **constants, w=random(n, 5)) for n in (2, 3))
    assert not {"Cast", "Shape", "Floor"} & {*operators(compiled(fits))}
    with pytest.raises(GraphError, match=r"contradict each other: node 'MatMul -> y'"):
        shrink(wrong)


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        ("g = GlobalMaxPool(v)", "its input has 1 axes, and needs examples, channels and positions"),
        ("g = GatherElements<axis=0>(v, first)", "its indices have 0 axes, and its data 1"),
        ("e = Tanh(x) g = Expand(e, sizes)", "cannot be given the sizes"),
        ("e = Tanh(x) g, h = Split <axis = -9223372036854775808> (e)", "its axis is -9223372036854775808"),
        ("g = Reshape(w, rows)", r"its sizes have the shape \[1, 3\], and must be a vector"),
        ("g = DepthToSpace <blocksize = 2> (w)", "its input has 2 channels, which blocks of 2 × 2 do not divide"),
    ],
)
def test_ranks_that_onnx_does_not_look_at(node: str, complaint: str) -> None:
    weights = {"v": (4,), "w": (1, 2, 4, 6), "first": 0, "sizes": [3, 5], "rows": [[2, 4, 6]]}
    source = model("(float[N,4] x) => (float[N,4] y)", f"{node} y = Add(x, g)", checked=False, constants=weights)
    with pytest.raises(GraphError, match=complaint):
        shrink(source)


def test_the_sizes_of_an_expand_may_be_a_matrix() -> None:
    source = model(
        "(float[3,4] x) => (float[2,3,2] y)"
        " <float[4] keep = {1.0, 0, 1, 0}, float[4,2] w, int64[1,3] sizes = {2, 3, 4}>",
        "m = Mul(x, keep) e = Expand(m, sizes) y = MatMul(e, w)",
        checked=False,
    )
    stored = [onnx.numpy_helper.to_array(t).tolist() for t in shrink(source).model.graph.initializer]
    assert [2, 3, 2] in stored


def test_a_normalization_of_a_vector() -> None:
    """It has no channels, and ONNX Runtime complains at most when it runs."""
    body = "g = GroupNormalization<num_groups = 1>(v, one, one) y = Add(x, g)"
    source = model("(float[N,4] x) => (float[N,4] y)", body, opset=21, checked=False, v=random(4), one=random(4))
    assert operators(shrink(source)) == ["GroupNormalization", "Add"]


def test_a_contradiction_in_a_branch() -> None:
    """ONNX Runtime goes by what the graph declares of its output, and the compiled model declares what that is."""
    body = """
        lower = com.microsoft.Trilu(x)
        e = Mul(lower, v)
        c = If (p) <then_branch = t () => (float[a,b] t0) { t0 = Einsum<equation = "ij,jk->ik">(e, w) },
                    else_branch = f () => (float[a,b] f0) { f0 = ReduceSum<keepdims=0>(e, first) }>
    """
    ends = "(float[2,4] x, bool p) => (float[2,4] lower, float[2,4] e, float[a,b] c)"
    source = model(f"{ends} <float[3,1,1] v, float[4,4] w, int64[1] first = {{0}}>", body, checked=False)
    with pytest.raises(GraphError, match="its equation has 2 axes for `e`, which has 3"):
        shrink(source)
