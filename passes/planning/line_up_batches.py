"""Channels in line in all batches of products whose weights are a matrix for each, as those of experts of a mixture.

Each expert may keep other channels between two products. They change places within each, in the weights on both sides
and in constants between, so that those which are kept stand first in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import Array, is_constant, present, shape_of, size_of
from passes.ops import rules
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.labels import Terms, axes_of
from passes.ops.elementwise import Elementwise
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import live_first
from passes.rewriting.origins import Origins
from passes.weights.quantized import Quantized
from passes.weights.streaming import moved


def line_up(graph: gs.Graph, facts: Facts, origins: Origins) -> bool:
    """Let the channels change places; whether any did.

    The function of the graph stays the same; facts have to be found anew, and some tensors hold others in each batch.
    """
    editor, seen, lined = GraphEditor(graph), set[str](), False
    for node in graph.nodes:
        for batch, channel in _made_axes(node) if node.outputs[0].name not in seen else ():
            group = _Group(editor, facts, batch, channel)
            if group.collect(node.outputs[0]):
                seen.update(group.tensors)
                if group.rearrange():
                    origins.update(dict.fromkeys(group.tensors))
                    lined = True
                break
    editor.finish()
    return lined


def _products(node: gs.Node) -> Iterator[tuple[Terms, int]]:
    """The letters of a product, and each factor that is stored."""
    op = rules(node)
    terms = op.terms(node) if isinstance(op, Contraction) else None
    if terms is not None and len(terms.factors) == len(present(node.inputs)):
        yield from ((terms, index) for index, tensor in enumerate(node.inputs) if is_constant(tensor))


def _made_axes(node: gs.Node) -> Iterator[tuple[int, int]]:
    """Axes of the output of a product that may be batches, and channels of each, by the weights."""
    for terms, index in _products(node):
        for batch, channel in permutations([a for a, k in enumerate(terms.output) if k in terms.factors[index]], 2):
            if [i for i, _ in axes_of(terms, terms.output[channel])] == [index]:
                yield batch, channel


@dataclass
class _Group:
    """Tensors whose channels change places together, along the same two axes, and the constants that do with them."""

    editor: GraphEditor
    facts: Facts
    batch: int
    channel: int
    #: numbers of batches and of channels
    sizes: tuple[int | None, int | None] = (None, None)
    tensors: dict[str, gs.Tensor] = field(default_factory=dict)
    #: (node, operand, axes of batches and channels, whether zeros there are zeros of a channel), by the constant
    constants: dict[str, tuple[gs.Node, int, tuple[int, int], bool]] = field(default_factory=dict)

    def collect(self, start: gs.Tensor) -> bool:
        """Find all; False where something reads or writes a tensor that channels cannot change places for."""
        todo, self.sizes = [start], self._sizes(start)
        while todo:
            tensor = todo.pop()
            if tensor.name in self.tensors:
                continue
            self.tensors[tensor.name] = tensor
            inside = bool(tensor.inputs) and tensor.name not in self.editor.seen_outside
            if None in self.sizes or self._sizes(tensor) != self.sizes or not inside:
                return False
            for node in (*tensor.inputs, *tensor.outputs):
                if isinstance(rules(node), Elementwise):
                    beside = self._beside(node)
                    if beside is None:
                        return False
                    todo += beside
                elif not self._ends(node, tensor):
                    return False
        return bool(self.constants)

    def _sizes(self, tensor: gs.Tensor) -> tuple[int | None, int | None]:
        return self.facts.size(tensor, self.batch), self.facts.size(tensor, self.channel)

    def _beside(self, node: gs.Node) -> list[gs.Tensor] | None:
        """The tensors that an operator on single elements combines with one of these; None where there are others."""
        op, rank = rules(node), len(shape_of(node.outputs[0]) or ())
        if not (isinstance(op, Elementwise) and op.broadcasts and op.foldable and self.facts.links(node)):
            return None
        found = [*node.outputs]
        for index, tensor in present(node.inputs):
            shape = shape_of(tensor)
            if shape is None:
                return None
            batch, channel = (axis - rank + len(shape) for axis in (self.batch, self.channel))
            if channel < 0 or shape[channel] == 1 or self.facts.uniform(tensor) is not None:
                continue
            if not is_constant(tensor) and len(shape) == rank:
                found.append(tensor)
            else:
                scales = len(node.inputs) == 2 and op.scales(node, self.facts, 1 - index)
                if batch < 0 or not is_constant(tensor) or not self._add(node, index, (batch, channel), zeros=scales):
                    return None
        return found

    def _ends(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        """Whether a product with stored weights makes the channels of each batch, or sums over them."""
        made = bool(tensor.inputs) and node is tensor.inputs[0]
        data = [i for i, t in enumerate(node.inputs) if t is tensor]
        for terms, index in _products(node):
            here = terms.output if made else terms.factors[data[0]]
            batch, channel = here[self.batch], here[self.channel]
            of_batch, of_channel = ([a for i, a in axes_of(terms, k) if i == index] for k in (batch, channel))
            with_channels = sorted(i for i, _ in axes_of(terms, channel))
            alone = with_channels == ([index] if made else sorted([index, *data]))
            alone = alone and (made or channel not in terms.output)
            if alone and here.count(batch) == len(of_batch) == len(of_channel) == 1:
                return self._add(node, index, (of_batch[0], of_channel[0]), zeros=True)
        return False

    def _add(self, node: gs.Node, index: int, axes: tuple[int, int], *, zeros: bool) -> bool:
        """Take in a constant that has all channels of each batch, and that one node reads; False where others do."""
        constant = node.inputs[index]
        along = tuple(size_of(constant, axis) for axis in axes)
        if along != self.sizes or self.editor.sole_reader(constant) is not node:
            return False
        self.constants[constant.name] = node, index, axes, zeros
        return True

    def rearrange(self) -> bool:
        """Let the channels that are kept come first in each batch; False where that makes no fewer of them in all."""
        places = [(node.inputs[index], axes) for node, index, axes, zeros in self.constants.values() if zeros]
        dead = np.logical_or.reduce([~self.facts.nonzero(constant, axes).matrix for constant, axes in places])
        order = live_first(dead)
        if order is None:
            return False
        made = [self._moved(node.inputs[index], order, axes) for node, index, axes, _ in self.constants.values()]
        new = [constant for constant in made if constant is not None]
        if len(new) == len(made):
            for (node, index, _, _), constant in zip(self.constants.values(), new, strict=True):
                node.inputs[index] = constant
        return len(new) == len(made)

    def _moved(self, constant: gs.Tensor, order: Array, axes: tuple[int, int]) -> gs.Tensor | None:
        """The constant with channels in this order [batches, channels]; None where that takes more bits."""

        def move(values: Array) -> Array:
            shape = [1] * values.ndim
            shape[axes[0]], shape[axes[1]] = order.shape
            return np.take_along_axis(values, (order if axes[0] < axes[1] else order.T).reshape(shape), axes[1])

        if isinstance(constant, Quantized):
            return constant.moved(self.editor.names.fresh(constant.name), move)
        assert isinstance(constant, gs.Constant)
        return self.editor.constant(constant.name, moved(constant, move))
