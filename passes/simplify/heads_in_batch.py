"""Heads that are merged with the batch get an axis of their own, as far as every operator treats the two alike.

A MultiheadAttention of PyTorch that gives its weights, too, has both in one axis from the projections to the output:
[time, batch, heads · channels] is reshaped to [time, batch · heads, channels], and back in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from string import ascii_letters

import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import Polynomial
from passes.graph.editor import GraphEditor, become
from passes.graph.tensors import Dim, is_constant, present, shape_of
from passes.ops import rules
from passes.ops.base import axis_attribute
from passes.ops.concat_split import Concat, Split
from passes.ops.contractions.einsum import Einsum
from passes.ops.contractions.matmul import MatMul
from passes.ops.elementwise import Elementwise
from passes.ops.quantization import Quantization
from passes.ops.shape import Measuring, Reshape, Transpose, sizes_told
from passes.ops.softmax_like import Softmax

_ONE_AXIS = 13  # the opset from which on Softmax works along one


@dataclass(frozen=True)
class _Merged:
    """The axis in which a Reshape puts heads beside the batch; they come out of the axis after it, or are that axis."""

    axis: int
    batch: Dim
    heads: int

    def split(self, shape: tuple[Dim, ...], axis: int) -> tuple[Dim, ...]:
        """A shape with both axes in place of this one."""
        return *shape[:axis], self.batch, self.heads, *shape[axis + 1 :]


def split(graph: gs.Graph) -> bool:
    """Give heads axes of their own between Reshapes, where these have products and no projections between them.

    Whether any are given one.
    """
    editor, seen, changed = GraphEditor(graph), set[str](), False
    for node in graph.nodes:
        merged = _merged(node)
        if merged is not None and node.outputs[0].name not in seen:
            region = _Region(editor, merged)
            whole = region.collect(node.outputs[0])
            seen.update(region.axes)
            if whole:
                region.write()
                changed = True
    editor.finish()
    return changed


def _merged(node: gs.Node) -> _Merged | None:
    """What a Reshape merges with the batch; None where it does something else."""
    if not isinstance(rules(node), Reshape) or is_constant(node.inputs[0]):
        return None
    before, after = shape_of(node.inputs[0]) or (), shape_of(node.outputs[0]) or ()
    if None in before or None in after:
        return None
    for axis, (batch, inner) in enumerate(pairwise(before[: len(after) + 1])):
        if batch != 1 and isinstance(inner, int) and before[:axis] == after[:axis]:
            channels = next(iter(after[axis + 1 :]), None)
            counts = [inner]
            if isinstance(channels, int) and channels > 0 and inner % channels == 0:
                counts = [inner // channels, inner]
            for heads in counts:
                if heads > 1 and _size(after[axis]) == _size(batch) * _size(heads):
                    return _Merged(axis, batch, heads)
    return None


def _size(dim: Dim) -> Polynomial:
    assert dim is not None
    return Polynomial.of(dim)


@dataclass
class _Region:
    """Tensors with heads in the same batch, each with the axis of both, and the nodes that read or write them."""

    editor: GraphEditor
    merged: _Merged
    axes: dict[str, int] = field(default_factory=dict)
    nodes: dict[int, gs.Node] = field(default_factory=dict)
    #: tensors of which sizes are read
    measured: dict[str, gs.Tensor] = field(default_factory=dict)

    def collect(self, start: gs.Tensor) -> bool:
        """Find all; False where something does not treat heads and batch alike."""
        todo = [(start, self.merged.axis)]
        while todo:
            tensor, axis = todo.pop()
            if tensor.name in self.axes:
                if self.axes[tensor.name] != axis:
                    return False
                continue
            self.axes[tensor.name] = axis
            if not self._has_both(tensor, axis) or not tensor.inputs or tensor.name in self.editor.seen_outside:
                return False
            for node in (*tensor.inputs, *tensor.outputs):
                found = self._through(node, tensor, axis)
                if found is None:
                    return False
                if not isinstance(rules(node), Measuring):
                    self.nodes[id(node)] = node
                todo += found
        reshapes = (node for node in self.nodes.values() if isinstance(rules(node), Reshape))
        if not any(isinstance(rules(node), MatMul | Einsum) for node in self.nodes.values()):
            return False
        return None not in [*map(self._sizes, reshapes), *map(self._back, self.measured.values())]

    def _has_both(self, tensor: gs.Tensor, axis: int) -> bool:
        shape = shape_of(tensor) or ()
        both = _size(self.merged.batch) * _size(self.merged.heads)
        return axis < len(shape) and None not in shape and _size(shape[axis]) == both and not is_constant(tensor)

    def _through(self, node: gs.Node, tensor: gs.Tensor, axis: int) -> list[tuple[gs.Tensor, int]] | None:
        """The tensors beside this one that have both, and their axes; None where that is not understood."""
        op, made, shape = rules(node), node is tensor.inputs[0], shape_of(tensor) or ()
        if isinstance(op, Reshape):
            starts = _merged(node) if made else None
            return [] if not made or starts == replace(self.merged, axis=axis) else None
        if isinstance(op, Measuring):
            self.measured[tensor.name] = tensor
            return []
        if isinstance(op, Transpose):
            perm = op.perm(node, len(shape))
            return [(node.inputs[0], perm[axis])] if made else [(node.outputs[0], perm.index(axis))]
        if isinstance(op, Softmax | Split | Concat):
            along, data = self._along(node), node.inputs if isinstance(op, Concat) else node.inputs[:1]
            alike = along > axis or (along < axis and (not isinstance(op, Softmax) or self.editor.opset >= _ONE_AXIS))
            return [(t, axis) for t in (*data, *node.outputs)] if alike else None
        if isinstance(op, MatMul | Einsum) and any(map(is_constant, node.inputs)):
            return None  # such as windows of an image, which projections treat as one batch
        if isinstance(op, Einsum):
            return self._of_letter(node, tensor, axis)
        rank = len(shape_of(node.outputs[0]) or ())
        single = isinstance(op, Elementwise) and op.broadcasts and len(node.outputs) == 1
        single |= isinstance(op, Quantization) and all(shape_of(t) in ((), (1,)) for _, t in present(node.inputs)[1:])
        if len(shape) != rank or not (single or (isinstance(op, MatMul) and axis < rank - 2)):
            return None
        found = [(node.outputs[0], axis)]
        for _, other in present(node.inputs):
            sizes, own = shape_of(other), axis - rank + len(shape_of(other) or ())
            if sizes is None:
                return None
            if len(sizes) == rank and self._has_both(other, axis):
                found.append((other, axis))
            elif any(size != 1 for size in sizes[: own + 1]):
                return None
        return found

    def _along(self, node: gs.Node) -> int:
        if not isinstance(rules(node), Softmax):
            return axis_attribute(node)
        return axis_attribute(node, -1 if self.editor.opset >= _ONE_AXIS else 1)

    @staticmethod
    def _of_letter(node: gs.Node, tensor: gs.Tensor, axis: int) -> list[tuple[gs.Tensor, int]] | None:
        """The tensors that an Einsum has along the letter of an axis of one; None where it sums over that, or more."""
        terms = Einsum().terms(node)
        if terms is None or "->" not in str(node.attrs["equation"]) or "..." in str(node.attrs["equation"]):
            return None
        along = [*zip(node.inputs, terms.factors, strict=True), (node.outputs[0], terms.output)]
        letter = next(letters[axis] for t, letters in along if t is tensor)
        once = letter in terms.output and all([*letters].count(letter) <= 1 for _, letters in along)
        return [(t, [*letters].index(letter)) for t, letters in along if letter in letters] if once else None

    def _sizes(self, node: gs.Node) -> list[int] | None:
        """The sizes that a Reshape is given; None where they are not known."""
        after = self._shape(node.outputs[0])
        return None if None in after else sizes_told(self._shape(node.inputs[0]), after)

    def _back(self, tensor: gs.Tensor) -> list[int] | None:
        """The sizes for a Reshape that merges the axes again."""
        after = shape_of(tensor) or (None,)
        return None if None in after else sizes_told(self._shape(tensor), after)

    def _shape(self, tensor: gs.Tensor) -> tuple[Dim, ...]:
        """With both axes where it is to have them."""
        shape, axis = shape_of(tensor) or (None,), self.axes.get(tensor.name)
        return shape if axis is None else self.merged.split(shape, axis)

    def write(self) -> None:
        """Let all nodes read and write tensors with both axes."""
        tensors = {t.name: t for node in self.nodes.values() for t in (*node.inputs, *node.outputs)}
        new = {
            name: self.editor.variable(f"{name}_by_head", tensors[name].dtype, self._shape(tensors[name]))
            for name in self.axes
        }
        for node in self.nodes.values():
            op, read = rules(node), node.inputs[0]
            if isinstance(op, Reshape):
                become(node, "Reshape", [read, self.editor.ints("shape", self._sizes(node) or ())])
            elif isinstance(op, Transpose):
                axis, perm = self.axes[read.name], op.perm(node, len(shape_of(read) or ()))
                wide = [[axis, axis + 1] if a == axis else [a + (a > axis)] for a in perm]
                node.attrs["perm"] = [a for axes in wide for a in axes]
            elif isinstance(op, Einsum):
                equation, terms = str(node.attrs["equation"]), op.terms(node)
                assert terms is not None
                letter = terms.output[self.axes[node.outputs[0].name]]
                other = next(each for each in ascii_letters if each not in equation)
                node.attrs["equation"] = equation.replace(letter, letter + other)
            elif isinstance(op, Softmax | Split | Concat):
                along = self._along(node)
                node.attrs["axis"] = along + (along > self.axes[read.name])
            node.inputs = [new.get(t.name, t) for t in node.inputs]
            node.outputs = [new.get(t.name, t) for t in node.outputs]
        for name, tensor in self.measured.items():
            operands = [new[name], self.editor.ints("shape", self._back(tensor) or ())]
            self.editor.emit("Reshape", operands, tensor, f"{name}_merged", after=new[name].inputs[0])
