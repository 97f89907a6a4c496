"""Channels split into heads: zeros that only both axes together show, and their order.

A mask on the channels of a query says, split into heads, something else of every head. Here such channels are followed
through reshapes, transposes and matrix products to where they are summed over or merged again. A channel of a query is
not read where the same channel of the key is zero; a merged channel is zero where that of the values is. And as each
head may keep other channels, their order is changed within each head, so that those which are kept stand first in all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import ConstantSlices
from passes.graph.editor import GraphEditor
from passes.graph.evaluate import evaluate
from passes.graph.subgraphs import seen_outside
from passes.graph.tensors import (
    Array,
    Index,
    Mask,
    is_constant,
    is_float,
    numpy_dtype,
    operand,
    present,
    shape_of,
    values_of,
)
from passes.ops import rules
from passes.ops.arithmetic import Product
from passes.ops.attention.fused import FusedAttention
from passes.ops.contractions.labels import Terms
from passes.ops.contractions.matmul import Gemm, MatMul
from passes.ops.elementwise import is_pointwise
from passes.ops.movement import Movement
from passes.ops.shape import Rearrangement, Reshape
from passes.rewriting.channel_facts import Facts
from passes.rewriting.origins import Origins

#: elements: larger arrays of channel numbers are not followed
_LARGEST = 1 << 21


@dataclass
class _Root:
    """A tensor whose `axis` is split: which of its channels are read after it, and by how many.

    `zero` and `fixed` say which channels are known to be zero, or some constant; `value` holds these constants.
    """

    tensor: gs.Tensor
    axis: int
    zero: Mask
    fixed: Mask
    value: Array
    needed: Mask
    uses: Index
    order: Index
    starts: list[gs.Node] = field(default_factory=list)


@dataclass(frozen=True)
class _Trace:
    """For each element (of one example) of a tensor, the channel of the root that it comes from.

    `even`: nothing has been done to it but means of its elements taken, so a constant is still there as it was.
    """

    root: _Root
    index: Index
    even: bool = True


@dataclass(frozen=True)
class _Merge:
    """A tensor whose `axis` holds channels of a root again, in the order of `index`.

    `even`: constants are still there as they were, and an adapter can restore them at their consumers.
    """

    root: _Root
    tensor: gs.Tensor
    axis: int
    index: Index
    even: bool

    @property
    def fixed(self) -> Mask:
        """Which channels of the root are the constants here that they are there."""
        return self.root.fixed & self.even


def align(graph: gs.Graph, facts: Facts, origins: Origins) -> frozenset[str]:
    """Write zeros that are only known here into the graph, and align heads.

    The function of the graph stays the same; facts have to be found anew where there are new tensors, whose names are
    returned. Others keep their names and have their channels in another order, as `origins` then say.
    """
    if not any(_is_inner(node) for node in graph.nodes):
        return frozenset()
    follower = _Follower(graph, facts)
    follower.run()
    return _Writer(graph, follower, facts, origins).run()


def _is_inner(node: gs.Node) -> bool:
    """A product of two computed tensors, or fused attention."""
    return isinstance(rules(node), MatMul | Gemm | FusedAttention) and not any(is_constant(t) for t in node.inputs[:2])


class _Follower:
    """One sweep over the nodes."""

    def __init__(self, graph: gs.Graph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self.roots: dict[tuple[str, int], _Root] = {}
        self.traces: dict[str, _Trace] = {}
        self.merges: list[_Merge] = []
        #: channels [..., inner] that are multiplied with each other and summed over the last axis
        self.products: list[tuple[_Trace, _Trace]] = []
        self.values: list[_Trace] = []  # [..., inner]: channels that a product keeps
        self.pinned = seen_outside(graph)

    def run(self) -> None:
        for node in self.graph.nodes:
            self._visit(node)
        for name in self.pinned & self.traces.keys():
            self._read_whole(name)
        for merge in self.merges:
            merge.root.needed[merge.index[self._read(merge) & ~merge.fixed[merge.index]]] = True
            merge.root.uses[np.unique(merge.index)] += 1
        for root in self.roots.values():
            if len(root.starts) < len(root.tensor.outputs) or root.tensor.name in self.pinned:
                root.needed[:] = True
                root.uses += 2

    def _read(self, merge: _Merge) -> Mask:
        """Which merged channels count: those that are read, and those whose readers know them to be no zeros."""
        tensor, size = merge.tensor, merge.index.size
        read = self.facts.read[tensor.name].get(merge.axis) if tensor.name in self.facts.read else np.zeros(size, bool)
        constant = self.facts.constants(tensor, merge.axis)
        count = np.ones(size, bool) if read is None else read if constant is None else read | constant
        return np.asarray(count & ~self.facts.zero(tensor, merge.axis))

    def _visit(self, node: gs.Node) -> None:
        traced = [(i, t) for i, t in present(node.inputs) if t.name in self.traces]
        if not traced:
            self._start(node)
        elif not self._pass(node, traced):
            for _, tensor in traced:
                self._read_whole(tensor.name)

    def _read_whole(self, name: str) -> None:
        trace = self.traces[name]
        read = _among(trace)
        trace.root.needed[read] = True
        trace.root.uses[read] += 2

    def _start(self, node: gs.Node) -> None:
        """A reshape that splits one axis."""
        if not isinstance(rules(node), Rearrangement) or is_constant(node.inputs[0]):
            return
        x, y = node.inputs[0], node.outputs[0]
        for axis in sorted({k.input_axis for k in self.facts.links(node) if k.split}):
            size = self.facts.size(x, axis) or 0
            shape = _example(y)
            example = _example(x)
            if not self._keeps(node, (axis,)) or not 0 < int(np.prod(shape)) == int(np.prod(example)) <= _LARGEST:
                continue
            channels = np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(shape_of(x) or ()))])
            key = x.name, axis
            if key not in self.roots:
                known = self.facts.known(x, axis) or ConstantSlices(np.zeros(size, bool), np.zeros(size))
                value = np.where(known.mask, known.value, 0)
                zero, uses = known.mask & (value == 0), np.zeros(size, np.int64)
                needed, order = np.zeros(size, bool), np.arange(size)
                self.roots[key] = _Root(x, axis, zero, known.mask, value, needed, uses, order)
            self.roots[key].starts.append(node)
            index = np.broadcast_to(channels, example).reshape(shape)
            self.traces[y.name] = _Trace(self.roots[key], index)
            return

    def _keeps(self, node: gs.Node, axes: tuple[int, ...]) -> bool:
        """Whether these input axes, and no others with them, become axes of the output of a reshape."""
        for axis in axes:
            out = {k.output_axis for k in self.facts.links(node) if k.input_axis == axis}
            sizes = [self.facts.size(node.outputs[0], a) or 0 for a in out]
            alone = all({k.input_axis for k in self.facts.links(node) if k.output_axis == a} <= set(axes) for a in out)
            if not out or not alone:
                return False
            split = any(k.split for k in self.facts.links(node) if k.input_axis == axis)
            if split and int(np.prod(sizes)) != self.facts.size(node.inputs[0], axis):
                return False
        return True

    def _pass(self, node: gs.Node, traced: list[tuple[int, gs.Tensor]]) -> bool:
        """Follow the node; False where that is not possible."""
        op = rules(node)
        if isinstance(op, MatMul | Gemm):
            return self._multiply(node, op, dict(traced))
        if isinstance(op, FusedAttention):
            return self._attend(node, op, dict(traced))
        place, tensor = traced[0]
        if len(traced) > 1 or any(t.is_empty() for t in node.outputs):
            return False
        trace = self.traces[tensor.name]
        even, index = trace.even, self._moved(node, trace) if place == 0 else None
        if index is None:
            even, index = False, self._alike(node, place, trace)
        shapes = [_example(t) for t in node.outputs]
        if index is None or [i.shape for i in index] != shapes or any(i.size == 0 for i in index):
            return False
        for output, found in zip(node.outputs, index, strict=True):
            self._arrive(output, _Trace(trace.root, found, even))
        return True

    def _alike(self, node: gs.Node, place: int, trace: _Trace) -> list[Index] | None:
        """The channels in the output of a node that computes each by itself, and makes zero of zero."""
        alike = isinstance(rules(node), Product)
        if alike:
            others = [shape_of(t) for i, t in present(node.inputs) if i != place]
            axes = [axis - trace.index.ndim for axis in _varying(trace.index)]
            if any(s is None or (len(s) >= -axis and s[axis] != 1) for s in others for axis in axes):
                trace.root.uses[_among(trace)] += 1  # each is multiplied by another number, and keeps its place
        else:
            alike = place == 0 and is_pointwise(node) and self._keeps_zero(node)
        shape = _example(node.outputs[0])
        grows = shape[len(shape) - trace.index.ndim :] != trace.index.shape  # or is of sizes that are not known
        return [np.broadcast_to(trace.index, shape)] if alike and is_float(node.outputs[0]) and not grows else None

    def _keeps_zero(self, node: gs.Node) -> bool:
        others = [None if t.is_empty() else values_of(t) for t in node.inputs[1:]]
        found = evaluate(node, self.facts.opset, [np.zeros(1, np.float32), *others])
        return found is not None and not found[0].any()

    def _moved(self, node: gs.Node, trace: _Trace) -> list[Array] | None:
        """The channels in each output of a node that moves those of its operand 0; None if it does something else."""
        op = rules(node)
        if isinstance(op, Reshape):
            return self._reshaped(node, trace)
        if not isinstance(op, Movement) or not op.only_picks:
            return None
        others = list(node.inputs)[1:]
        operands = [trace.index, *(np.asarray(t.values) for t in others if is_constant(t))]
        return evaluate(node, self.facts.opset, operands) if len(operands) > len(others) else None

    def _reshaped(self, node: gs.Node, trace: _Trace) -> list[Array] | None:
        shape = _example(node.outputs[0])
        whole = int(np.prod(shape)) == trace.index.size and self._keeps(node, _varying(trace.index))
        return [trace.index.reshape(shape)] if whole else None

    def _arrive(self, output: gs.Tensor, trace: _Trace) -> None:
        """One axis that holds the channels by itself, once or for several heads, is the end."""
        varying = _varying(trace.index)
        size = self.facts.size(output, varying[0]) if len(varying) == 1 else None
        if size is not None and size % trace.root.zero.size == 0:
            axis = varying[0]
            index = np.moveaxis(trace.index, axis, -1).reshape(-1, trace.index.shape[axis])[0]
            even = trace.even and output.name not in self.pinned
            self.merges.append(_Merge(trace.root, output, axis, index, even))
        else:
            self.traces[output.name] = trace

    def _multiply(self, node: gs.Node, op: MatMul | Gemm, traced: dict[int, gs.Tensor]) -> bool:
        terms = op.terms(node)
        if terms is None or operand(node, 2) is not None or not {*"mkn"} <= {*terms.factors[0], *terms.factors[1]}:
            return False
        if len(traced) == 2:
            both = [self._channels(node, terms, index, "k") for index in range(2)]
            if both[0] is not None and both[1] is not None:
                self._contract(both[0], both[1])
                return True
        factor = max(traced)
        kept = None if is_constant(node.inputs[1 - factor]) else self._channels(node, terms, factor, "mn"[factor])
        if kept is None:
            return False
        index = np.expand_dims(kept.index, -2 if factor == 1 else -1)
        shape = _example(node.outputs[0])
        sizes = zip(reversed(index.shape), reversed(shape), strict=False)
        if index.ndim > len(shape) or any(size not in (1, whole) for size, whole in sizes):
            return False  # the output is not known to have these sizes
        if len(traced) == 2:  # channels of keys that are rows, as in linear attention, are all there
            self._read_whole(traced[0].name)
        self.values.append(kept)
        mean = self.facts.sums_to_one(node.inputs[1 - factor], terms.factors[1 - factor].index("k"))
        self._arrive(node.outputs[0], _Trace(kept.root, np.broadcast_to(index, shape), kept.even and mean))
        return True

    def _attend(self, node: gs.Node, op: FusedAttention, traced: dict[int, gs.Tensor]) -> bool:
        """Fused attention of queries, keys and values [batch, heads, tokens, channels], and nothing else."""
        heads, found = op.heads(node), {index: self.traces[t.name] for index, t in traced.items()}
        alone = all(p.kind == "scores" or (p.index < 3 and len(p.axes) == 2) for p in heads.inputs)
        if not alone or len(heads.outputs) > 1 or max(found) > 2 or any(_varies(t.index, 2) for t in found.values()):
            return False
        grouped = {i: _Trace(t.root, _by_group(t.index, heads.keys), t.even) for i, t in found.items()}
        if 0 in found and 1 in found:
            self._contract(grouped[0], grouped[1])
        elif 0 in found or 1 in found:
            self._read_whole(traced[min(found)].name)
        if 2 in found:
            self.values.append(value := grouped[2])
            batch, *others = _example(node.outputs[0])
            shape = batch, heads.keys, heads.queries // heads.keys, *others[1:]
            index = np.broadcast_to(value.index[:, :, :, None], shape).reshape(batch, *others)
            self._arrive(node.outputs[0], _Trace(value.root, index, value.even and op.averages(node, self.facts)))
        return True

    def _channels(self, node: gs.Node, terms: Terms, factor: int, letter: str) -> _Trace | None:
        """Channels [..., letter] of one factor of a matrix product, where they do not vary along its other axis."""
        trace, letters = self.traces[node.inputs[factor].name], terms.factors[factor]
        along, other = letters.index(letter), next(a for a in (-1, -2) if letters[a] != letter) + len(letters)
        if _varies(trace.index, other) or not _varies(trace.index, along):
            return None
        taken = np.moveaxis(trace.index, along, -1)
        other = other - (along < other)
        return _Trace(trace.root, _once(np.take(taken, 0, axis=other)), trace.even)

    def _contract(self, left: _Trace, right: _Trace) -> None:
        """A channel is needed where neither factor is zero."""
        first, second = np.broadcast_arrays(left.index, right.index)
        alive = ~(left.root.zero[first] | right.root.zero[second])
        left.root.needed[first[alive]] = True
        right.root.needed[second[alive]] = True
        left.root.uses[_among(left)] += 1
        right.root.uses[_among(right)] += 1
        self.products.append((left, right))


class _Writer:
    """Writes what was found into the graph."""

    def __init__(self, graph: gs.Graph, found: _Follower, facts: Facts, origins: Origins) -> None:
        self.found, self.facts, self.origins = found, facts, origins
        self.editor = GraphEditor(graph)
        self.made: set[str] = set()

    def run(self) -> frozenset[str]:
        for left, right in self.found.products:
            if left.index.ndim == right.index.ndim and _used_once([left, right]):
                dead = left.root.zero[left.index] | right.root.zero[right.index]
                shared = zip(left.index.shape, right.index.shape, strict=True)
                axes = tuple(axis for axis, (one, other) in enumerate(shared) if one != other)
                _live_first([left, right], np.asarray(dead.all(axis=axes, keepdims=True)))
        aligned = [merge for merge in self.found.merges if self._align_values(merge)]
        for root in self.found.roots.values():
            nothing = np.zeros(root.zero.size)
            new = self._chain(root.tensor, root.axis, root.zero | root.needed, nothing, root.order)
            _replace_inputs(root.starts, root.tensor, new)
        reordered = (name for name, trace in self.found.traces.items() if (np.diff(trace.root.order) != 1).any())
        self.origins.update(dict.fromkeys(reordered))
        for merge in self.found.merges:
            channels, back = merge.index, np.arange(merge.index.size)
            if merge in aligned:
                channels = merge.root.order[merge.index]
                # what several heads share is there once in each, before and after
                back[np.argsort(merge.index, kind="stable")] = np.argsort(channels, kind="stable")
                self.origins.take(merge.tensor.name, merge.axis, np.argsort(back))
            zero = merge.root.zero[channels] | merge.fixed[channels]
            shift = np.where(merge.fixed[channels], merge.root.value[channels], 0)
            if merge not in aligned:
                known = self.facts.known(merge.tensor, merge.axis)
                new_here = (shift != 0) | (True if known is None else ~known.mask)
                zero, shift = zero & new_here, np.where(new_here, shift, 0)
            consumers = list(merge.tensor.outputs)
            new = self._chain(merge.tensor, merge.axis, ~zero, shift, back)
            _replace_inputs(consumers, merge.tensor, new)
        self.editor.finish()
        return frozenset(self.made)

    def _chain(self, tensor: gs.Tensor, axis: int, kept: Mask, shift: Array, order: Index) -> gs.Tensor:
        """The tensor with zeros for what is not kept, the shift added, and then in this order."""
        producer = tensor.inputs[0] if tensor.inputs else self.editor.start
        shape = [-1 if a == axis else 1 for a in range(len(shape_of(tensor) or ()))]

        def emit(op: str, data: gs.Tensor, hint: str, values: Array, **attrs: object) -> gs.Tensor:
            constant = self.editor.constant(hint, values)
            output = self.editor.variable(f"{data.name}_heads", data.dtype, data.shape)
            self.made.add(output.name)
            return self.editor.emit(op, [data, constant], output, f"{output.name}_{op.lower()}", attrs, after=producer)

        current = tensor
        if not kept.all():
            current = emit("Mul", current, "needed", kept.astype(numpy_dtype(tensor)).reshape(shape))
        if shift.any():
            current = emit("Add", current, "constants", shift.astype(numpy_dtype(tensor)).reshape(shape))
        if (order != np.arange(order.size)).any():
            current = emit("Gather", current, "order", order, axis=axis)
        return current

    def _align_values(self, merge: _Merge) -> bool:
        """Reorder the channels of values; whether the merged ones have to be put back in order."""
        values = [v for v in self.found.values if v.root is merge.root]
        merges = [m for m in self.found.merges if m.root is merge.root]
        several = any(not np.array_equal(v.index, values[0].index) for v in values)  # and not one after another
        if not values or several or len(merges) != 1 or merge.tensor.name in self.found.pinned:
            return False
        if not _used_once(values[:1]) or np.unique(np.unique(merge.index, return_counts=True)[1]).size > 1:
            return False
        root, index = values[0].root, values[0].index
        if set(np.unique(index)) != set(merge.index):
            return False
        return _live_first(values[:1], root.zero[index] | ~root.needed[index])


def _replace_inputs(nodes: list[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
    for node in nodes if new is not old else ():
        node.inputs = [new if t is old else t for t in node.inputs]


def _used_once(traces: list[_Trace]) -> bool:
    """Whether each of these channels is read in one place only."""
    for root in {id(t.root): t.root for t in traces}.values():
        channels = np.concatenate([t.index.reshape(-1) for t in traces if t.root is root])
        if (root.uses[channels] != 1).any() or np.unique(channels).size < channels.size:
            return False
    return True


def _live_first(traces: list[_Trace], dead: Mask) -> bool:
    """Reorder these channels so that along the last axis those that are not dead come first, unless nothing is won."""
    alive = ~dead
    if int(alive.reshape(-1, alive.shape[-1]).any(axis=0).sum()) == int(alive.sum(axis=-1).max()):
        return False
    places = np.argsort(dead, axis=-1, kind="stable")
    for trace in traces:
        everywhere = np.broadcast_to(places, trace.index.shape)
        trace.root.order[trace.index] = np.take_along_axis(trace.index, everywhere, axis=-1)
    return True


def _by_group(index: Index, groups: int) -> Index:
    """Channels [batch, heads, tokens, channels], the same for all tokens, as [batch, groups, heads, channels]."""
    return _once(index[:, :, 0].reshape(index.shape[0], groups, -1, index.shape[3]))


def _once(index: Index) -> Index:
    """With size 1 along axes that hold the same channels everywhere."""
    return index[tuple(slice(None) if _varies(index, axis) else slice(1) for axis in range(index.ndim))]


def _varying(index: Index) -> tuple[int, ...]:
    """Axes along which the channels differ."""
    return tuple(a for a in range(index.ndim) if _varies(index, a))


def _varies(index: Index, axis: int) -> bool:
    if index.strides[axis] == 0 or index.shape[axis] == 1:
        return False
    slices = np.moveaxis(index, axis, 0)
    # the ends mostly tell
    return bool((slices[0] != slices[-1]).any() or (slices[0] != slices).any())


def _among(trace: _Trace) -> Mask:
    """The channels of the root that occur: bool [channels]."""
    found = np.zeros(trace.root.zero.size, bool)
    found[trace.index] = True
    return found


def _example(tensor: gs.Tensor) -> tuple[int, ...]:
    """The sizes of one example: what is not static counts as 1."""
    return tuple(d if isinstance(d, int) else 1 for d in shape_of(tensor) or ())
