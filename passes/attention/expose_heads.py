"""Exposure of attention heads: early picks, zeros that only both axes together show, and aligned heads.

As each head may keep other channels, their order is changed within each head, so that those which are kept stand first
in all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.attention import split_projections
from passes.attention.channel_index import once, varying
from passes.attention.heads import Follower, Root, Trace
from passes.graph.editor import GraphEditor, drop_erased, erase_keeping_input
from passes.graph.tensors import Array, Index, Mask, along, numpy_dtype, rank_of, values_of
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import live_first
from passes.rewriting.origins import Origins
from passes.simplify import dead_code


class Understood(NamedTuple):
    """The facts of a graph with its heads exposed.

    made: names of tensors that were put in. zeros: those for `drop_zeros`. unread: those in which only what nothing
    reads became zero, with what they are made of. origins: what is from where.
    """

    facts: Facts
    made: frozenset[str]
    zeros: frozenset[str]
    unread: Mapping[str, str]
    origins: Origins


def understood(graph: gs.Graph) -> Understood:
    """The facts of a prepared graph, in which heads are exposed.

    Afterwards parts are picked early, zeros that are only known here are written down, and heads are aligned, where
    channels can then be removed; the function of the graph is the same. Tensors that are not put in keep their names,
    and have their channels in another order as their origins say.
    """
    found = dataflow.analyse(graph)
    origins = Origins()
    if split_projections.hoist(graph, found, origins):
        dead_code.drop_unused(graph)
        found = dataflow.analyse(graph)
    follower = Follower(graph, found)
    follower.run()
    writer = _Writer(graph, follower, found, origins)
    writer.run()
    found = dataflow.analyse(graph) if writer.made or writer.rearranged else found
    return Understood(found, frozenset(writer.made), frozenset(writer.zeros), writer.unread, origins)


def drop_zeros(graph: gs.Graph, zeros: Collection[str]) -> None:
    """Take away the products `zeros` that are still there: what they write as zero is."""
    for node in graph.nodes:
        if node.op == "Mul" and node.outputs[0].name in zeros:
            erase_keeping_input(node, node.inputs[0])
    drop_erased(graph)


class _Writer:
    """Writes what was found into the graph."""

    def __init__(self, graph: gs.Graph, found: Follower, facts: Facts, origins: Origins) -> None:
        self.found, self.facts, self.origins = found, facts, origins
        self.editor = GraphEditor(graph)
        self.made: set[str] = set()
        self.rearranged = False  # whether constants have other values, and perhaps more axes
        self.zeros: set[str] = set()
        self.unread: dict[str, str] = {}

    def run(self) -> None:
        for left, right in self.found.products:
            if _paired_once([left, right]):
                dead = left.zero | right.zero
                shared = zip(left.index.shape, right.index.shape, strict=True)
                axes = tuple(axis for axis, (one, other) in enumerate(shared) if one != other)
                _live_first([left, right], np.asarray(dead.all(axis=axes, keepdims=True)))
        for root in self.found.roots.values():
            _align(root)
        for node, place, trace in self.found.scaled:
            self._rearrange(node, place, trace)
        for root in self.found.roots.values():
            nothing = np.zeros(root.zero.size)
            product, new = self._chain(root.tensor, root.axis, root.kept, nothing, root.order)
            if not root.kept.all():
                self.unread[product.name] = root.tensor.name
            _replace_inputs(root.starts, root.tensor, new)
        changed = (
            name
            for name, trace in (*self.found.traces.items(), *self.found.beside.items())
            if trace.root.zero[trace.index].any() or (trace.root.order[trace.index] != trace.index).any()
        )
        self.origins.update(dict.fromkeys(changed))
        beside = self.found.beside.items()
        self.origins.update((name, None) for name, trace in beside if not trace.root.kept[trace.index].all())
        for name, trace in self.found.traces.items():
            self.origins.cleared[name] = ~(trace.root.needed | trace.zeros)[trace.index]
        for merge in self.found.merges:
            constant = merge.zero | merge.fixed
            self.origins.note_constant(merge.tensor.name, merge.axis, constant[merge.index])
            channels, back = merge.root.order[merge.index], np.arange(merge.index.size)
            aligned = bool((channels != merge.index).any())
            if aligned:
                # what several heads share is there once in each, before and after
                back[np.argsort(merge.index, kind="stable")] = np.argsort(channels, kind="stable")
                self.origins.take(merge.tensor.name, merge.axis, np.argsort(back))
            cleared = ~(merge.root.needed | merge.zero)[channels]
            self.origins.cleared[merge.tensor.name] = cleared.reshape(along(merge.axis, rank_of(merge.tensor)))
            zero = constant[channels]
            shift = np.where(merge.fixed[channels], merge.root.value[channels], 0)
            if not aligned:
                new_here = (shift != 0) | ~self.facts.constant_slices(merge.tensor, merge.axis).mask
                zero, shift = zero & new_here, np.where(new_here, shift, 0)
            consumers = list(merge.tensor.outputs)
            product, new = self._chain(merge.tensor, merge.axis, ~zero, shift, back)
            if zero.any() and not shift.any():
                self.zeros.add(product.name)
            _replace_inputs(consumers, merge.tensor, new)
        self.editor.finish()

    def _chain(
        self, tensor: gs.Tensor, axis: int, kept: Mask, shift: Array, order: Index
    ) -> tuple[gs.Tensor, gs.Tensor]:
        """The tensor with zeros for what is not kept, and that with the shift added, and then in this order."""
        producer = tensor.inputs[0] if tensor.inputs else self.editor.start
        shape = along(axis, rank_of(tensor))

        def emit(op: str, data: gs.Tensor, hint: str, values: Array, **attrs: object) -> gs.Tensor:
            constant = self.editor.constant(hint, values)
            output = self.editor.variable(f"{data.name}_heads", data.dtype, data.shape)
            self.made.add(output.name)
            return self.editor.emit(op, [data, constant], output, f"{output.name}_{op.lower()}", attrs, after=producer)

        current = tensor
        if not kept.all():
            current = emit("Mul", current, "needed", kept.astype(numpy_dtype(tensor)).reshape(shape))
        product = current
        if shift.any():
            current = emit("Add", current, "constants", shift.astype(numpy_dtype(tensor)).reshape(shape))
        if (order != np.arange(order.size)).any():
            current = emit("Gather", current, "order", order, axis=axis)
        return product, current

    def _rearrange(self, node: gs.Node, place: int, trace: Trace) -> None:
        """Let the elements of a constant go with their channels, and be zero for those that nothing reads."""
        index, constant = once(trace.index), values_of(node.inputs[place])
        moved = trace.root.order[index]
        read = trace.root.needed[moved]
        if (moved != index).any() or not read.all():
            shape = np.broadcast_shapes(index.shape, constant.shape)
            axes = [a - index.ndim for a in varying(index)]
            rows = np.moveaxis(np.broadcast_to(constant, shape), axes, range(-len(axes), 0))
            places = np.empty(trace.root.zero.size, np.int64)
            places[index.reshape(-1)] = np.arange(index.size)
            picked = rows.reshape(*rows.shape[: -len(axes)], -1)[..., places[moved].reshape(-1)].reshape(rows.shape)
            values = np.moveaxis(
                np.where(read.reshape(rows.shape[-len(axes) :]), picked, 0), range(-len(axes), 0), axes
            )
            node.inputs[place] = self.editor.constant(node.inputs[place].name, values)
            self.rearranged = True


def _replace_inputs(nodes: list[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
    for node in nodes if new is not old else ():
        node.inputs = [new if t is old else t for t in node.inputs]


def _paired_once(traces: list[Trace]) -> bool:
    """Whether these channels may change places along the last axis, and each is multiplied with others but once."""
    for root in {id(t.root): t.root for t in traces}.values():
        index = [t.index for t in traces if t.root is root]
        channels = np.concatenate([i.reshape(-1) for i in index])
        if (root.paired[channels] != 1).any() or np.unique(channels).size < channels.size:
            return False
        if any((root.groups[i] != root.groups[i[..., :1]]).any() for i in index):
            return False
    return True


def _align(root: Root) -> None:
    """Reorder the channels of a root that may change places, but for those that a product multiplies with others."""
    numbers, counts = np.unique(root.groups[root.paired == 0], return_counts=True)
    several = numbers[counts > 1]
    if several.size and np.unique(counts[counts > 1]).size == 1:
        lines = [np.flatnonzero((root.groups == number) & (root.paired == 0)) for number in several]
        index = np.stack(lines)
        _live_first([Trace(root, index, root.zero)], root.zero[index] | ~root.needed[index])


def _live_first(traces: list[Trace], dead: Mask) -> None:
    """Reorder these channels so that along the last axis those that are not dead come first, unless nothing is won."""
    places = live_first(dead)
    if places is None:
        return
    for trace in traces:
        everywhere = np.broadcast_to(places, trace.index.shape)
        trace.root.order[trace.index] = np.take_along_axis(trace.index, everywhere, axis=-1)
