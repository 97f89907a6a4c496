"""Alternatives to a compilation: another policy for adapters, or no channels kept for speed."""

from __future__ import annotations

from typing import Any

import onnx

from passes.errors.arguments import typed
from passes.graph.construct import copied, take_apart
from passes.model.graph_to_onnx import exported
from passes.model.local_functions import inlined
from passes.pipeline.order import Shrunk, finish, shrink
from passes.pipeline.report import Report
from passes.planning.apply import apply
from passes.planning.explain import explain
from passes.planning.planner import Planner
from passes.rewriting.origins import Origins
from passes.sizes import sum_over_nodes


@typed
def report_with(model: onnx.ModelProto, shrunk: Shrunk, **changes: Any) -> Report:
    """The report of `shrink` on the same model with the fewest channels and these changes of its options.

    Counted at the same sizes. Without its being analysed again, where the analysis was kept and no channels have to
    come back. Times of passes and notes are left out. Raises as `shrink` does.
    """
    before, analysed = shrunk.report.before, shrunk.analysed
    options = shrunk.options.changed(align=None, keeps_analysis=False, at=before.at.sizes, **changes)
    if analysed is not None:
        source, graph, facts = inlined(model), copied(analysed.graph), analysed.facts.of_copy()
        chosen = Planner(graph, facts).plan(options)
        masked, held = explain(graph, facts, chosen, analysed.made, analysed.unread)
        apply(graph, facts, chosen)
        finish(graph, options, analysed.faults, Origins(), source=source)
        after = sum_over_nodes.count(exported(graph, source), at=before.at.sizes)
        take_apart(graph)
        if after.flops <= before.flops and after.params <= before.params:
            return Report(before, after, masked, held, {}, (), {})
    return shrink(model, options).report
