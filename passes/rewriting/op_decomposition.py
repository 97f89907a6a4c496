"""Operators that are made of others, decomposed where channels can then be removed."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.graph import construct
from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import Array, Dim


class Decomposition:
    """Puts in the nodes that stand for one, in its place."""

    def __init__(self, node: gs.Node, editor: GraphEditor) -> None:
        self._node, self._editor = node, editor

    def constant(self, hint: str, values: Array) -> gs.Constant:
        """A new initializer."""
        return self._editor.constant(hint, values)

    def emit(self, op: str, inputs: list[gs.Tensor], shape: list[Dim], **attrs: object) -> gs.Tensor:
        """A new node, whose output has the element type of the old one's."""
        whole, name = self._node.outputs[0], f"{self._node.name or self._node.op}_{op.lower()}"
        output = self._editor.variable(f"{whole.name}_{op.lower()}", whole.dtype, list(shape))
        return self._editor.emit(op, inputs, output, name, attrs, before=self._node)

    def last(self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, **attrs: object) -> None:
        """The node that writes the output in place of the old one."""
        name = self._node.name or self._editor.names.fresh(op.lower())
        erase(self._node)
        self._editor.insert(construct.node(op, name, attrs, inputs, [output]), before=self._node)
