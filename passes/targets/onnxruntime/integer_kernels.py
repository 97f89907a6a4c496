"""Operators between quantised tensors, which ONNX Runtime computes in integers.

ONNX Runtime (1.31, `QDQSelectorActionTransformer`) makes one operator of a product, convolution, sum or pooling, the
DequantizeLinear nodes before it and the QuantizeLinear after it. Its integer kernels round a value in the middle
between two steps otherwise than the nodes do as they are written, and weights and biases that are floats it rounds to
integers first (`WeightBiasQuantization`). Of a DequantizeLinear and a QuantizeLinear with another scale it makes one
rounding instead of two (`DoubleQDQPairsRemover`). Where a mask that stood between is gone, values would be a step off
that the source computes in floats. Of a MatMul alone it makes a MatMulIntegerToFloat, too, which does not run if its
first operand has a step for each index along an axis.

On x86, kernels ask for data and result of one type. Of int8 a DequantizeLinear and the QuantizeLinear before it become
uint8 where nothing else reads either (`QDQS8ToU8Transformer`); others stay, and Conv and MatMul do not take those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import is_constant, operand, shape_of, values_of, volume
from passes.ops import rules
from passes.ops.quantization import same_steps
from passes.weights.quantized import Quantized

# Those whose weights and biases may be floats.
_ROUNDED_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
_INTEGER = _ROUNDED_WEIGHTS | frozenset(
    "Add AveragePool Concat GlobalAveragePool LeakyRelu MatMul Mul Sigmoid Softmax Where".split()
)
# Those with weights, which may be of another type than the data.
_WEIGHTED = _ROUNDED_WEIGHTS | {"MatMul"}
# What quantisation is moved across (`QDQPropagationTransformer`).
_TRANSPARENT = frozenset({"Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# What is taken away where it changes nothing.
_DROPPED = frozenset({"Add", "Div", "Dropout", "Mul", "Sub"})


def merged(graph: gs.Graph, given: Collection[str]) -> frozenset[str]:
    """The QuantizeLinear nodes that become a part of what is before them: their outputs, and whether that is a pair.

    And the MatMul nodes that would not run. As in the file, without the masks that were given: nodes of these names.
    """
    return frozenset(name for _, name in _merged(GraphEditor(graph), given))


def keep_floats(graph: gs.Graph, before: Collection[str]) -> None:
    """Let ONNX Runtime merge no node but those that are named in `before`, as in the source.

    It leaves alone what a Concat stands between, also one of a single tensor, which copies it.
    """
    editor = GraphEditor(graph)
    for node, name in list(_merged(editor)):
        data = node.inputs[0]
        if name not in before and shape_of(data) != ():
            node.inputs[0] = editor.variable(f"{data.name}_float", data.dtype, data.shape)
            editor.emit("Concat", [data], node.inputs[0], f"{node.outputs[0].name}_apart", {"axis": 0}, before=node)
    editor.finish()


def _merged(editor: GraphEditor, given: Collection[str] = ()) -> Iterator[tuple[gs.Node, str]]:
    for node in editor.graph.nodes:
        if node.op == "QuantizeLinear" and node.inputs:  # which nobody has checked in another domain
            maker = _before(node.inputs[0], editor, node, given)
            if maker is not None and (_becomes_integer(maker, node, editor, given) or _is_pair(maker, node)):
                yield node, node.outputs[0].name + " of a pair" * (maker.op == "DequantizeLinear")
        elif node.op == "MatMul" and _read(node, editor, given) and _steps_vary(node.inputs[0], given):
            yield node, node.outputs[0].name


def _before(tensor: gs.Tensor, editor: GraphEditor, quantize: gs.Node, given: Collection[str]) -> gs.Node | None:
    """What makes the tensor for this QuantizeLinear alone, but for nodes that ONNX Runtime moves or drops."""
    maker = editor.sole_producer(tensor)
    if maker is None:
        return None
    moved = maker.inputs[0] if _is_redundant(maker, quantize) else _moved(maker, given)
    return maker if moved is None else _before(moved, editor, quantize, given)


def _moved(node: gs.Node, given: Collection[str]) -> gs.Tensor | None:
    """What it only moves, or not even that: a Dropout, or what adds a single zero (`NoopElimination`)."""
    if node.op in _TRANSPARENT or node.name in given:
        return node.inputs[0]
    passed = rules(node).passes_on(node) if node.op in _DROPPED else None
    return passed if all(t is passed or not t.name or volume(t) == 1 for t in node.inputs) else None


def _is_pair(dequantize: gs.Node, quantize: gs.Node) -> bool:
    """Whether it gives back what another QuantizeLinear rounded, to other steps than this one."""
    if dequantize.op != "DequantizeLinear" or [node.op for node in dequantize.inputs[0].inputs] != ["QuantizeLinear"]:
        return False
    return not same_steps(dequantize, quantize)


def _is_redundant(node: gs.Node, quantize: gs.Node) -> bool:
    """Whether it clips to a range in which all that the QuantizeLinear can tell apart lies."""
    if node.op not in ("Relu", "Clip"):
        return False
    scale, zero = operand(quantize, 1), operand(quantize, 2)
    ends = [operand(node, 1), operand(node, 2)] if node.op == "Clip" else []
    if scale is None or any(t is not None and not is_constant(t) for t in (scale, zero, *ends)):
        return False
    steps = np.zeros((), np.uint8) if zero is None else values_of(zero)
    if steps.dtype.kind not in "iu":
        return False
    low, high = (node.attrs.get(name) for name in ("min", "max"))
    if ends:
        low, high = (given if end is None else values_of(end) for given, end in zip((low, high), ends, strict=True))
    low = 0.0 if node.op == "Relu" else low
    limits = np.iinfo(steps.dtype)
    least, most = ((end - steps.astype(np.float64)) * values_of(scale) for end in (limits.min, limits.max))
    return bool((low is None or (least >= low).all()) and (high is None or (most <= high).all()))


def _read(node: gs.Node, editor: GraphEditor, given: Collection[str]) -> list[gs.Tensor]:
    """What an operator reads that has an integer kernel, of numbers that quantised ones stand for; else nothing."""
    rounded, inputs = node.op in _ROUNDED_WEIGHTS, list(node.inputs)
    if node.op == "Add" and any(is_constant(t) for t in inputs):  # a product with its bias is one Gemm
        product = next((p for t in inputs if (p := editor.sole_producer(t)) is not None and p.op == "MatMul"), None)
        rounded, inputs = product is not None, list(product.inputs) if product is not None else inputs
    read = [t for t in inputs[node.op == "Where" :] if t.name]
    reads_steps = (
        node.op in _INTEGER
        and bool(read)
        and _is_dequantized(read[0], given)
        and all(_is_dequantized(t, given) or (rounded and is_constant(t)) for t in read[1:])
    )
    return read if reads_steps else []


def _becomes_integer(node: gs.Node, quantize: gs.Node, editor: GraphEditor, given: Collection[str]) -> bool:
    """Whether it becomes an integer operator, or its weights become integers."""
    read = _read(node, editor, given)
    if not read or not all(_is_dequantized(t, given) for t in read):
        return bool(read)
    weighted = node.op in _WEIGHTED or all(t is not read[0] for t in node.inputs)  # a product before it
    data = read[:1] if weighted else read
    types = {_type_of_data(t, editor, given) for t in data} | {_type_of_result(quantize, editor, given)}
    return len(types) == 1 and (node.op not in ("Conv", "MatMul") or types != {"int8"})


def _type_of_data(tensor: gs.Tensor, editor: GraphEditor, given: Collection[str]) -> str:
    source, made = _dequantized(tensor, given), _unmasked(tensor, given)
    assert source is not None
    if isinstance(source, Quantized):
        stored = source.steps()
        return "" if stored is None else stored.numbers.dtype.name
    steps = source.inputs[0].inputs[0]
    rounds = [node.op for node in steps.inputs] == ["QuantizeLinear"]
    alone = _readers(made, editor, given) == 1 and (made is not source or (rounds and len(steps.outputs) == 1))
    return _eight_bits(source.inputs[0], alone)


def _type_of_result(quantize: gs.Node, editor: GraphEditor, given: Collection[str]) -> str:
    steps, moved = quantize.outputs[0], _unmasked(quantize.inputs[0], given).inputs[0].op in _TRANSPARENT
    read = [reader.op for reader in steps.outputs] == ["DequantizeLinear"] and steps.name not in editor.seen_outside
    return _eight_bits(quantize, moved or (read and _readers(steps.outputs[0].outputs[0], editor, given) == 1))


def _eight_bits(node: gs.Node, alone: bool) -> str:
    """The type of the steps of a node, where those of int8 that stand alone become uint8."""
    zero = operand(node, 2)
    name = "uint8" if zero is None else str(zero.dtype)
    return "uint8" if name == "int8" and alone else name


def _readers(tensor: gs.Tensor, editor: GraphEditor, given: Collection[str]) -> int:
    """How many read it in the file, without the masks that were given."""
    read = (_readers(node.outputs[0], editor, given) if node.name in given else 1 for node in tensor.outputs)
    return sum(read) + (tensor.name in editor.seen_outside)


def _unmasked(tensor: gs.Tensor, given: Collection[str]) -> gs.Tensor:
    masked = tensor.inputs and tensor.inputs[0].name in given
    return _unmasked(tensor.inputs[0].inputs[0], given) if masked else tensor


def _is_dequantized(tensor: gs.Tensor, given: Collection[str]) -> bool:
    return _dequantized(tensor, given) is not None


def _steps_vary(tensor: gs.Tensor, given: Collection[str]) -> bool:
    """Whether what is dequantised has more than one step."""
    source = _dequantized(tensor, given)
    if isinstance(source, Quantized):
        steps = source.steps()
        return steps is not None and steps.scale.size != 1
    return source is not None and volume(source.inputs[0].inputs[1]) != 1


def _dequantized(tensor: gs.Tensor, given: Collection[str]) -> gs.Tensor | None:
    """The output of a DequantizeLinear, or a quantised weight, that this is when it is not moved."""
    if not tensor.inputs:
        return tensor if isinstance(tensor, Quantized) else None
    if tensor.inputs[0].op == "DequantizeLinear":
        return tensor
    moved = _moved(tensor.inputs[0], given)
    return None if moved is None else _dequantized(moved, given)
