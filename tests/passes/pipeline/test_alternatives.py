"""What other options would leave of a compiled model is what compiling with them leaves."""

from __future__ import annotations

import pytest

import passes
from passes.adapters.placement import POLICIES
from passes.targets.widths.channel_multiples import Align
from tests.generators.networks import network


@pytest.mark.parametrize("align", [None, 8, "all"])
@pytest.mark.parametrize("seed", range(12))
def test_the_report_is_that_of_a_compilation(seed: int, align: Align | None) -> None:
    model = network(seed).model
    shrunk = passes.shrink(model, align=align, keeps_analysis=True)
    for policy in POLICIES:
        found = passes.report_with(model, shrunk, adapters=policy)
        compiled = passes.shrink(model, adapters=policy).report
        assert (found.before, found.after) == (compiled.before, compiled.after)
        assert (found.masked, found.held) == (compiled.masked, compiled.held)


def test_most_models_are_not_analysed_again() -> None:
    models = [network(seed).model for seed in range(12)]
    shrunk = [passes.shrink(model, align="all", keeps_analysis=True) for model in models]
    assert sum(one.analysed is not None for one in shrunk) > 6
    assert all(passes.shrink(model).analysed is None for model in models)
