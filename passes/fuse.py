"""Scale and shift behind a contraction become part of its weights; multiplications by one and additions of zero go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.names import Names
from passes.subgraphs import captured
from passes.tensors import SMALL, Array, Dim, is_constant, operand, shape_of


@dataclass(frozen=True)
class Affine:
    """x -> scale · x + shift: float64 [n] along the axis that is `axis` from the end (1: the last), or [] for all.

    `axis` is None when both are the same for all elements.
    """

    data: gs.Tensor
    scale: Array
    shift: Array
    axis: int | None


def drop_neutral(graph: gs.Graph) -> None:
    """Turn multiplications by one and additions of zero into Identity nodes."""
    for node in graph.nodes:
        data = _left_as_it_is(node)
        if data is not None:
            node.op, node.attrs, node.inputs = "Identity", {}, [data]


def fuse(graph: gs.Graph) -> None:
    """Fold scales and shifts into the contraction before them.

    Afterwards no BatchNormalization, Mul or Add with a per-channel constant follows a Conv, ConvTranspose, Gemm or
    MatMul of constant weights whose result nothing else reads (a shift behind a MatMul stays an Add).
    """
    fuser = _Fuser(graph)
    for node in list(graph.nodes):
        affine = _affine(node)
        if affine is None or not fuser.fold(affine):
            continue
        producer = affine.data.inputs[0]
        output = node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
        producer.outputs = [output]
    graph.nodes = [n for n in graph.nodes if n.outputs]


_NEUTRAL = {"Mul": 1, "Div": 1, "Add": 0, "Sub": 0}


def _left_as_it_is(node: gs.Node) -> gs.Tensor | None:
    """The operand that the node passes on unchanged: multiplied by ones, or with zeros added."""
    if node.op not in _NEUTRAL or node.domain not in (None, "", "ai.onnx") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    for data, constant in ((first, second), (second, first)):
        if not is_constant(constant) or isinstance(constant.dtype, int):
            continue
        if node.op in ("Sub", "Div") and constant is first:
            continue
        if _keeps_shape(shape_of(data), constant.shape):
            values = np.asarray(constant.values)
            if values.dtype.kind in "fiuV" and bool((values == _NEUTRAL[node.op]).all()):
                return data
    return None


def _keeps_shape(data: tuple[Dim, ...] | None, constant: list[int]) -> bool:
    """Whether broadcasting against the constant leaves the shape of the data as it is."""
    if data is None or len(constant) > len(data):
        return False
    return all(c in (1, d) for c, d in zip(reversed(constant), reversed(data), strict=False))


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
    found = _along_one_axis(constant, node.outputs[0])
    if found is None:
        return None
    values, axis = found
    one, zero = np.ones(()), np.zeros(())
    match node.op:
        case "Mul":
            return Affine(data, values, zero, axis)
        case "Div":
            return Affine(data, 1 / values, zero, axis) if (values != 0).all() else None
        case "Add":
            return Affine(data, one, values, axis)
        case _:
            return Affine(data, one, -values, axis)


def _batch_normalization(node: gs.Node) -> Affine | None:
    operands = [operand(node, i) for i in range(1, 5)]
    if (
        len(node.outputs) != 1
        or node.attrs.get("training_mode", 0)
        or not all(t is not None and is_constant(t) for t in operands)
    ):
        return None
    scale, bias, mean, variance = (np.asarray(t.values, np.float64) for t in operands if t is not None)
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    rank = len(shape_of(node.inputs[0]) or ())
    return Affine(node.inputs[0], factor, bias - mean * factor, rank - 1) if rank > 1 else None


def _along_one_axis(constant: gs.Constant, output: gs.Tensor) -> tuple[Array, int | None] | None:
    """The constant as float64 [n] with its axis from the end, or [] and None; None if it varies along several axes."""
    shape = list(constant.shape)
    if isinstance(constant.dtype, int) or np.dtype(constant.dtype).kind not in "fV":
        return None
    if len(shape) > len(shape_of(output) or shape):
        return None
    values = np.asarray(constant.values, np.float64)
    wide = [a for a, d in enumerate(shape) if d != 1]
    if not wide:
        return values.reshape(()), None
    return (values.reshape(-1), len(shape) - wide[0]) if len(wide) == 1 else None


class _Fuser:
    """Puts an affine map into the contraction that computes its operand."""

    def __init__(self, graph: gs.Graph) -> None:
        self._names = Names(graph)
        self._shared = {t.name for t in graph.outputs} | {t.name for n in graph.nodes for t in captured(n)}

    def fold(self, affine: Affine) -> bool:
        """Whether the map could be put into the node before it, which nothing else may read."""
        data = affine.data
        if data.name in self._shared or len(data.outputs) != 1 or len(data.inputs) != 1:
            return False
        node = data.inputs[0]
        if node.domain not in (None, "", "ai.onnx"):
            return False
        if node.op == "Add":
            return self._into_add(node, affine)
        place = _PLACES.get(node.op)
        axis = None if place is None else place(node, affine)
        return axis is not None and self._into_weights(node, affine, axis)

    def _into_add(self, node: gs.Node, affine: Affine) -> bool:
        """(x + b) · s + t = x · s + (b · s + t): the scale goes to the contraction before the Add, the rest into it."""
        before = _affine(node)
        if before is None or (affine.axis is not None and affine.axis != before.axis):
            return False
        scaling = Affine(before.data, affine.scale, np.zeros(()), affine.axis)
        if (affine.scale != 1).any() and not self.fold(scaling):
            return False
        index = 0 if is_constant(node.inputs[0]) else 1
        old = node.inputs[index]
        values = (before.shift * affine.scale + affine.shift).reshape(old.shape)
        node.inputs[index] = gs.Constant(self._names.fresh(old.name), values.astype(np.asarray(old.values).dtype))
        return True

    def _into_weights(self, node: gs.Node, affine: Affine, axis: int) -> bool:
        weight, bias = node.inputs[1], operand(node, 2)
        channels = int(weight.shape[axis])
        if len(weight.outputs) > 1 and int(np.prod(weight.shape)) > SMALL:
            return False  # others read it as it is, and it would be stored twice
        if not is_constant(weight) or isinstance(weight.dtype, int) or (bias is not None and not is_constant(bias)):
            return False
        behind = len(weight.shape) - 1 if node.op in ("Conv", "ConvTranspose") else 1
        if affine.axis not in (None, behind) or any(v.size not in (1, channels) for v in (affine.scale, affine.shift)):
            return False
        dtype = np.asarray(weight.values).dtype
        shape = [channels if a == axis else 1 for a in range(len(weight.shape))]
        scale = np.broadcast_to(affine.scale, channels).reshape(shape)
        scaled = np.asarray(weight.values * scale if (affine.scale != 1).any() else weight.values)
        old = np.zeros(channels) if bias is None else np.asarray(bias.values, np.float64).reshape(-1)
        shifted = np.broadcast_to(affine.scale, channels) * old + affine.shift
        scaled, shifted = scaled.astype(dtype), shifted.astype(dtype)
        if not (np.isfinite(scaled).all() and np.isfinite(shifted).all()):
            return False
        if (affine.scale != 1).any():
            node.inputs[1] = gs.Constant(self._names.fresh(weight.name), scaled)
        if bias is not None or affine.shift.any():
            constant = gs.Constant(self._names.fresh("bias" if bias is None else bias.name), shifted)
            node.inputs = [*list(node.inputs)[:2], constant]
        return True


def _convolution(node: gs.Node, affine: Affine) -> int | None:
    return 0


def _transposed(node: gs.Node, affine: Affine) -> int | None:
    return 1 if int(node.attrs.get("group", 1)) == 1 else None


def _gemm(node: gs.Node, affine: Affine) -> int | None:
    bias = operand(node, 2)
    axis = 0 if node.attrs.get("transB", 0) else 1
    wide = bias is None or (is_constant(bias) and int(np.prod(bias.shape)) == node.inputs[1].shape[axis])
    if node.attrs.get("beta", 1.0) != 1.0 or node.attrs.get("alpha", 1.0) != 1.0 or not wide:
        return None
    return axis


def _matmul(node: gs.Node, affine: Affine) -> int | None:
    """A MatMul has no place for a shift."""
    return 1 if not affine.shift.any() and len(node.inputs[1].shape or ()) == 2 else None


#: the axis of the weights that runs along the output channels, None if the map cannot be put there
_PLACES: dict[str, Callable[[gs.Node, Affine], int | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
