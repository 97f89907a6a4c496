"""What other options would leave of a compiled model is what compiling with them leaves."""

import pytest

import passes
from passes.adapters.placement import POLICIES
from tests.generators.networks import network


@pytest.mark.parametrize("seed", range(12))
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
