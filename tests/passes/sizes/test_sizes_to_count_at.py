"""FLOPs of models with open sizes: the sizes that they are counted at, chosen or asked for."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from passes import count, fix_sizes, shrink
from passes.analysis import dataflow
from passes.errors import SizeError
from passes.mask_savings.compiled_cost import compiled_cost
from passes.sizes.prepare import prepared, shaped
from passes.sizes.sizes_to_count_at import IMAGE, TOKENS, still_open
from passes.sizes.sum_over_nodes import of_graph
from passes.sizes.tokens_per_example import multiples, repeated
from tests.generators import architectures
from tests.generators.net import Masks, Net
from tests.generators.networks import network
from tests.passes.text import model


def segmentation() -> onnx.ModelProto:
    """Two padded convolutions with a mask between them, over images of any size."""
    mask = np.tile([1.0, 0.0], 4).reshape(1, 8, 1, 1)
    body = "a = Conv<pads=[1,1,1,1]>(x, v) b = Mul(a, mask) y = Conv<pads=[1,1,1,1]>(b, w)"
    signature = "(float[N,3,H,W] x) => (float[N,4,H,W] y)"
    return model(signature, body, v=(8, 3, 3, 3), w=(4, 8, 3, 3), mask=mask)


def tokens() -> onnx.ModelProto:
    return model("(float[N,T,8] x) => (float[N,T,4] y)", "y = MatMul(x, w)", w=(8, 4))


@pytest.mark.parametrize(
    ("source", "sizes"), [(segmentation(), (1, 3, IMAGE, IMAGE)), (tokens(), (1, TOKENS, 8))], ids=["image", "tokens"]
)
def test_usual_sizes_are_chosen_and_said(source: onnx.ModelProto, sizes: tuple[int, ...]) -> None:
    cost = count(source)
    assert cost.at.sizes == {"x": sizes} and "N" in cost.at.open and not cost.at.unknown
    assert cost.flops == count(fix_sizes(source, {"x": sizes})).flops > 100 * of_graph(shaped(source)).flops


def test_the_sizes_asked_for_are_counted_at_and_the_others_chosen() -> None:
    cost = count(segmentation(), at={"x": (None, 3, 32, 48)})
    assert cost.at.sizes == {"x": (1, 3, 32, 48)} and cost.at.open == ("N", "H", "W")
    assert cost.flops == count(fix_sizes(segmentation(), {"x": (1, 3, 32, 48)})).flops


def test_a_model_of_fixed_sizes_is_counted_at_these() -> None:
    source = fix_sizes(segmentation(), {"x": (2, 3, 16, 16)})
    cost = count(source)
    assert cost.at.sizes == {"x": (2, 3, 16, 16)} and cost.at.open == ()
    assert cost.flops == 2 * count(segmentation(), at={"x": (1, 3, 16, 16)}).flops


@pytest.mark.parametrize("architecture", architectures.RESIZABLE, ids=lambda architecture: architecture.__name__)
def test_a_count_at_sizes_is_that_of_the_model_with_these_sizes(architecture: Callable[[Net], None]) -> None:
    """Node by node, before it is compiled and after."""
    source = architectures.build(architecture, Masks(consistent=False), symbolic=True).model()
    for counted in (source, shrink(source).model):
        found = count(counted, at={"x": (2, None, 48, 32)})
        exact = count(fix_sizes(counted, {"x": found.at.sizes["x"]}))
        assert found.at.sizes["x"][0] == 2 and (found.flops, found.macs) == (exact.flops, exact.macs)
        assert {n.name: n.flops for n in found.nodes if n.flops} == {n.name: n.flops for n in exact.nodes if n.flops}


def test_random_networks_are_counted_as_with_these_sizes() -> None:
    compared = 0
    for seed in range(40):
        source = network(seed).model
        found = count(source)
        if found.at.open and not found.at.unknown and not found.at.loops:
            exact = count(fix_sizes(source, found.at.sizes))
            assert (found.flops, found.macs) == (exact.flops, exact.macs), seed
            compared += 1
    assert compared > 10


def test_operators_of_the_runtime_are_counted_at_the_sizes_too() -> None:
    """A FusedConv is written as a Conv and an activation, which counted as 1 along every open axis."""
    body = 'y = com.microsoft.FusedConv<activation="Relu">(x, w)'
    cost = count(model("(float[N,3,H,W] x) => (float[N,4,H,W] y)", body, w=(4, 3, 1, 1)), at={"x": (1, 3, 8, 8)})
    assert cost.macs == 4 * 3 * 64 and not cost.at.unknown


def test_what_an_unknown_operator_writes_is_counted_as_it_is_declared() -> None:
    """Be it an output or in between; nothing else tells its shape."""
    signature = "(float[N,3,H,W] x) => (float[N,3,H,W] y) <float[N,3,H,W] h>"
    source = model(signature, "h = acme.Twist(x) y = acme.Twist(h)", checked=False)
    assert [node.flops for node in count(source).nodes] == [3 * 224 * 224] * 2


def test_a_batch_has_a_name_or_stands_first() -> None:
    body = "y = MatMul(x, w)"
    for signature, sizes in (
        ("(float[seq,batch,8] x) => (float[seq,batch,4] y)", (TOKENS, 1, 8)),
        ("(float[unk__7,?,8] x) => (float[?,?,4] y)", (1, TOKENS, 8)),
    ):
        source = model(signature.replace("?", "anything"), body, w=(8, 4), checked=False)
        assert count(source).at.sizes == {"x": sizes}
    assert count(source).at.open == ("x[0]", "anything")


def test_sizes_that_inputs_share_are_the_same() -> None:
    signature = "(float[N,T,8] x, float[N,1,T,T] m) => (float[N,1,T,T] y)"
    source = model(signature, "s = ReduceSum<keepdims=0>(x) y = Relu(m)", checked=False)
    assert count(source).at.sizes == {"x": (1, TOKENS, 8), "m": (1, 1, TOKENS, TOKENS)}


@pytest.mark.parametrize(
    ("signature", "body", "sizes"),
    [
        ("(float[N,S,4] x) => (float[N,S,4] y)", "y = Add(x, p)", (1, 77, 4)),
        (
            "(float[N,1,H,W] x) => (float[N,3] y)",
            "c = Conv<strides=[2,2]>(x, halves) f = Flatten(c) y = Gemm(f, g)",
            (1, 1, 28, 28),
        ),
        ("(float[N,1,T] x) => (float[N,8,U] y)", "a = Conv<strides=[100]>(x, long) y = Conv(a, v)", (1, 1, 640)),
        # where no size is found, open ones count as one
        ("(float[N,S] x) => (float[N,12] y)", "a = Add(x, five) b = Add(x, seven) y = Concat<axis=1>(a, b)", (1, 1)),
    ],
    ids=["position embedding", "flattened", "long window", "none"],
)
def test_where_the_model_does_not_work_at_the_usual_sizes_others_are_found(
    signature: str, body: str, sizes: tuple[int, ...]
) -> None:
    shapes = {"p": (1, 77, 4), "halves": (8, 1, 2, 2), "g": (8 * 14 * 14, 3), "long": (8, 1, 400), "v": (8, 8, 3)}
    constants = {name: np.ones(shape) for name, shape in {**shapes, "five": (1, 5), "seven": (1, 7)}.items()}
    assert count(model(signature, body, checked=False, constants=constants)).at.sizes == {"x": sizes}


def test_operands_have_the_sizes_that_they_need_in_common() -> None:
    """Those of a mask follow from the tokens, whose heads are those of attention."""
    source = model(
        "(float[B,S,32] x, float[b,h,s,t] m, float[B,4,P,8] pk, float[B,4,P,8] pv) => (float[B,S,32] y)",
        "y, k, v = com.microsoft.MultiHeadAttention<num_heads=4>(x, x, x, , , m, pk, pv)",
    )
    assert count(source).at.sizes["m"] == (1, 4, 128, 128 + 224)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"x": (1, 4, 8, 8)}, "has size 3 and cannot become 4"),
        ({"image": (1, 3, 8, 8)}, "no input 'image'"),
        ({"x": (1, 3, 8)}, "has 4 dimensions, and 3 sizes"),
        ({"x": (1, 3, 50, 8)}, "does not work at the sizes to count at"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, tuple[int, ...]], words: str) -> None:
    source = model("(float[N,3,H,W] x) => (float[N,3,H,W] y)", "y = Add(x, p)", p=(1, 3, 77, 1))
    with pytest.raises(SizeError, match=words):
        count(source, at=sizes)


def test_a_batch_that_is_merged_with_tokens_counts_all_of_them() -> None:
    """As long as the batch is open the number of rows is not known, and counted as one."""
    body = "r = Reshape(x, s) y = MatMul(r, w)"
    source = model("(float[N,16,4] x) => (float[M,6] y)", body, s=np.array([-1, 4]), w=(4, 6))
    assert count(source).flops == 16 * 6 * (2 * 4 - 1) == 16 * of_graph(shaped(source)).flops


def test_sizes_that_depend_on_data_are_told() -> None:
    body = "z = NonZero(x) t = Transpose(z) c = Cast<to=1>(t) y = MatMul(c, w)"
    cost = count(model("(float[5,4] x) => (float[M,6] y)", body, w=(2, 6)))
    assert cost.at.unknown == 1 and cost.at.sizes == {"x": (5, 4)}


def test_compiling_counts_source_and_result_at_the_same_sizes_and_fixes_none() -> None:
    source = segmentation()
    usual, small = shrink(source), shrink(source, at={"x": (1, 3, 8, 8)})
    assert usual.model == small.model
    assert usual.report.before.at.sizes == usual.report.after.at.sizes == {"x": (1, 3, IMAGE, IMAGE)}
    for result, sizes in ((usual, (1, 3, IMAGE, IMAGE)), (small, (1, 3, 8, 8))):
        assert result.report.before == count(source, at={"x": sizes})
        assert result.report.after == count(result.model, at={"x": sizes})
        assert result.report.after.flops == count(fix_sizes(result.model, {"x": sizes})).flops
        assert compiled_cost(source, at={"x": sizes}).flops == result.report.after.flops


def test_a_batch_alone_that_is_open_counts_as_it_did() -> None:
    body = "a = Conv(x, v) y = Conv(a, w)"
    source = model("(float[N,3,9,9] x) => (float[N,4,5,5] y)", body, v=(8, 3, 3, 3), w=(4, 8, 3, 3))
    assert count(source).flops == of_graph(shaped(source)).flops


def test_of_earlier_sizes_those_that_are_open_still_hold() -> None:
    earlier = {"x": (1, 3, 8, 8), "gone": (4,)}
    assert still_open(segmentation(), earlier) == {"x": (1, None, 8, 8)}
    assert still_open(fix_sizes(segmentation(), {"x": (None, 3, 5, None)}), earlier) == {"x": (1, None, None, 8)}
    assert still_open(tokens(), earlier) == {}


def test_a_product_with_a_tensor_of_unknown_rank_is_counted_by_the_other_operand() -> None:
    body = "h = odd.Made(x)  m = MatMul(h, w)  y = MatMul(w, h)"
    cost = count(model("(float[N,4] x) => (float[a] y)", body, w=(4, 3), checked=False))
    assert [node.flops for node in cost.nodes] == [1, 2 * 4 - 1, 2 * 3 - 1]


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        (  # an image has fewer pixels after each stride
            "(float[N,3,H,W] x) => (float[N,P,5] y) <float[4,3,3,3] w, int64[3] tokens = {0, 4, -1}, float[4,5] v>",
            "a = Conv<strides=[2,2], pads=[1,1,1,1]> (x, w)  b = MaxPool<kernel_shape=[2,2], strides=[2,2]> (a)"
            "  c = Reshape (b, tokens)  d = Transpose<perm=[0,2,1]> (c)  y = MatMul (d, v)",
            {"x": 224 * 224, "a": 112 * 112, "b": 56 * 56, "c": 56 * 56, "d": 56 * 56, "y": 56 * 56},
        ),
        (  # merged with an open batch, each example brings its windows; the batch itself counts one
            "(float[N,8,4] x) => (float[M,4,3] y) <int64[3] windows = {-1, 4, 4}, float[4,3] w>",
            "r = Reshape (x, windows)  y = MatMul (r, w)",
            {"x": 1, "r": 2, "y": 2},
        ),
        (  # a size that depends on data is a usual one after strides too
            "(float[N,3,H,W] x, bool[k] rows) => (float[N,4,h,w] y) <float[4,3,3,3] w>",
            "c = Compress<axis=2> (x, rows)  y = Conv<strides=[2,2], pads=[1,1,1,1]> (c, w)",
            {"x": 224 * 224, "rows": 1, "c": 32 * 224, "y": 16 * 112},
        ),
    ],
    ids=["pixels", "windows", "data"],
)
def test_how_many_positions_each_example_has(signature: str, body: str, expected: dict[str, int]) -> None:
    graph = prepared(model(signature, body))
    found = multiples(graph, dataflow.analyse(graph))
    tensors = [*graph.inputs, *(node.outputs[0] for node in graph.nodes)]
    assert {tensor.name: repeated(tensor, found) for tensor in tensors} == expected


CONV = "u = Unsqueeze(x, ends) c = Conv(u, k) t = Transpose<perm=[0,2,1,3]>(c) s = Squeeze(t, zero)"


@pytest.mark.parametrize(
    ("shape", "nodes", "sizes"),
    [
        ("?,?", "h = MatMul(x, w) y = Relu(h)", (1, 50)),
        ("?,?", "u = Unsqueeze(x, zero) s, y = RNN<hidden_size=4>(u, wr, rr)", (1, 50)),
        ("?,?", f"{CONV} r = ReduceMean<axes=[1]>(s) y = MatMul(r, w)", (256, 52)),
        ("?,?", f"{CONV} r = Reshape(s, flat) y = MatMul(r, v)", (256, 9)),
        ("?,?,?", "u = Unsqueeze(x, zero) c = Conv(u, k3) y = MaxPool<kernel_shape=[2,2]>(c)", (3, 128, 128)),
    ],
)
def test_sizes_that_weights_ask_for(shape: str, nodes: str, sizes: tuple[int, ...]) -> None:
    """Also behind windows and flattening, and where the first axis is no batch."""
    text = f"(float[{shape}] x) => (float[m] y)"
    weights = {"w": (50, 8), "v": (42, 8), "wr": (1, 4, 50), "rr": (1, 4, 4), "k": (6, 1, 3, 3), "k3": (6, 3, 3, 3)}
    operands = {"zero": np.array([0]), "ends": np.array([0, 1]), "flat": np.array([-1, 42])}
    source = model(text, nodes, checked=False, constants=operands, **weights)
    assert count(source).at.sizes["x"] == sizes


def test_sizes_at_which_windows_do_not_fit_do_not_end_the_process() -> None:
    """As onnx's inference does of a Slice of less than nothing."""
    body = "u = Unsqueeze(x, ends) c = Conv(u, k) s = Squeeze(c, ends) y = Slice(s, zero, five, zero)"
    constants = {"ends": np.array([0, 1]), "zero": np.array([0]), "five": np.array([5])}
    source = model("(float[A,B] x) => (float[C,D] y)", body, checked=False, constants=constants, k=(1, 1, 7, 3))
    assert count(source, at={"x": (9, 9)}).macs == 3 * 7 * 21
    with pytest.raises(SizeError, match="windows do not fit"):
        count(source, at={"x": (2, 9)})


def test_sizes_that_one_branch_takes_are_counted_at() -> None:
    """The other is for inputs of another width."""
    source = model(
        "(float[N,M] x, bool q) => (float[N,5] y) <float[8,5] w, float[16,5] v>",
        """y = If (q) <then_branch = yes () => (float[N,5] t) { t = MatMul(x, w) },
                       else_branch = no () => (float[N,5] e) { e = MatMul(x, v) }>""",
    )
    for width in (8, 16):
        assert shrink(source, at={"x": (3, width)}).report.before.macs == 3 * width * 5
    with pytest.raises(SizeError, match="Incompatible dimensions"):
        shrink(source, at={"x": (3, 9)})
