"""The order of passes, once: for a model, for the subgraphs of control flow, and for the FLOPs that training counts.

`attempts` has the second thoughts about a whole model, `shrink_graph` the order for one graph: prepare, `plan_graph`
(analyse, shrink what is nested, plan, widen for the target, explain), rewrite, clean up, the forms of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import onnx
import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.attention.expose_heads import drop_zeros, understood
from passes.errors.arguments import typed
from passes.graph.construct import copied, take_apart
from passes.graph.name_scopes import distinguish
from passes.graph.subgraphs import mark_shared, subgraphs
from passes.model.contrib_operators.decompose import decompose_missing
from passes.model.graph_to_onnx import exported
from passes.model.local_functions import inlined
from passes.pipeline import notes
from passes.pipeline.cleanup import clean, store_compactly
from passes.pipeline.narrow_ports import narrow_ports
from passes.pipeline.options import ShrinkOptions
from passes.pipeline.recorder import Recorder, Watch
from passes.pipeline.report import Report
from passes.pipeline.subgraph_bodies import Enclosing, analyse_body, pick_what_is_read
from passes.planning.apply import apply
from passes.planning.divide_groups import divide
from passes.planning.explain import explain
from passes.planning.line_up_batches import line_up
from passes.planning.masked_axes import Held, MaskedAxis
from passes.planning.planner import Planner
from passes.planning.separate_constants import separate
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Cuts
from passes.rewriting.origins import Origins
from passes.rewriting.storage_plan import StoragePlan
from passes.simplify import constant_folding, dead_code
from passes.simplify.decomposed_operators import hard_activations, normalizations
from passes.sizes import sum_over_nodes
from passes.sizes.cost_values import Cost
from passes.sizes.onnx_inference import annotate_node
from passes.sizes.prepare import checked, prepared, simplified
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets.widths.channel_multiples import WiderPlan, Width, widened
from passes.weights.external_file import Store

# Weights that a file may have more than its source: what adapters restore, say. 1 KB of them.
_SPARE = 256

Written = TypeVar("Written")

#: Makes of a compiled graph what is asked for, and says what it costs at what its source was counted at.
Write = Callable[[gs.Graph, Sizes], tuple[Written, Cost]]


@dataclass(frozen=True)
class Analysed:
    """A copy of a prepared graph and its facts, before it was rewritten.

    made: tensors that were put in. unread: as of `dataflow.analyse`. faults: tensors that the runtime computes wrongly
    in the source.
    """

    graph: gs.Graph
    facts: Facts
    made: frozenset[str]
    unread: Mapping[str, str]
    faults: Collection[str] = ()


@dataclass(frozen=True)
class Shrunk:
    """A compiled model and what was done to get there.

    options: how it was compiled. origins: what is left of tensors of the source. analysed: where that was to be kept,
    and can be: of graphs without subgraphs.
    """

    model: onnx.ModelProto
    report: Report
    options: ShrinkOptions
    origins: Origins = field(default_factory=Origins)
    analysed: Analysed | None = None


@dataclass(frozen=True)
class GraphPlan:
    """The facts of a graph, what each of its tensors is to store, and what there is to report of that.

    cuts: of initializers, made in subgraphs. origins: as in `Shrunk`. speedup: as in `WiderPlan`. zeros: products
    that `drop_zeros` takes away.
    """

    facts: Facts
    plan: StoragePlan
    cuts: Cuts = field(default_factory=dict)
    masked: tuple[MaskedAxis, ...] = ()
    held: tuple[Held, ...] = ()
    widths: tuple[Width, ...] = ()
    notes: tuple[str, ...] = ()
    speedup: float | None = None
    origins: Origins = field(default_factory=Origins)
    analysed: Analysed | None = None
    zeros: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Attempt(Generic[Written]):
    """A compiled graph, what was written of it, its cost at the sizes of the source's, and the plan that it follows."""

    graph: gs.Graph
    written: Written
    before: Cost
    after: Cost
    plan: GraphPlan

    @property
    def has_more_flops(self) -> bool:
        """Whether it takes more than the source does."""
        return self.after.flops > self.before.flops

    def has_more_params(self, spare: int = 0) -> bool:
        """Whether its weights are more than those of the source, by more than `spare`."""
        return self.after.params > self.before.params + spare


@typed
def shrink(
    model: onnx.ModelProto,
    options: ShrinkOptions | None = None,
    *,
    watch: Watch | None = None,
    store: Store | None = None,
    **changes: Any,
) -> Shrunk:
    """The same function as a smaller dense graph; `model` is left as it is.

    options: how it is compiled. watch: told the name of each pass before it runs. store: where large weights of the
    result are written, one after another; the result then names them as external data, by the path of that file.
    changes: fields of `ShrinkOptions` by name (`adapters="never"`, for example), in place of those of `options`.

    Raises GraphError when the graph is not valid: nodes out of order, shapes that contradict each other; SizeError for
    sizes to count at that do not fit; ValueError for a policy or target that there is not; TypeError for the name of an
    option that there is not.
    """
    options = (options or ShrinkOptions()).changed(**changes)
    source = inlined(model)
    recorder = Recorder(watch)

    def write(graph: gs.Graph, at: Sizes) -> tuple[onnx.ModelProto, Cost]:
        with recorder.step("clean", graph):
            file = exported(graph, source, store)
        with recorder.step("cost"):
            return file, sum_over_nodes.count(file, at=at)  # more is known of the graph than the file tells

    result = attempts(source, options, write, recorder)
    done = result.plan
    gone = notes.on_weights(source, result.written, done.facts) if any(axis.removed for axis in done.masked) else ()
    said = (*notes.on_the_model(source, result.graph), *notes.on_nan(source, done.facts), *gone, *done.notes)
    costs = result.before, result.after
    report = Report(*costs, done.masked, done.held, recorder.seconds, said, recorder.sizes, done.widths, done.speedup)
    take_apart(result.graph)
    return Shrunk(result.written, report, options, done.origins, done.analysed)


def attempts(
    model: onnx.ModelProto, options: ShrinkOptions, write: Write[Written], recorder: Recorder
) -> Attempt[Written]:
    """A model compiled, written and counted: the first attempt that is not larger than its source.

    Attempts are made as the options say, without wider layers where these take more FLOPs than were removed, and with
    all channels where it has more FLOPs all the same; then without large constant maps where it has more parameters.
    Raises as `shrink` does.
    """
    for each in [options] if options.frugal else [options, replace(options, frugal=True)]:
        best = _attempt(model, each, write, recorder)
        if best.has_more_flops and best.plan.widths:
            best = _attempt(model, replace(each, align=None), write, recorder)
        too_large = each.frugal and best.has_more_params(_SPARE)
        if best.has_more_flops or too_large:
            whole = _with_all_channels(model, each, best, write)
            # where sizes after a subgraph are not known to the source they count as 1 there, and there only
            if best.after.flops > whole.after.flops or too_large:  # adapters cost more than what was removed
                best = whole
            else:
                best = replace(best, written=write(best.graph, best.before.at.sizes)[0])  # over the other one
        if not best.has_more_params():
            break
    return best


def _attempt(
    model: onnx.ModelProto, options: ShrinkOptions, write: Write[Written], recorder: Recorder
) -> Attempt[Written]:
    """The model compiled with these options, whatever comes of it."""
    with recorder.step("prepare"):
        graph = checked(model)
    with recorder.step("cost"):
        before = sum_over_nodes.of_shaped(model, graph, options.at)
    recorder.measure("source", graph)
    plan = shrink_graph(graph, options, recorder, source=model)
    written, after = write(graph, before.at.sizes)
    return Attempt(graph, written, before, after, plan)


def _with_all_channels(
    model: onnx.ModelProto, options: ShrinkOptions, attempt: Attempt[Written], write: Write[Written]
) -> Attempt[Written]:
    """The model as it is, but cleaned up, and why everything stays, in place of an attempt."""
    graph = prepared(model)
    plan = GraphPlan(dataflow.analyse(graph), StoragePlan(), notes=attempt.plan.notes)
    if options.explains:
        masked, held = explain(graph, plan.facts, plan.plan)
        why = ["Removing channels would have cost more than it saves, so all of them are kept."] if masked else []
        plan = replace(plan, masked=masked, held=held, notes=(*plan.notes, *why))
    clean(graph, plan.origins, activations=False)
    store_compactly(graph, model)
    written, after = write(graph, attempt.before.at.sizes)
    return replace(attempt, graph=graph, written=written, after=after, plan=plan)


def shrink_graph(
    graph: gs.Graph,
    options: ShrinkOptions,
    recorder: Recorder,
    *,
    around: Enclosing | None = None,
    source: onnx.ModelProto | None = None,
) -> GraphPlan:
    """Shrink a graph in place: a subgraph, with what is `around` it, or that of the `source` as `checked` has it.

    A subgraph leaves out what is done once for a file, and rewrites that look beyond its nodes. No form for
    the sake of speed makes the graph exceed the FLOPs that it came with.
    """
    limit = sum_over_nodes.flops_of(graph) if around is None and options.align is not None else 0
    with recorder.step("prepare", graph):
        # unused nodes are still there, and count as readers, and so are masks that let all pass, which stand between
        faults = options.runtime.faults(graph, options.given)
        dead_code.drop_identities(graph)
        if around is None:
            simplified(graph)
            hard_activations.fuse(graph)  # the fewer nodes there are, the less there is to analyse
        else:
            constant_folding.fold_constants(graph)
            dead_code.drop_unused(graph)
    unknown = notes.on_operators(graph)
    found = plan_graph(graph, options, recorder, around)
    with recorder.step("rewrite", graph):
        apply(graph, found.facts, found.plan, found.cuts, nested=around is not None)
        for constant in (found.facts.constant, found.facts.constant_map):
            for name, axes in constant.items():
                for axis, known in axes.items():
                    found.origins.note_constant(name, axis, known.mask)
        found.origins.store(found.plan.stored)
    with recorder.step("clean"):
        zeros, nested = found.zeros, around is not None
        finish(graph, options, faults, found.origins, source=source, zeros=zeros, limit=limit, nested=nested)
    analysed = None if found.analysed is None else replace(found.analysed, faults=faults)
    return replace(found, notes=(*unknown, *found.notes), analysed=analysed)


def finish(
    graph: gs.Graph,
    options: ShrinkOptions,
    faults: Collection[str],
    origins: Origins,
    *,
    source: onnx.ModelProto | None,
    zeros: Collection[str] = (),
    limit: int = 0,
    nested: bool = False,
) -> None:
    """Clean up a rewritten graph and write it in the forms of the target; the arguments are those of its methods."""
    runtime = options.runtime
    clean(graph, origins, nested=nested)
    drop_zeros(graph, zeros)
    runtime.write_fast_forms(graph, limit, nested=nested)
    decompose_missing(graph, annotate_node)
    store_compactly(graph, source)
    runtime.avoid_faults(graph, faults, nested=nested)


def plan_graph(
    graph: gs.Graph, options: ShrinkOptions, recorder: Recorder, around: Enclosing | None = None
) -> GraphPlan:
    """Analyse a prepared graph, shrink its subgraphs in place and plan what it stores itself.

    Afterwards heads and batches are aligned and groups divided where that removes channels. around: where a subgraph
    stands.
    """

    def analysed(inside: dict[int, Facts] | None = None) -> Facts:
        return dataflow.analyse(graph, inside=inside) if around is None else analyse_body(graph, around, inside)

    options = replace(options, weighs_picks=options.weighs_picks or options.align is not None)
    made = zeros = divided = frozenset[str]()
    unread: Mapping[str, str] = {}
    origins = Origins()
    with recorder.step("facts", graph):
        if around is None:
            facts, made, zeros, unread, origins = understood(graph)
            divided = divide(graph, facts, options.adapters) | separate(graph, facts)
        if around is not None or line_up(graph, facts, origins) or divided:
            facts = analysed()
        if normalizations.fuse(graph, facts):
            dead_code.drop_unused(graph)
            facts = analysed()
    cuts: Cuts = {} if around is None else around.cuts
    with recorder.step("nested", graph):
        if around is None:
            mark_shared(graph)
        inner = [(node, body) for node in graph.nodes for body in subgraphs(node)]
        known = {id(body): analyse_body(body, Enclosing(node, facts, cuts)) for node, body in inner}
        if known:
            facts = analysed(known)
            narrowed = narrow_ports(graph, facts, known) if options.adapters != "never" else None
            if narrowed is not None:
                facts = analysed()
                unread = {**unread, **dict.fromkeys(narrowed, "")} if around is None else unread
        nested = replace(options, align=None, frugal=True)
        bodies = {
            id(body): shrink_graph(body, nested, Recorder(), around=Enclosing(node, facts, cuts))
            for node, body in inner
        }
        if bodies:
            pick_what_is_read(graph, {key: body.plan for key, body in bodies.items()})
            inside = {key: body.facts for key, body in bodies.items()}
            for body in bodies.values():
                inside |= body.facts.inside
            if around is None:
                distinguish(graph)
            facts = analysed(inside)
    planner = Planner(graph, facts)
    with recorder.step("layout", graph):
        chosen = WiderPlan(planner.plan(options))
    if options.align is not None:
        with recorder.step("widths", graph):
            chosen = widened(planner, chosen.plan, options.align, options)
    found = GraphPlan(
        facts, chosen.plan, cuts, widths=chosen.widths, speedup=chosen.speedup, origins=origins, zeros=zeros
    )
    if not options.explains:
        return found
    with recorder.step("explain"):
        masked, held = explain(graph, facts, chosen.plan, made | divided, unread)
        for body in bodies.values():
            masked, held = (*masked, *body.masked), (*held, *body.held)
        said = notes.on_constants(graph, chosen.plan) if options.adapters == "never" and around is None else ()
    # another policy may divide other groups
    keeps = options.keeps_analysis and not bodies and not divided and (chosen.widths or held)
    kept = Analysed(copied(graph), facts.of_copy(), made, unread) if keeps else None
    return replace(found, masked=masked, held=held, notes=said, analysed=kept)
