"""Fused attention of the standard and of ONNX Runtime: whole heads go, and channels of which all heads keep as many."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.polynomial import Polynomial, known
from passes.abstract_values.shape_rules import AgreementRule, OutputSizesRule, Shape, side_by_side
from passes.abstract_values.slices import Constants, ConstantSlices, Couples, Demand, Demands, Partitions, Reads, Sets
from passes.graph.tensors import Dim, Mask, is_float, operand, present, product, shape_of, size_of, volume
from passes.ops.attention.heads import MALFORMED, Heads, Kept, Kind, Place
from passes.ops.base import UNKNOWN, Op, register
from passes.ops.softmax_like import Softmax
from passes.ops.traits import CoupledAxes
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

_PARTS: tuple[Kind, Kind, Kind] = ("query", "key", "value")


class FusedAttention(AgreementRule, OutputSizesRule, Op, CoupledAxes):
    """softmax(scale · Q Kᵀ + mask) V by heads, of which one of keys may serve several of queries.

    A subclass says where queries, keys and values lie.
    """

    reason = kept_reasons.HEADS
    #: attributes with the numbers of heads, of queries and of keys
    counts: tuple[str, ...] = ("num_heads",)
    #: inputs: keys and values of tokens before, what is added to the scores, and a number for each head of queries
    past: Sequence[int] = ()
    added = 3
    by_head: int | None = None
    #: input: how many tokens there are in caches that have room for more
    length: int | None = None
    #: input: which keys count, [batch, ..., tokens]
    padding: int | None = None
    #: whether keys may be turned by their positions, which mixes their channels
    turns = False

    def parts(self, node: gs.Node) -> tuple[tuple[int, int, int, int], list[Place]]:
        """Numbers of heads, of queries and of keys, and of channels, of keys and of values, and where they lie.

        Raises ValueError for another form than the rules know.
        """
        raise NotImplementedError

    def numbers(self, node: gs.Node) -> tuple[int, int]:
        """Numbers of heads, of queries and of keys, as attributes say."""
        return int(node.attrs[self.counts[0]]), int(node.attrs[self.counts[-1]])

    def narrows(self, node: gs.Node) -> bool:
        """Whether its heads may have fewer channels, of queries and keys, or of values."""
        return True

    def averages(self, node: gs.Node, facts: Facts) -> bool:
        """Whether the weights of every query add up to one, so that a constant of all values is one of the result.

        A query that infinities keep from all keys has none.
        """
        added = operand(node, self.added)
        return added is None or facts.lowest(added) > -math.inf

    def apart(self, node: gs.Node) -> Collection[int]:
        """Inputs with keys and values that are not added to others, but lie beside them."""
        return self.past

    def form(self, node: gs.Node) -> Op:
        try:
            return self if self.heads(node).fit(node) else UNKNOWN
        except MALFORMED:
            return UNKNOWN

    def heads(self, node: gs.Node) -> Heads:
        """The heads of a node; raises ValueError for another form than the rules know."""
        (queries, keys, channels, values), parts = self.parts(node)
        inputs, narrows = [*parts], self.narrows(node)
        for index, kind in zip(self.past, _PARTS[1:], strict=False):
            if (cache := operand(node, index)) is not None:
                known = narrows or size_of(cache, 3) is not None  # it may be open of channels that all stay
                inputs.append(Place(index, kind, 1, 3 if known else None))
        if (scores := operand(node, self.added)) is not None:
            shape = shape_of(scores)
            if shape is None:
                raise ValueError("the rank of what is added to the scores is not known")
            if len(shape) >= 3 and size_of(scores, -3) not in (None, 1):
                inputs.append(Place(self.added, "scores", len(shape) - 3))
        if self.by_head is not None and operand(node, self.by_head) is not None:
            inputs.append(Place(self.by_head, "scores", 0))
        axes = _axes(shape_of(node.outputs[0]) or ())
        others: Sequence[Place] = Place(1, "key", 1, 3), Place(2, "value", 1, 3), Place(3, "scores", 1)
        named = [p for p in others if p.index < len(node.outputs) and node.outputs[p.index].name]
        return Heads(queries, keys, channels, values, inputs, [Place(0, "result", *axes), *named], narrows)

    def agreeing(self, node: gs.Node, values: Mapping[str, int]) -> Iterator[tuple[Dim, Dim]]:
        """Of all operands the examples, of what is added to scores or masks them the tokens as well."""
        given = {i: shape for i, t in present(node.inputs) if (shape := shape_of(t))}
        batch, queries, total = self._examples_and_tokens(node)
        heads = self.heads(node)
        yield from ((batch, given[i][0]) for i in (1, 2, *self.past) if i in given)
        caches = [i for i in self.past if i in given and is_float(node.inputs[i])]  # others may be packed
        yield from zip((heads.channels, heads.values), (given[i][-1] for i in caches), strict=False)
        yield from side_by_side([(batch, heads.queries, queries, total), given.get(self.added, ())])
        if self.padding in given:
            yield from ((batch, given[self.padding][0]), (total, given[self.padding][-1]))

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        try:
            (queries, keys, channels, values), _ = self.parts(node)
            batch, tokens, total = self._examples_and_tokens(node)
        except MALFORMED:
            return []
        split = len(shape_of(node.inputs[0]) or ()) == 4
        result = [batch, queries, tokens, values] if split else [batch, tokens, queries * values]
        caches: list[Shape] = [[batch, keys, total, channels], [batch, keys, total, values]]
        return [result, *caches, [batch, queries, tokens, total]]

    def _examples_and_tokens(self, node: gs.Node) -> tuple[Dim, Dim, Dim]:
        """The sizes of the batch, and of the tokens of queries and of keys."""
        query, key = (shape_of(t) or () for t in (node.inputs[0], operand(node, 1) or node.inputs[0]))
        before = operand(node, self.past[0]) if self.past else None
        sizes = known([_tokens(key)[1], 0 if before is None else (shape_of(before) or ())[2]])
        counted = self.length is None or operand(node, self.length) is None
        return (*_tokens(query), sum(sizes, Polynomial()).dim if counted and sizes is not None else None)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        heads = self.heads(node)
        value, key = (heads.known(node, facts, kind, self.apart(node)) for kind in ("value", "key"))
        if not self.averages(node, facts):
            value = value.only(0)
        times = heads.queries // heads.keys
        result = ConstantSlices(np.repeat(value.mask, times, axis=0), np.repeat(value.value, times, axis=0))
        found: dict[Kind, ConstantSlices] = {"result": result, "value": value}
        if not self.turns:
            found["key"] = key.only(0)
        yield from heads.constants(node, found)

    def _idle(self, node: gs.Node, facts: Facts, heads: Heads) -> Mask:
        """Channels [heads of keys, channels] that add nothing to any score."""
        query, key = (heads.known(node, facts, kind, self.apart(node)).only(0).mask for kind in ("query", "key"))
        return np.asarray((query.reshape(heads.keys, -1, heads.channels).all(axis=1) | key) & heads.narrows)

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        heads = self.heads(node)
        live = {(p.index, a): facts.live(node.outputs[p.index], a) for p in heads.outputs for a in p.axes}
        read = heads.read(heads.wanted(live), self._idle(node, facts, heads))
        for (index, axis), mask in heads.sets(heads.inputs, node.inputs, read).items():
            yield index, axis, mask

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        heads = self.heads(node)
        return heads.sets(heads.outputs, node.outputs, self._kept(node, facts, heads, asked))

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        heads = self.heads(node)
        required = heads.sets(heads.inputs, node.inputs, self._kept(node, facts, heads, stored))
        return {key: Demand(mask, reason=self.reason) for key, mask in required.items()}

    def _kept(self, node: gs.Node, facts: Facts, heads: Heads, sets: Sets) -> Kept:
        return heads.kept(heads.wanted(sets), self._idle(node, facts, heads))

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        before = rewriter.before
        heads = self.heads(before)
        places = {(p.index, a) for p in heads.outputs for a in p.axes}
        stored = {(i, a): mask for i, a in places if (mask := rewriter.stored(before.outputs[i], a)) is not None}
        kept = self._kept(before, rewriter.facts, heads, stored)
        queries, keys = kept["scores"][:, 0], kept["key"].any(axis=1)
        for name, left in zip(self.counts, (queries, keys), strict=False):
            if name in node.attrs:
                node.attrs[name] = int(left.sum())
        if not kept["key"][keys].all() and not node.attrs.get("scale", 0):
            node.attrs["scale"] = float(heads.channels) ** -0.5
        scores = operand(before, self.added)
        axis = -1 if scores is None else len(rewriter.shape(scores)) - 3
        if scores is not None and axis >= 0 and size_of(scores, axis) is None and not queries.all():
            self._pick(node, queries, axis, rewriter)

    def _pick(self, node: gs.Node, left: Mask, axis: int, rewriter: Rewriter) -> None:
        """Pick the heads that are left of what is added to the scores, where only the run time tells if it has any."""
        added = node.inputs[self.added]
        sizes, number = rewriter.emit("Shape", [added], added), rewriter.constant("axis", np.asarray([axis]))
        sizes.dtype = np.dtype(np.int64)
        size = rewriter.emit("Gather", [sizes, number], sizes, axis=0)
        index = rewriter.emit("Mod", [rewriter.constant("heads", np.flatnonzero(left)), size], sizes)
        rewriter.set_input(node, self.added, rewriter.emit("Gather", [added, index], added, axis=axis))

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        heads = self.heads(node)
        size = size_of(node.outputs[output], axis)
        found = [
            (place.index, place.axes[out.axes.index(axis)])
            for out in heads.outputs
            for place in heads.inputs
            if out.index == output and axis in out.axes and len(place.axes) == len(out.axes)
            if place.kind == ("value" if out.kind == "result" else out.kind)
        ]
        return [(i, a) for i, a in found if size_of(node.inputs[i], a) == size]

    def couples(self, node: gs.Node, facts: Facts) -> Couples:
        """Channels of queries with those of keys, of the result with those of values; of all where heads go whole."""
        heads, found = self.heads(node), {place.kind: (tensor, place) for tensor, place in self._alone(node)}
        pairs: list[tuple[Kind, Kind]] = [("key", "query"), ("value", "result")]
        if not heads.narrows and heads.channels == heads.values:
            pairs.append(("key", "value"))
        for first, second in pairs if found.keys() >= {*_PARTS, "result"} else ():
            (one, place), (other, there) = found[first], found[second]
            shape, times = heads.shape(first), heads.shape(second)[0] // heads.shape(first)[0]
            channels = np.arange(shape[0] * shape[1]).reshape(shape)
            if place.is_flat and there.is_flat:
                yield (one, place.axis), (other, there.axis), np.repeat(channels, times, axis=0).reshape(-1)
            elif len(place.axes) == len(there.axes):
                yield (one, place.axes[0]), (other, there.axes[0]), np.repeat(np.arange(shape[0]), times)
                yield (one, place.axes[1]), (other, there.axes[1]), None

    def partitions(self, node: gs.Node, facts: Facts) -> Partitions:
        """Groups and heads have one size: groups are removed, or the same heads in each, or the same channels."""
        heads = self.heads(node)
        for tensor, place in self._alone(node):
            count, channels = heads.shape(place.kind)
            head, channel = np.divmod(np.arange(count * channels), channels)
            times = count // heads.keys
            divisions = [head // times, *([head % times] if times > 1 else []), *([channel] if heads.narrows else [])]
            if place.is_flat:
                yield (tensor, place.axis), divisions

    def _alone(self, node: gs.Node) -> list[tuple[gs.Tensor, Place]]:
        """Queries, keys, values and the result, each where its tensor holds nothing else."""
        heads = self.heads(node)
        parts = [p for p in heads.inputs if p.kind in _PARTS and p.index < len(_PARTS)]
        single = [p for p in parts if sum(p.index == other.index for other in parts) == 1]
        return [*((node.inputs[p.index], p) for p in single), (node.outputs[0], heads.outputs[0])]

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """Of both products, scaled queries, what is added to the scores, and a softmax."""
        shape, tokens = shape_of(node.outputs[0]) or (), self._keys(node)
        rows, mixed = product(shape[:-1]), product(shape)  # rows of the scores
        if len(shape) != 4:
            rows *= self.numbers(node)[0]
        scaled = volume(node.inputs[0])
        if operand(node, 1) is None:  # keys and values lie with them
            queries, keys = self.numbers(node)
            scaled = scaled * queries // (queries + 2 * keys)
        each = 2 * scaled - rows + rows * Softmax.flops_per_element + (0 if operand(node, self.added) is None else rows)
        return scaled + tokens * each + mixed * (2 * tokens - 1), tokens * (scaled + mixed)

    def _keys(self, node: gs.Node) -> int:
        """Of how many tokens there are keys, those before included."""
        keys = shape_of(operand(node, 1) or node.inputs[0]) or ()
        before = operand(node, self.past[0]) if self.past else None
        return product(_tokens(keys)[1:]) + (0 if before is None else product((shape_of(before) or ())[2:3]))


@register("Attention")
class Attention(FusedAttention):
    """softmax(scale · Q Kᵀ + mask) V, heads by an axis of their own or within the last one."""

    counts = ("q_num_heads", "kv_num_heads")
    past = (4, 5)

    def averages(self, node: gs.Node, facts: Facts) -> bool:
        """Not where a mask of truth values, or of lengths, may keep a query from all keys."""
        plain = operand(node, 6) is None and (operand(node, 3) is None or is_float(node.inputs[3]))
        return plain and super().averages(node, facts)

    def parts(self, node: gs.Node) -> tuple[tuple[int, int, int, int], list[Place]]:
        q, k, v = (shape_of(t) or () for t in node.inputs[:3])
        if len(q) == 4:
            places = [Place(i, kind, 1, 3) for i, kind in enumerate(_PARTS)]
            return (_static(q[1]), _static(k[1]), _static(k[3]), _static(v[3])), places
        queries, keys = self.numbers(node)
        places = [Place(i, kind, 2, 2) for i, kind in enumerate(_PARTS)]
        return (queries, keys, _part(k[2], keys), _part(v[2], keys)), places


class OfOnnxRuntime(FusedAttention):
    """Those of ONNX Runtime's domain: queries, keys and values may lie in one operand, and each in several ways."""

    added = 5
    #: input: a bias for queries, keys and values
    bias: int | None = None

    def narrows(self, node: gs.Node) -> bool:
        return False

    def averages(self, node: gs.Node, facts: Facts) -> bool:
        return False

    def apart(self, node: gs.Node) -> Collection[int]:
        """Keys and values that are given by head get no bias."""
        by_head = any(len(shape_of(t) or ()) == 4 for t in node.inputs[1:3])
        return (*self.past, self.bias) if by_head and self.bias is not None else self.past

    def parts(self, node: gs.Node) -> tuple[tuple[int, int, int, int], list[Place]]:
        queries, keys = self.numbers(node)
        q, k, v = (*(shape_of(t) or () for t in node.inputs[:3]), (), ())[:3]
        starts, values = [*zip(_PARTS, (0, queries, queries + keys), strict=True)], None
        if len(q) > 3:
            size, places = _static(q[-1]), [Place(0, kind, len(q) - 3, len(q) - 1) for kind in _PARTS]
        elif not k:
            size = _part(q[2], queries + 2 * keys)
            places = [Place(0, kind, 2, 2, start * size) for kind, start in starts]
        else:
            size, places = _part(q[-1], queries), [Place(0, "query", *_axes(q))]
            if len(k) == 5:
                places += [Place(1, kind, 2, 4) for kind in _PARTS[1:]]
            else:
                values = _part(v[-1], keys) if len(v) < 4 else _static(v[3])
                places += [Place(1, "key", *_axes(k)), Place(2, "value", *_axes(v))]
        if self.bias is not None and operand(node, self.bias) is not None:
            places += [Place(self.bias, kind, 0, 0, start * size) for kind, start in starts]
        return (queries, keys, size, size if values is None else values), places


@register("MultiHeadAttention", domain="com.microsoft")
class MultiHeadAttention(OfOnnxRuntime):
    """Attention with a bias for queries, keys and values, a mask of keys and a cache of those before."""

    past, bias, padding, length = (6, 7), 3, 4, 8

    def narrows(self, node: gs.Node) -> bool:
        """With a cache, keys and values have as many channels."""
        flat = len(node.inputs) > 2 and all(len(shape_of(t) or ()) == 3 for t in node.inputs[:3])
        alone = all(operand(node, index) is None for index in self.past)
        return flat and alone and all(t.is_empty() for t in node.outputs[1:3])

    averages = FusedAttention.averages


@register("DecoderMaskedMultiHeadAttention", domain="com.microsoft")
class DecoderMaskedMultiHeadAttention(OfOnnxRuntime):
    """Attention of one token with those before it."""

    past, added, bias, padding, length = (5, 6), 4, 10, 3, 7


@register("GroupQueryAttention", domain="com.microsoft")
class GroupQueryAttention(OfOnnxRuntime):
    """Attention with fewer heads of keys, perhaps turned by their positions, and a cache of those before."""

    counts = ("num_heads", "kv_num_heads")
    past, added, by_head, length = (3, 4), 10, 11, 5
    turns = True

    def form(self, node: gs.Node) -> Op:
        return super().form(node) if self._scales(node) <= {"NONE", "PER_TENSOR"} else UNKNOWN

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        """Numbers of few bits may be packed."""
        found = super().output_sizes(node)
        return found if self._scales(node) == {"NONE"} else found[:1]

    @staticmethod
    def _scales(node: gs.Node) -> set[str]:
        """How keys and values are quantised in the cache."""
        return {str(node.attrs.get(name, "NONE")) for name in ("k_quant_type", "v_quant_type")}


@register("PackedMultiHeadAttention", domain="com.microsoft")
class PackedMultiHeadAttention(OfOnnxRuntime):
    """Attention of examples whose tokens, [tokens, channels], lie one after the other, without padding."""

    bias, added = 3, 6

    def form(self, node: gs.Node) -> Op:
        return super().form(node) if operand(node, 4) is not None else UNKNOWN

    def agreeing(self, node: gs.Node, values: Mapping[str, int]) -> Iterator[tuple[Dim, Dim]]:
        return iter(())

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        try:
            (queries, _, _, values), _ = self.parts(node)
        except MALFORMED:
            return []
        return [[(shape_of(node.inputs[0]) or (None,))[0], queries * values]]

    def _keys(self, node: gs.Node) -> int:
        """As with padding: where they are told to be is [batch, tokens]."""
        return product((shape_of(node.inputs[4]) or ())[1:])


def _axes(shape: Sequence[Dim]) -> tuple[int, int]:
    """Of heads and of their channels, in [.., tokens, channels] or [batch, heads, tokens, channels]."""
    return (1, 3) if len(shape) == 4 else (len(shape) - 1, len(shape) - 1)


def _tokens(shape: Sequence[Dim]) -> tuple[Dim, Dim]:
    """The sizes of the batch and of the tokens."""
    return shape[0], shape[2 if len(shape) == 4 else 1]


def _static(size: Dim) -> int:
    """A size that is known; raises ValueError for another."""
    if not isinstance(size, (int, np.integer)):
        raise ValueError(size)
    return int(size)


def _part(size: Dim, count: int) -> int:
    """The size of each of so many parts; raises ValueError where it is not known, or they are not alike."""
    if count < 1 or _static(size) % count:
        raise ValueError(size)
    return _static(size) // count
