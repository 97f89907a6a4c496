"""A chain of reshapes and transposes that only reorders one axis becomes a Gather: channel shuffle, for one.

One that only puts axes in another order becomes a Transpose: of keys, where heads are merged with the batch meanwhile.
One that divides axes first becomes a Reshape and a Transpose: of heads that are merged with the batch and part from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.element_order import Arrangement, original
from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import Dim, Index, shape_of
from passes.ops import rules
from passes.ops.shape import Rearrangement, Regrouping, Reshape, Transpose

_LONGEST = 12  # nodes of a chain


def replace_chains(graph: gs.Graph) -> bool:
    """Replace every such chain; whether there was any.

    Afterwards what they do is seen as indices along an axis, or is a Transpose or an Identity.
    """
    editor = GraphEditor(graph)
    outputs = {id(t) for t in graph.outputs}
    own = {id(node) for node in graph.nodes}  # a subgraph reads what nodes around it write
    replaced = False
    for node in reversed(graph.nodes):
        found = _found(node, own) if any(t.outputs or id(t) in outputs for t in node.outputs) else None
        if found is not None:
            _replace(node, found, editor)
            replaced = True
    editor.finish()
    return replaced


@dataclass(frozen=True)
class _Reordered:
    """What the chain that ends here does: `root` with the slices of `axis` in this order, and perhaps reshaped."""

    root: gs.Tensor
    axis: int
    index: Index
    reshaped: bool


@dataclass(frozen=True)
class _Permuted:
    """What the chain that ends here does: `root` with its axes in this order."""

    root: gs.Tensor
    perm: list[int]


@dataclass(frozen=True)
class _Divided:
    """What the chain that ends here does: `root` reshaped to these sizes, and then its axes in this order."""

    root: gs.Tensor
    sizes: list[int]
    perm: list[int]


_Found = _Reordered | _Permuted | _Divided


def _found(node: gs.Node, own: set[int]) -> _Found | None:
    """The longest chain that ends with this node and reorders no more than one axis, or the axes or parts of them."""
    longest: _Found | None = None
    for chain in _chains(node, own):
        if len(chain) < 2:
            continue
        root = chain[0].inputs[0]
        shape = shape_of(root)
        places = None if shape is None else original(shape)
        for link in chain:
            op = rules(link)
            places = op.arranged(link, places) if places is not None and isinstance(op, Rearrangement) else None
        if places is None or shape is None:
            continue
        after, order = shape_of(node.outputs[0]), _order(places, shape)
        if order is None:
            reshapes = any(not isinstance(rules(link), Transpose) for link in chain)
            perm = _permutation(places, shape, after) if reshapes and after is not None else None
            if perm is not None:
                longest = _Permuted(root, perm)
            elif sum(isinstance(rules(link), Regrouping) for link in chain) > 1:
                longest = _division(places, root) or longest
            continue
        same = after == shape and None not in shape
        moves, op = bool((np.diff(order[1]) != 1).any()), rules(node)
        if same or (moves and isinstance(op, Reshape) and op.reshapes(node, root)):
            longest = _Reordered(root, *order, not same)
    return longest


def _chains(node: gs.Node, own: set[int]) -> Iterator[list[gs.Node]]:
    """The chains of nodes of one graph that end with the node, from the shortest."""
    chain: list[gs.Node] = []
    makers = [node]
    while makers and len(chain) < _LONGEST and id(makers[0]) in own and isinstance(rules(makers[0]), Rearrangement):
        chain.insert(0, makers[0])
        yield list(chain)
        makers = makers[0].inputs[0].inputs


def _order(places: Arrangement, shape: tuple[Dim, ...]) -> tuple[int, Index] | None:
    """The one axis whose elements are in another order, and their order; axis 0 as it is where all are in order."""
    atoms = [atom for block in places for atom in block.atoms]
    if any(first.axis > then.axis for first, then in pairwise(atoms)):
        return None
    moved = {first.axis for first, then in pairwise(atoms) if first.axis == then.axis and first.stride < then.stride}
    if len(moved) > 1:
        return None
    if not moved:
        return 0, np.arange(1)
    axis = moved.pop()
    index = np.zeros(1, np.int64)
    for atom in atoms:
        if atom.axis == axis:
            assert isinstance(atom.size, int)
            index = (index[:, None] + np.arange(atom.size) * atom.stride).reshape(-1)
    return axis, index


def _permutation(places: Arrangement, shape: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[int] | None:
    """The order in which axes of this shape stand in that one; None where they are torn apart or merged."""
    runs = [(axis, [*run]) for axis, run in groupby((a for block in places for a in block.atoms), lambda a: a.axis)]
    torn = any(first.stride < then.stride for _, run in runs for first, then in pairwise(run))
    long, short = ([a for a, size in enumerate(shape) if (size == 1) == one] for one in (False, True))
    if torn or sorted(axis for axis, _ in runs) != long or len(after) != len(shape) or after.count(1) != len(short):
        return None
    moved, still = iter([axis for axis, _ in runs]), iter(short)
    perm = [next(still if size == 1 else moved) for size in after]
    return perm if None not in after and tuple(shape[axis] for axis in perm) == after else None


def _division(places: Arrangement, root: gs.Tensor) -> _Divided | None:
    """Axes of which each is an axis of the root or a part of one; None where that is not so, or cannot be written."""
    atoms = [atom for block in places for atom in block.atoms]
    if any((block.axes, len(block.atoms)) != (1, 1) for block in places):
        return None
    ordered = sorted(atoms, key=lambda atom: (atom.axis, -atom.stride))
    # 0: the size of the root's axis there
    sizes = [a.size if isinstance(a.size, int) else 0 if a.axis == i else -1 for i, a in enumerate(ordered)]
    return None if sizes.count(-1) > 1 else _Divided(root, sizes, [ordered.index(atom) for atom in atoms])


def _replace(last: gs.Node, found: _Found, editor: GraphEditor) -> None:
    """Let the last node of the chain do what the chain does, with a Gather or a Reshape before it or in its place."""
    if isinstance(found, _Divided):
        after, output = shape_of(last.outputs[0]) or (), last.outputs[0]
        shape = [after[found.perm.index(axis)] for axis in range(len(after))]
        divided = editor.variable(f"{output.name}_divided", found.root.dtype, shape)
        operands = [found.root, editor.ints("shape", found.sizes)]
        editor.emit("Reshape", operands, divided, f"{output.name}_divide", before=last)
        become(last, "Transpose", [divided], {"perm": found.perm})
        return
    if isinstance(found, _Permuted):
        become(last, "Transpose", [found.root], {"perm": found.perm})
        return
    output, current = last.outputs[0], found.root
    if (np.diff(found.index) != 1).any():
        picked = editor.variable(f"{output.name}_reordered", current.dtype, current.shape)
        operands, attrs = [current, editor.constant("order", found.index)], {"axis": found.axis}
        if not found.reshaped:
            last.name = editor.names.fresh(f"{output.name}_order")
            become(last, "Gather", operands, attrs)
            return
        current = editor.emit("Gather", operands, picked, f"{output.name}_order", attrs, before=last)
    if found.reshaped:
        last.inputs = [current, *list(last.inputs)[1:]]
    else:
        become(last, "Identity", [current])
