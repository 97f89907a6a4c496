"""Parts that are picked after a reshape are picked before it: queries, keys and values of one product, for instance.

One product often makes the queries, keys and values of all heads, and only after a reshape and a transposition they
part. The three keep channels of their own, which one axis cannot say; so where channels are masked, or not read of all
parts alike, each part gets a product of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import Dim, Index, int_list, is_constant, operand, present, shape_of, size_of, values_of
from passes.ops import rules
from passes.ops.base import axis_attribute
from passes.ops.concat_split import Split
from passes.ops.shape import Regrouping, Transpose
from passes.ops.slice_gather import Gather, Slice
from passes.rewriting.channel_facts import Facts
from passes.rewriting.channel_order import Orders
from passes.rewriting.origins import Origin, Origins
from passes.weights import quantized


@dataclass(frozen=True)
class _Part:
    """Slices `index` of `axis` of what a reshape, and perhaps a transposition after it, writes."""

    output: gs.Tensor
    axis: int
    index: Index
    drops: bool  # the axis, of size 1 then, is taken away


def hoist(graph: gs.Graph, facts: Facts, origins: Origins) -> bool:
    """Pick parts of a split axis before the reshape that splits it, where they may keep other channels than each other.

    Some of its channels are constant then, or not the same are read of all parts. Afterwards each part has a product, a
    reshape and a transposition of its own, and `origins` say what it holds of the whole. Whether anything was changed.
    """
    changed = False
    for node in list(graph.nodes):
        if isinstance(rules(node), Regrouping) and not is_constant(node.inputs[0]):
            changed = _Hoist(GraphEditor(graph), facts, node, origins).run() or changed
    return changed


class _Hoist:
    """One reshape with the parts after it."""

    def __init__(self, editor: GraphEditor, facts: Facts, reshape: gs.Node, origins: Origins) -> None:
        self.editor, self.facts, self.reshape, self.origins = editor, facts, reshape, origins

    def run(self) -> bool:
        """Whether the parts could be picked before the reshape, and were."""
        split = self._split()
        return split is not None and any(self._picked(*split, place) for place in range(len(split[1])))

    def _picked(self, axis: int, outputs: list[int], sizes: list[int], place: int) -> bool:
        """Whether the parts of one of the output axes could be picked."""
        first, channels = outputs[place], np.arange(np.prod(sizes)).reshape(sizes)
        tensor, transpose = self.reshape.outputs[0], None
        if len(tensor.outputs) == 1 and isinstance(rules(tensor.outputs[0]), Transpose):
            transpose = tensor.outputs[0]
            tensor = transpose.outputs[0]
        perm = None if transpose is None or "perm" not in transpose.attrs else list(transpose.attrs["perm"])
        ends = {self.reshape.outputs[0].name, tensor.name}
        if (transpose is not None and perm is None) or ends & self.editor.seen_outside:
            return False
        consumers = list(tensor.outputs)
        at = first if perm is None else perm.index(first)
        found = [_parts(consumer, tensor, at, self.facts) for consumer in consumers]
        parts = [part for each in found if each is not None for part in each]
        asked = self._operand(outputs)
        whole = sum(part.index.size for part in parts) <= sizes[place]  # none is made twice
        if None in found or len(parts) < 2 or asked is None or not whole:
            return False
        if self.facts.known(self.reshape.inputs[0], axis) is None and not self._read_apart(parts):
            return False
        chain = self._chain()
        for part in parts:
            taken = channels.take(part.index, axis=place).reshape(-1)
            self._write(part, self._made_in_part(chain, axis, taken), first, perm, asked)
        erase(self.reshape, *([transpose] if transpose is not None else []), *consumers)
        self.editor.finish()
        return True

    def _read_apart(self, parts: list[_Part]) -> bool:
        """Whether other slices are read of one part than of another."""
        reads = (self.facts.read.get(part.output.name, {}) for part in parts)
        return len({tuple(sorted((axis, mask.tobytes()) for axis, mask in read.items())) for read in reads}) > 1

    def _split(self) -> tuple[int, list[int], list[int]] | None:
        """The input axis that is split, and the output axes that it is split into, with their sizes."""
        links, data = [k for k in self.facts.links(self.reshape) if k.split], self.reshape.inputs[0]
        axes, outputs = {k.input_axis for k in links}, sorted(k.output_axis for k in links)
        if len(axes) != 1 or len(outputs) < 2:
            return None
        axis = axes.pop()
        sizes = [self.facts.size(self.reshape.outputs[0], a) or 0 for a in outputs]
        return (axis, outputs, sizes) if int(np.prod(sizes)) == self.facts.size(data, axis) else None

    def _operand(self, outputs: list[int]) -> list[int] | None:
        """The sizes that the reshape is given; None where they are not static or copied ahead of the split axis."""
        before, after = (shape_of(t) or () for t in (self.reshape.inputs[0], self.reshape.outputs[0]))
        sizes = int_list(operand(self.reshape, 1)) or [d if isinstance(d, int) else 0 for d in after]
        copied = all(size or before[a : a + 1] == after[a : a + 1] for a, size in enumerate(sizes))
        return sizes if copied and len(sizes) == len(after) and 0 not in sizes[outputs[0] + 1 :] else None

    def _chain(self) -> list[gs.Node]:
        """What makes the split tensor, from the product on, if all of it can be made in parts."""
        chain: list[gs.Node] = []
        current = self.reshape.inputs[0]
        while (node := self.editor.sole_producer(current)) is not None:
            computed = [t for _, t in present(node.inputs) if not is_constant(t) and shape_of(t) != ()]
            plain = not any(quantized.has_blocks(t) or isinstance(t.dtype, int) for t in node.inputs)
            if len(computed) != 1 or len(node.outputs) != 1 or not plain:
                return []
            chain.insert(0, node)
            if rules(node).cost(node)[1]:
                return chain
            current = computed[0]
        return []

    def _write(self, part: _Part, current: gs.Tensor, first: int, perm: list[int] | None, sizes: list[int]) -> None:
        shape = self.editor.ints("shape", [*sizes[:first], part.index.size, *sizes[first + 1 :]])
        dims = list(shape_of(self.reshape.outputs[0]) or ())
        dims[first] = part.index.size
        current = self._emit("Reshape", [current, shape], {}, dims)  # a 0 in the shape is a copied size
        if perm is not None:
            dims = [dims[a] for a in perm]
            current = self._emit("Transpose", [current], {"perm": perm}, dims)
        if part.drops:
            current = self._emit("Squeeze", [current], {"axes": [part.axis]}, [])
        part.output.inputs.clear()
        current.inputs[0].outputs = [part.output]

    def _made_in_part(self, chain: list[gs.Node], axis: int, channels: Index) -> gs.Tensor:
        """These channels of the split tensor: by a copy of what makes them, or picked."""
        source = self.reshape.inputs[0]
        copies: dict[str, gs.Tensor] = {}
        current = source
        for node in chain:
            inputs = [  # the values themselves are shared; only the part of them is made new
                quantized.twin(self.editor, t) if isinstance(t, gs.Constant) else copies.get(t.name, t)
                for t in node.inputs
            ]
            output, name = node.outputs[0], node.name or node.op.lower()
            copies[output.name] = copy = self.editor.variable(output.name, output.dtype, output.shape)
            self.origins[copy.name] = Origin(output.name)
            current = self.editor.emit(node.op, inputs, copy, name, node.attrs, domain=node.domain, before=self.reshape)
        picked = self.editor.gather(current, axis, channels, f"{source.name}_part", before=self.reshape)
        change = Orders(self.editor.graph, rules, self.origins).written(current, axis, channels) if chain else None
        if change is None:
            return picked
        change()
        erase(*picked.inputs)
        return current

    def _emit(self, op: str, inputs: list[gs.Tensor], attrs: Mapping[str, object], shape: list[Dim]) -> gs.Tensor:
        output = self.editor.variable(f"{self.reshape.outputs[0].name}_part", self.reshape.outputs[0].dtype, shape)
        return self.editor.emit(op, inputs, output, f"{output.name}_{op.lower()}", attrs, before=self.reshape)


def _parts(node: gs.Node, tensor: gs.Tensor, axis: int, facts: Facts) -> list[_Part] | None:
    """What the node picks of the tensor along the axis, None if it does something else."""
    op, rank, size = rules(node), len(shape_of(tensor) or ()), size_of(tensor, axis)
    if node.inputs[0] is not tensor or size is None:
        return None
    if isinstance(op, Gather) and is_constant(node.inputs[1]) and not node.inputs[1].shape:
        index = values_of(node.inputs[1]).reshape(1) % size
        return [_Part(node.outputs[0], axis, index, True)] if axis_attribute(node) == axis else None
    if isinstance(op, Split) and axis_attribute(node) == axis:
        sizes = [size for t in node.outputs if (size := size_of(t, axis)) is not None]
        if len(sizes) < len(node.outputs) or 0 in sizes:  # a 0 in a shape would be a copied size
            return None
        bounds = zip(node.outputs, sizes, accumulate(sizes), strict=True)
        return [_Part(t, axis, np.arange(end - size, end), False) for t, size, end in bounds if t.outputs] or None
    if isinstance(op, Slice) and all(op.along(node, 0, 0, a) == a for a in range(rank) if a != axis):
        sources = [k.source for k in facts.links(node) if k.input_axis == axis and k.source is not None]
        return [_Part(node.outputs[0], axis, sources[0], False)] if sources else None
    return None
