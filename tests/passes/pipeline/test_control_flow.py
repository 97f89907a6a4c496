"""Inside If, Loop and Scan: their subgraphs shrink as graphs of their own, and know what is masked around them."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from maskc.frontend.graph_queries import all_graphs as graphs
from passes import shrink
from passes.errors import GraphError
from tests.generators.check import adapters_cost, check
from tests.maskc import build
from tests.passes.text import Array, model, random

KEEP = (np.arange(16) % 4 != 1).astype(np.float32)  # 12 of 16
#: what a graph may read without saying it
GIVEN = {"k": KEEP, "go": np.asarray(True), "square": random(16, 16) * 0.2}
GIVEN |= {"w": random(6, 16) * 0.3, "v": random(16, 6) * 0.3}


def graph(text: str, opset: int = 17, **weights: Any) -> ModelProto:
    return model(text, None, opset, constants=GIVEN, **weights)


def products(model: ModelProto) -> list[tuple[int, ...]]:
    """Shapes of the matrices of all products, subgraphs included, in order."""
    found: list[tuple[int, ...]] = []

    def visit(scope: onnx.GraphProto, around: dict[str, Array]) -> None:
        held = around | {t.name: numpy_helper.to_array(t) for t in scope.initializer}
        for node in scope.node:
            if node.op_type == "MatMul" and node.input[1] in held:
                found.append(held[node.input[1]].shape)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    visit(attribute.g, held)

    visit(model.graph, {})
    return found


def test_masks_inside_a_branch() -> None:
    source = graph(
        """(float[N,6] x, bool q) => (float[N,5] y)
        <float[6,16] w, float[16,5] v> {
            y = If (q) <
                then_branch = yes () => (float[N,5] t) { a = MatMul(x, w) b = Mul(a, k) c = Relu(b) t = MatMul(c, v) },
                else_branch = no () => (float[N,5] e) { d = MatMul(x, w) e = MatMul(d, v) }>
        }"""
    )
    result = check(source)
    assert products(result.model)[-2:] == [(6, 16), (16, 5)]
    assert result.report.after.macs == result.report.before.macs  # the other branch is the dearer one
    assert [axis.removed for axis in result.report.masked] == [4]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("agreeing", "stored"), [(True, 0.55), (False, 1.0)])
def test_weights_that_branches_share(agreeing: bool, stored: float, nested: bool) -> None:
    """As in a merged decoder: slices that branches agree on are stored once, of others the whole, and all are cut."""
    rng = np.random.default_rng(0)
    k = (rng.permutation(64) % 2).astype(np.float32)

    def products(mask: str, tag: str) -> str:
        return (
            f"{tag}a = MatMul(x, w) {tag}s = Mul({tag}a, s) {tag}b = Add({tag}s, b) {tag}m = Mul({tag}b, {mask}) "
            f"{tag}q = DequantizeLinear <axis=1> (q, z) {tag}r = MatMul({tag}m, {tag}q) {tag} = MatMul({tag}r, v)"
        )

    def branch(name: str, mask: str) -> str:
        return f"{name} () => (float[N,40] {name}y) {{ {products(mask, name + 'y')} }}"

    inner = f"then_branch = {branch('f', 'k')}, else_branch = {branch('g', 'k')}"
    other = f"e () => (float[N,40] i) {{ i = If (p) <{inner}> }}" if nested else branch("e", "k" if agreeing else "l")
    source = graph(
        f"""(float[N,40] x, bool p) => (float[N,40] y) <float[40,64] w, float[32,40] v, float[64] b> {{
            y = If (p) <then_branch = {branch("t", "k" if agreeing or not nested else "l")}, else_branch = {other}>
        }}""",
        k=k,
        l=(rng.permutation(64) % 3 > 0).astype(np.float32),
        s=rng.uniform(0.5, 2, size=64).astype(np.float32),
        q=rng.integers(-90, 90, size=(64, 32)).astype(np.int8),
        z=rng.uniform(0.01, 0.02, size=32).astype(np.float32),
    )
    result = check(source)
    assert result.report.after.macs <= 0.8 * result.report.before.macs and not result.report.held
    before, after = (
        sum(int(np.prod(t.dims)) for t in m.graph.initializer if len(t.dims) == 2 and t.name != "v")
        for m in (source, result.model)
    )
    assert after <= stored * before


BRANCHES = """(float[N,6] x, bool q) => (float[N,5] y{more}) <float[6,16] w, float[16,5] v, float[16,5] u,
    float[16] s> {{
    a = MatMul(x, w)  m = Mul(a, k)  {body}
}}"""
STATE = """(float[N,16] x, int64 trips) => (float[N,5] y) <float[16,5] v> {{
    m = Mul(x, k)
    l = Loop (trips, go, m) <body = step (int64 i, bool c, float[N,16] h) => (bool cc, float[N,16] z) {{
        a = MatMul(h, square)  b = Tanh(a)  d = Mul(b, k)  z = Add(d, {added})  cc = Identity(c) }}>
    y = MatMul(l, v)
}}"""
READ = """p = Add(m, s){shown}
    y = If (q) <then_branch = yes () => (float[N,5] t) {{ t = MatMul(p, u) }},
                else_branch = no () => (float[N,5] e) {{ r = Relu(p) e = MatMul(r, v) }}>"""
# Graphs, and the matrices that are left in them where nothing is paid for adapters, but before an output.
CASES = {
    "the branch reads the masked tensor whole, but multiplies what is live": (
        BRANCHES.format(
            more="",
            body="""y = If (q) <then_branch = yes () => (float[N,5] t) { b = Relu(m)  t = MatMul(b, v) },
                else_branch = no () => (float[N,5] e) { c = Tanh(m)  d = Add(c, s)  e = MatMul(d, v) }>""",
        ),
        [(6, 12), (12, 5), (12, 5)],
    ),
    "a branch may name the outer tensor as its own result, or copy it": (
        BRANCHES.format(
            more=", float[N,16] z",
            body="""b = If (q) <then_branch = yes () => (float[N,16] t) { t = Identity(m) },
                else_branch = no () => (float[N,16] e) { c = Identity(m)  d = Identity(c)  e = Relu(d) }>
            z = Relu(m)  y = MatMul(b, v)""",
        ),
        [(6, 12), (12, 5)],
    ),
    "branches read what they need": (BRANCHES.format(more="", body=READ.format(shown="")), [(6, 12), (12, 5), (12, 5)]),
    "branches read what they need of what others read whole": (
        BRANCHES.format(more=", float[N,16] z", body=READ.format(shown="  z = Relu(p)")),
        [(6, 16), (12, 5), (12, 5)],
    ),
    "a loop with masks inside": (
        """(float[N,6] x) => (float[N,6] y) <int64 trips = {3}> {
            y = Loop (trips, go, x) <body = step (int64 i, bool c, float[N,6] h) => (bool cc, float[N,6] z) {
                a = MatMul(h, w)  b = Mul(a, k)  d = Tanh(b)  e = MatMul(d, v)  z = Add(e, x)  cc = Identity(c) }>
        }""",
        [(6, 12), (12, 6)],
    ),
    "a state that stays masked: zero at first, and after a round if it was zero before": (
        STATE.format(added="h"),
        [(12, 12), (12, 5)],
    ),
    "a state of which a round brings the masked channels to life": (STATE.format(added="x"), [(16, 12), (16, 5)]),
    "a scan with masks inside": (
        """(float[T,N,6] x, float[N,5] s) => (float[N,5] last, float[T,N,5] y) <float[6,16] w, float[16,5] v> {
            last, y = Scan <num_scan_inputs = 1, body = step (float[N,5] h, float[N,6] r)
                => (float[N,5] hh, float[N,5] o) {
                a = MatMul(r, w)  b = Mul(a, k)  c = MatMul(b, v)  d = Add(c, h)  hh = Tanh(d)  o = Identity(hh)
            }> (s, x)
        }""",
        [(6, 12), (12, 5)],
    ),
    "every round gets a slice of what is masked around it, and what it collects is known behind it": (
        """(float[T,N,6] x, float[N,16] s) => (float[T,N,5] y) <float[6,16] w, float[16,5] v> {
            a = MatMul(x, w)  m = Mul(a, k)
            last, o = Scan <num_scan_inputs = 1, body = step (float[N,16] h, float[N,16] r)
                => (float[N,16] hh, float[N,16] oo) {
                b = MatMul(r, square)  c = Add(b, h)  hh = Tanh(c)  oo = Relu(r) }> (s, m)
            y = MatMul(o, v)
        }""",
        [(6, 12), (12, 16), (12, 5)],
    ),
}


@pytest.mark.parametrize(("text", "left"), CASES.values(), ids=CASES)
def test_what_is_masked_inside_and_around(text: str, left: list[tuple[int, ...]]) -> None:
    with adapters_cost(None if "z = Relu(p)" in text else 0.0):
        assert products(check(graph(text)).model) == left


def test_what_both_branches_know() -> None:
    """Channels that are the same constant in either branch are known behind it."""
    for value, kept in ((0.5, 12), (0.25, 16)):
        source = graph(
            """(float[N,6] x, bool q) => (float[N,5] y)
        <float[6,16] u, float[16,5] v> {
                b = If (q) <then_branch = yes () => (float[N,16] t) { a = MatMul(x, w) t = Add(a, s) },
                            else_branch = no () => (float[N,16] e) { c = MatMul(x, u) d = Mul(c, k) e = Add(d, r) }>
                y = MatMul(b, v)
            }""",
            w=random(6, 16) * KEEP,
            k=KEEP,
            s=np.where(KEEP, random(16, seed=4), 0.5),
            r=np.where(KEEP, random(16, seed=5), value),
        )
        with adapters_cost(0.0):
            assert products(check(source).model)[-1] == (kept, 5)


@pytest.mark.parametrize("again", ["Identity(c)", "Identity(go)", "Not(c)", "Less(i, five)"])
def test_a_loop_without_end_is_refused(again: str) -> None:
    """A loop without a trip count ends by its condition, which must be able to change."""
    source = graph(
        f"""(float[N,6] x) => (float[N,6] y) <int64 five = {{5}}> {{
            y = Loop ("", go, x) <body = step (int64 i, bool c, float[N,6] h) => (bool cc, float[N,6] z) {{
                z = Tanh(h) cc = {again} }}>
        }}"""
    )
    if again.startswith("Identity"):
        with pytest.raises(GraphError, match="never ends: it has no trip count"):
            shrink(source)
    else:
        check(source)


def test_a_loop_that_declares_another_rank_than_it_gets() -> None:
    """ONNX Runtime believes it only where it fuses a product and a sum, which no multiplication parts once compiled."""
    source = graph(
        """(float[2,3,6] x) => (float[2,3,6] y)
        <int64 trips = {3}, float[6,6] w, float[6] s, float[6] t> {
            y = Loop (trips, go, x) <body = step (int64 i, bool c, float[3,6] h) => (bool cc, float[3,6] z) {
                a = MatMul(h, w) b = Mul(a, s) z = Add(b, t) cc = Identity(c) }>
        }"""
    )
    x = random(2, 3, 6, seed=4)
    np.testing.assert_allclose(build.run(shrink(source).model, x=x)["y"], build.run(source, x=x)["y"], rtol=1e-5)


def test_a_branch_inside_a_loop() -> None:
    source = graph(
        """(float[N,6] x, bool q) => (float[N,6] y)
        <int64 trips = {2}> {
            y = Loop (trips, go, x) <body = step (int64 i, bool c, float[N,6] h) => (bool cc, float[N,6] z) {
                m = MatMul(h, w) n = Mul(m, k)
                z = If (q) <then_branch = yes () => (float[N,6] t) { t = MatMul(n, v) },
                            else_branch = no () => (float[N,6] e) { a = Relu(n) e = MatMul(a, v) }>
                cc = Identity(c) }>
        }"""
    )
    with adapters_cost(0.0):
        assert check(source).report.after.macs == 2 * (6 * 12 + 12 * 6), "of both rounds"


@pytest.mark.parametrize("handed_on", [False, True])
def test_layers_before_a_recurrent_loop_with_a_mask_are_cut(handed_on: bool) -> None:
    """A step reads the data of its time from outside, and weights from there or as states that no round changes."""
    states, inside, copies = (
        (", w, v", ", float[16,5] wi, float[5,5] vi", ", float[16,5] wo, float[5,5] vo") if handed_on else ("", "", "")
    )
    source = graph(
        f"""(float[T,N,6] x, bool[T,N,1] q) => (float[N,5] y, float[T,N,5] all)
        <float[6,16] u, float[16,5] w, float[5,5] v, float[6,5] s, int64 i0 = {{0}}, int64[1] i = {{0}}> {{
            h = MatMul(x, u) p = Mul(h, k) shape = Shape(x) steps = Gather(shape, i0)
            first = ReduceSum<keepdims=0>(x, i) start = MatMul(first, s)
            y{", w_last, v_last" if handed_on else ""}, all = Loop (steps, go, start{states}) <
                body = step (int64 t, bool c, float[N,5] h1{inside})
                        => (bool cc, float[N,5] h2{copies}, float[?,5] h3) {{
                    xt = Gather<axis=0>(p, t) qt = Gather<axis=0>(q, t) a = MatMul(xt, {"wi" if handed_on else "w"})
                    b = MatMul(h1, {"vi" if handed_on else "v"}) d = Add(a, b) e = Tanh(d) h2 = Where(qt, e, h1)
                    h3 = Identity(h2) {"wo = Identity(wi) vo = Identity(vi)" if handed_on else ""} cc = Identity(c) }}>
        }}"""
    )
    result = check(source)
    assert products(result.model) == [(6, 12), (6, 5), (12, 5), (5, 5)]
    assert result.report.masked[0].removed == 4
    assert [node.op_type for node in result.model.graph.node].count("Gather") == 1, "of the number of steps"
    (loop,) = (node for node in result.model.graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    assert [dim.dim_value for dim in body.output[-1].type.tensor_type.shape.dim] == [0, 5], "not those of a weight"


@pytest.mark.parametrize(("first", "states"), [("h", 1), ("start", 0)])
def test_a_state_that_no_step_of_a_scan_changes(first: str, states: int) -> None:
    """As skl2onnx measures distances. OpenVINO reads no Scan whose body reads what is computed around it."""
    source = graph(
        f"""(float[T,6] x, float[3,6] c) => (float[T,3] y) <float[3,6] start> {{
            h = Relu(c)
            last, y = Scan <num_scan_inputs = 1, body = step (float[3,6] s, float[6] r) => (float[3,6] o, float[3] d) {{
                o = Identity(s)  e = Sub(s, r)  d = ReduceSumSquare<axes = [1], keepdims = 0>(e) }}> ({first}, x)
        }}""",
        start=random(3, 6),
    )
    scan = next(node for node in check(source).model.graph.node if node.op_type == "Scan")
    assert len(scan.input) == states + 1


def test_weights_that_two_graphs_read() -> None:
    """Cut in one and whole in the other, they are stored once."""
    source = graph(
        """(float[N,40] x, bool q) => (float[N,40] y)
        <float[40,40] w> {
            y = If (q) <then_branch = yes () => (float[N,40] t) { a = MatMul(x, w) b = Mul(a, k) t = MatMul(b, w) },
                        else_branch = no () => (float[N,40] e) { e = MatMul(x, w) }>
        }""",
        k=(np.arange(40) % 4 != 1).astype(np.float32),
    )
    result = check(source)
    assert result.model.ByteSize() <= source.ByteSize() + 1200
    assert result.report.masked[0].removed == 10


def with_constant_nodes(model: ModelProto, weights: dict[str, dict[str, Array]]) -> ModelProto:
    """The model whose bodies, by name, hold these weights as Constant nodes."""
    for body in graphs(model.graph):
        for name, values in weights.get(body.name, {}).items():
            node = onnx.helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))
            body.node.insert(0, node)
    onnx.checker.check_model(model)
    return model


def test_weights_that_are_constant_nodes_of_branches() -> None:
    """Under the same names, as a network for two rates has them."""

    def branch(name: str, result: str) -> str:
        return f"{name} () => (float[N,5] {result}) {{ a{result} = MatMul(x, w) {result} = MatMul(a{result}, v) }}"

    masked = {
        name: {"w": random(6, 16, seed=seed) * KEEP, "v": random(16, 5, seed=seed)}
        for seed, name in enumerate(("t", "e"))
    }
    text = f"""(float[N,6] x, bool q) => (float[N,5] y) {{
        y = If (q) <then_branch = {branch("t", "ty")}, else_branch = {branch("e", "ey")}> }}"""
    result = check(with_constant_nodes(model(text, None, checked=False), masked))
    assert products(result.model) == [(6, 12), (12, 5)] * 2
    assert result.report.before.params == 2 * (6 * 16 + 16 * 5)


def test_equal_weights_of_branches_are_stored_once() -> None:
    """Beside another of the same name."""

    def branch(name: str) -> str:
        return f"{name} () => (float[N,80] {name}y) {{ {name}y = MatMul(x, w) }}"

    outer = f"o () => (float[N,80] oy) {{ oy = If (p) <then_branch = {branch('a')}, else_branch = {branch('b')}> }}"
    text = f"""(float[N,64] x, bool p) => (float[N,80] y) {{
        y = If (p) <then_branch = {outer}, else_branch = {branch("e")}> }}"""
    same, other = random(64, 80), random(64, 80, seed=1)
    source = model(text, None, checked=False)
    result = check(with_constant_nodes(source, {"a": {"w": same}, "b": {"w": same}, "e": {"w": other}}))
    assert result.report.after.params == 2 * 64 * 80


@pytest.mark.parametrize("opset", [13, 21])
def test_int8_weights_inside(opset: int) -> None:
    q = np.random.default_rng(0).integers(-90, 90, (6, 16)).astype(np.int8)
    source = graph(
        """(float[N,6] x, bool b) => (float[N,5] y)
        <float s = {0.01}, float[16,5] v> {
            y = If (b) <then_branch = yes () => (float[N,5] t) {
                            w = DequantizeLinear(q, s) a = MatMul(x, w) m = Mul(a, k) t = MatMul(m, v) },
                        else_branch = no () => (float[N,5] e) {
                            w = DequantizeLinear(q, s) d = MatMul(x, w) e = MatMul(d, v) }>
        }""",
        opset,
        q=q,
    )
    result = check(source)
    assert all(t.data_type != onnx.TensorProto.FLOAT or t.dims != [6, 16] for t in result.model.graph.initializer)
    assert result.report.masked[0].removed == 4


@pytest.mark.parametrize("size", [6, 5])
def test_a_branch_that_a_static_size_decides(size: int) -> None:
    """As PyTorch exports `squeeze`: only the branch that is taken is left, without the If."""
    source = graph(
        """(float[N,1,6] x) => (float[A,B] y, float[A,B] z)
        <int64 two = {2}, int64[1] axis = {1}, float[6,16] w, float[6,16] u, float[16,5] v> {
            s = Shape(x) n = Gather(s, two) q = Equal(n, size)
            h = If (q) <then_branch = yes () => (float[A,B] t) { a = Squeeze(x, axis) t = MatMul(a, w) },
                        else_branch = no () => (float[A,B] e) { r = Squeeze(x, axis) e = MatMul(r, u) }>
            z = If (q) <then_branch = yes () => (float[A,B] t) { a = Squeeze(x, axis) t = Relu(a) },
                        else_branch = no () => (float[A,B] e) { r = Squeeze(x, axis) e = Tanh(r) }>
            m = Mul(h, k) y = MatMul(m, v)
        }""",
        size=np.asarray(size),
    )
    result = check(source)
    left = [node.op_type for node in result.model.graph.node]
    assert "If" not in left and ("Relu" in left) == (size == 6) and "Shape" not in left
    assert products(result.model) == [(6, 12), (12, 5)]


def test_sizes_that_only_the_result_knows_do_not_count_against_it() -> None:
    """Behind an If the source does not know its sizes, and what is not known counts as 1."""
    source = graph(
        """(float[N,4] x, bool q) => (float[N,3] y)
        <int64[1] zero = {0}, float[4,16] w, float[16] s, float[16,16] u, float[16,3] v> {
            h = MatMul(x, w) m = Mul(h, k)
            i = If (q) <then_branch = yes () => (float[N,16] t) { t = Mul(m, s) },
                        else_branch = no () => (float[N,16] e)
                            { g = MatMul(m, u) c = Unsqueeze(k, zero) e = Mul(g, c) }>
            y = Gemm(i, v)
        }"""
    )
    result = check(source)
    assert not result.report.notes


BODIES = {
    "padded rows": "c = Pad(b, pads)\n d = MaxPool <kernel_shape = [3,3], strides = [2,2]> (c)\n"
    "e = AveragePool <kernel_shape = [3,3], strides = [2,2]> (c)\n f = Mul(e, keep)\n t = Add(d, f)",
    "a MaxPool alone": "p = Constant <value_ints = [0,0,1,1,0,0,1,1]> ()\n c = Pad(b, p)\n"
    "d = MaxPool <kernel_shape = [3,3], strides = [2,2]> (c)\n"
    "e = AveragePool <kernel_shape = [3,3], strides = [2,2]> (c)\n f = Mul(e, none)\n t = Add(d, f)",
    "channels": "c = Slice(b, two, five, one)\n d = Mul(c, some)\n t = Conv(d, v)",
    "a sum": "c = Mul(b, none)\n d = ReduceSum(b, two)\n e = Add(c, d)\n t = Relu(e)",
    "picked channels": "c = Gather <axis = 1> (b, places)\n d = Mul(c, some)\n t = Conv(d, v)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_amounts_and_places_from_outside(body: str) -> None:
    """Nothing infers the sizes behind them inside, though all else is known of what they write.

    And a MaxPool must not be left alone with a padding that ONNX Runtime would take for the MaxPool's own.
    """
    values = {
        "keep": np.array([0.0, 0, 0, 0, 1, 1, 1, 1]).reshape(8, 1, 1),
        "none": np.zeros((8, 1, 1)),
        "some": np.array([0.0, 1, 0]).reshape(3, 1, 1),
        "v": random(8, 3, 1, 1, seed=1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "places": np.array([5, 0, 7]),
    }
    source = model(
        f"""(float[1,3,5,5] x, bool q) => (float[1,8,h,w] y)
        <float[8,3,1,1] w, float[1] twenty = {{20}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] five = {{5}}>
        {{  a = Conv(x, w)  b = Sub(a, twenty)
            y = If (q) <then_branch = yes () => (float[1,8,h,w] t) {{ {body} }},
                        else_branch = no () => (float[1,8,h,w] u) {{ u = Neg(b) }}>
        }}""",
        None,
        constants=values,
    )
    x = random(1, 3, 5, 5, seed=2)
    check(source, cases=[{"x": x, "q": np.array(q)} for q in (True, False)])


def test_what_a_loop_of_no_rounds_collects_has_the_shape_that_its_body_declares() -> None:
    """Nobody can infer the size of a slice of computed bounds, and ONNX Runtime takes the declared one."""
    source = graph(
        """(int64 rounds, float[5] x, float[1] start) => (float[1] last, float[n, m] all) {
            yes = Constant <value = bool {1}> ()
            last, all = Loop (rounds, yes, start) <body = one (int64 i, bool c, float[1] state)
                => (bool on, float[1] sum, float[1] kept) {
                one = Constant <value = int64[1] {1}> ()
                zero = Constant <value = int64[1] {0}> ()
                first = Unsqueeze(i, zero)
                end = Add(first, one)
                part = Slice(x, first, end)
                on = Identity(c)
                sum = Add(state, part)
                kept = Identity(sum)
            }>
        }"""
    )
    made = shrink(source).model
    for rounds in (0, 3):
        given = {"rounds": np.array(rounds), "x": np.ones(5, np.float32), "start": np.ones(1, np.float32)}
        expected, found = build.run(source, **given), build.run(made, **given)
        assert found["all"].shape == expected["all"].shape == (rounds, 1)


OWN = "<float[1] w = {2}>"


@pytest.mark.parametrize("outside", ["u = Identity(w)", "w = Abs(u)"], ids=["initializer", "computed"])
@pytest.mark.parametrize("then", [OWN, ""])
@pytest.mark.parametrize("inner", ["<float[1] w = {5}>", ""])
@pytest.mark.parametrize("other", [OWN, ""])
@pytest.mark.parametrize("reads", ["w", "k"])
def test_names_of_initializers_in_branches_mean_what_they_mean_to_onnx_runtime(
    outside: str, then: str, inner: str, other: str, reads: str
) -> None:
    source = graph(
        f"""(float[N,16] x, bool q) => (float[N,16] y) {{
            {outside}
            m = Mul(x, k)
            i = If (q) <
                then_branch = yes () => (float[N,16] t) {then} {{
                    a = Mul(m, w)
                    t = If (q) <
                        then_branch = inner () => (float[N,16] s) {inner} {{ s = Mul(a, w) }},
                        else_branch = other () => (float[N,16] r) {other} {{ r = Mul(a, {reads}) }}> }},
                else_branch = no () => (float[N,16] e) {other} {{ e = Mul(m, {reads}) }}>
            y = Mul(i, w)
        }}""",
        **{"w" if outside.startswith("u") else "u": np.array([3.0])},
    )
    for taken in (True, False):
        feeds = {"x": np.ones((2, 16), np.float32), "q": np.array(taken)}
        wanted, result = (build.run(each, **feeds)["y"] for each in (source, shrink(source).model))
        np.testing.assert_array_equal(result, wanted)
