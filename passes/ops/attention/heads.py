"""Heads and the channels of each, where operands and outputs of fused attention hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Constants, ConstantSlices, Sets
from passes.graph.tensors import Array, Mask, numpy_dtype, size_of
from passes.ops.convolutions.channel_groups import filled
from passes.rewriting.channel_facts import Facts

#: what reading a node raises that has another form than its rules know, as nobody checks ONNX Runtime's own
MALFORMED = (AssertionError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError)

#: what lies there: queries, keys, values, the result, or one slice for each head of queries, as scores have it
Kind = Literal["query", "key", "value", "result", "scores"]

#: by kind, what is wanted or kept: bool [heads, channels], of scores [heads, 1]
Kept = Mapping[Kind, Mask]


@dataclass(frozen=True)
class Place:
    """Where an operand or output, number `index`, holds heads: along `axis`, from slice `start` on.

    Their channels lie along `inner`: the same axis, head by head, or one of their own; None: there are none.
    """

    index: int
    kind: Kind
    axis: int
    inner: int | None = None
    start: int = 0

    @property
    def axes(self) -> tuple[int, ...]:
        """That of the heads, and that of their channels where it is another."""
        return (self.axis,) if self.inner is None or self.is_flat else (self.axis, self.inner)

    @property
    def is_flat(self) -> bool:
        """Whether one axis holds the channels of all heads."""
        return self.axis == self.inner

    def stored(self, sets: Mapping[tuple[int, int], Mask], shape: tuple[int, int]) -> Mask:
        """Of heads and channels of this shape, those that the sets by `(index, axis)` hold; absent axes are whole."""
        whole = np.ones(shape, bool)
        for axis in self.axes:
            mask = sets.get((self.index, axis))
            if mask is not None:
                whole &= self._spread(mask, axis, shape)
        return whole

    def known(self, tensor: gs.Tensor, facts: Facts, shape: tuple[int, int]) -> ConstantSlices:
        """Which of the heads' channels are constant here."""
        mask, value = np.zeros(shape, bool), np.zeros(shape)
        for axis in self.axes:
            found = facts.constant_slices(tensor, axis)
            here = self._spread(found.mask, axis, shape)
            value = np.where(here, self._spread(np.where(found.mask, found.value, 0), axis, shape), value)
            mask = mask | here
        return ConstantSlices(mask, value)

    def _spread(self, vector: Array, axis: int, shape: tuple[int, int]) -> Array:
        """A vector over the slices of the axis as one that is broadcast over heads and channels."""
        if self.is_flat:
            return vector[self.start : self.start + shape[0] * shape[1]].reshape(shape)
        return vector[:, None] if axis == self.axis else vector


@dataclass(frozen=True)
class Heads:
    """The heads of one node: their numbers, of queries and of keys, and the channels of each, of keys and of values.

    `narrows`: whether the operator runs with fewer channels in each head.
    """

    queries: int
    keys: int
    channels: int
    values: int
    inputs: Sequence[Place]
    outputs: Sequence[Place]
    narrows: bool

    def shape(self, kind: Kind) -> tuple[int, int]:
        """Numbers of heads and channels."""
        heads = self.keys if kind in ("key", "value") else self.queries
        return heads, 1 if kind == "scores" else self.values if kind in ("value", "result") else self.channels

    def fit(self, node: gs.Node) -> bool:
        """Whether all that the node reads and writes has these sizes."""
        if min(self.queries, self.keys, self.channels, self.values) < 1 or self.queries % self.keys:
            return False
        sizes = self._sizes(0, self.inputs) | self._sizes(1, self.outputs)
        tensors = node.inputs, node.outputs
        return all(size_of(tensors[side][index], axis) == size for (side, index, axis), size in sizes.items())

    def _sizes(self, side: int, places: Iterable[Place]) -> dict[tuple[int, int, int], int]:
        """The size of each axis that holds heads or channels."""
        found: dict[tuple[int, int, int], int] = {}
        for place in places:
            shape = self.shape(place.kind)
            sizes = (place.start + prod(shape),) if place.is_flat else shape
            found |= {(side, place.index, axis): size for axis, size in zip(place.axes, sizes, strict=False)}
        return found

    def wanted(self, sets: Sets) -> dict[Kind, Mask]:
        """What the sets of the outputs ask for."""
        kinds: tuple[Kind, ...] = ("result", "key", "value", "scores")
        wanted = {kind: np.zeros(self.shape(kind), bool) for kind in kinds}
        for place in self.outputs:
            wanted[place.kind] |= place.stored(sets, self.shape(place.kind))
        return wanted

    def read(self, wanted: Kept, idle: Mask) -> dict[Kind, Mask]:
        """What is read of every kind when this is wanted; `idle` [heads of keys, channels] say nothing of scores."""
        heads = wanted["result"].any(axis=1, keepdims=True) | wanted["scores"]
        scored = self._among_group(heads) & ~idle
        return {
            "query": self._repeated(scored) & heads,
            "key": scored | wanted["key"],
            "value": wanted["value"] | self._among_group(wanted["result"]),
            "scores": heads,
        }

    def kept(self, wanted: Kept, idle: Mask) -> dict[Kind, Mask]:
        """The least that contains what is read and that the operator can have: heads and groups of one size."""
        read = self.read(wanted, idle)
        heads = read["scores"].reshape(self.keys, -1)
        groups: Mask = np.asarray(heads.any(axis=1) | read["key"].any(axis=1) | read["value"].any(axis=1))
        groups[0] |= not groups.any()
        heads = filled(heads, groups, least=1)
        key, value = (self._of_one_size(read[kind], groups) for kind in ("key", "value"))
        each = heads.reshape(-1, 1)
        return {
            "query": self._repeated(key) & each,
            "key": key,
            "value": value,
            "result": self._repeated(value) & each,
            "scores": each,
        }

    def _of_one_size(self, read: Mask, groups: Mask) -> Mask:
        if not self.narrows:
            return np.broadcast_to(groups[:, None], read.shape)
        if any(len(place.axes) > 1 for place in (*self.inputs, *self.outputs)):
            read = np.broadcast_to(read[groups].any(axis=0), read.shape)  # an axis of channels is that of all heads
        return filled(read, groups, least=1)

    def _repeated(self, mask: Mask) -> Mask:
        """For each head of queries what is said of its head of keys."""
        return np.repeat(mask, self.queries // self.keys, axis=0)

    def _among_group(self, mask: Mask) -> Mask:
        """For each head of keys what any of its heads of queries says."""
        return np.asarray(mask.reshape(self.keys, -1, mask.shape[1]).any(axis=1))

    def sets(self, places: Iterable[Place], tensors: Sequence[gs.Tensor], kept: Kept) -> Sets:
        """What is kept as sets by `(index, axis)` of the inputs or outputs of a node."""
        found: Sets = {}
        for place in places:
            mask = kept[place.kind]
            parts = [mask.reshape(-1)] if place.is_flat else [mask.any(axis=1), mask.any(axis=0)]
            for axis, part in zip(place.axes, parts, strict=False):
                size = size_of(tensors[place.index], axis) or 0
                found.setdefault((place.index, axis), np.zeros(size, bool))[place.start :][: part.size] |= part
        return found

    def known(self, node: gs.Node, facts: Facts, kind: Kind, apart: Collection[int] = ()) -> ConstantSlices:
        """Which channels of the heads are constant in all operands of a kind; the value is the sum of theirs.

        Where operands `apart` are not added to the others, only zeros are constants of all.
        """
        shape = self.shape(kind)
        found = {p.index: p.known(node.inputs[p.index], facts, shape) for p in self.inputs if p.kind == kind}
        mask = np.logical_and.reduce([each.mask for each in found.values()])
        total = np.add.reduce([each.value for index, each in found.items() if index not in apart])
        others = [each.only(0).mask & (total == 0) for index, each in found.items() if index in apart]
        return ConstantSlices(np.logical_and.reduce([mask, *others]), total)

    def constants(self, node: gs.Node, known: Mapping[Kind, ConstantSlices]) -> Constants:
        """What is known of the outputs, where this is known of the channels of each kind."""
        for place in self.outputs:
            if place.kind not in known:
                continue
            tensor, slices = node.outputs[place.index], known[place.kind]
            value = slices.value.astype(numpy_dtype(tensor))
            if place.is_flat:
                yield place.index, place.axis, ConstantSlices(slices.mask.reshape(-1), value.reshape(-1))
                continue
            for axis, across in zip(place.axes, (1, 0), strict=True):
                first = np.take(value, [0], axis=across)
                mask = (slices.mask & (value == first)).all(axis=across)
                yield place.index, axis, ConstantSlices(np.asarray(mask), first.reshape(-1))
