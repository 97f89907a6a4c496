"""From a masked model to the smaller dense one, pass by pass."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy
from passes.analysis import dataflow
from passes.attention.expose_heads import understood
from passes.cost import flops
from passes.model import default_inputs
from passes.model.exporting import exported
from passes.model.inline import inlined
from passes.model.prepare import checked, prepared, simplified
from passes.ops import UNKNOWN, rules
from passes.pipeline.cleanup import clean
from passes.pipeline.control_flow import with_subgraphs
from passes.pipeline.trace import Trace
from passes.planning import explain
from passes.planning.apply import apply
from passes.planning.planner import PlanOptions, plan
from passes.planning.without_adapters import constant_operands
from passes.results import Report, Width
from passes.rewriting.storage_plan import StoragePlan
from passes.simplify import dead_code
from passes.targets.onnxruntime import channel_multiples, half_precision_transpose, maxpool_padding
from passes.targets.onnxruntime.channel_multiples import Align
from passes.targets.onnxruntime.kernel_rates import Rates
from passes.weights.external_file import Store


@dataclass(frozen=True)
class Shrunk:
    """A compiled model and what was done to get there."""

    model: onnx.ModelProto
    report: Report


# Told the name of each pass before it runs.
Watch = Callable[[str], None]


def shrink(
    model: onnx.ModelProto,
    adapters: Policy = "auto",
    trace: Trace | None = None,
    watch: Watch | None = None,
    align: Align | None = None,
    store: Store | None = None,
) -> Shrunk:
    """The same function as a smaller dense graph; `model` is left as it is.

    adapters: whether constants that a consumer must see are put back at its door or computed after all; `PlanOptions`
    says what the words mean. trace: where to note what each pass made of the model. watch: told the name of each pass
    before it runs. align: widths are rounded up to multiples of this number, or as rates say that it runs faster, where
    there are channels to keep; by default no channel is kept for that. store: where large weights of the result are
    written, one after another; the result then names them as external data, by the path of that file.

    Raises GraphError when the graph is not valid: nodes out of order, shapes that contradict each other.
    """
    model = inlined(model)
    with _uncollected():
        result = _shrunk(model, adapters, trace, _Clock(watch), align, store, frugal=False)
        if result.report.after.params > result.report.before.params:  # maps of constants made the file larger
            return _shrunk(model, adapters, trace, _Clock(watch), align, store, frugal=True)
    return result


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without searches for unused cycles: there are next to none, and each visits all nodes and tensors of a graph."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _shrunk(
    model: onnx.ModelProto,
    adapters: Policy,
    trace: Trace | None,
    clock: _Clock,
    align: Align | None,
    store: Store | None,
    *,
    frugal: bool,
) -> Shrunk:
    """As `shrink`; `frugal`: no map of constants is stored that takes more than what makes it."""
    options = PlanOptions(adapters, frugal)
    with clock.timed("prepare"):
        graph = checked(model)
    with clock.timed("cost"):
        before = flops.of_graph(graph)
    clock.measure("source", graph)
    with clock.timed("prepare"):
        dead_code.drop_identities(graph)
        merged = maxpool_padding.merged(graph)  # nodes that nobody reads are still there, and count as readers
        graph = simplified(graph)
    clock.measure("prepare", graph)
    unknown = _without_rules(graph)
    if trace is not None:
        trace.stored.clear()
        trace.stage("prepare", graph, model)
    with clock.timed("facts", graph):
        found, made = understood(graph)
    if trace is not None:
        trace.stage("facts", graph, model)
    with clock.timed("nested", graph):
        found, inner = with_subgraphs(graph, found, adapters)
    if trace is not None:
        trace.stage("nested", graph, model)
    with clock.timed("layout", graph):
        chosen = plan(graph, found, options)
    wider: tuple[Width, ...] = ()
    if align is not None:
        with clock.timed("widths", graph):
            chosen, found, wider = channel_multiples.chosen(graph, found, chosen, align, options)
    whole = constant_operands(graph, chosen) if adapters == "never" else []
    with clock.timed("explain"):
        masked, held = explain.explain(graph, found, chosen, adapters, made)
        masked, held = (*masked, *inner.masked), (*held, *inner.held)
    with clock.timed("rewrite", graph):
        apply(graph, found, chosen)
    if trace is not None:
        trace.stage("rewrite", graph, model)
        trace.stored.update(chosen.stored)
    with clock.timed("clean", graph):
        clean(graph, align if isinstance(align, Rates) else None, before.flops, model)
        maxpool_padding.keep_apart(graph, merged)
        half_precision_transpose.put_behind(graph)
        compiled = exported(graph, model, store)
    with clock.timed("cost"):
        # where inputs have defaults, it is the file that decides whether they are weights of it
        after = flops.count(compiled, None if default_inputs.overridable(model) else graph)
    notes = [*_notes(model), *unknown]
    if whole:
        names = ", ".join(whole[:5]) + (f" and {len(whole) - 5} more" if len(whole) > 5 else "")
        notes.append(f"Constant altogether, with nothing left to compute them, and put in all the same: {names}.")
    if after.flops > before.flops and wider:  # what is kept for its width takes more than what went
        return _shrunk(model, adapters, trace, clock, None, store, frugal=frugal)
    if after.flops > before.flops:
        source = prepared(model)
        left = explain.explain(source, dataflow.analyse(source), StoragePlan(), adapters)
        clean(source, source=model)
        plain = exported(source, model, store)
        cost_of_plain = flops.count(plain)
        # where sizes behind a subgraph are not known to the source they count as 1 there, and there only
        if after.flops > cost_of_plain.flops:  # what is put back costs more than what went: nothing goes
            (masked, held), compiled, after = left, plain, cost_of_plain
            notes.append("Removing channels would have cost more than it saves, so all of them stayed.")
            if trace is not None:
                trace.stored.clear()
        elif store is not None:  # which holds the weights of the other one now
            compiled = exported(graph, model, store)
    if trace is not None:
        trace.stages["clean"] = compiled
    return Shrunk(compiled, Report(before, after, masked, held, clock.seconds, tuple(notes), clock.sizes, wider))


def _notes(model: onnx.ModelProto) -> list[str]:
    fixed = default_inputs.fixed(model)
    notes = [f"Inputs with default values are fixed to them now: {', '.join(fixed)}."] if fixed else []
    if model.training_info:
        notes.append("The training information is left out: it speaks of the weights as they were.")
    return notes


def _without_rules(graph: gs.Graph) -> list[str]:
    """A sentence about the operators that nobody understands, if there are any."""
    names = sorted({f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.nodes if rules(n) is UNKNOWN})
    return [f"Operators without rules are left as they are, their inputs whole: {', '.join(names)}."] if names else []


@dataclass
class _Clock:
    """How long each pass takes, and how large the graph is behind it."""

    watch: Watch | None
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str, graph: gs.Graph | None = None) -> Iterator[None]:
        """Time the pass, and measure the graph that it leaves behind if it is told which."""
        if self.watch is not None:
            self.watch(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if graph is not None:
            self.measure(name, graph)

    def measure(self, name: str, graph: gs.Graph) -> None:
        """Note how large the graph is."""
        stored = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
        self.sizes[name] = len(graph.nodes), sum(math.prod(t.shape) for t in stored.values())
