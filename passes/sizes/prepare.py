"""Preparing: from a valid model to a graph in which the analysis recognises what there is, of the same function.

The passes after it stand in `passes.pipeline`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError
from passes.graph.subgraphs import subgraphs, with_bodies
from passes.graph.tensors import MOST_ELEMENTS, describe, volume
from passes.model import inputs_with_defaults
from passes.model.contrib_operators import quantized
from passes.model.contrib_operators.decompose import BETWEEN_STEPS, decompose
from passes.model.declarations import check_noted, written
from passes.model.graph_to_onnx import exported
from passes.model.local_functions import inlined
from passes.model.onnx_to_graph import imported
from passes.model.outline import outline
from passes.ops import rules
from passes.ops.control_flow import ControlFlow
from passes.simplify import (
    constant_folding,
    dead_code,
    drop_expands,
    heads_in_batch,
    repeated_indices,
    reshape_chains,
    sequences,
    sizes_before_transposes,
)
from passes.simplify.control_flow import capture_unchanged_states, inline_taken_branches
from passes.simplify.decomposed_operators import gelu
from passes.simplify.products import move_masks_after_products, split_einsums
from passes.simplify.raise_opset import raise_opset
from passes.sizes.loop_states import Suppositions
from passes.sizes.onnx_inference import annotate_node, check, name_inputs
from passes.sizes.sweep import Sweep

_SCALES_ALONG_AXES = 13  # the opset from which DequantizeLinear takes them


def prepared(model: onnx.ModelProto, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of a model with constants folded, no identities, shuffles as Gathers and shapes on every tensor.

    Nodes that read an initializer named in `keep` stay even if they change nothing.
    """
    graph = checked(model, keep)
    dead_code.drop_identities(graph, keep)
    return simplified(graph, keep)


def between_steps(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with products of floating point, and steps before and after them, in place of those of integers."""
    if not any(node.op_type in BETWEEN_STEPS for node in model.graph.node):
        return model
    graph = imported(model)
    raise_opset(graph, _SCALES_ALONG_AXES)
    decompose(graph, annotate_node, products=True)
    return exported(graph, model)


def checked(model: onnx.ModelProto, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of a model as it is, but for folded constants, with shapes on every tensor.

    Raises GraphError when the graph is not valid.
    """
    check_order(model.graph)
    return shaped(model, keep=keep)


def shaped(
    model: onnx.ModelProto,
    graph: gs.Graph | None = None,
    keep: Collection[str] = (),
    *,
    known: bool = False,
    gives_up: bool = False,
    branches: bool = False,
) -> gs.Graph:
    """A graph of its own, constants folded; `model` is left as it is, and lends its weights.

    graph: that of the model, where it is at hand, which is then changed and returned. keep: initializers whose readers
    are not folded. known: whether what the graph says of shapes is true, and only what it does not say is inferred.
    gives_up: whether a contradiction is raised at once, without a search for the node. branches: whether one branch of
    each If has to fit alone, as the others may be for other sizes.

    Computed shape operands hide sizes until they are folded, and sizes give more to fold. Raises GraphError when shapes
    contradict each other, or notes on tensors that nobody can infer, and at a loop without end.
    """
    model = inlined(inputs_with_defaults.opened(model))
    graph = imported(model) if graph is None else graph
    raise_opset(graph, quantized.opset_of_steps(graph))
    decompose(graph, annotate_node)
    name_inputs(graph)
    sweep, states = Sweep(graph, model, seeded=not known, gives_up=gives_up), Suppositions()
    while True:
        sweep.run()
        if not known and states.revised(graph):
            sweep = Sweep(graph, model, seeded=True, gives_up=gives_up)
            continue
        _check_sizes(graph)
        if not sweep.fits and not any(map(subgraphs, graph.nodes)):  # a branch that is not taken may contradict itself
            _check_nodes(graph.nodes)
            check(graph.nodes, model)
        changed = sum(constant_folding.fold_constants(scope, keep) for scope in [*with_bodies(graph)]) > 0
        changed |= constant_folding.settle_shapes(graph)
        changed |= inline_taken_branches(graph) | capture_unchanged_states(graph) | sequences.replace_sequences(graph)
        if not changed:
            break
    check_noted(model, graph)
    if branches and not sweep.fits:
        _check_branches(graph.nodes, model)
        return graph
    for scope in with_bodies(graph):
        _check_nodes(scope.nodes)
    if not sweep.fits:
        check(graph.nodes, model)
    return graph


def _check_branches(nodes: Sequence[gs.Node], model: onnx.ModelProto) -> None:
    """Raise GraphError, naming the node, where operands do not fit each other, of an If in none of its branches."""
    _check_nodes(nodes)
    check([node for node in nodes if not subgraphs(node)], model)
    for node in nodes:
        wrong = []
        for body in subgraphs(node):
            try:
                _check_branches(body.nodes, model)
            except GraphError as error:
                wrong.append(error)
        if wrong and len(wrong) == len(subgraphs(node)):
            raise wrong[0]


def _check_nodes(nodes: Sequence[gs.Node]) -> None:
    """Raise GraphError, naming it, where shapes at one of these nodes contradict each other, or a loop has no end."""
    for node in nodes:
        op = rules(node)
        if isinstance(op, ControlFlow) and op.never_ends(node):
            raise GraphError(
                f"Node `{describe(node)}` never ends: it has no trip count, and its condition is always true. "
                "Give it a trip count."
            )
        wrong = op.contradiction(node)
        if wrong:
            raise GraphError(f"The shapes at node `{describe(node)}` contradict each other: {wrong}.")


def _check_sizes(graph: gs.Graph) -> None:
    """Raise GraphError, naming it, where a tensor has more elements than any memory: before anything is made of it."""
    for scope in with_bodies(graph):
        for tensor in [*scope.inputs, *(t for node in scope.nodes for t in node.outputs)]:
            if tensor.shape and volume(tensor) > MOST_ELEMENTS:
                raise GraphError(
                    f"Tensor `{tensor.name}` would be {written(tensor.shape)[:100]}, and may have {MOST_ELEMENTS:,} "
                    "elements at most. Correct the sizes that it follows from."
                )


def simplified(graph: gs.Graph, keep: Collection[str] = ()) -> gs.Graph:
    """The graph of `checked` without identities, changed in place to that of `prepared`."""
    repeated_indices.move_pieces(graph)
    drop_expands.drop_expands(graph)
    if reshape_chains.replace_chains(graph):
        dead_code.drop_identities(graph, keep)
    sizes_before_transposes.measure_before(graph)
    heads_in_batch.split(graph)
    split_einsums.split(graph)
    constant_folding.fold_constants(graph, keep)
    dead_code.drop_unused(graph)
    move_masks_after_products.move_masks(graph, keep)
    if gelu.fuse(graph, keep):
        dead_code.drop_unused(graph)
    return graph


def check_order(graph: onnx.GraphProto) -> None:
    """Raise GraphError, naming the node, where one reads what nothing before it writes or writes what has a value."""
    ready = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    ready |= {t.values.name for t in graph.sparse_initializer} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in ready:
                raise GraphError(f"Node `{describe(node)}` reads `{name}`, which nothing before it writes.")
        for name in node.output:
            if name and name in ready:
                raise GraphError(f"Node `{describe(node)}` writes `{name}`, which already has a value.")
            ready.add(name)
    for value in graph.output:
        if value.name not in ready:
            raise GraphError(f"Nothing writes the graph output `{value.name}`.")


def tensors_by_name(model: onnx.ModelProto) -> dict[str, gs.Tensor]:
    """The tensors of the main graph with their types and shapes, those that constant folding removes among them.

    As far as the model tells them: it need not be valid.
    """
    light = inlined(inputs_with_defaults.opened(outline(model)))
    graph = imported(light)
    tensors = graph.tensors() | {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
    with suppress(GraphError):  # what is known before the contradiction stays
        shaped(light, graph)
    sequences = {name for name, t in tensors.items() if isinstance(t, gs.Variable) and t.type != "tensor_type"}
    return {name: tensor for name, tensor in tensors.items() if name not in sequences}
