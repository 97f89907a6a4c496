"""The order of passes, once: for a model, for the subgraphs of control flow, and for the FLOPs that training counts.

`compiled` has the second thoughts about a whole model, `shrink_graph` the order for one graph: prepare, `planned`
(analyse, shrink what is nested, plan, widen for the target, explain), rewrite, clean up, the forms of the target.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Generic, TypeVar

import onnx
import onnx_graphsurgeon as gs

from passes.adapters.placement import Policy
from passes.analysis import dataflow
from passes.attention.expose_heads import understood
from passes.cost import sum_over_nodes
from passes.cost.cost_values import Cost
from passes.cost.sizes_to_count_at import Basis, Sizes
from passes.graph.construct import copied, take_apart
from passes.graph.subgraphs import subgraphs
from passes.model import inputs_with_defaults
from passes.model.declarations import misdeclared, redeclared
from passes.model.graph_to_onnx import exported
from passes.model.onnx_to_graph import inlined, opset_of
from passes.model.prepare import checked, prepared, simplified
from passes.ops import UNKNOWN, rules
from passes.pipeline.cleanup import clean, store_compactly
from passes.pipeline.report import Report
from passes.pipeline.subgraph_bodies import Enclosing, analyse_body, distinguish
from passes.pipeline.trace import Recorder, Trace, Watch
from passes.planning.apply import apply
from passes.planning.explain import explain
from passes.planning.explanation import Held, MaskedAxis
from passes.planning.planner import PlanOptions, constant_operands, plan
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan
from passes.simplify import constant_folding, dead_code
from passes.simplify.decomposed_activations import hard_activations
from passes.targets import registry
from passes.targets.base import Target
from passes.targets.widths.channel_multiples import Align, choose_channel_multiples
from passes.targets.widths.wider_layers import ChannelMultiples, Width
from passes.weights.external_file import Store
from passes.weights.statistics import is_finite

# Weights that a file may have more than its source: what adapters restore, say. 1 KB of them.
_SPARE = 256

# Types of weights that can be infinite.
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)

Written = TypeVar("Written")

#: Makes of a compiled graph what is asked for, and says what it costs at what its source was counted at.
Write = Callable[[gs.Graph, Basis], tuple[Written, Cost]]


@dataclass(frozen=True)
class ShrinkOptions(PlanOptions):
    """How a graph is compiled.

    align: widths are rounded up to multiples of this number, or as rates say that it runs faster. explains: whether to
    say what is masked, and why what stays does. at: sizes of inputs to count FLOPs at, as for `passes.count`. runtime:
    the name of the target. keeps_analysis: whether to keep what is known of a graph of which channels are kept, for
    compiling it in another way.
    """

    align: Align | None = None
    runtime: str = registry.DEFAULT
    explains: bool = True
    at: Sizes | None = None
    keeps_analysis: bool = False

    @property
    def target(self) -> Target:
        """The runtime that the graph is compiled for."""
        return registry.kind(self.runtime).make(self.align)


@dataclass(frozen=True)
class Analysed:
    """A copy of a prepared graph and its facts, before it was rewritten.

    made: tensors that were put in. faults: tensors that the runtime computes wrongly in the source.
    """

    graph: gs.Graph
    facts: Facts
    made: frozenset[str]
    faults: Collection[str] = ()


@dataclass(frozen=True)
class Shrunk:
    """A compiled model and what was done to get there.

    at: what it and its source are counted at. analysed: where that was to be kept, and can be: of graphs without
    subgraphs.
    """

    model: onnx.ModelProto
    report: Report
    at: Basis
    analysed: Analysed | None = None


@dataclass(frozen=True)
class Planned:
    """What is known of a graph, what each of its tensors is to store, and what there is to report of that.

    speedup: as in `ChannelMultiples`.
    """

    facts: Facts
    plan: StoragePlan
    masked: tuple[MaskedAxis, ...] = ()
    held: tuple[Held, ...] = ()
    widths: tuple[Width, ...] = ()
    notes: tuple[str, ...] = ()
    speedup: float | None = None
    analysed: Analysed | None = None


@dataclass(frozen=True)
class Compiled(Generic[Written]):
    """A compiled graph, what was written of it, its cost beside that of the source, and the plan that it follows.

    at: what both are counted at.
    """

    graph: gs.Graph
    written: Written
    before: Cost
    after: Cost
    planned: Planned
    at: Basis


@contextmanager
def uncollected() -> Iterator[None]:
    """Without searches for unused cycles: there are next to none, and each visits all nodes and tensors of a graph."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()  # until the variables of the call are gone, too: the next search would visit them
def shrink(
    model: onnx.ModelProto,
    adapters: Policy = "auto",
    trace: Trace | None = None,
    watch: Watch | None = None,
    align: Align | None = None,
    store: Store | None = None,
    at: Sizes | None = None,
    target: str = registry.DEFAULT,
    keeps_analysis: bool = False,
) -> Shrunk:
    """The same function as a smaller dense graph; `model` is left as it is.

    adapters: whether constants that a consumer requires are restored at its input or computed after all; `PlanOptions`
    says what the words mean. trace: where to note what each pass made of the model. watch: told the name of each pass
    before it runs. align: widths are rounded up to multiples of this number, or as rates say that it runs faster, where
    there are channels to keep; by default no channel is kept for that. store: where large weights of the result are
    written, one after another; the result then names them as external data, by the path of that file. at: sizes of
    inputs to count FLOPs at, as for `passes.count`; the result takes any that the model takes. target: the name of the
    runtime to compile for, a folder of `passes/targets`; its forms are written, and its faults avoided.

    Raises GraphError when the graph is not valid: nodes out of order, shapes that contradict each other; SizeError for
    sizes to count at that do not fit.
    """
    source = inlined(model)
    recorder = Recorder(source, watch, trace)

    def write(graph: gs.Graph, at: Basis) -> tuple[onnx.ModelProto, Cost]:
        with recorder.step("clean", graph):
            file = exported(graph, source, store)
        with recorder.step("cost"):
            return file, counted(source, file, graph, at)

    options = ShrinkOptions(adapters, align=align, at=at, runtime=target, keeps_analysis=keeps_analysis)
    result = compiled(source, options, write, recorder)
    if trace is not None:
        trace.stages["clean"] = result.written
    done = result.planned
    gone = _not_finite(source, result.written, done.facts) if any(axis.removed for axis in done.masked) else ()
    notes = (*_notes(source, result.graph), *gone, *done.notes)
    costs = result.before, result.after
    report = Report(*costs, done.masked, done.held, recorder.seconds, notes, recorder.sizes, done.widths, done.speedup)
    take_apart(result.graph)
    return Shrunk(result.written, report, result.at, done.analysed)


def counted(source: onnx.ModelProto, file: onnx.ModelProto, graph: gs.Graph, at: Basis) -> Cost:
    """The cost of the `file` that was written of a graph made of the source's, at what that was counted at."""
    if inputs_with_defaults.overridable(source):  # the file decides whether they are weights of it
        return sum_over_nodes.count(file, at=at.sizes)
    return sum_over_nodes.of_rewritten(file, graph, at)


def compiled(
    model: onnx.ModelProto, options: ShrinkOptions, write: Write[Written], recorder: Recorder
) -> Compiled[Written]:
    """A model compiled, written and counted, with second thoughts where it came out larger than its source.

    Raises as `shrink` does.
    """

    def attempt(options: ShrinkOptions) -> Compiled[Written]:
        with recorder.step("prepare"):
            graph = checked(model)
        with recorder.step("cost"):
            before, at = sum_over_nodes.of_shaped(model, graph, options.at)
        recorder.measure("source", graph)
        found = shrink_graph(graph, options, recorder, source=model)
        written, after = write(graph, at)
        return Compiled(graph, written, before, after, found, at)

    best = attempt(options)
    if best.after.flops > best.before.flops and best.planned.widths:  # wider layers take more than was removed
        best = attempt(replace(options, align=None))
    larger = options.frugal and best.after.params > best.before.params + _SPARE
    if best.after.flops > best.before.flops or larger:
        graph, found = _with_all_channels(model, options)
        written, after = write(graph, best.at)
        # where sizes after a subgraph are not known to the source they count as 1 there, and there only
        if best.after.flops > after.flops or larger:  # adapters cost more than what was removed: everything stays
            found = replace(found, notes=(*best.planned.notes, *found.notes))
            best = Compiled(graph, written, best.before, after, found, best.at)
            if recorder.trace is not None:
                recorder.trace.stored.clear()
        else:
            best = replace(best, written=write(best.graph, best.at)[0])  # over the other one
    if best.after.params > best.before.params and not options.frugal:  # constant maps made it larger
        return compiled(model, replace(options, frugal=True), write, recorder)
    return best


def shrink_graph(
    graph: gs.Graph,
    options: ShrinkOptions,
    recorder: Recorder,
    *,
    around: Enclosing | None = None,
    source: onnx.ModelProto | None = None,
) -> Planned:
    """Shrink a graph in place: a subgraph, with what is `around` it, or that of the `source` as `checked` has it.

    A subgraph leaves out what is done once for a file, and rewrites that look beyond its nodes. No form for
    the sake of speed makes the graph exceed the FLOPs that it came with.
    """
    limit = sum_over_nodes.flops_of(graph) if around is None and options.align is not None else 0
    with recorder.step("prepare", graph, traced=True):
        dead_code.drop_identities(graph)
        faults = options.target.faults(graph)  # unused nodes are still there, and count as readers
        if around is None:
            simplified(graph)
            hard_activations.fuse(graph)  # the fewer nodes there are, the less there is to analyse
        else:
            constant_folding.fold_constants(graph)
            dead_code.drop_unused(graph)
    notes = _without_rules(graph)
    found = planned(graph, options, recorder, around)
    with recorder.step("rewrite", graph, traced=True):
        apply(graph, found.facts, found.plan)
    if recorder.trace is not None:
        recorder.trace.stored = dict(found.plan.stored)
    with recorder.step("clean"):
        finish(graph, options, faults, source=source, limit=limit, nested=around is not None)
    analysed = None if found.analysed is None else replace(found.analysed, faults=faults)
    return replace(found, notes=(*notes, *found.notes), analysed=analysed)


def finish(
    graph: gs.Graph,
    options: ShrinkOptions,
    faults: Collection[str],
    *,
    source: onnx.ModelProto | None,
    limit: int = 0,
    nested: bool = False,
) -> None:
    """Clean up a rewritten graph and write it in the forms of the target; the arguments are those of its methods."""
    clean(graph, options.target, nested=nested)
    options.target.write_fast_forms(graph, limit, nested=nested)
    store_compactly(graph, source)
    options.target.avoid_faults(graph, faults, nested=nested)


def planned(graph: gs.Graph, options: ShrinkOptions, recorder: Recorder, around: Enclosing | None = None) -> Planned:
    """Analyse a prepared graph, shrink its subgraphs in place and plan what it stores itself.

    Afterwards operators are decomposed and heads aligned where that removes channels. around: where a subgraph stands.
    """
    with recorder.step("facts", graph, traced=True):
        facts, made = understood(graph) if around is None else (analyse_body(graph, around), frozenset())
    with recorder.step("nested", graph, traced=True):
        nested = replace(options, align=None, frugal=True)
        bodies = {
            id(body): shrink_graph(body, nested, Recorder(), around=Enclosing(node, facts))
            for node in graph.nodes
            for body in subgraphs(node)
        }
        if bodies:
            inside = {key: body.facts for key, body in bodies.items()}
            for body in bodies.values():
                inside |= body.facts.inside
            if around is None:
                distinguish(graph)
            facts = dataflow.analyse(graph, inside=inside) if around is None else analyse_body(graph, around, inside)
    with recorder.step("layout", graph):
        chosen = plan(graph, facts, options)
    multiples = ChannelMultiples(chosen, facts)
    if options.align is not None:
        with recorder.step("widths", graph):
            multiples = choose_channel_multiples(graph, facts, chosen, options.align, options)
    first_facts, chosen, facts = facts, multiples.plan, multiples.facts
    for known in (first_facts, facts):
        known.plans.clear()  # which know the facts, too
    found = Planned(facts, chosen, widths=multiples.widths, speedup=multiples.speedup)
    if not options.explains:
        return found
    with recorder.step("explain"):
        masked, held = explain(graph, facts, chosen, made)
        for body in bodies.values():
            masked, held = (*masked, *body.masked), (*held, *body.held)
        notes = _put_in(graph, chosen) if options.adapters == "never" and around is None else ()
    keeps = options.keeps_analysis and not bodies and (multiples.widths or held)
    analysed = Analysed(copied(graph), first_facts.of_copy(), made) if keeps else None
    return replace(found, masked=masked, held=held, notes=notes, analysed=analysed)


def _with_all_channels(model: onnx.ModelProto, options: ShrinkOptions) -> tuple[gs.Graph, Planned]:
    """The graph of the model as it is, but cleaned up, and why everything stays."""
    graph = prepared(model)
    found = Planned(dataflow.analyse(graph), StoragePlan())
    if options.explains:
        notes = ("Removing channels would have cost more than it saves, so all of them are kept.",)
        found = Planned(found.facts, found.plan, *explain(graph, found.facts, found.plan), (), notes)
    clean(graph, options.target)
    store_compactly(graph, model)
    return graph, found


def _notes(model: onnx.ModelProto, graph: gs.Graph) -> list[str]:
    fixed = inputs_with_defaults.fixed(model)
    notes = [f"Inputs with default values are fixed to them now: {', '.join(fixed)}."] if fixed else []
    opset = opset_of(model)
    if opset is not None and graph.opset > opset:
        notes.append(f"The opset is raised from {opset} to {graph.opset}, for the operator HardSwish.")
    if model.training_info:
        notes.append("The training information was dropped, because it refers to the original weights.")
    wrong = redeclared(model, {t.name: t.shape for t in graph.outputs})
    return [*notes, *misdeclared(model.graph.output, wrong)]


def _not_finite(model: onnx.ModelProto, shrunk: onnx.ModelProto, facts: Facts) -> tuple[str, ...]:
    """A sentence about weights that make infinity or NaN, and are not whole any more, if there are any.

    Those in other files are not read for that, and those that the analysis has looked at not again.
    """
    whole = {tensor.name: tensor.dims for tensor in shrunk.graph.initializer}
    cut = [t for t in model.graph.initializer if prod(t.dims) > 1 and whole.get(t.name) != t.dims]
    here = [t for t in cut if t.data_type in _FLOATS and t.data_location != onnx.TensorProto.EXTERNAL]
    variances = {n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization" and len(n.input) > 4}
    left = [t for t in here if t.name in variances or not facts.is_finite(t.name)]
    values = ((t.name, onnx.numpy_helper.to_array(t)) for t in left)
    odd = [name for name, array in values if not is_finite(array) or (name in variances and (array < 0).any())]
    if not odd:
        return ()
    names = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
    return (
        f"Weights are infinite, not numbers or negative variances: {names}. Where only removed channels read them, the "
        "compiled model gives numbers and its source does not.",
    )


def _without_rules(graph: gs.Graph) -> tuple[str, ...]:
    """A sentence about the operators that have no rules, if there are any."""
    names = sorted({f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.nodes if rules(n) is UNKNOWN})
    return (
        (f"Operators without rules are left unchanged, with all input channels kept: {', '.join(names)}.",)
        if names
        else ()
    )


def _put_in(graph: gs.Graph, plan: StoragePlan) -> tuple[str, ...]:
    """A sentence about tensors that are constant altogether and read all the same, if there are any."""
    constant = constant_operands(graph, plan)
    names = ", ".join(constant[:5]) + (f" and {len(constant) - 5} more" if len(constant) > 5 else "")
    note = f"Entirely constant tensors that are inserted because something reads them: {names}."
    return (note,) if constant else ()
