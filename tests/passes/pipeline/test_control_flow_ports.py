"""Where channels enter and leave If, Loop and Scan: masked ones go as far as both sides agree."""

import numpy as np
import onnx
import pytest

from maskc.frontend.graph_queries import all_graphs as graphs
from passes import shrink
from tests.generators.check import check
from tests.passes.pipeline.test_control_flow import KEEP, graph, products

PORTS = {
    "out of branches": (
        """(float[N,6] x, bool q) => (float[N,5] y) <float[6,8] w, float[6,8] u, float[8,5] v> {
            z = If (q) <
                then_branch = yes () => (float[N,8] t) { a = MatMul(x, w)  b = Mul(a, k)  t = Relu(b) },
                else_branch = no () => (float[N,8] e) { d = MatMul(x, u)  e = Mul(d, k) }>
            y = MatMul(z, v)
        }""",
        [(6, 4), (6, 4), (4, 5)],
    ),
    "out of branches, each by itself": (
        """(float[N,6] x, bool q) => (float[N,5] y) <float[6,8] w, float[6,8] u, float[8,5] v> {
            z = If (q) <
                then_branch = yes () => (float[N,8] t) { a = MatMul(x, w)  t = Mul(a, k) },
                else_branch = no () => (float[N,8] e) { d = MatMul(x, u)  e = Mul(d, k2) }>
            y = MatMul(z, v)
        }""",
        [(6, 6), (6, 6), (6, 5)],
    ),
    "into a scan": (
        """(float[T,6] x, float[1,3] s) => (float[1,3] y, float[T,1,3] ys) <float[6,8] w, float[3,8] u, float[8,3] v> {
            a = MatMul(x, w)  m = Mul(a, k)
            y, ys = Scan <num_scan_inputs = 1, body = step (float[1,3] h, float[8] r) => (float[1,3] o, float[1,3] c) {
                p = MatMul(h, u)  b = Mul(p, k)  e = Add(b, r)  f = Relu(e)  o = MatMul(f, v)  c = Identity(o)
            }> (s, m)
        }""",
        [(6, 4), (3, 4), (4, 3)],
    ),
    "out of a loop, by rounds": (
        """(float[1,6] x, int64 n) => (float[T,1,5] y) <float[6,8] w, float[8,6] u, float[8,5] v, bool go = {1}> {
            h, z = Loop <body = step (int64 i, bool c, float[1,6] s) => (bool d, float[1,6] o, float[1,8] r) {
                d = Identity(c)  a = MatMul(s, w)  b = Relu(a)  r = Mul(b, k)  o = MatMul(r, u)
            }> (n, go, x)
            y = MatMul(z, v)
        }""",
        [(6, 4), (4, 6), (4, 5)],
    ),
    "state of a loop": (
        """(float[1,6] x, int64 n) => (float[1,5] y) <float[6,8] w, float[8,8] u, float[8,5] v, bool go = {1}> {
            a = MatMul(x, w)  m = Mul(a, k)
            z = Loop <body = step (int64 i, bool c, float[1,8] s) => (bool d, float[1,8] o) {
                d = Identity(c)  p = MatMul(s, u)  r = Tanh(p)  t = Mul(r, k)  o = Add(s, t)
            }> (n, go, m)
            y = MatMul(z, v)
        }""",
        [(6, 4), (4, 4), (4, 5)],
    ),
    "state of a scan that only itself reads where what else reads it is masked": (
        """(float[T,1,6] x, float[1,8] s) => (float[T,1,5] y)
        <float[6,8] w, float[8,8] u, float[8,5] v, float[1] zero = {0}> {
            z = Mul(s, zero)
            hh, cc, r = Scan <num_scan_inputs = 1, body = step (float[1,8] h, float[1,8] c, float[1,6] i)
                => (float[1,8] ho, float[1,8] co, float[1,8] o) {
                a = MatMul(i, w)  b = MatMul(h, u)  d = Add(a, b)  f = Sigmoid(d)  g = Mul(c, f)  co = Add(g, a)
                t = Tanh(co)  ho = Mul(t, k)  o = Identity(ho)
            }> (z, s, x)
            y = MatMul(r, v)
        }""",
        [(6, 4), (4, 4), (4, 5)],
    ),
    "state of a loop that its condition reads, too": (
        """(float[1,6] x, int64 n) => (float[1,5] y)
        <float[6,8] w, float[6,8] u, float[8,5] v, bool go = {1}, float most = {0.9}> {
            a = MatMul(x, w)
            z = Loop <body = step (int64 i, bool c, float[1,8] s) => (bool d, float[1,8] o) {
                p = MatMul(x, u)  r = Add(s, p)  o = Tanh(r)  m = ReduceMax<keepdims = 0>(s)  d = Less(m, most)
            }> (n, go, a)
            e = Mul(z, k)  y = MatMul(e, v)
        }""",
        [(6, 8), (6, 8), (4, 5)],
    ),
    "not read after a loop": (
        """(float[1,6] x, int64 n) => (float[T,1,5] y) <float[6,8] w, float[8,6] u, float[8,5] v, bool go = {1}> {
            h, z = Loop <body = step (int64 i, bool c, float[1,6] s) => (bool d, float[1,6] o, float[1,8] r) {
                d = Identity(c)  o = Relu(s)  r = MatMul(s, w)
            }> (n, go, x)
            e = Mul(z, k)  y = MatMul(e, v)
        }""",
        [(6, 4), (4, 5)],
    ),
}


@pytest.mark.parametrize("name", PORTS)
def test_masked_channels_go_where_they_enter_and_leave_control_flow(name: str) -> None:
    """As far as both sides agree: a channel of one branch stays where the other branch has it."""
    text, shapes = PORTS[name]
    kept, other = (np.arange(8) % 2).astype(np.float32), (np.arange(8) % 4 == 0).astype(np.float32)
    result = check(graph(text, k=kept, k2=kept + other))
    assert sorted(products(result.model)) == sorted(shapes)
    assert not any(node.op_type == "Pad" for each in graphs(result.model.graph) for node in each.node)
    untouched = shrink(graph(text, k=np.ones(8), k2=np.ones(8))).model
    assert not {"Gather", "Pad"} & {node.op_type for node in untouched.graph.node}


@pytest.mark.parametrize("name", ["state of a loop", "out of branches"])
def test_what_leaves_control_flow_as_an_output_stays_whole(name: str) -> None:
    source = graph(PORTS[name][0], k=(np.arange(8) % 2).astype(np.float32))
    source.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None, 8]))
    check(source)


def test_constants_that_enter_and_leave_rounds_stay_what_they_are() -> None:
    """Nothing is read of them, as what comes of them is known: zeros are no substitute."""
    check(
        graph(
            """(float[T,6] x) => (float[T,5] y) <float[6,16] w, float[16,16] u, float[16,5] v> {
                a = MatMul(x, w) m = Mul(a, k) some = Add(m, c)
                z = Scan (some) <num_scan_inputs = 1, body = round (float[16] i) => (float[16] o) {
                    s = Sigmoid(i) h = MatMul(s, u) n = Mul(h, k) o = Add(n, c) }>
                r = Sigmoid(z) y = MatMul(r, v)
            }""",
            k=KEEP,
            c=np.where(np.arange(16) % 8 == 1, 3, 0).astype(np.float32),
        )
    )
