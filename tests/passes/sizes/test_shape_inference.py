"""Sizes that are not known, and which of them are the same."""

import numpy as np
import onnx
import pytest

from maskc.frontend.graph_queries import copied
from passes import shrink
from passes.errors import GraphError
from passes.model.declarations import dims_of
from passes.sizes.prepare import checked, prepared
from tests.generators.networks import network
from tests.passes.text import compiled, exact, model, operators, random

CHANNELS = 4


def gated(gates: int, *, live: bool = True) -> onnx.ModelProto:
    """A convolution, then squeeze and excitation with a Reshape as tf2onnx writes it, so many times; `live`: at all."""
    lines, names = ["c0 = Conv(x, w)"], ["c0"]
    for i in range(gates):
        lines.append(f"p{i} = GlobalAveragePool(c{i})\n s{i} = Squeeze(p{i}, axes)\n r{i} = Reshape(s{i}, shape)")
        lines.append(f"g{i} = Conv(r{i}, wg, bg)\n h{i} = Sigmoid(g{i})\n c{i + 1} = Mul(c{i}, h{i})")
        names += [f"r{i}", f"c{i + 1}"]
    lines.append(f"m = Mul(c{gates}, keep)\n y = Conv(m, w2, b2)")
    return model(
        "(float[N,3,6,5] x) => (float[N,2,6,5] y) <float[2] b2, int64[2] axes = {2, 3}, "
        f"float[{CHANNELS},3,1,1] w, float[{CHANNELS},{CHANNELS},1,1] wg, float[{CHANNELS}] bg, "
        f"float[2,{CHANNELS},1,1] w2>",
        "\n".join(lines),
        shape=np.array([-1, CHANNELS, 1, 1]),
        keep=np.full((1, CHANNELS, 1, 1), float(live)),
    )


@pytest.mark.parametrize("gates", [1, 3, 20])
def test_symbols_are_carried_past_any_number_of_gates(gates: int) -> None:
    shapes = {t.name: t.shape for n in prepared(gated(gates)).nodes for t in n.outputs}
    assert {name: shapes[name] for name in shapes if name[0] == "c"} == {
        f"c{i}": ["N", CHANNELS, 6, 5] for i in range(gates + 1)
    }


@pytest.mark.parametrize("seed", [5236, 5296, 5467])
def test_constants_in_nodes_tell_as_much_as_initializers(seed: int) -> None:
    """Inference by onnx follows the elements of initializers only."""
    source = network(seed).model
    stored = [n for n in source.graph.node if n.op_type == "Constant"]
    assert stored
    moved = copied(source)
    del moved.graph.node[:]
    moved.graph.node.extend(n for n in source.graph.node if n not in stored)
    for node in stored:
        moved.graph.initializer.add().CopyFrom(node.attribute[0].t)
        moved.graph.initializer[-1].name = node.output[0]
    assert shrink(source).model.graph == shrink(moved).model.graph


def test_large_constants_in_nodes_say_their_shape() -> None:
    source = model("(float[N,64] x) => (float[N,32] y)", "y = MatMul(x, w)", w=random(64, 32))
    weight = onnx.helper.make_node("Constant", [], ["w"], value=source.graph.initializer.pop())
    source.graph.node.insert(0, weight)
    (output,) = checked(source).outputs
    assert output.shape == ["N", 32]


@pytest.mark.parametrize("gates", [1, 3])
def test_nothing_of_a_constant_branch_behind_gates_is_computed(gates: int) -> None:
    result = compiled(gated(gates, live=False))
    assert result.report.after.flops == 0 and "Conv" not in operators(result)
    exact(gated(gates, live=False), N=(1, 3))


KNOWN = {
    # what exporters write of a strided slice of TensorFlow names every axis
    "a slice that leaves the batch whole": (
        "(float[N,6,4] x) => (float[N,5,2] y) <int64[3] begin = {0, 1, 0}, int64[3] axes = {0, 1, 2},"
        " int64[3] end = {2147483647, 2147483647, 2147483647}, int64[3] step = {1, 1, 1}, float[5,4] shift,"
        " float[4,2] w>",
        "s = Slice (x, begin, end, axes, step)  a = Add (s, shift)  y = MatMul (a, w)",
        17,
        {"s": ["N", 5, 4], "a": ["N", 5, 4], "y": ["N", 5, 2]},
    ),
    "what a reshape tells of what it reads": (
        "(float[N,6,4] x) => (float[N,24] y)"
        " <int64[1] first = {0}, int64[1] six = {6}, int64[1] four = {4}, int64[1] all = {24}>",
        "s = Shape (x)  n = Gather (s, first)  m = Max (n, n)  t = Concat <axis = 0> (m, six, four)"
        " e = Expand (x, t)  f = Concat <axis = 0> (n, all)  r = Reshape (e, f)  y = Relu (r)",
        17,
        {"e": ["N", 6, 4], "r": ["N", 24]},
    ),
    # as PyTorch writes an Expand of sizes that it computes
    "a size is not -1, and leaves what it is compared with": (
        "(float[N,1,4] x) => (float[N,a] y) <int64[2] rest = {3, 4}, int64[3] none = {-1, -1, -1},"
        " int64[3] ones = {1, 1, 1}>",
        "n = Shape <end = 1> (x)  s = Concat <axis = 0> (n, rest)  e = Equal (s, none)  w = Where (e, ones, s)"
        " r = Expand (x, w)  y = Flatten (r)",
        17,
        {"r": ["N", 3, 4]},
    ),
    # as those do that tf2onnx gives to the batch: it is carried as any other is
    "a name that begins as those that inference makes up": (
        "(float[unk__0,300,4] x) => (float[unk__1,24] y)"
        " <int64[2] flat = {-1, 1200}, int64[1] zero = {0}, int64[1] end = {1000000000}, int64[2] back = {-1, 24}>",
        "r = Reshape (x, flat)  s = Slice (r, zero, end, zero)  b = Reshape (s, back)  y = Relu (b)",
        17,
        {"r": ["unk__0", 1200], "s": ["unk__0", 1200]},
    ),
    # as tf2onnx writes the products of an Einsum
    "products, sums and extremes of sizes": (
        "(float[N,4,T,8] x) => (float[a,b,c,d] y) <int64[2] two = {0, 1}, int64[1] first = {0},"
        " int64[2] rest = {-1, 8}, float[1] one = {1}>",
        "s = Shape (x)  b = Gather (s, two)  n = ReduceProd (b)  p = ReduceProd <keepdims = 0> (b)"
        "  m = Unsqueeze (p, first)  wanted = Concat <axis = 0> (m, rest)  r = Reshape (x, wanted)"
        "  q = ReduceSum (b, first)  e = ReduceMax <axes = [0]> (b)  l = ReduceMin <axes = [0]> (b)"
        "  all = Concat <axis = 0> (n, q, e, l)  y = Expand (one, all) ",
        17,
        {"r": ["{4*N}", "T", 8], "y": ["{4*N}", "{N + 4}", "{max(4, N)}", "{min(4, N)}"]},
    ),
    # where onnx gives up the rank of a Reshape, it makes up names for the sizes of what comes after
    "a zero that copies a size which inference learns late": (
        "(float[N,T,24] x) => (float[N,T,24] y)"
        " <int64 first = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] axis = {0}, "
        "int64[1] four = {4}, int64[1] six = {6}, int64[3] back = {0, 0, -1}>",
        "s = Shape (x)  n = Gather (s, first)  m = Unsqueeze <axes = [0]> (n)  t = Slice (s, one, two, axis)"
        " wanted = Concat <axis = 0> (m, t, four, six)  r = Reshape (x, wanted)"
        " turned = Transpose <perm = [0, 1, 3, 2]> (r)  b = Reshape (turned, back)  y = Relu (b)",
        11,
        {"turned": ["N", "T", 6, 4], "b": ["N", "T", 24], "y": ["N", "T", 24]},
    ),
    # of an operator whose own rule tells the sizes of output 0 only
    "a second output with the sizes of the first": (
        "(float[N,8] x) => (float[a,b,c] y, bool[a,b,c] m) <int64[1] zero = {0}, int64[2] rest = {2, 4}>",
        "s = Shape(x)  first = Gather(s, zero)  sizes = Concat <axis = 0> (first, rest)  r = Reshape(x, sizes)"
        "  y, m = Dropout(r)",
        17,
        {"y": ["N", 2, 4], "m": ["N", 2, 4]},
    ),
}


@pytest.mark.parametrize(("signature", "body", "opset", "expected"), KNOWN.values(), ids=KNOWN)
def test_sizes_that_are_known(signature: str, body: str, opset: int, expected: dict[str, list[int | str]]) -> None:
    source = model(signature, body, opset)
    shapes = {t.name: t.shape for n in checked(source).nodes for t in n.outputs}
    assert {name: shapes[name] for name in expected} == expected
    exact(source, **{str(name): (1, 3) for name in dims_of(source.graph.input[0]) or () if isinstance(name, str)})


@pytest.mark.parametrize(
    ("sizes", "start", "end", "step", "kept"),
    [
        ("N,40,30", 0, 2**31 - 1, 1, True),
        ("N,40,30", 0, 10**9, 1, True),  # no tensor has so many elements
        ("N,T,30", 0, 10**9, 1, False),  # T may be 0
        ("N,0,30", 0, 10**9, 1, False),
        ("N,4,30", 0, 10**9, 1, False),
        ("N,40,30", 1, 2**31 - 1, 1, False),
        ("N,40,30", 0, 2**31 - 1, 2, False),
        ("8,40,30", 0, 8, 1, True),
        ("8,40,30", 0, 7, 1, False),
    ],
)
@pytest.mark.parametrize("opset", [9, 17])
def test_a_slice_of_a_whole_axis_is_left_out(
    sizes: str, start: int, end: int, step: int, kept: bool, opset: int
) -> None:
    if opset < 10 and step != 1:
        pytest.skip("has no steps")
    bounds = {"begin": np.array([start]), "end": np.array([end]), "axes": np.array([0]), "step": np.array([step])}
    body = "s = Slice (x, begin, end, axes, step)  y = Relu (s)"
    if opset < 10:
        body, bounds = f"s = Slice <starts = [{start}], ends = [{end}], axes = [0]> (x)  y = Relu (s)", {}
    source = model(f"(float[{sizes}] x) => (float[M,P,30] y)", body, opset=opset, **bounds)
    before = {t.name: t.shape for n in checked(source).nodes for t in n.outputs}
    assert (before["s"] is not None and list(map(str, before["s"])) == sizes.split(",")) == kept
    assert [n.op for n in prepared(source).nodes] == [*([] if kept else ["Slice"]), "Relu"]


@pytest.mark.parametrize("opset", [10, 11])
@pytest.mark.parametrize(("start", "end"), [(1, -1), (-3, 2**63 - 1), (2**40, 2**40)])
def test_a_slice_of_an_open_axis_has_its_own_size(start: int, end: int, opset: int) -> None:
    """Of one of opset 10 onnx believes that it is as long as the whole."""
    source = model(
        "(float[N,T,4] x) => (float[N,t,3] y) <int64[1] one = {1}, float[4] keep = {1, 0, 0, 1},"
        " float[4] nil = {0, 0, 0, 0}, float[4,4] w, float[4,3] v>",
        "a = MatMul(x, w) m = Mul(a, keep) p = Slice(m, start, end, one) n = Mul(p, nil) c = Exp(n) s = Shape(c)"
        " r = Reshape(c, s) q = Concat<axis=1>(p, r) y = MatMul(q, v)",
        opset,
        start=np.array([start]),
        end=np.array([end]),
    )
    shapes = {t.name: t.shape for n in checked(source).nodes for t in n.outputs}
    assert shapes["p"] is not None and shapes["p"][1] != "T"
    exact(source, N=(1, 3), T=(4, 7))


def test_a_reshape_tells_the_runtime_which_size_it_leaves_alone() -> None:
    """From -1 inference would make a size of its own."""
    body = "a = MatMul (x, w)  b = Mul (a, keep)  r = Reshape (b, shape)  y = MatMul (r, v)"
    constants = {"w": random(4, 12), "keep": np.array([1.0, 0] * 6), "v": random(4, 3, seed=1)}
    source = model("(float[N,4] x) => (float[N,3,3] y)", body, shape=np.array([-1, 3, 4]), **constants)
    result = compiled(source).model
    (after,) = (n.output[0] for n in result.graph.node if n.op_type == "Reshape")
    told = {v.name: v.type.tensor_type.shape for v in onnx.shape_inference.infer_shapes(result).graph.value_info}
    assert told[after].dim[0].dim_param == "N"
    exact(source, N=(1, 3))


@pytest.mark.parametrize("width", [2, 3])
def test_a_window_that_is_larger_than_what_it_slides_over_has_no_negative_size(width: int) -> None:
    """Positions are counted by a division that onnx rounds towards zero."""
    source = model(
        f"(float[N,{3 * width}] x) => (float[N,2,d] y) <int64[1] zero = {{0}}, float[4,3,9] w, float[2,4,1] v>",
        "s = Shape(x)  first = Gather(s, zero)  sizes = Concat <axis = 0> (first, rest)  r = Reshape(x, sizes)"
        "  a = Conv <strides = [4], kernel_shape = [9]> (r, w)  b = Mul(a, keep)  y = Conv(b, v)",
        checked=False,
        rest=np.array([3, width]),
        keep=np.array([1.0, 0, 1, 0]).reshape(4, 1),
    )
    sizes = [size for n in checked(source).nodes for t in n.outputs for size in t.shape or ()]
    assert sizes and not any(isinstance(size, int) and size < 0 for size in sizes)
    shrink(source)


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape (w, image) t = Transpose<perm=[0,3,1,2]> (r) u = Relu (t) y = Conv (u, k)",
        "r = Reshape (w, image) f = Reshape (r, tokens) y = Relu (f)",
        "r = Reshape (w, image) y = MatMul (r, v)",
        "r = Reshape (w, image) y = LayerNormalization (r, s)",
    ],
)
def test_what_reads_the_reassembled_windows_of_an_image_tells_how_wide_they_are(body: str) -> None:
    """No formula says that windows divide the image, so that nothing before says what is left for the last axis."""
    source = model(
        "(float[N,H,W,8] x) => (float[a,b,c] y) <float[3,8,1,1] k, float[8,3] v, float[8] s, int64[1] side = {4},"
        " int64[1] eight = {8}, int64[1] rest = {-1}>",
        f"""n = Shape<end=1> (x)  h = Shape<start=1, end=2> (x)  w = Shape<start=2, end=3> (x)
            rows = Div (h, side)  columns = Div (w, side)
            split = Concat<axis=0> (n, rows, side, columns, side, rest)
            windows = Reshape (x, split)
            image = Concat<axis=0> (n, h, w, rest)
            area = Mul (h, w)
            tokens = Concat<axis=0> (n, area, eight)
            {body}""".replace("Reshape (w,", "Reshape (windows,"),
        18,
        checked=False,
    )
    graph = checked(source)
    (image,) = (node.outputs[0] for node in graph.nodes if node.outputs[0].name == "r")
    assert image.shape == ["N", "H", "W", 8]


# A text recogniser: columns of the image become steps, which a product classifies, one row for each step and example.
STEPS = """
    c = Conv<pads=[1,1,1,1]> (x, w)
    t = Transpose<perm=[3,0,1,2]> (c)
    s = Reshape (t, joined)
    sizes = Shape (s)
    steps = Gather<axis=0> (sizes, zero)
    batch = Gather<axis=0> (sizes, one)
    width = Gather<axis=0> (sizes, two)
    rows = Mul (steps, batch)
    rows1 = Unsqueeze (rows, first)
    width1 = Unsqueeze (width, first)
    flat = Concat<axis=0> (rows1, width1)
    r = Reshape (s, flat)
    g = Gemm (r, v, b)
    m = Mul (g, keep)
    steps1 = Unsqueeze (steps, first)
    batch1 = Unsqueeze (batch, first)
    back = Concat<axis=0> (steps1, batch1, classes)
    y = Reshape (m, back)
"""
CLASSES = 60
WEIGHTS = {
    "w": random(128, 1, 3, 3),
    "joined": np.array([0, 0, 512]),
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "first": np.array([0]),
    "v": random(512, CLASSES, seed=1) / 16,
    "b": random(CLASSES, seed=2),
    "keep": (np.arange(CLASSES) < CLASSES // 3).astype(np.float32),
    "classes": np.array([CLASSES]),
}


@pytest.mark.parametrize("batch", ["1", "N"])
def test_a_mask_after_a_product_of_sizes(batch: str) -> None:
    """Two of three classes are masked: their columns of the last weight go."""
    source = model(f"(float[{batch},1,4,W] x) => (float[steps,{batch},{CLASSES}] y)", STEPS, **WEIGHTS)
    shapes = {t.name: t.shape for n in prepared(source).nodes for t in n.outputs}
    assert len(shapes["g"]) == 2 and shapes["g"][1] == CLASSES and shapes["y"][2] == CLASSES
    result = compiled(source)
    (found,) = (axis for axis in result.report.masked if axis.total == CLASSES)
    assert found.masked == found.removed == 40
    assert result.report.before.params - result.report.after.params > 40 * 512
    exact(source, W=(3, 7), **({} if batch == "1" else {"N": (1, 2)}))


@pytest.mark.parametrize("opset", [11, 13])
def test_a_mask_after_a_computed_expand(opset: int) -> None:
    """Its rank is that of the vector, though one element is a sum of sizes that is not known."""
    summed = "<axes=[0], keepdims=0> (k)" if opset < 13 else "<keepdims=0> (k, first)"
    body = f"""
        a = MatMul (x, w)
        p = Shape (x)
        n = Gather<axis=0> (p, first)
        n2 = Add (n, n)
        whole = Concat<axis=0> (n2, n, four)
        e = Expand (row, whole)
        k = Mul (e, keep)
        s = ReduceSum{summed}
        t = Add (a, s)
        y = MatMul (t, v)
    """
    source = model(
        "(float[N,4] x) => (float[N,2] y) <float[4,4] w, float[4,2] v, float[4] row, int64[1] first = {0},"
        " int64[1] four = {4}, float[4] keep = {1, 0, 0, 1}>",
        body,
        opset,
    )
    (shape,) = (t.shape for n in prepared(source).nodes for t in n.outputs if t.name == "k")
    assert len(shape) == 3 and shape[2] == 4
    exact(source, N=(1, 3))


def test_a_matrix_product_says_its_columns_whatever_its_rows() -> None:
    """The number of axes before the product comes as an input of unknown length."""
    body = "r = Reshape (x, shape)  g = Gemm (r, w)  m = Mul (g, keep)  y = Gemm (m, v)"
    constants = {"w": random(4, 6), "keep": np.array([1.0, 0, 1, 0, 1, 0]), "v": random(6, 2, seed=1)}
    source = model("(float[N,2,2] x, int64[rank] shape) => (float[N,2] y)", body, **constants)
    result = shrink(source)
    assert result.report.masked[0].masked == 3
    assert result.report.after.params == 4 * 3 + 3 * 2


def test_nothing_is_said_of_a_size_beside_an_empty_one() -> None:
    """The square of the batch times nothing has as many elements as the batch times nothing."""
    body = """
        s = Shape (x)
        n = Gather (s, first)
        square = Mul (n, n)
        shape = Concat<axis=0> (square, none)
        y = Reshape<allowzero=1> (x, shape)
    """
    source = model("(float[N,0,4] x) => (float[A,0] y)", body, first=np.array([0]), none=np.array([0]))
    (shape,) = (t.shape for n in prepared(source).nodes for t in n.outputs if t.name == "y")
    assert shape[0] != "N" and shape[1] == 0


def test_sizes_that_are_picked_by_a_long_vector_are_not_known() -> None:
    body = "s = Shape(x) g = Gather(s, at) y = Expand(x, g)"
    source = model("(float[N,4] x, int64[5000] at) => (float[N,4] y)", body, checked=False)
    assert operators(shrink(source)) == ["Shape", "Gather", "Expand"]


def test_a_vector_of_sizes_that_is_longer_than_memory() -> None:
    """Nothing is made of it before it is refused."""
    signature = f"(float[2,2] x, int64[{2**63 - 1}] sizes) => (float[2,2] y)"
    source = model(signature, "y = Reshape(x, sizes)", checked=False)
    with pytest.raises(GraphError, match="elements at most"):
        shrink(source)
