"""Sizes of a graph of tf2onnx, and vectors of them, by symbolic shape inference.

A conversion from TensorFlow computes many shapes at run time: of a Dense layer on images, of a Reshape, of a loop.
Most turn out to be plain numbers, or the dimension of another tensor, once they are written down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import Polynomial
from passes.abstract_values.shape_rules import LONGEST, polynomials
from passes.graph import construct
from passes.graph.tensors import Dim, Dtype, dtype_of
from passes.sizes.sweep import Sweep

Values: TypeAlias = list[Polynomial | None]  # a vector of sizes, or a scalar as a vector of one


class Sizes:
    """Sizes of one graph of tf2onnx, as polynomials over those that nothing tells.

    What a tensor is computed from is swept when the tensor is first asked of, and has ONNX's operators by then. Sizes
    that tf2onnx knows hold.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._swept = gs.Graph(opset=graph.opset)
        self._sweep = Sweep(self._swept, onnx.ModelProto())
        self._tensors: dict[str, gs.Tensor] = {"": construct.omitted()}

    def dimension(self, tensor: str, axis: int) -> Polynomial:
        """The size of one axis of a tensor of known rank."""
        shape = self.shape(tensor)
        assert shape is not None, tensor
        return shape[axis]

    def shape(self, tensor: str) -> list[Polynomial] | None:
        """The sizes of all axes of a tensor of known rank."""
        shape = self._tensor(tensor).shape
        return None if shape is None else [Polynomial.of(dim) for dim in _named(tensor, shape)]

    def values(self, tensor: str) -> Values | None:
        """What the elements of a vector (or a scalar) of integers are, cast to any type; None if nothing is known."""
        node = self._node(tensor)
        if node is not None and node.type == "Cast":
            return self.values(node.input[0])
        elements = self._sweep.vectors.of(self._tensor(tensor))
        if elements is None or elements.ndim > 1 or elements.dtype.kind not in "iuO":
            return None
        return [*polynomials(elements).reshape(-1)]

    def _tensor(self, name: str) -> gs.Tensor:
        waiting = [name]
        while waiting:
            node = self._node(waiting[-1])
            missing = [operand for operand in _operands(node) if operand not in self._tensors]
            if missing and waiting[-1] not in self._tensors:
                waiting += missing
            elif (added := waiting.pop()) not in self._tensors:
                self._add(added, node)
        self._sweep.run()
        return self._tensors[name]

    def _add(self, name: str, node: Any) -> None:
        """Take over a tensor whose operands are there, with the node that writes it."""
        if node is not None and node.is_const() and math.prod(node.get_attr("value").t.dims) <= LONGEST:
            self._tensors[name] = construct.constant(name, node.get_tensor_value(as_list=False))
        elif not _operands(node):
            shape = self._shape(name)
            named = None if shape is None else _named(name, shape)
            self._tensors[name] = construct.variable(name, self._dtype(name), named)
        else:
            outputs = [construct.variable(each, self._dtype(each), self._shape(each)) for each in node.output]
            self._tensors |= {tensor.name: tensor for tensor in outputs}
            inputs = [self._tensors[operand] for operand in node.input]
            attributes = {a.name: _value(a) for a in node.get_onnx_attrs().values()}
            self._swept.nodes.append(construct.node(node.type, node.name, attributes, inputs, outputs, node.domain))

    def _node(self, name: str) -> Any:
        """What writes a tensor, as tf2onnx has it; None outside of this graph."""
        return self._graph.get_node_by_output(name, search_in_parent_graphs=False)

    def _shape(self, name: str) -> list[Dim] | None:
        shape = self._graph.get_shape(name)
        return None if shape is None else [None if dim < 0 else dim for dim in shape]

    def _dtype(self, name: str) -> Dtype | None:
        element = self._graph.get_dtype(name)
        return None if element is None else dtype_of(element)


def _named(tensor: str, shape: Sequence[Dim]) -> list[int | str]:
    """The sizes of a tensor, with names for those that nothing tells."""
    return [f"{tensor}[{axis}]" if dim is None else dim for axis, dim in enumerate(shape)]


def _operands(node: Any) -> list[str]:
    """What a tensor is computed from: nothing where it is given, stored, or the result of a loop."""
    return [] if node is None or node.is_const() or node.get_body_graphs() else list(node.input)


def _value(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return construct.constant(value.name, onnx.numpy_helper.to_array(value))
    return value.decode() if isinstance(value, bytes) else value
