"""What open sizes count where costs are compared."""

from passes.analysis import dataflow
from passes.sizes.prepare import prepared
from passes.sizes.tokens_per_example import multiples, repeated
from tests.passes.text import model


def test_an_image_has_fewer_pixels_after_each_stride() -> None:
    source = model(
        "(float[N,3,H,W] x) => (float[N,P,5] y) <float[4,3,3,3] w, int64[3] tokens = {0, 4, -1}, float[4,5] v>",
        """
        a = Conv<strides=[2,2], pads=[1,1,1,1]> (x, w)
        b = MaxPool<kernel_shape=[2,2], strides=[2,2]> (a)
        c = Reshape (b, tokens)
        d = Transpose<perm=[0,2,1]> (c)
        y = MatMul (d, v)
        """,
    )
    graph = prepared(source)
    found = multiples(graph, dataflow.analyse(graph))
    pixels = {node.outputs[0].name: repeated(node.outputs[0], found) for node in graph.nodes}
    assert pixels == {"a": 112 * 112, "b": 56 * 56, "c": 56 * 56, "d": 56 * 56, "y": 56 * 56}


def test_a_batch_and_its_windows() -> None:
    """Merged with an open batch, each example brings its windows; the batch itself counts one."""
    source = model(
        "(float[N,8,4] x) => (float[M,4,3] y) <int64[3] windows = {-1, 4, 4}, float[4,3] w>",
        "r = Reshape (x, windows)  y = MatMul (r, w)",
    )
    graph = prepared(source)
    found = multiples(graph, dataflow.analyse(graph))
    assert {t.name: repeated(t, found) for t in [*graph.inputs, *graph.outputs]} == {"x": 1, "y": 2}


def test_a_size_that_depends_on_data_is_a_usual_one_after_strides_too() -> None:
    source = model(
        "(float[N,3,H,W] x, bool[k] rows) => (float[N,4,h,w] y) <float[4,3,3,3] w>",
        "c = Compress<axis=2> (x, rows)  y = Conv<strides=[2,2], pads=[1,1,1,1]> (c, w)",
    )
    graph = prepared(source)
    found = multiples(graph, dataflow.analyse(graph))
    assert [repeated(node.outputs[0], found) for node in graph.nodes] == [32 * 224, 16 * 112]
