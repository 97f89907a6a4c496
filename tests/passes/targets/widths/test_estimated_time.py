"""Estimates: what is remembered of steps says the same as looking at it anew."""

from random import Random

import pytest

from passes.attention.expose_heads import understood
from passes.planning.planner import Planner
from passes.sizes.prepare import prepared
from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.estimated_time import Timing
from passes.targets.widths.plan_steps import Network, PlanSteps
from tests.generators import architectures
from tests.generators.net import Masks

NETWORKS = ("resnet", "resnext", "mobilenet3", "senet", "shufflenet", "densenet", "inception", "yolo", "unet")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_takes_as_long_as_where_nothing_is_remembered(name: str) -> None:
    """At random widths, one after the other, against a timing that was asked for nothing before."""
    graph = prepared(architectures.build(getattr(architectures, name), Masks(consistent=False)).model())
    facts = understood(graph)[0]
    steps, rng = PlanSteps(Network(graph, facts), Planner(graph, facts).plan()), Random(0)
    timing = Timing(steps, RATES["avx512"])
    times = set()
    for _ in range(20):
        gains = [rng.choice((0, 0, 1, 3, 13)) for _ in steps.slots]
        times.add(timing.total(gains))
        assert timing.total(gains) == Timing(steps, RATES["avx512"]).total(gains)
    assert len(times) > 1
