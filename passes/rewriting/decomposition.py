"""Operators that are made of others, written out where that lets channels go."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.names import Names
from passes.graph.tensors import Array, Dim


class Decomposition:
    """Collects the nodes that stand for one."""

    def __init__(self, node: gs.Node, names: Names) -> None:
        self._node, self._names = node, names
        self.nodes: list[gs.Node] = []

    def constant(self, hint: str, values: Array) -> gs.Constant:
        """A new initializer."""
        return gs.Constant(self._names.fresh(hint), np.asarray(values, order="C"))

    def emit(self, op: str, inputs: list[gs.Tensor], shape: list[Dim], **attrs: object) -> gs.Tensor:
        """A new node, whose output has the element type of the old one's."""
        output = gs.Variable(self._names.fresh(f"{self._node.outputs[0].name}_{op.lower()}"))
        output.dtype, output.shape = self._node.outputs[0].dtype, list(shape)
        name = self._names.fresh(f"{self._node.name or self._node.op}_{op.lower()}")
        self.nodes.append(gs.Node(op, name, attrs, inputs, [output]))
        return output

    def last(self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, **attrs: object) -> None:
        """The node that writes the output in place of the old one."""
        old = self._node
        name = old.name or self._names.fresh(op.lower())
        old.inputs.clear()
        old.outputs.clear()
        self.nodes.append(gs.Node(op, name, attrs, inputs, [output]))
