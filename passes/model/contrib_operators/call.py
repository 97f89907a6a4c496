"""One node of a foreign operator, and the standard operators that are written in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import OutputSizesRule
from passes.graph import construct
from passes.graph.editor import GraphEditor
from passes.graph.expression_match import Expression, X
from passes.graph.tensors import Array, element_of, numpy_dtype, operand, present, shape_of
from passes.ops.base import rules_of

# The first of these has the name of the node: reports, comparisons and baselines know layers by their names.
_LAYERS = ("Conv", "Gemm", "MatMul", "MatMulInteger")


class NotCoveredError(Exception):
    """A form of an operator that no standard operators are known for: it stays as it is."""


#: writes what stands for a node and returns what stands for its outputs; raises NotCoveredError
Decompose = Callable[["Call"], Sequence[gs.Tensor]]

#: writes onto the outputs of a node, at this opset, the types and shapes that follow from those of its inputs
InferNode = Callable[[gs.Node, int], None]


class Call:
    """What a decomposition reads of its node, and writes in its place."""

    def __init__(self, node: gs.Node, editor: GraphEditor, infer: InferNode) -> None:
        self.node = node
        self.attrs: Mapping[str, Any] = node.attrs
        self.opset = editor.opset
        self.written: list[gs.Node] = []
        self._editor, self._infer = editor, infer

    def given(self, index: int) -> gs.Tensor | None:
        """Input `index`, None where it is omitted."""
        return operand(self.node, index)

    def wanted(self, output: int) -> bool:
        """Whether the output has a name."""
        return output < len(self.node.outputs) and not self.node.outputs[output].is_empty()

    def needs(self, fits: bool) -> None:
        """Raise NotCoveredError unless it `fits`."""
        if not fits:
            raise NotCoveredError(self.node.op)

    def rank(self, tensor: gs.Tensor) -> int:
        """Number of axes; raises NotCoveredError where it is not known."""
        shape = shape_of(tensor)
        self.needs(shape is not None)
        return len(shape or ())

    def size(self, tensor: gs.Tensor, axis: int) -> int:
        """Number of slices along the axis; raises NotCoveredError where it is not known."""
        shape = shape_of(tensor) or ()
        self.needs(-len(shape) <= axis < len(shape) and isinstance(shape[axis], (int, np.integer)))
        return int(shape[axis])  # type: ignore[arg-type]

    def op(self, kind: str, *inputs: gs.Tensor | None, **attrs: object) -> gs.Tensor:
        """A standard operator with one output."""
        return self.several(kind, *inputs, outputs=1, **attrs)[0]

    def several(self, kind: str, *inputs: gs.Tensor | None, outputs: int, **attrs: object) -> Sequence[gs.Tensor]:
        """A standard operator; raises NotCoveredError where the opset has none such, or operands are of two types."""
        self.needs(onnx.defs.has(kind, self.opset, ""))
        hint = f"{self.node.name or self.node.outputs[0].name}_{kind.lower()}"
        made = [self._editor.variable(f"{hint}_output") for _ in range(outputs)]
        operands, attrs = self._editor.form(kind, _operands(inputs), attrs)
        schema = onnx.defs.get_schema(kind, self.opset, "")
        takes = schema.min_input <= len(operands) <= schema.max_input
        self.needs(takes and attrs.keys() <= schema.attributes.keys())
        named = kind in _LAYERS and self.node.name and all(w.name != self.node.name for w in self.written)
        name = self.node.name if named else self._editor.names.fresh(hint)
        node = construct.node(kind, name, attrs, operands, made)
        self._infer(node, self.opset)
        self.written.append(node)
        self.needs(_agree(node, schema))
        return made

    def own(self, kind: str, *inputs: gs.Tensor | None, **attrs: object) -> gs.Tensor:
        """Another operator of the node's domain, of which rules know the shape of what it writes."""
        output = self._editor.variable(f"{self.node.outputs[0].name}_{kind.lower()}")
        operands = _operands(inputs)
        name = self._editor.names.fresh(self.node.name or kind.lower())
        node = construct.node(kind, name, attrs, operands, [output], domain=self.node.domain)
        self.written.append(node)
        op = rules_of(self.node.domain, kind)
        told = op.output_sizes(node) if isinstance(op, OutputSizesRule) else ()
        self.needs(len(told) > 0)
        output.dtype, output.shape = operands[0].dtype, list(told[0])
        return output

    def cast(self, x: gs.Tensor, like: gs.Tensor) -> gs.Tensor:
        """With the element type of `like`; raises NotCoveredError where that is not known."""
        self.needs(like.dtype is not None)
        return self.op("Cast", x, to=element_of(like.dtype))

    def expression(self, expression: Expression, data: gs.Tensor) -> gs.Tensor:
        """A function of one tensor."""
        if expression == X:
            return data
        if isinstance(expression, tuple):
            return self.op(str(expression[0]), *(self.expression(each, data) for each in expression[1:]))
        return self.number(float(expression), data)

    def number(self, value: float | Array, like: gs.Tensor) -> gs.Constant:
        """An initializer of the element type of `like`; raises NotCoveredError where that is not known."""
        self.needs(like.dtype is not None and not isinstance(like.dtype, int))
        return self._editor.constant(f"{self.node.outputs[0].name}_number", np.asarray(value, numpy_dtype(like)))

    def ints(self, *values: int) -> gs.Constant:
        """An initializer: int64 [values]."""
        return self._editor.ints(f"{self.node.outputs[0].name}_numbers", values)

    def scalar(self, value: int) -> gs.Constant:
        """An initializer: int64 []."""
        return self._editor.constant(f"{self.node.outputs[0].name}_number", np.asarray(value, np.int64))


def _operands(tensors: Sequence[gs.Tensor | None]) -> list[gs.Tensor]:
    """As a node lists them: those that are left out have no name, and none at the end is listed."""
    count = max((index for index, tensor in enumerate(tensors, 1) if tensor is not None), default=0)
    return [construct.omitted() if tensor is None else tensor for tensor in tensors[:count]]


def _agree(node: gs.Node, schema: onnx.defs.OpSchema) -> bool:
    """Whether inputs have element types that the operator takes, and the same where it asks for that, if known."""
    formal = schema.inputs
    asked: dict[str, object] = {}
    for index, tensor in present(list(node.inputs)):
        kind = formal[min(index, len(formal) - 1)]
        if tensor.dtype is None:
            continue
        name = onnx.TensorProto.DataType.Name(element_of(tensor.dtype)).lower()
        if f"tensor({name})" not in kind.types or asked.setdefault(kind.type_str, tensor.dtype) != tensor.dtype:
            return False
    return True
