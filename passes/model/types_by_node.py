"""Element types and shapes of what a node writes, inferred one node at a time."""

from __future__ import annotations

import math

import onnx
import onnx_graphsurgeon as gs
from onnx.shape_inference import infer_node_outputs

from passes.graph.tensors import dtype_of, element_of, is_constant, is_standard, present, values_of
from passes.model.declarations import dims_of
from passes.model.graph_to_onnx import add_node
from passes.model.shape_inference import INFERRED
from passes.ops import rules


class Types:
    """For a graph of this opset whose nodes are looked at in order."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._imports = [onnx.helper.make_opsetid("", opset)]

    def agree(self, node: gs.Node) -> bool:
        """Whether inputs of a standard operator for which it asks the same element type have it, as far as is known."""
        formal = onnx.defs.get_schema(node.op, self._opset, "").inputs
        asked: dict[str, object] = {}
        for index, tensor in present(list(node.inputs)):
            kind = formal[min(index, len(formal) - 1)].type_str
            if tensor.dtype is not None and asked.setdefault(kind, tensor.dtype) != tensor.dtype:
                return False
        return True

    def infer(self, node: gs.Node) -> None:
        """Write onto the outputs what follows from the inputs; nothing where that is not known."""
        read = {t.name: t for _, t in present(list(node.inputs))}
        op = node.op if is_standard(node) else rules(node).like
        if not op or any(t.dtype is None for t in read.values()):
            return
        values = {
            name: onnx.numpy_helper.from_array(values_of(t), name)
            for name, t in read.items()
            if is_constant(t) and not isinstance(t.dtype, int) and math.prod(t.shape) <= INFERRED
        }
        graph = onnx.GraphProto()
        add_node(graph, node)
        graph.node[0].op_type, graph.node[0].domain = op, ""
        types = {name: onnx.helper.make_tensor_type_proto(element_of(t.dtype), t.shape) for name, t in read.items()}
        try:
            schema = onnx.defs.get_schema(op, self._opset, "")
            found = infer_node_outputs(schema, graph.node[0], types, values, opset_imports=self._imports)
        except Exception:  # operands that do not fit, bodies that read what is around them: the whole is inferred later
            return
        for tensor in node.outputs:
            kind = found.get(tensor.name)
            if kind is not None and kind.tensor_type.elem_type and isinstance(tensor, gs.Variable):
                tensor.dtype = dtype_of(kind.tensor_type.elem_type)
                tensor.shape = dims_of(onnx.ValueInfoProto(type=kind))
