"""Promises of the whole, on graphs that are odd rather than large."""

import gc

import onnx
import onnx_graphsurgeon as gs
import pytest

import passes
from passes import shrink
from passes.adapters.price import POLICIES
from passes.errors import GraphError
from passes.targets.onnxruntime.processors import RATES
from tests.generators import architectures
from tests.generators.net import Masks
from tests.generators.networks import network
from tests.marks import before_releases
from tests.passes.text import compiled, model


def small() -> onnx.ModelProto:
    return model(
        "(float[N,3,8,8] x) => (float[N,2,8,8] y)"
        " <float[4,3,3,3] w, float[2,4,1,1] v, float[1,4,1,1] k = {1, 0, 1, 1}>",
        "c = Conv<pads=[1,1,1,1]>(x, w)\n r = Relu(c)\n m = Mul(r, k)\n y = Conv(m, v)",
    )


def test_each_pass_is_told_before_it_runs_and_measured_behind_it() -> None:
    told: list[str] = []
    report = shrink(small(), watch=told.append).report
    assert set(told) == set(report.seconds)
    assert told[:1] == ["prepare"] and told[-1] == "cost"
    assert list(report.sizes) == ["source", "prepare", "facts", "nested", "layout", "rewrite", "clean"]
    assert report.sizes["source"] == (4, 4 * 27 + 8 + 4)
    assert report.sizes["clean"] == (3, 3 * 27 + 6)


@pytest.mark.parametrize("symbolic", [False, True])
def test_nothing_of_its_graphs_waits_for_a_search_for_cycles(symbolic: bool) -> None:
    source = architectures.build(architectures.mobilenet, Masks(consistent=False), symbolic=symbolic).model()
    shrink(source, align=RATES["avx512"])

    def alive() -> int:
        return sum(isinstance(found, gs.Node) for found in gc.get_objects())

    gc.collect()
    before = alive()
    gc.disable()
    try:
        result = shrink(source, align=RATES["avx512"])
        assert alive() == before, f"of {len(result.model.graph.node)}"
    finally:
        gc.enable()


def test_nodes_out_of_order_are_named() -> None:
    source = small()
    first = source.graph.node[0]
    source.graph.node.append(first)
    del source.graph.node[0]
    with pytest.raises(GraphError, match="reads `c`"):
        shrink(source)


def test_two_writers_of_one_name_are_named() -> None:
    source = small()
    source.graph.node[1].output[0] = "c"
    with pytest.raises(GraphError, match="already has a value"):
        shrink(source)


def test_operators_of_an_unknown_domain_are_left_alone_and_seen_whole() -> None:
    source = model(
        "(float[N,3] x) => (float[N,2] y) <float[3,4] w, float[4,2] v, float[4] k = {1, 0, 1, 1}>",
        "p = MatMul(x, w)\n h = Mul(p, k)\n o = com.example.Swirl(h)\n y = MatMul(o, v)",
        checked=False,
    )
    result = shrink(source)
    assert [n.domain for n in result.model.graph.node if n.op_type == "Swirl"] == ["com.example"]
    assert {held.op for held in result.report.held} <= {"Swirl"}
    onnx.checker.check_model(result.model)


def test_masked_channels_are_counted_where_they_are_masked() -> None:
    report = compiled(small()).report
    assert [(m.tensor, m.total, m.masked, m.removed) for m in report.masked] == [("m", 4, 1, 1)]
    assert report.held == ()


@pytest.mark.parametrize("seed", [*range(4), *before_releases(*range(4, 12))])
def test_the_report_is_that_of_a_compilation(seed: int) -> None:
    model = network(seed).model
    compiled = {policy: passes.shrink(model, adapters=policy).report for policy in POLICIES}
    for align in (None, 8, "all"):
        shrunk = passes.shrink(model, align=align, keeps_analysis=True)
        for policy, report in compiled.items():
            found = passes.report_with(model, shrunk, adapters=policy)
            assert (found.before, found.after) == (report.before, report.after)
            assert (found.masked, found.held) == (report.masked, report.held)


def test_most_models_are_not_analysed_again() -> None:
    models = [network(seed).model for seed in range(12)]
    shrunk = [passes.shrink(model, align="all", keeps_analysis=True) for model in models]
    assert sum(one.analysed is not None for one in shrunk) > 6
    assert all(passes.shrink(model).analysed is None for model in models)
