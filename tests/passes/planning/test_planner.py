"""What is stored, and what is restored at which consumer."""

from unittest import mock

import numpy as np
import onnx
import pytest

from passes import shrink
from passes.analysis.dataflow import analyse
from passes.attention.expose_heads import understood
from passes.planning.cheapest_storage import cheapest
from passes.planning.groundwork import Groundwork, PlannedNode
from passes.planning.planner import Planner, PlanOptions
from passes.rewriting.storage_plan import StorageFloor, StoragePlan
from passes.sizes.prepare import prepared
from tests.generators.networks import network
from tests.passes.text import compiled, mask, model, operators, random, weight


def residual(width: int) -> onnx.ModelProto:
    """Two 1x1 convolutions of `width` inputs, masked independently, added, and read by a third."""
    return model(
        f"(float[N,{width},16,16] x) => (float[N,2,16,16] y)"
        f" <float[8,{width},1,1] wa, float[8,{width},1,1] wb, float[2,8,1,1] wc>",
        "a = Conv(x, wa)\n am = Mul(a, ma)\n b = Conv(x, wb)\n bm = Mul(b, mb)\n s = Add(am, bm)\n y = Conv(s, wc)",
        ma=mask(1, 1, 1, 1, 0, 0, 0, 1),
        mb=mask(0, 0, 1, 1, 1, 1, 0, 1),
    )


def test_independent_masks_at_a_residual_sum_free_both_branches_where_it_pays() -> None:
    wide = compiled(residual(512))
    assert weight(wide, "Conv", which=0).shape[0] == 5
    assert weight(wide, "Conv", which=1).shape[0] == 5
    assert weight(wide, "Conv", which=2).shape[1] == 7
    assert {"Pad", "Gather"} & set(operators(wide))


def test_a_cheap_producer_computes_more_rather_than_move_data() -> None:
    narrow = compiled(residual(2))
    assert not {"Pad", "Gather"} & set(operators(narrow))
    assert weight(narrow, "Conv", which=0).shape[0] == 7


WHOLE = {
    "softmax": "h = MatMul(x, w)  s = Softmax(h)  m = Mul(s, k)  y = MatMul(m, v)",
    "softmax, handed on": "h = MatMul(x, w)  s = Softmax(h)  m = Mul(s, k)  r = Sqrt(m)  y = MatMul(r, v)",
    "directions side by side": (
        'h, last = GRU<direction="bidirectional", hidden_size=8>(x, gates, again)  t = Transpose<perm=[0,2,1,3]>(h)  '
        "s = Reshape(t, shape)  m = Mul(s, k)  y = MatMul(m, v)"
    ),
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("read", [2, 4096])
def test_what_is_computed_anyway_is_picked_only_where_that_costs_less_than_to_read_it(form: str, read: int) -> None:
    source = model(
        f"(float[5,1,16] x) => (float[5,1,{read}] y) <float[16,16] w, float[2,24,16] gates, float[2,24,8] again, "
        f"float[16,{read}] v, int64[3] shape = {{0, 0, 16}}>",
        WHOLE[form],
        k=mask(*[0, 1] * 8, rank=1),
    )
    fast, least = compiled(source, align=1), compiled(source)  # for speed, and for the fewest FLOPs
    assert bool({"Gather", "Slice"} & {*operators(fast)}) == (read > 2)
    assert weight(fast, "MatMul", which=-1).shape[0] == (8 if read > 2 else 16)
    assert weight(least, "MatMul", which=-1).shape[0] == 8


@pytest.mark.parametrize("price", [0.0, 64.0, 1e12])
def test_every_price_stores_all_that_is_live(price: float) -> None:
    graph = prepared(residual(64))
    facts = analyse(graph)
    layout = cheapest(Groundwork(graph, facts), facts, price, StorageFloor(), frugal=True)
    for name, tensor in graph.tensors().items():
        if (name, 1) in layout.stored and name not in layout.absent:
            assert not (facts.live(tensor, 1) & ~layout.stored[name, 1]).any()


def test_a_padded_convolution_keeps_one_carrier_for_all_constants() -> None:
    result = compiled(
        model(
            "(float[N,4,8,8] x) => (float[N,2,8,8] y)"
            " <float[8,4,1,1] wa, float[2,8,3,3] wb, float[1,8,1,1] m = {1, 1, 0, 0, 0, 0, 0, 1}, "
            "float[1,8,1,1] shift>",
            "a = Conv(x, wa)\n am = Mul(a, m)\n s = Add(am, shift)\n y = Conv<pads=[1,1,1,1]>(s, wb)",
        )
    )
    assert weight(result, "Conv", which=1).shape[1] == 4  # three live and the carrier


def test_an_unpadded_convolution_and_a_matrix_product_take_constants_into_the_bias() -> None:
    result = compiled(
        model(
            "(float[N,4,8,8] x) => (float[N,2] y)"
            " <float[8,4,1,1] wa, float[3,8,3,3] wb, float[3,2] wd, float[1,8,1,1] m = {1, 1, 0, 0, 0, 0, 0, 1}, "
            "float[3] m2 = {1, 0, 1}, float[1,8,1,1] shift>",
            "a = Conv(x, wa)\n am = Mul(a, m)\n s = Add(am, shift)\n c = Conv(s, wb)\n r = Relu(c)\n"
            "g = GlobalAveragePool(r)\n f = Flatten(g)\n fm = Mul(f, m2)\n fs = Add(fm, half)\n y = MatMul(fs, wd)",
            half=np.full((1,), 0.5),
        )
    )
    assert weight(result, "Conv", which=1).shape == (2, 3, 3, 3)
    assert weight(result, "MatMul").shape == (2, 2)


@pytest.mark.parametrize(
    ("groups", "m", "m2", "left"),
    [
        (8, mask(1, 1, 1, 0, 1, 1, 1, 1), mask(1, 1, 1, 1, 1, 1, 0, 0), (5, 1)),
        (2, mask(1, 0, 0, 0, 1, 1, 0, 0), mask(1, 1, 1, 0, 1, 0, 0, 0), (6, 2)),
    ],
)
def test_depthwise_groups_go_whole_and_other_groups_keep_equal_numbers(
    groups: int, m: np.ndarray, m2: np.ndarray, left: tuple[int, int]
) -> None:
    source = model(
        f"(float[N,4,8,8] x) => (float[N,2,6,6] y) <float[8,4,1,1] a, float[8,{8 // groups},3,3] d, float[2,8,1,1] b>",
        f"p = Conv(x, a)\n pm = Mul(p, m)\n q = Conv<group={groups}>(pm, d)\n qm = Mul(q, m2)\n y = Conv(qm, b)",
        m=m,
        m2=m2,
    )
    assert weight(compiled(source), "Conv", which=1).shape == (*left, 3, 3)


def test_a_branch_that_is_constant_altogether_disappears() -> None:
    result = compiled(
        model(
            "(float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w, float[1,4,1,1] none = {0, 0, 0, 0}>",
            "a = Conv(x, w)\n am = Mul(a, none)\n s = Sigmoid(am)\n y = Mul(x, s)",
        )
    )
    assert operators(result) == ["Mul"]


def test_a_model_whose_output_is_constant_needs_only_the_batch_size() -> None:
    result = compiled(
        model(
            "(float[N,4] x) => (float[N,3] y) <float[4,5] a, float[5,3] b, float[5] none = {0, 0, 0, 0, 0}>",
            "h = MatMul(x, a)\n m = Mul(h, none)\n y = MatMul(m, b)",
        )
    )
    assert "MatMul" not in operators(result)
    assert result.report.after.flops == 0


def test_an_operator_without_rules_sees_its_input_whole_and_holds_nothing() -> None:
    source = model(
        "(float[N,64,4] x) => (float[N,64,4] y) <float[4,256] w, float[256,4] v, int64 axis = {1}>",
        "a = MatMul(x, w)\n m = Mul(a, k)\n c = CumSum(m, axis)\n y = MatMul(c, v)",
        k=mask(*[1] * 10, *[0] * 246, rank=2),
    )
    result = compiled(source)
    assert weight(result, "MatMul", which=0).shape == (4, 10) or result.report.held
    for held in result.report.held:
        assert held.op == "CumSum" and "rule" in held.reason


def test_shapes_read_at_run_time_keep_speaking_of_the_original_sizes() -> None:
    result = compiled(
        model(
            "(float[N,32,H,W] x) => (float[N,8,P] y, int64[4] s)"
            " <float[8,32,3,3] w, float[1,8,1,1] k = {1, 0, 1, 0, 1, 0, 1, 0}, int64[1] zero = {0}, "
            "int64[1] eight = {8}, int64[1] rest = {-1}>",
            "c = Conv<pads=[1,1,1,1]>(x, w)\n m = Mul(c, k)\n s = Shape(m)\n n = Gather(s, zero)\n"
            "t = Concat<axis=0>(n, eight, rest)\n y = Reshape(m, t)",
        )
    )
    assert weight(result, "Conv").shape[0] == 4


def test_places_that_a_reshape_merges_with_an_open_batch_count_for_each_example() -> None:
    def network(batch: str) -> onnx.ModelProto:
        return model(
            f"(float[{batch},49,64] x) => (float[{batch},49,32] y) <float[64,32] wa, float[64,32] wb, "
            "int64[2] rows = {-1, 32}, int64[2] long = {-1, 64}, int64[3] back = {-1, 49, 32}>",
            "a = MatMul(x, wa)  m = Mul(a, k)  f = Reshape(m, rows)  o = Reshape(x, long)  b = MatMul(o, wb)"
            "  s = Add(f, b)  e = Erf(s)  y = Reshape(e, back)",
            k=(np.arange(32) % 2).astype(np.float32),
        )

    assert operators(compiled(network("B"))) == operators(compiled(network("1")))


def anew(planner: Planner, options: PlanOptions, floor: StorageFloor) -> StoragePlan:
    """A plan for which every node is asked each time what it answers."""
    with (
        mock.patch.object(PlannedNode, "answer", PlannedNode._answer),
        mock.patch.object(PlannedNode, "arriving", lambda *place: list(PlannedNode._live(*place))),
    ):
        return Planner(planner.graph, planner.facts).plan(options, floor)


@pytest.mark.parametrize("seed", [418, 428, 492, 499, 506, 616, 854, 1066])
def test_plans_are_the_same_where_nothing_is_remembered(seed: int) -> None:
    """Nor do they depend on the plans made before."""
    graph = prepared(network(seed).model)
    facts, rng = understood(graph)[0], np.random.default_rng(seed)
    planner = Planner(graph, facts)
    first = planner.plan()
    for policy in ("auto", "never", "always", "auto"):
        for share in (0.0, 0.2, 0.7):
            more = {key: mask | (rng.random(mask.size) < share) for key, mask in first.stored.items() if mask.any()}
            floor = StorageFloor(more, wider=more)
            options = PlanOptions(adapters=policy, adds_maps=share != 0.2)
            found, wanted = planner.plan(options, floor), anew(planner, options, floor)
            assert found.computed == wanted.computed and found.absent == wanted.absent
            for one, other in ((found.stored, wanted.stored), (found.required, wanted.required)):
                assert one.keys() == other.keys()
                assert all(np.array_equal(mask, other[key]) for key, mask in one.items())


def test_through_a_concatenation_and_what_hands_channels_on() -> None:
    """The other operand is made of two products behind an activation; each is named for its own channels."""
    source = model(
        "(float[N,2] x) => (float[N,2] y)"
        " <float[2,6] wa, float[2,2] wb, float[2,4] wc, float[6,2] v, float[6] ma = {0, 1, 0, 0, 1, 1}>",
        "a = MatMul(x, wa)\n am = Mul(a, ma)\n b = MatMul(x, wb)\n c = MatMul(x, wc)\n"
        "j = Concat<axis=1>(b, c)\n r = Relu(j)\n s = Add(am, r)\n y = MatMul(s, v)",
    )
    held = shrink(source).report.held
    assert [(h.channels, h.op, h.written_by) for h in held] == [
        ((0,), "Add", "MatMul -> b"),
        ((2, 3), "Add", "MatMul -> c"),
    ]


def test_an_input_and_a_sum_further_on() -> None:
    """The holder is not the mask's own consumer, and what is live there comes from outside."""
    source = model(
        "(float[N,4] x, float[N,4] side) => (float[N,2] y) <float[4,4] wa, float[4,2] v, float[4] ma = {0, 1, 0, 1}>",
        "a = MatMul(x, wa)\n am = Mul(a, ma)\n r = Relu(am)\n t = Tanh(side)\n s = Add(t, r)\n y = MatMul(s, v)",
    )
    held = shrink(source).report.held
    assert [(h.tensor, h.channels, h.node, h.written_by) for h in held] == [
        ("am", (0, 2), "Add -> s", "the input side")
    ]


@pytest.mark.parametrize("zeros", ["n = Shape(x)\n z = ConstantOfShape(n)", "i = Mul(w, v)\n z = Sin(i)\n"])
def test_zeros_that_are_made_of_constants_and_sizes_are_no_mask(zeros: str) -> None:
    """As the first state of a recurrent network, and a table that is computed: nothing that was trained is masked."""
    w, v = np.zeros((64, 1)), random(1, 4)  # too large together to be folded
    w[1:] = 1
    report = shrink(model("(float[64,4] x) => (float[64,8] y)", f"{zeros}\n y = Concat<axis=1>(x, z)", w=w, v=v)).report
    assert not report.masked and not report.held


def test_a_loop_that_is_given_constants_computes_with_what_is_around_it() -> None:
    """So that what a mask behind it makes zero is masked."""
    source = model(
        """(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8,2] v, int64 trips = {3}, bool go = {1}> {
            n = Shape<start=0, end=1>(x)  s = Concat<axis=0>(n, eight)  z = ConstantOfShape(s)
            l = Loop (trips, go, z) <body = step (int64 i, bool c, float[N,8] h) => (bool cc, float[N,8] hh) {
                a = MatMul(x, w)  b = Add(a, h)  hh = Tanh(b)  cc = Identity(c) }>
            m = Mul(l, k)  y = MatMul(m, v)
        }""",
        None,
        eight=np.asarray([8]),
        k=(np.arange(8) % 2).astype(np.float32),
    )
    assert [(axis.tensor, axis.masked) for axis in shrink(source).report.masked] == [("m", 4)]


def test_a_long_chain_of_sums_ends() -> None:
    steps = 300
    body = "a = MatMul(x, wa)\n am = Mul(a, ma)\n s0 = Add(am, x)\n"
    body += "".join(f"s{i + 1} = Add(s{i}, am)\n" for i in range(steps)) + f"y = MatMul(s{steps}, v)"
    source = model("(float[N,4] x) => (float[N,2] y) <float[4,4] wa, float[4,2] v, float[4] ma = {0, 1, 0, 1}>", body)
    (held,) = shrink(source).report.held
    assert held.channels == (0, 2) and held.written_by
