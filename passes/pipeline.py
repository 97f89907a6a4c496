"""From a masked model to the smaller dense one, pass by pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from passes import cost, defaults, explain, facts, layout, padding, policy, rewrite
from passes.clean import checked, clean, prepared, simplified
from passes.export import exported
from passes.inline import inlined
from passes.ops import rules
from passes.policy import Policy
from passes.report import Report
from passes.trace import Trace
from passes.understanding import understood, with_subgraphs


@dataclass(frozen=True)
class Shrunk:
    """A compiled model and what was done to get there."""

    model: onnx.ModelProto
    report: Report


def shrink(model: onnx.ModelProto, adapters: Policy = "auto", trace: Trace | None = None) -> Shrunk:
    """The same function as a smaller dense graph; `model` is left as it is.

    adapters: whether constants that a consumer must see are put back at its door or computed after all; `policy.plan`
    says what the words mean. trace: where to note what each pass made of the model.

    Raises GraphError when the graph is not valid: nodes out of order, shapes that contradict each other.
    """
    model = inlined(model)
    result = _shrunk(model, adapters, trace, frugal=False)
    if result.report.after.params > result.report.before.params:  # maps of constants made the file larger
        return _shrunk(model, adapters, trace, frugal=True)
    return result


def _shrunk(model: onnx.ModelProto, adapters: Policy, trace: Trace | None, *, frugal: bool) -> Shrunk:
    """As `shrink`; `frugal`: no map of constants is stored that takes more than what makes it."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare"):
        graph = checked(model)
    with _timed(seconds, "cost"):
        before = cost.of_graph(graph)
    with _timed(seconds, "prepare"):
        graph = simplified(graph)
        merged = padding.merged(graph)
    unknown = _without_rules(graph)
    if trace is not None:
        trace.stored.clear()
        trace.stage("prepare", graph, model)
    with _timed(seconds, "facts"):
        found, made = understood(graph, frugal=frugal)
    if trace is not None:
        trace.stage("facts", graph, model)
    with _timed(seconds, "nested"):
        found, inner = with_subgraphs(graph, found, adapters)
    if trace is not None:
        trace.stage("nested", graph, model)
    with _timed(seconds, "layout"):
        plan = policy.plan(graph, found, adapters)
    whole = policy.put_in(graph, plan) if adapters == "never" else []
    with _timed(seconds, "explain"):
        masked, held = explain.explain(graph, found, plan, adapters, made)
        masked, held = (*masked, *inner.masked), (*held, *inner.held)
    with _timed(seconds, "rewrite"):
        rewrite.apply(graph, found, plan)
    if trace is not None:
        trace.stage("rewrite", graph, model)
        trace.stored.update(plan.stored)
    with _timed(seconds, "clean"):
        clean(graph)
        padding.keep_apart(graph, merged)
        compiled = exported(graph, model)
    with _timed(seconds, "cost"):
        after = cost.count(compiled)
    notes = [*_notes(model), *unknown]
    if whole:
        names = ", ".join(whole[:5]) + (f" and {len(whole) - 5} more" if len(whole) > 5 else "")
        notes.append(f"Constant altogether, with nothing left to compute them, and put in all the same: {names}.")
    if after.flops > before.flops:
        graph = prepared(model)
        left = explain.explain(graph, facts.analyse(graph), layout.Layout(), adapters)
        clean(graph)
        plain = exported(graph, model)
        cost_of_plain = cost.count(plain)
        # where sizes behind a subgraph are not known to the source they count as 1 there, and there only
        if after.flops > cost_of_plain.flops:  # what is put back costs more than what went: nothing goes
            (masked, held), compiled, after = left, plain, cost_of_plain
            notes.append("Removing channels would have cost more than it saves, so all of them stayed.")
            if trace is not None:
                trace.stored.clear()
    if trace is not None:
        trace.stages["clean"] = compiled
    return Shrunk(compiled, Report(before, after, masked, held, seconds, tuple(notes)))


def _notes(model: onnx.ModelProto) -> list[str]:
    fixed = defaults.fixed(model)
    notes = [f"Inputs with default values are fixed to them now: {', '.join(fixed)}."] if fixed else []
    if model.training_info:
        notes.append("The training information is left out: it speaks of the weights as they were.")
    return notes


def _without_rules(graph: gs.Graph) -> list[str]:
    """A sentence about the operators that nobody understands, if there are any."""
    names = sorted({f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.nodes if not rules(n).understood})
    return [f"Operators without rules are left as they are, their inputs whole: {', '.join(names)}."] if names else []


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
