"""Scale and shift behind a contraction become part of its weights; multiplications by one and additions of zero go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.names import Names
from passes.subgraphs import captured
from passes.tensors import Array, is_constant, operand, shape_of


@dataclass(frozen=True)
class Affine:
    """x -> scale · x + shift along axis 1 (or the last, for matrices) of the output: float64 [channels] or []."""

    data: gs.Tensor
    scale: Array
    shift: Array


def fuse(graph: gs.Graph) -> None:
    """Fold per-channel scales and shifts into the contraction before them, until nothing changes.

    Afterwards no BatchNormalization, Mul or Add with a per-channel constant follows a Conv, ConvTranspose, Gemm or
    MatMul of constant weights whose result nothing else reads.
    """
    names = Names(graph)
    outputs = {id(t) for t in graph.outputs}
    pinned = {t.name for n in graph.nodes for t in captured(n)}
    for node in list(graph.nodes):
        affine = _affine(node)
        if affine is None:
            continue
        if _does_nothing(node, affine):
            if id(node.outputs[0]) not in outputs and node.outputs[0].name not in pinned:
                _bypass(node, affine.data)
            continue
        if id(affine.data) in outputs or affine.data.name in pinned:
            continue
        if len(affine.data.outputs) != 1 or len(affine.data.inputs) != 1:
            continue
        producer = affine.data.inputs[0]
        fold = _FOLDS.get(producer.op) if producer.domain in (None, "", "ai.onnx") else None
        if fold is None or not fold(producer, affine, names):
            continue
        output = node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
        producer.outputs = [output]
    graph.nodes = [n for n in graph.nodes if n.outputs]


def _bypass(node: gs.Node, source: gs.Tensor) -> None:
    for consumer in list(node.outputs[0].outputs):
        consumer.inputs = [source if t is node.outputs[0] else t for t in consumer.inputs]
    node.inputs.clear()
    node.outputs.clear()


def _does_nothing(node: gs.Node, affine: Affine) -> bool:
    same_shape = shape_of(affine.data) == shape_of(node.outputs[0]) and shape_of(affine.data) is not None
    return same_shape and None not in (shape_of(affine.data) or ()) and bool(
        (affine.scale == 1).all() and (affine.shift == 0).all()
    )


def _affine(node: gs.Node) -> Affine | None:
    """The node as a per-channel scale and shift of one computed operand, None if it is something else."""
    if node.domain not in (None, "", "ai.onnx") or not node.outputs:
        return None
    if node.op == "BatchNormalization":
        return _batch_normalization(node)
    if node.op not in ("Mul", "Add", "Sub", "Div") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if is_constant(first) == is_constant(second):
        return None
    data, constant = (second, first) if is_constant(first) else (first, second)
    if is_constant(first) and node.op in ("Sub", "Div"):
        return None
    values = _per_channel(data, constant, node.outputs[0])
    if values is None:
        return None
    one, zero = np.ones(()), np.zeros(())
    match node.op:
        case "Mul":
            return Affine(data, values, zero)
        case "Div":
            return Affine(data, 1 / values, zero) if (values != 0).all() else None
        case "Add":
            return Affine(data, one, values)
        case _:
            return Affine(data, one, -values)


def _batch_normalization(node: gs.Node) -> Affine | None:
    operands = [operand(node, i) for i in range(1, 5)]
    if len(node.outputs) != 1 or node.attrs.get("training_mode", 0) or not all(t is not None and is_constant(t) for t in operands):
        return None
    scale, bias, mean, variance = (np.asarray(t.values, np.float64) for t in operands if t is not None)
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return Affine(node.inputs[0], factor, bias - mean * factor)


def channel_axis(rank: int) -> int:
    """Where contractions keep their output channels: axis 1 of images and sequences of them, the last of matrices."""
    return 1 if rank >= 3 else rank - 1


def _per_channel(data: gs.Tensor, constant: gs.Constant, output: gs.Tensor) -> Array | None:
    """The constant as float64 [channels] (or [] if it is one value), None if it is shaped otherwise."""
    if data.inputs and data.inputs[0].op in ("MatMul", "Gemm"):
        axis_from_end = 1
    else:
        axis_from_end = (len(shape_of(output) or ()) - 1) if shape_of(output) else 0
    shape = constant.shape
    if isinstance(constant.dtype, int) or np.dtype(constant.dtype).kind not in "fV":
        return None
    if int(np.prod(shape)) == 1:
        if len(shape) > len(shape_of(output) or shape):
            return None
        return np.asarray(constant.values, np.float64).reshape(())
    if axis_from_end < 1 or len(shape) < axis_from_end:
        return None
    axis = len(shape) - axis_from_end
    if any(d != 1 for a, d in enumerate(shape) if a != axis):
        return None
    return np.asarray(constant.values, np.float64).reshape(-1)


def _fold_convolution(node: gs.Node, affine: Affine, names: Names) -> bool:
    out_axis = 0
    return _fold(node, affine, names, out_axis, int(node.inputs[1].shape[0]))


def _fold_transposed(node: gs.Node, affine: Affine, names: Names) -> bool:
    if int(node.attrs.get("group", 1)) != 1:
        return False
    return _fold(node, affine, names, 1, int(node.inputs[1].shape[1]))


def _fold_gemm(node: gs.Node, affine: Affine, names: Names) -> bool:
    if node.attrs.get("beta", 1.0) != 1.0 or not is_constant(node.inputs[1]):
        return False
    axis = 0 if node.attrs.get("transB", 0) else 1
    return _fold(node, affine, names, axis, int(node.inputs[1].shape[axis]))


def _fold_matmul(node: gs.Node, affine: Affine, names: Names) -> bool:
    if affine.shift.any() or not is_constant(node.inputs[1]) or len(node.inputs[1].shape) != 2:
        return False  # a MatMul has no place for a shift
    return _fold(node, affine, names, 1, int(node.inputs[1].shape[1]))


def _fold(node: gs.Node, affine: Affine, names: Names, axis: int, channels: int) -> bool:
    weight, bias = node.inputs[1], operand(node, 2)
    if not is_constant(weight) or isinstance(weight.dtype, int) or (bias is not None and not is_constant(bias)):
        return False
    if any(v.ndim == 1 and v.size != channels for v in (affine.scale, affine.shift)):
        return False
    old = np.zeros(channels) if bias is None else np.asarray(bias.values, np.float64)
    shifted = np.broadcast_to(affine.scale, channels) * old + affine.shift
    dtype = np.asarray(weight.values).dtype
    if (affine.scale != 1).any():
        shape = [channels if a == axis else 1 for a in range(len(weight.shape))]
        scale = np.broadcast_to(affine.scale, channels).reshape(shape)
        scaled = (np.asarray(weight.values, np.float64) * scale).astype(dtype)
        if not np.isfinite(scaled).all():
            return False
        node.inputs[1] = gs.Constant(names.fresh(weight.name), scaled)
    if bias is not None or affine.shift.any():
        if not np.isfinite(shifted.astype(dtype)).all():
            return False
        constant = gs.Constant(names.fresh("bias" if bias is None else bias.name), shifted.astype(dtype))
        if bias is None:
            node.inputs = [*list(node.inputs)[:2], constant]
        else:
            node.inputs[2] = constant
    return True


def _fold_add(node: gs.Node, affine: Affine, names: Names) -> bool:
    """(x + b) · s + t = x · s + (b · s + t): the scale goes to the contraction before the Add, the rest into it."""
    before = _affine(node)
    if before is None:
        return False
    index = 0 if is_constant(node.inputs[0]) else 1
    old = node.inputs[index]
    if before.shift.size != max(before.shift.size, affine.scale.size, affine.shift.size):
        return False  # the constant would have to grow
    if (affine.scale != 1).any():
        data = before.data
        producer = data.inputs[0] if len(data.inputs) == 1 and len(data.outputs) == 1 else None
        fold = None if producer is None else _FOLDS.get(producer.op)
        if producer is None or fold is None or producer.op == "Add" or node.op != "Add":
            return False
        if not fold(producer, Affine(data, affine.scale, np.zeros(())), names):
            return False
    values = (before.shift * affine.scale + affine.shift).reshape(old.shape)
    node.inputs[index] = gs.Constant(names.fresh(old.name), values.astype(np.asarray(old.values).dtype))
    return True


_FOLDS: dict[str, Callable[[gs.Node, Affine, Names], bool]] = {
    "Add": _fold_add,
    "Conv": _fold_convolution,
    "ConvTranspose": _fold_transposed,
    "Gemm": _fold_gemm,
    "MatMul": _fold_matmul,
}
