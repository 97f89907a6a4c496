"""Make a graph store what its plan says: adapters at inputs, each node rewritten by its own rule, whole outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.graph.construct import constant
from passes.graph.editor import GraphEditor, Names, erase
from passes.graph.subgraphs import captured, replace_captured, with_bodies
from passes.graph.tensors import MOST_SLICES, SMALL, Array, Mask, is_constant, numpy_dtype, present, size_of
from passes.ops import rules
from passes.ops.contractions.matmul import Gemm
from passes.ops.elementwise import Elementwise
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Cuts, Rewriter
from passes.rewriting.storage_plan import StoragePlan


def apply(graph: gs.Graph, facts: Facts, plan: StoragePlan, cuts: Cuts | None = None, *, nested: bool = False) -> None:
    """Rewrite the graph in place. Afterwards every tensor stores exactly what the plan says.

    cuts: those that subgraphs made, to which those here are added. nested: whether the graph is such a subgraph.
    """
    cuts = {} if cuts is None else cuts
    rewriter = Rewriter(graph, facts, plan, cuts)
    for index, node in enumerate(graph.nodes):
        if index in plan.computed:
            rewriter.begin(index, node)
            op = rules(node)  # of the form that was planned
            _fit_inputs(rewriter, node)
            for tensor in captured(node):  # what subgraphs read is whole
                if not is_constant(tensor) and (whole := _adapted(rewriter, tensor, {}, False)) is not tensor:
                    replace_captured(node, tensor, whole)
            op.lower(node, rewriter)
    _finish_outputs(graph, rewriter)
    erase(*(node for index, node in enumerate(graph.nodes) if index not in plan.computed))
    rewriter.editor.finish()
    if not nested:
        _gather_from_shared(graph, cuts)
    # only now: until here the rules are told the shapes that the tensors had
    whole_outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        for tensor in node.outputs:
            if isinstance(tensor, gs.Variable) and tensor.name in rewriter.shapes and id(tensor) not in whole_outputs:
                tensor.shape = rewriter.stored_shape(tensor)


def _fit_inputs(rewriter: Rewriter, node: gs.Node) -> None:
    """Give the node at every input the slices that it requires."""
    for index, tensor in present(node.inputs):
        axes = range(len(rewriter.shape(tensor)))
        required = {a: mask for a in axes if (mask := rewriter.required(node, index, a)) is not None}
        if is_constant(tensor):
            if required:
                rewriter.set_input(node, index, rewriter.slice(tensor, required))
        elif not _fits(rewriter, tensor, required) and all(
            mask.any() for mask in required.values()
        ):  # else it is left out
            adapted = _adapted(rewriter, tensor, required, _may_broadcast(rewriter, node, index))
            rewriter.set_input(node, index, adapted)


def _may_broadcast(rewriter: Rewriter, node: gs.Node, index: int) -> bool:
    """Whether other operands, computed, make the shape of the output: a constant operand need not be expanded."""
    op = rules(node)
    if isinstance(op, Gemm) and index == 2:
        return True
    if not isinstance(op, Elementwise) or not op.broadcasts or rewriter.before.outputs[0].shape is None:
        return False
    shape = rewriter.shape(node.outputs[0])
    return None not in shape and any(
        i != index and not is_constant(t) and rewriter.shape(t) == shape and _empty_axis(rewriter, t) is None
        for i, t in enumerate(rewriter.before.inputs)
    )


def _empty_axis(rewriter: Rewriter, tensor: gs.Tensor) -> int | None:
    """The first axis along which nothing is stored, so that the tensor is not computed; None if it is."""
    masks = ((a, rewriter.stored(tensor, a)) for a in range(len(rewriter.shape(tensor))))
    return next((a for a, mask in masks if mask is not None and not mask.any()), None)


def _differ(stored: Mask | None, required: Mask | None) -> bool:
    """Whether these are other slices; None stands for all."""
    if stored is None or required is None:
        mask = required if stored is None else stored
        return mask is not None and not mask.all()
    return stored is not required and (stored != required).any()


def _fits(rewriter: Rewriter, tensor: gs.Tensor, required: Mapping[int, Mask]) -> bool:
    """Whether the tensor stores these slices per axis (all, where none are given), and no others."""
    axes = range(len(rewriter.shape(tensor)))
    return not any(_differ(rewriter.stored(tensor, a), required.get(a)) for a in axes)


def _adapted(rewriter: Rewriter, tensor: gs.Tensor, required: Mapping[int, Mask], broadcast: bool) -> gs.Tensor:
    """The tensor with these slices per axis (all, where none are given), by adapters from those that it stores.

    broadcast: the axes along which it is constant may have size 1.
    """
    if _fits(rewriter, tensor, required):
        return tensor
    shape = rewriter.shape(tensor)
    whole = {a: np.ones(d, bool) for a, d in enumerate(shape) if isinstance(d, int) and d <= MOST_SLICES}
    wanted = {a: w if (r := required.get(a)) is None else r for a, w in whole.items()}
    empty = _empty_axis(rewriter, tensor)
    if empty is not None:
        constants = _constants(rewriter.facts, tensor, empty)
        made = rewriter.adapters.create(tensor, shape, empty, wanted, constants, broadcast)
        if isinstance(made, gs.Variable):
            made.shape = [int(wanted[a].sum()) if a in wanted else d for a, d in enumerate(shape)]
        return made
    stored = {a: w if (s := rewriter.stored(tensor, a)) is None else s for a, w in whole.items()}
    return _fitted(rewriter, tensor, stored, wanted)


def _fitted(rewriter: Rewriter, tensor: gs.Tensor, stored: Mapping[int, Mask], wanted: Mapping[int, Mask]) -> gs.Tensor:
    """A tensor that stores slices along each axis with the wanted ones, axis by axis."""
    current, sizes = tensor, rewriter.stored_shape(tensor) or []
    for axis, want in wanted.items():
        have = stored[axis]
        if not (have != want).any():
            continue
        constants = _constants(rewriter.facts, tensor, axis)
        if isinstance(constants, ConstantMap):  # axes before this one are as wanted by now, those after it as stored
            cuts = {a: wanted[a] if a < axis else stored[a] for a in wanted if a != axis}
            constants = constants.cut(axis, cuts)
        dependence = rewriter.facts.dependence.get((tensor.name, axis))
        if dependence is not None and not (dependence.mask & want & ~have).any():
            dependence = None
        current = rewriter.adapters.fit(current, sizes, axis, have, want, constants, dependence)
        sizes = [int(want.sum()) if a == axis else d for a, d in enumerate(sizes)]
        assert isinstance(current, gs.Variable)
        current.shape = sizes
    return current


def _constants(facts: Facts, tensor: gs.Tensor, axis: int) -> Array | ConstantMap:
    """The constants along the axis, as maps where they are not uniform; 0 where none is known, which nothing reads."""
    dtype = numpy_dtype(tensor)
    maps = facts.maps(tensor, axis) if facts.uneven(tensor, axis) is not None else None
    if maps is not None:
        return ConstantMap(maps.mask, maps.cleared().astype(dtype), maps.index)
    known = facts.known(tensor, axis)
    if known is None:
        return np.zeros(size_of(tensor, axis) or 0, dtype)
    return np.where(known.mask, known.value, 0).astype(dtype)


def _finish_outputs(graph: gs.Graph, rewriter: Rewriter) -> None:
    """Give the caller whole tensors under their own names."""
    inputs, editor = {t.name for t in graph.inputs}, rewriter.editor
    editor.place = editor.end
    for position, tensor in enumerate(list(graph.outputs)):
        if is_constant(tensor) or tensor.name in inputs:
            continue
        whole = _adapted(rewriter, tensor, {}, False)
        if whole is tensor:
            continue
        if not isinstance(whole, gs.Variable):
            whole = editor.emit("Identity", [whole], editor.variable(tensor.name), f"{tensor.name}_copy")
        # the name so far was that of an inner tensor; the whole one is what the caller asks for
        name, dtype, shape = tensor.name, tensor.dtype, tensor.shape
        rewriter.rename(tensor, editor.names.fresh(name))
        whole.name, whole.dtype, whole.shape = name, dtype, shape
        rewriter.shapes[name] = tuple(shape or ())
        graph.outputs[position] = whole


def _gather_from_shared(graph: gs.Graph, cuts: Cuts) -> None:
    """Where the cuts of one initializer take more room than it, keep it and let each be gathered from it.

    ONNX Runtime does that once, when it loads the model; the file stays as small as it was.
    """
    sizes: dict[object, int] = defaultdict(int)
    for (origin_id, _), (_, cut) in cuts.items():
        sizes[origin_id] += prod(cut.shape) if cut.outputs else 0
    # what still reads all of the initializer keeps it in the file
    larger = [
        (along, origin, cut)
        for (origin_id, along), (origin, cut) in cuts.items()
        if sizes[origin_id] > max(0 if origin.outputs else prod(origin.shape), SMALL)
    ]
    # of a vector the indices take more than a cut, unless a weight is gathered by the same
    stored = {
        packed
        for along, _, cut in larger
        for _, packed in along
        if prod(cut.shape) > 2 * sum(cut.shape[axis] for axis, _ in along)
    }
    shared = [each for each in larger if stored.issuperset(packed for _, packed in each[0])]
    names, indices = Names(graph), {}
    for packed in dict.fromkeys(packed for along, _, _ in shared for _, packed in along):
        slices = np.flatnonzero(np.frombuffer(packed, bool))
        indices[packed] = constant(names.fresh("channels"), slices.astype(np.int32))
    for scope in with_bodies(graph) if shared else ():
        editor, read = GraphEditor(scope, names), {id(t) for node in scope.nodes for t in node.inputs}
        for along, origin, cut in shared:
            if id(cut) in read:
                _gather([(axis, indices[packed]) for axis, packed in along], origin, cut, editor)
        editor.finish()


def _gather(along: list[tuple[int, gs.Constant]], origin: gs.Constant, cut: gs.Constant, editor: GraphEditor) -> None:
    """Let the nodes of one graph read slices that are gathered, by their indices per axis, in place of the cut."""
    current: gs.Tensor = origin
    for axis, index in along:
        current = editor.gather(current, axis, index, f"{origin.name}_cut", after=editor.start)
    for node in editor.graph.nodes:
        if any(t is cut for t in node.inputs):
            node.inputs = [current if t is cut else t for t in node.inputs]
