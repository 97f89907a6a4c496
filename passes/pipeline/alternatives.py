"""What another policy for adapters, or no channels kept for speed, would leave of a model that was compiled."""

from __future__ import annotations

import onnx

from passes.adapters.placement import Policy
from passes.graph.construct import copied, take_apart
from passes.model.graph_to_onnx import exported
from passes.model.onnx_to_graph import inlined
from passes.pipeline.order import ShrinkOptions, Shrunk, counted, finish, shrink, uncollected
from passes.pipeline.report import Report
from passes.planning.apply import apply
from passes.planning.explain import explain
from passes.planning.planner import plan
from passes.targets import registry


@uncollected()
def report_with(model: onnx.ModelProto, shrunk: Shrunk, adapters: Policy, target: str = registry.DEFAULT) -> Report:
    """The report of `shrink` on the same model with the fewest channels under this policy, counted at the same sizes.

    Without its being analysed again, where the analysis was kept and no channels have to come back. Times of passes and
    notes are left out. Raises as `shrink` does.
    """
    before, analysed = shrunk.report.before, shrunk.analysed
    if analysed is not None:
        options = ShrinkOptions(adapters, at=before.at.sizes, runtime=target)
        source, graph, facts = inlined(model), copied(analysed.graph), analysed.facts.of_copy()
        chosen = plan(graph, facts, options)
        masked, held = explain(graph, facts, chosen, analysed.made)
        apply(graph, facts, chosen)
        finish(graph, options, analysed.faults, source=source)
        after = counted(source, exported(graph, source), graph, shrunk.at)
        take_apart(graph)
        facts.plans.clear()
        if after.flops <= before.flops and after.params <= before.params:
            return Report(before, after, masked, held, {}, (), {})
    return shrink(model, adapters, at=before.at.sizes, target=target).report
