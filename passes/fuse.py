"""Scale and shift behind a contraction become part of its weights; multiplications by one and additions of zero go."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.affine import Affine, limits, rounds
from passes.lazy import Lazy, Scaled, lazy
from passes.names import Names
from passes.ops import rules
from passes.quantized import Quantized
from passes.subgraphs import captured
from passes.summary import peaks
from passes.tensors import SMALL, Array, is_constant, operand


def fuse(graph: gs.Graph) -> None:
    """Fold scales and shifts into the contraction before them.

    Afterwards no BatchNormalization, Mul or Add with a per-channel constant follows a Conv, ConvTranspose, Gemm or
    MatMul of constant weights whose result nothing else reads (a shift behind a MatMul stays an Add).
    """
    fuser = Fuser(graph)
    for node in list(graph.nodes):
        affine = rules(node).affine(node)
        if affine is None or not fuser.fold(affine):
            continue
        producer = affine.data.inputs[0]
        output = node.outputs[0]
        node.inputs.clear()
        node.outputs.clear()
        producer.outputs = [output if t is affine.data else t for t in producer.outputs]
    graph.nodes = [n for n in graph.nodes if n.outputs]


class Fuser:
    """What an operator's `takes` may ask for to put an affine map of its output into its own constants."""

    def __init__(self, graph: gs.Graph) -> None:
        self._names = Names(graph)
        self._own = {id(n) for n in graph.nodes}
        self._shared = {t.name for t in graph.outputs} | {t.name for n in graph.nodes for t in captured(n)}

    def fold(self, affine: Affine) -> bool:
        """Whether the map could be put into the node before it, whose result nothing else may read."""
        data = affine.data
        if data.name in self._shared or len(data.outputs) != 1 or len(data.inputs) != 1:
            return False
        if id(data.inputs[0]) not in self._own or rounds(affine.shift, data.dtype):
            return False
        return rules(data.inputs[0]).takes(data.inputs[0], affine, self)

    def into_addend(self, node: gs.Node, affine: Affine) -> bool:
        """(x + b) · s + t = x · s + (b · s + t): the scale goes to the contraction before the Add, the rest into it."""
        before = rules(node).affine(node)
        if before is None or (affine.axis is not None and affine.axis != before.axis):
            return False
        index = 0 if is_constant(node.inputs[0]) else 1
        old = node.inputs[index]
        with np.errstate(over="ignore", invalid="ignore"):
            values = (before.shift * affine.scale + affine.shift).reshape(old.shape)
            values = np.asarray(values, np.asarray(old.values).dtype)
        if rounds(before.shift, values.dtype) or not np.isfinite(values).all():
            return False
        scaling = Affine(before.data, affine.scale, np.zeros(()), affine.axis)
        if (affine.scale != 1).any() and not self.fold(scaling):
            return False
        node.inputs[index] = gs.Constant(self._names.fresh(old.name), values)
        return True

    def into_weights(self, node: gs.Node, affine: Affine, axis: int, behind: int) -> bool:
        """Scale the weights (input 1) along `axis`, shift the bias (input 2).

        `behind` is the axis of the output, from its end, along which that axis of the weights runs.
        """
        weight, bias = node.inputs[1], operand(node, 2)
        if not is_constant(weight) or isinstance(weight.dtype, int) or (bias is not None and not is_constant(bias)):
            return False
        if isinstance(weight, Quantized):  # scaled, it would lie between its steps
            return False
        if len(weight.outputs) > 1 and int(np.prod(weight.shape)) > SMALL:
            return False  # others read it as it is, and it would be stored twice
        channels = int(weight.shape[axis])
        if affine.axis not in (None, behind) or any(v.size not in (1, channels) for v in (affine.scale, affine.shift)):
            return False
        dtype = weight.dtype
        shape = [channels if a == axis else 1 for a in range(len(weight.shape))]
        scale = np.broadcast_to(affine.scale, channels)
        rescaled = bool((scale != 1).any())
        values = lazy(weight)
        if rescaled and not _keeps_precision(values or np.asarray(weight.values), axis, scale):
            return False
        scaled: Array | Lazy
        if values is None or not values.on_disk:
            whole = np.asarray(weight.values)
            scaled = (whole * scale.reshape(shape)).astype(dtype) if rescaled else whole
        else:
            scaled = Scaled(values, scale.reshape(shape)) if rescaled else values
        old = np.zeros(channels) if bias is None else np.asarray(bias.values, np.float64).reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = (scale * old + affine.shift).astype(dtype)
        if rounds(old, dtype) or not np.isfinite(shifted).all():
            return False
        if rescaled:
            node.inputs[1] = gs.Constant(self._names.fresh(weight.name), scaled)
        if bias is not None or affine.shift.any():
            constant = gs.Constant(self._names.fresh("bias" if bias is None else bias.name), shifted)
            node.inputs = [*list(node.inputs)[:2], constant]
        return True


def _keeps_precision(values: Array | Lazy, axis: int, scale: Array) -> bool:
    """Whether weights scaled along the axis are finite, and no slice becomes too small for its type to be exact."""
    precision = limits(values.dtype)
    most, tiny = float(precision.max), float(precision.smallest_normal)
    before = peaks(values, axis).astype(np.float64)
    after = before * np.abs(scale)
    lost = (after < tiny) & (before >= tiny) & (scale != 0)
    return bool((after <= most).all()) and not lost.any()
