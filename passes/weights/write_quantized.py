"""Weights of few bits as nodes: a DequantizeLinear, or arithmetic, which runtimes do when they load the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import gcd, prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.graph.construct import constant
from passes.graph.editor import GraphEditor, replace_tensor
from passes.graph.subgraphs import captured
from passes.graph.tensors import Array, Index, element_of, values_of
from passes.weights.leaf import Leaf
from passes.weights.quantized import Applied, Expression, Quantized, dequantizes, dtype_of_result, leaves, shortened
from passes.weights.streaming import Picked

_BLOCKS = 21  # the opset from which DequantizeLinear has them
_FLOAT = onnx.TensorProto.FLOAT


def restore(graph: gs.Graph) -> None:
    """Put what makes every such weight before its first reader. Afterwards there are none."""
    editor = GraphEditor(graph)
    stored = {id(t) for t in graph.tensors().values()}
    done: set[int] = set()
    for node in graph.nodes:
        for weight in [*node.inputs, *captured(node)]:
            if isinstance(weight, Quantized) and id(weight) not in done:
                done.add(id(weight))
                _Writer(editor, weight, node, stored).write()
    editor.finish()


class _Writer:
    """Nodes for one weight. Arithmetic with parameters of blocks is done on axes that are split into blocks."""

    def __init__(self, editor: GraphEditor, weight: Quantized, place: gs.Node, stored: set[int]) -> None:
        self._editor, self._weight, self._place, self._stored = editor, weight, place, stored
        self._expression = _spelled(weight.expression, editor.opset)
        self._blocks = [1] * len(weight.shape)
        if not dequantizes(self._expression):
            for axis, size in enumerate(weight.shape):
                block = gcd(*(leaf.run(axis) for leaf in leaves(self._expression) if leaf.index[axis] is not None))
                self._blocks[axis] = block if block and size % block == 0 else 1

    def write(self) -> None:
        """Let the readers of the weight read the result of the nodes."""
        weight, result = self._weight, self._emit(self._expression, self._operand)
        if max(self._blocks, default=1) > 1:
            shape = self._own(constant(f"{weight.name}_shape", np.asarray(weight.shape, np.int64)))
            result = self._node("Reshape", [result, shape], {}, weight.dtype)
        assert isinstance(result, gs.Variable)  # bare initializers are no such weights
        result.name, result.shape = weight.name, list(weight.shape)
        replace_tensor(weight, result)

    def _emit(self, expression: Expression, operand: Callable[[Leaf], gs.Tensor]) -> gs.Tensor:
        if isinstance(expression, Leaf):
            return operand(expression)
        attrs, parts = expression.attrs, expression.parts
        inputs = [self._emit(parts[0], operand)]
        if expression.op == "DequantizeLinear":
            form = _form(expression, self._editor.opset)
            assert form is not None  # others are spelled out
            operand = partial(self._parameter, *form)
            axis, block = form
            attrs = {k: v for k, v in attrs.items() if k not in ("axis", "block_size")}
            attrs |= ({} if axis is None else {"axis": axis}) | ({"block_size": block} if block else {})
        inputs += [self._emit(part, operand) for part in parts[1:]]
        return self._node(expression.op, inputs, attrs, dtype_of_result(expression))

    def _node(self, op: str, inputs: list[gs.Tensor], attrs: Mapping[str, Any], dtype: Any) -> gs.Variable:
        name = f"{self._weight.name}_{'dequantised' if op == 'DequantizeLinear' else op.lower()}"
        output = self._editor.variable(name, dtype)
        return self._editor.emit(op, inputs, output, name, attrs, before=self._place)

    def _own(self, tensor: gs.Constant) -> gs.Constant:
        """The initializer, by a name of its own: two may have the name of what both were cut from."""
        if id(tensor) not in self._stored:
            tensor.name = self._editor.names.fresh(tensor.name)
            self._stored.add(id(tensor))
        return tensor

    def _shaped(self, leaf: Leaf, values: Array | None, shape: Sequence[int]) -> gs.Constant:
        """The leaf's initializer in this shape; a new one where it holds other values, or has another shape."""
        if values is None and list(leaf.stored.shape) == [*shape]:
            return self._own(leaf.stored)
        values = values_of(leaf.stored) if values is None else values
        return self._own(constant(leaf.stored.name, np.ascontiguousarray(values.reshape(shape))))

    def _parameter(self, axis: int | None, block: int, leaf: Leaf) -> gs.Tensor:
        """A scale or zero point of a DequantizeLinear: one, or one for each slice along the axis, or for each block."""
        if axis is None:
            one = prod(leaf.stored.shape) == 1
            flat = list(leaf.stored.shape) if one and len(leaf.stored.shape) < 2 else []
            return self._shaped(leaf, None if one else leaf.values.reshape(-1)[:1], flat)
        index = leaf.index[axis]
        if block and index is not None:
            leaf = replace(leaf, index=tuple(i if a != axis else index[::block] for a, i in enumerate(leaf.index)))
        shape = [d if block or a == axis else 1 for a, d in enumerate(leaf.shape)]
        same = prod(leaf.grid) == prod(shape) and leaf.index[axis] is None
        return self._shaped(
            leaf, None if same else np.broadcast_to(leaf.values, shape), shape if block else [shape[axis]]
        )

    def _operand(self, leaf: Leaf) -> gs.Tensor:
        """An operand of arithmetic: it is broadcast, and its slices are gathered where they do not come in blocks."""
        taken: dict[int, Index] = {}
        sizes: list[list[int]] = []
        for axis, (size, block, index) in enumerate(zip(leaf.shape, self._blocks, leaf.index, strict=True)):
            repeated = index is not None and leaf.grid[axis] > 1
            if index is not None and repeated:
                taken[axis] = index[::block]
            first = size // block if index is None or repeated else 1
            sizes.append([first, block if index is None else 1] if block > 1 else [first])
        gathered = self._gathered(leaf, taken)
        rows = None if gathered is None else taken.pop(gathered)
        if gathered is not None:
            sizes[gathered] = [leaf.grid[gathered]]
        values = Picked(taken)(values_of(leaf.stored).reshape(leaf.grid)) if taken else None
        shape = [d for parts in sizes for d in parts]
        if gathered is not None and rows is not None:
            values = values_of(leaf.stored) if values is None else values
            return self._gather(leaf, values.reshape(shape), sum(map(len, sizes[:gathered])), rows)
        own = leaf.stored.shape
        if values is None and _trimmed(own) == _trimmed(shape) and len(own) <= len(shape):
            shape = [*own]  # axes of size 1 in front go without saying
        return self._shaped(leaf, values, shape)

    def _gathered(self, leaf: Leaf, taken: Mapping[int, Index]) -> int | None:
        """The axis along which slices that are repeated are stored once; None if there is none."""
        if not leaf.in_blocks or np.dtype(leaf.stored.dtype).isbuiltin != 1:
            return None  # the rest takes little room, whatever is repeated
        return max((a for a in taken if self._blocks[a] == 1), key=lambda a: taken[a].size / leaf.grid[a], default=None)

    def _gather(self, leaf: Leaf, values: Array, axis: int, rows: Index) -> gs.Tensor:
        """These rows of the values along the axis.

        By GatherND: OpenVINO folds a Gather, and takes one scale for each 4-bit weight for one for each block of them.
        """
        stored = self._own(constant(leaf.stored.name, np.ascontiguousarray(np.moveaxis(values, axis, 0))))
        index = self._own(constant(f"{leaf.stored.name}_rows", rows.reshape(-1, 1)))
        result = self._node("GatherND", [stored, index], {}, leaf.stored.dtype)
        if axis == 0:
            return result
        perm = [*range(1, axis + 1), 0, *range(axis + 1, values.ndim)]
        return self._node("Transpose", [result], {"perm": perm}, leaf.stored.dtype)


def _trimmed(shape: Sequence[int]) -> list[int]:
    """Without the ones in front."""
    first = next((a for a, d in enumerate(shape) if d != 1), len(shape))
    return [int(d) for d in shape[first:]]


def _form(expression: Applied, opset: int) -> tuple[int | None, int] | None:
    """The axis and block size (0: none) of a DequantizeLinear; None where there are none for these parameters."""
    parameters = [leaf for part in expression.parts[1:] for leaf in leaves(part)]
    rank, block = len(parameters[0].shape), int(expression.attrs.get("block_size", 0))
    runs = [gcd(*(leaf.run(axis) for leaf in parameters)) for axis in range(rank)]
    varying = [axis for axis, run in enumerate(runs) if run]
    if varying and block and runs[axis := int(expression.attrs.get("axis", 1)) % rank] % block == 0:
        return axis, block
    if len(varying) <= 1:
        return (varying[0] if varying else None), 0
    axis = max(varying, key=lambda a: runs[a])
    whole = parameters[0].shape[axis] % runs[axis] == 0  # OpenVINO takes no shorter block at the end
    return (axis, runs[axis]) if runs[axis] > 1 and whole and opset >= _BLOCKS else None


def _spelled(expression: Expression, opset: int) -> Expression:
    """With arithmetic in place of each DequantizeLinear that has no form."""
    if isinstance(expression, Leaf):
        return expression
    expression = replace(expression, parts=tuple(_spelled(part, opset) for part in expression.parts))
    if expression.op != "DequantizeLinear" or _form(expression, opset) is not None:
        return expression
    steps, scale, *zero = expression.parts
    result: Expression = _cast(steps, _FLOAT)
    if zero:
        result = shortened(Applied("Sub", {}, (result, _cast(zero[0], _FLOAT))))
    result = Applied("Mul", {}, (result, _cast(scale, _FLOAT)))
    return _cast(result, element_of(dtype_of_result(expression)))


def _cast(expression: Expression, to: int) -> Expression:
    """As numbers of another type: a leaf but for the steps is stored so."""
    if element_of(dtype_of_result(expression)) == to:
        return expression
    if isinstance(expression, Leaf) and not expression.is_whole:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
        return replace(expression, stored=constant(expression.stored.name, values_of(expression.stored).astype(dtype)))
    return Applied("Cast", {"to": to}, (expression,))
