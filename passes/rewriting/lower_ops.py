"""Interface for an operator's `lower`: stored slices of its tensors and weights, new nodes and operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.adapters.insertion import Adapters
from passes.graph import construct
from passes.graph.editor import GraphEditor
from passes.graph.subgraphs import mark_as
from passes.graph.tensors import Array, Dim, Mask, is_constant, shape_of, values_of
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan
from passes.weights import quantized
from passes.weights.quantized import Quantized
from passes.weights.streaming import Lazy, Picked

#: initializers that were cut, in a graph and its subgraphs, and the cuts, by identity and the slices left per axis
Cuts = dict[tuple[object, tuple[tuple[int, bytes], ...]], tuple[gs.Constant, gs.Constant]]


class Rewriter:
    """What an operator's `lower` may ask for while its node is rewritten."""

    def __init__(self, graph: gs.Graph, facts: Facts, plan: StoragePlan, cuts: Cuts) -> None:
        self.facts = facts
        self.plan = plan
        self.opset: int = graph.opset
        self.editor = GraphEditor(graph)
        tensors = graph.tensors()
        #: shapes before anything was removed, by name
        self.shapes: dict[str, tuple[Dim, ...]] = {name: shape_of(t) or () for name, t in tensors.items()}
        self.cuts = cuts
        self.adapters = Adapters(self.editor, plan.absent)
        #: the node being rewritten as it was: the same attributes, inputs and outputs, before adapters and slicing
        self.before = construct.node("", "", {}, (), ())
        self._index = -1
        self._next: gs.Node | None = None  # the first of those that are put after it

    def begin(self, index: int, node: gs.Node) -> None:
        """Turn to the next node, which has this index in the plan."""
        self._index, self._next, self.editor.place = index, None, node
        self.before = construct.snapshot(node)

    def shape(self, tensor: gs.Tensor) -> tuple[Dim, ...]:
        """The shape that the tensor had before anything was removed."""
        shape = self.shapes.get(tensor.name)
        return shape_of(tensor) or () if shape is None else shape

    def stored(self, tensor: gs.Tensor, axis: int) -> Mask | None:
        """Slices that are stored along the axis, None if all are."""
        return self.plan.stored.get((tensor.name, axis))

    def is_whole(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether all slices along the axis are stored."""
        return self.stored(tensor, axis) is None

    def stored_count(self, tensor: gs.Tensor, axis: int) -> int | None:
        """How many slices are stored along the axis, None where that is not static."""
        stored = self.stored(tensor, axis)
        if stored is not None:
            return int(np.count_nonzero(stored))
        shape = self.shape(tensor)
        dim = shape[axis] if axis < len(shape) else None
        return dim if isinstance(dim, int) else None

    def stored_shape(self, tensor: gs.Tensor) -> list[Dim] | None:
        """The shape with the sizes that are stored; None if the rank is not known."""
        if tensor.shape is None:
            return None
        return [d if (c := self.stored_count(tensor, a)) is None else c for a, d in enumerate(self.shape(tensor))]

    def required(self, node: gs.Node, index: int, axis: int) -> Mask | None:
        """Slices that the node being rewritten requires of input `index` along the axis, None if it requires all."""
        return self.plan.required.get((self._index, index, axis))

    def constant(self, hint: str, values: Array | Lazy) -> gs.Constant:
        """A new initializer."""
        return self.editor.constant(hint, values)

    def slice(self, tensor: gs.Tensor, axes: Mapping[int, Mask | None]) -> gs.Constant:
        """The initializer cut to these slices per axis (None: whole); the same cut is made once."""
        assert isinstance(tensor, gs.Constant), tensor.name
        cuts = {a: m for a, m in sorted(axes.items()) if m is not None and not m.all()}
        if not cuts:
            return tensor
        origin = tensor.key if isinstance(tensor, Quantized) else id(tensor)
        key = origin, tuple((a, m.tobytes()) for a, m in cuts.items())
        if key not in self.cuts:
            kept = Picked({a: np.flatnonzero(m) for a, m in cuts.items()})
            self.cuts[key] = tensor, self.moved(tensor, kept)
            mark_as(self.cuts[key][1], tensor)
        return self.cuts[key][1]

    def moved(self, tensor: gs.Tensor, move: Callable[[Array], Array]) -> gs.Constant:
        """A new initializer with elements of this one, in as many bits."""
        assert isinstance(tensor, gs.Constant), tensor.name
        return quantized.moved_initializer(self.editor, tensor, move)

    def shifted(self, tensor: gs.Constant, shift: Array, values: Array) -> gs.Constant:
        """A new initializer with `values`, which are those of this one and `shift` added: in its steps if they fit."""
        if isinstance(tensor, Quantized):
            old = values_of(tensor).astype(np.float64)
            rounding = 4 * np.finfo(np.float32).eps * (np.abs(old) + np.abs(shift))
            found = tensor.holding(self.editor.names.fresh(tensor.name), values, rounding)
            if found is not None:
                return found
        return self.constant("bias", values)

    def rename(self, tensor: gs.Tensor, name: str) -> None:
        """Give a tensor another name, here and in the plan."""
        old = tensor.name
        tensor.name = name
        self.shapes[name] = self.shapes.get(old, ())
        for key in [k for k in self.plan.stored if k[0] == old]:
            self.plan.stored[name, key[1]] = self.plan.stored.pop(key)

    def set_input(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Replace (or append) one input."""
        while len(node.inputs) <= index:
            node.inputs.append(construct.omitted())
        if node.inputs[index] is not tensor:
            node.inputs[index] = tensor

    def emit(self, op: str, inputs: list[gs.Tensor], like: gs.Tensor, **attrs: object) -> gs.Variable:
        """A new node ahead of the one being rewritten; its output has the element type of `like`."""
        output = self.editor.variable(f"{self.before.outputs[0].name}_{op.lower()}", like.dtype)
        return self.editor.emit(op, inputs, output, f"{self.before.name}_{op.lower()}", attrs)

    def cast(self, tensor: gs.Tensor, dtype: np.dtype[np.generic]) -> gs.Tensor:
        """The tensor as numbers of another type, ahead of the node being rewritten."""
        result = self.emit("Cast", [tensor], tensor, to=onnx.helper.np_dtype_to_tensor_dtype(dtype))
        result.dtype = dtype
        return result

    def become(self, node: gs.Node, op: str, inputs: list[gs.Tensor], **attrs: object) -> None:
        """Let the node being rewritten be this operator of the standard, with its outputs as they are."""
        node.op, node.domain, node.attrs = op, None, dict(attrs)
        node.inputs = list(inputs)

    def add_after(self, node: gs.Node, values: Array | gs.Tensor) -> None:
        """Add a constant (broadcast against the output) to output 0 of the node."""
        self.insert_after(node, "Add", values if isinstance(values, gs.Tensor) else self.constant("shift", values))

    def insert_after(self, node: gs.Node, op: str, second: gs.Tensor) -> None:
        """Put an operator of output 0 of the node and a second operand after it; the last one put comes first."""
        before, output = self._interpose(node)
        self._put_after(node, op, [before, second], output, f"{before.name}_{op.lower()}")

    def override(self, node: gs.Node, changed: Mask, values: Array) -> None:
        """Replace elements of output 0, a vector: where `changed`, `values` stand."""
        before, output = self._interpose(node)
        inputs = [self.constant("changed", changed), self.constant("sizes", values), before]
        self._put_after(node, "Where", inputs, output, f"{before.name}_sizes")

    def _interpose(self, node: gs.Node) -> tuple[gs.Tensor, gs.Tensor]:
        """A new tensor that the node writes in place of its output 0, and that output, for another node to write."""
        output = node.outputs[0]
        node.outputs[0] = self.editor.variable(output.name, output.dtype, self.stored_shape(output))
        return node.outputs[0], output

    def _put_after(self, node: gs.Node, op: str, inputs: list[gs.Tensor], output: gs.Tensor, name: str) -> None:
        self.editor.emit(op, inputs, output, name, before=self._next, after=node if self._next is None else None)
        self._next = output.inputs[0]

    def set_shape_operand(
        self, node: gs.Node, index: int, *, one_is_inferred: bool, axes: Sequence[int] | None = None
    ) -> None:
        """Give the operand that names the output's sizes the stored ones.

        one_is_inferred: -1 stands for any size. axes: those that it names, if not all.
        """
        output = node.outputs[0]
        axes = range(len(self.shape(output))) if axes is None else axes
        changed = np.asarray([not self.is_whole(output, a) for a in axes])
        if not changed.any():
            return
        counts = [self.stored_count(output, a) for a in axes]
        operand = node.inputs[index]
        unknown = [a for a, c in enumerate(counts) if c is None]
        if one_is_inferred and len(unknown) <= 1:
            target = np.asarray([-1 if c is None else c for c in counts], np.int64)
            self.set_input(node, index, self.constant("shape", target))
            return
        sizes = np.asarray([c if ch else 0 for c, ch in zip(counts, changed, strict=True)], np.int64)
        if is_constant(operand):
            new = values_of(operand).astype(np.int64).reshape(-1)
            padded = np.ones(len(axes), np.int64)
            padded[len(axes) - len(new) :] = new
            self.set_input(node, index, self.constant("shape", np.where(changed, sizes, padded)))
            return
        patched = self.editor.variable(f"{operand.name}_stored", np.dtype(np.int64), [len(axes)])
        inputs = [self.constant("changed", changed), self.constant("sizes", sizes), operand]
        self.set_input(node, index, self.editor.emit("Where", inputs, patched, f"{operand.name}_sizes"))
