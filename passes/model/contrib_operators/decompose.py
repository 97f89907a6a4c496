"""Standard operators in place of those of ONNX Runtime.

Its optimiser writes these into the files that it saves, and fuses the standard ones again when it loads a model. What
a decomposition does not cover stays as it is, an operator without rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import OutputSizesRule
from passes.errors import GraphError
from passes.graph.editor import GraphEditor, Names, erase, replace_tensor
from passes.graph.subgraphs import subgraphs, with_bodies
from passes.graph.tensors import STANDARD_DOMAINS, describe, is_standard
from passes.model.contrib_operators import activations, attention, fused, normalization, quantized
from passes.model.contrib_operators.call import Call, Decompose, InferNode, NotCoveredError
from passes.ops import UNKNOWN, rules
from passes.ops.attention.heads import MALFORMED
from passes.ops.base import rules_of
from passes.simplify.decomposed_operators import normalizations

DOMAIN = "com.microsoft"

#: by the operator in ONNX Runtime's domain
OPERATORS: Mapping[str, Decompose] = {
    "Attention": attention.attention,
    "BiasGelu": activations.bias_gelu,
    "DequantizeLinear": quantized.steps("DequantizeLinear"),
    "DynamicQuantizeMatMul": quantized.dynamic_matmul,
    "EmbedLayerNormalization": normalization.embed_layer_normalization,
    "FastGelu": activations.fast_gelu,
    "FusedConv": fused.conv,
    "FusedGemm": fused.gemm,
    "FusedMatMul": fused.matmul,
    "Gelu": activations.gelu,
    "MatMulIntegerToFloat": quantized.matmul_to_float,
    "PackedAttention": attention.packed_attention,
    "QAttention": attention.quantized_attention,
    "QEmbedLayerNormalization": normalization.quantized_embed_layer_normalization,
    "QGemm": quantized.gemm,
    "QLinearAdd": quantized.elementwise("Add"),
    "QLinearAveragePool": quantized.unary("AveragePool"),
    "QLinearConcat": quantized.concat,
    "QLinearGlobalAveragePool": quantized.unary("GlobalAveragePool"),
    "QLinearLeakyRelu": quantized.unary("LeakyRelu"),
    "QLinearMul": quantized.elementwise("Mul"),
    "QLinearSigmoid": quantized.unary("Sigmoid"),
    "QLinearSoftmax": quantized.softmax,
    "QLinearWhere": quantized.where,
    "QuantizeLinear": quantized.steps("QuantizeLinear"),
    "QuickGelu": activations.quick_gelu,
    "SkipLayerNormalization": normalization.skip_layer,
    "SkipSimplifiedLayerNormalization": normalization.skip_simplified_layer,
    "TransposeMatMul": fused.matmul,
}

#: by the operator that ONNX Runtime has in the domain of the standard, up to the opset that brought it, if one did
IN_STANDARD_DOMAIN: Mapping[str, tuple[float, Decompose]] = {
    "LayerNormalization": (normalizations.OPSET, normalization.layer),
    "SimplifiedLayerNormalization": (math.inf, normalization.simplified_layer),
}

#: of the standard, in floating point between steps, where weights can be changed
BETWEEN_STEPS: Mapping[str, Decompose] = {
    "QLinearConv": quantized.elementwise("Conv", second=0),
    "QLinearMatMul": quantized.elementwise("MatMul", -2, -1),
}

# Its layouts: that in which channels lie in blocks, as many as one processor's vectors hold, and that with them last.
_BLOCKED_DOMAIN, _CHANNELS_LAST = "com.microsoft.nchwc", ("NhwcConv", "NhwcFusedConv", "NhwcMaxPool")


def decompose(graph: gs.Graph, infer: InferNode, products: bool = False) -> None:
    """Decompose what can be, in subgraphs too, and write the shapes onto what the few write that stay with rules.

    products: those of `BETWEEN_STEPS`, too. Raises GraphError where the graph is laid out for one machine.
    """
    nodes = [node for scope in with_bodies(graph) for node in scope.nodes]
    for node in nodes:
        channels_last = node.op in _CHANNELS_LAST or node.attrs.get("channels_last", 0)
        if node.domain == _BLOCKED_DOMAIN or (node.domain == DOMAIN and channels_last):
            operator = f"{node.domain}.{node.op}"
            raise GraphError(
                f"ONNX Runtime has laid the model out for one machine: node `{describe(node)}` is {operator}. Compile "
                "the file that this was made from, or let ONNX Runtime save it with the optimization level "
                "ORT_ENABLE_EXTENDED, not ORT_ENABLE_ALL."
            )
    if not all(is_standard(node) and not _decomposition(node, graph.opset, products) for node in nodes):
        _decompose(graph, Names(graph), infer, products)


def decompose_missing(graph: gs.Graph, infer: InferNode) -> None:
    """Decompose the nodes of a graph without its subgraphs that the opset has no operator for in the standard."""
    editor = GraphEditor(graph)
    for node in graph.nodes:
        if missing_in_standard(node.domain, node.op, graph.opset):
            _replaced(node, IN_STANDARD_DOMAIN[node.op][1], editor, infer)
    editor.finish()


def missing_in_standard(domain: str | None, op: str, opset: int) -> bool:
    """Whether ONNX Runtime has this operator in the domain of the standard, and the standard's opset has not."""
    return domain in STANDARD_DOMAINS and op in IN_STANDARD_DOMAIN and opset < IN_STANDARD_DOMAIN[op][0]


def _decomposition(node: gs.Node, opset: int, products: bool) -> Decompose | None:
    if node.domain == DOMAIN and rules(node) is UNKNOWN:  # rules of a user's own come first
        return OPERATORS.get(node.op)
    if products and is_standard(node) and node.op in BETWEEN_STEPS:
        return BETWEEN_STEPS[node.op]
    return IN_STANDARD_DOMAIN[node.op][1] if missing_in_standard(node.domain, node.op, opset) else None


def _decompose(graph: gs.Graph, names: Names, infer: InferNode, products: bool) -> None:
    editor = GraphEditor(graph, names)
    for node in graph.nodes:
        for body in subgraphs(node):
            _decompose(body, names, infer, products)
        write = _decomposition(node, graph.opset, products)
        if write is not None and _replaced(node, write, editor, infer):
            continue
        if node.domain == DOMAIN and isinstance(op := rules_of(DOMAIN, str(node.op)), OutputSizesRule):
            for tensor, shape in zip(node.outputs, op.output_sizes(node), strict=False):
                if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                    tensor.dtype, tensor.shape = node.inputs[0].dtype, list(shape)
        else:
            infer(node, graph.opset)
    editor.finish()


def _replaced(node: gs.Node, write: Decompose, editor: GraphEditor, infer: InferNode) -> bool:
    call = Call(node, editor, infer)
    try:
        standing = write(call)
        call.needs(not any(call.wanted(index) for index in range(len(standing), len(node.outputs))))
    except (NotCoveredError, *MALFORMED):
        erase(*call.written)
        return False
    outputs = list(node.outputs)
    erase(node)
    for output, tensor in zip(outputs, standing, strict=False):
        if isinstance(output, gs.Variable) and not output.is_empty():
            output.dtype, output.shape = tensor.dtype, tensor.shape
            replace_tensor(tensor, output)
            writer = tensor.inputs[0]
            writer.outputs = [output if t is tensor else t for t in writer.outputs]
    for made in call.written:
        editor.insert(made, before=node)
    return True
