"""The same model in double precision, and an evaluator for it.

In single precision a wrong formula can hide behind rounding. Cast to double, two graphs that are the same
function agree to about 1e-14 of their scale, so a limit of 1e-10 separates rounding from error.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from maskc.frontend.graph_queries import all_graphs as graphs
from maskc.frontend.graph_queries import array_of, copied
from maskc.runtime.bfloat16_as_float32 import widen_type
from passes.graph.process_wide import without_warnings
from tests.double_precision.fused_operators import FUSED_OPERATORS
from tests.double_precision.operators import OPERATORS

NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

# Inputs that must be in single precision whatever the data's type is: operator to input positions.
_SINGLE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}

# Operators that have no double form, or whose value depends on the type's precision.
NO_DOUBLE = frozenset(
    "Attention Bernoulli BitCast Celu DequantizeLinear DynamicQuantizeLinear Multinomial NonMaxSuppression QLinearConv "
    "QLinearMatMul QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike StringNormalizer "
    "TfIdfVectorizer".split()
)

# Operators outside the standard that have one.
_FUSED = {(op.op_domain, op.__name__) for op in FUSED_OPERATORS}


def has_double(model: ModelProto) -> bool:
    """Whether every operator of the model has a form in double precision."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return all(
        node.op_type not in NO_DOUBLE
        and (node.domain in ("", "ai.onnx") or (node.domain, node.op_type) in _FUSED or bool(model.functions))
        and not any(a.name == "dtype" and a.i == TensorProto.BFLOAT16 for a in node.attribute)
        for node in nodes
    )


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in NARROW:
        array = array_of(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _widen_node(node: NodeProto, opset: int = 0) -> None:
    _stash_doubles(node, opset)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        elif attribute.name in ("to", "dtype", "stash_type", "output_datatype") and attribute.i in NARROW:
            attribute.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(np.array(values, np.float64))))


def _stash_doubles(node: NodeProto, opset: int) -> None:
    """Statistics are computed in single precision unless something else is asked for."""
    if node.op_type != "GroupNormalization" or node.domain or any(a.name == "stash_type" for a in node.attribute):
        return
    if opset and "stash_type" in onnx.defs.get_schema(node.op_type, opset).attributes:
        node.attribute.append(helper.make_attribute("stash_type", int(TensorProto.DOUBLE)))


def to_double(model: ModelProto) -> ModelProto:
    """A copy of the model in which every float, float16 and bfloat16 tensor is a double.

    What an operator wants in single precision (the scales of Resize) gets there through a Cast, or stays as
    it is where it is an initializer that nothing else reads.
    """
    model = copied(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    for graph in graphs(model.graph):
        single = _single_only(graph)
        for tensor in graph.initializer:
            if tensor.name not in single:
                _widen_tensor(tensor)
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.name not in single:
                widen_type(info.type, NARROW, TensorProto.DOUBLE)
        nodes: list[NodeProto] = []
        for node in graph.node:
            if not (node.op_type == "Constant" and node.output[0] in single):
                _widen_node(node, opset)
            for position in _single_inputs(node):
                if len(node.input) > position and node.input[position] and node.input[position] not in single:
                    name = f"{node.output[0]}/single{position}"
                    nodes.append(helper.make_node("Cast", [node.input[position]], [name], to=TensorProto.FLOAT))
                    node.input[position] = name
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
    for function in model.functions:
        for node in function.node:
            _widen_node(node)
    return model


def _single_inputs(node: NodeProto) -> tuple[int, ...]:
    if node.op_type == "Resize" and len(node.input) > 2:
        return (2,)  # the region of interest may be a double
    return _SINGLE_INPUTS.get(node.op_type, ())


def _single_only(graph: GraphProto) -> set[str]:
    """Constants read only where single precision is asked for."""
    constants = {t.name for t in graph.initializer}
    constants |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    wanted: set[str] = set()
    other: set[str] = {o.name for o in graph.output} | {i.name for i in graph.input}
    for node in graph.node:
        for position, name in enumerate(node.input):
            (wanted if position in _single_inputs(node) else other).add(name)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                other |= {n for inner in graphs(attribute.g) for node_ in inner.node for n in node_.input}
    return (wanted & constants) - other


class Evaluator:
    """Runs a model in numpy, in the precision that its tensors have."""

    def __init__(self, model: ModelProto) -> None:
        self._run = ReferenceEvaluator(model, new_ops=[*OPERATORS, *FUSED_OPERATORS])
        self.outputs = [output.name for output in model.graph.output]

    def __call__(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        """The graph's outputs for one set of inputs."""
        with np.errstate(all="ignore"), without_warnings():  # means of nothing are compared like other NaNs
            return self._run.run(None, dict(feeds))  # type: ignore[return-value]


def widen(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The feeds with every floating-point array, also inside lists, as a double."""

    def wide(x: Any) -> Any:
        if isinstance(x, list):
            return [wide(item) for item in x]
        if isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype.name == "bfloat16"):
            return x.astype(np.float64)
        return x

    return {name: wide(x) for name, x in feeds.items()}
