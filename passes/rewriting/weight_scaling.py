"""Scale and shift behind a contraction become part of its weights; multiplications by one and additions of zero go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine, keeps_shape, limits, rounds, with_constant
from passes.graph.editor import Change, GraphEditor
from passes.graph.tensors import SMALL, Array, is_constant, is_float, operand, shape_of
from passes.rewriting.rule_table import OutputFolding
from passes.weights.quantized import Quantized
from passes.weights.statistics import peaks
from passes.weights.streaming import Lazy, Scaled, lazy


class Fuser:
    """What an operator's `takes` may ask for to put an affine map of its output into its own constants."""

    def __init__(self, editor: GraphEditor, rules: Callable[[gs.Node], OutputFolding[Fuser]]) -> None:
        self._editor, self._rules = editor, rules

    def fold(self, affine: Affine) -> bool:
        """Whether the map could be put into the node before it, whose result nothing else may read."""
        producer = self._editor.sole_producer(affine.data)
        if producer is None or rounds(affine.shift, affine.data.dtype):
            return False
        return self._rules(producer).fold_output_affine(producer, affine, self)

    def into_addend(self, node: gs.Node, affine: Affine) -> bool:
        """(x + b) · s + t = x · s + (b · s + t): the scale goes to the contraction before the Add, the rest into it.

        b may differ from channel to channel or from place to place, as a known map does.
        """
        operands = with_constant(node)
        if operands is None:
            return False
        data, old = operands
        shape = shape_of(data)
        if shape is None or len(shape) < len(old.shape) or not is_float(old):
            return False
        along = (-1, *[1] * ((affine.axis or 1) - 1))
        scale, shift = (v.reshape(along) if v.ndim else v for v in (affine.scale, affine.shift))
        if not all(keeps_shape(tuple(old.shape), v.shape) for v in (scale, shift)):
            return False
        before = np.asarray(old.values)
        with np.errstate(over="ignore", invalid="ignore"):
            values = (before.astype(np.float64) * scale + shift).astype(before.dtype)
        if rounds(before, values.dtype) or not np.isfinite(values).all():
            return False
        scaling = Affine(data, affine.scale, np.zeros(()), affine.axis)
        if (affine.scale != 1).any() and not self.fold(scaling):
            return False
        node.inputs[0 if old is node.inputs[0] else 1] = self._editor.constant(old.name, values)
        return True

    def into_weights(self, node: gs.Node, affine: Affine, axis: int, behind: int) -> bool:
        """Scale the weights (input 1) along `axis`, shift the bias (input 2).

        `behind` is the axis of the output, from its end, along which that axis of the weights runs.
        """
        weight, bias = node.inputs[1], operand(node, 2)
        if not _own(weight) or (bias is not None and not is_constant(bias)):
            return False
        channels = int(weight.shape[axis])
        if affine.axis not in (None, behind) or any(v.size not in (1, channels) for v in (affine.scale, affine.shift)):
            return False
        dtype = weight.dtype
        shape = [channels if a == axis else 1 for a in range(len(weight.shape))]
        scale = np.broadcast_to(affine.scale, channels)
        rescaled = bool((scale != 1).any())
        if rescaled and not _keeps_precision(lazy(weight) or np.asarray(weight.values), axis, scale):
            return False
        scaled = _scaled(weight, scale.reshape(shape) if rescaled else None)
        old = np.zeros(channels) if bias is None else np.asarray(bias.values, np.float64).reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = (scale * old + affine.shift).astype(dtype)
        if rounds(old, dtype) or not np.isfinite(shifted).all():
            return False
        shifts = bias is not None or affine.shift.any()
        self._give(node, scaled if rescaled else None, shifted if shifts else None)
        return True

    def from_inputs(self, node: gs.Node, affine: Affine, axes: tuple[int, int], groups: int = 1) -> Change | None:
        """What puts an affine map of input 0 into the weights (input 1) and the bias (input 2); None if it cannot be.

        `axes` are those of the weights that run along the channels of the output and, in each group, of the input.
        """
        weight, bias = node.inputs[1], operand(node, 2)
        if not _own(weight) or (affine.shift.any() and bias is not None and not is_constant(bias)):
            return None
        values = lazy(weight)
        if affine.shift.any() and values is not None and values.on_disk:  # all of it would have to be looked at again
            return None
        out, inner = axes
        written, read = int(weight.shape[out]), int(weight.shape[inner])
        if any(v.size not in (1, read * groups) for v in (affine.scale, affine.shift)):
            return None
        shape = [1] * len(weight.shape)
        shape[inner] = read
        if groups > 1:
            shape[out] = written

        def spread(values: Array) -> Array:
            """What each element of the weights meets of the input's channels, in the axes of the weights."""
            rows = np.broadcast_to(values, read * groups).reshape(groups, read)
            rows = np.repeat(rows, written // groups, axis=0) if groups > 1 else rows
            return rows.reshape(shape) if out < inner or groups == 1 else rows.T.reshape(shape)

        rescaled = bool((affine.scale != 1).any())
        scale = np.broadcast_to(affine.scale, read * groups)
        if rescaled and groups > 1:  # each row of the weights meets other channels
            spans = np.abs(scale).reshape(groups, read)
            outer = np.repeat([spans.min(axis=1), spans.max(axis=1)], written // groups, axis=1)
            if not all(_keeps_precision(values or np.asarray(weight.values), out, each) for each in outer):
                return None
        elif rescaled and not _keeps_precision(values or np.asarray(weight.values), inner, scale):
            return None
        scaled = _scaled(weight, spread(affine.scale) if rescaled else None)
        shifted = None
        if affine.shift.any():
            others = tuple(a for a in range(len(shape)) if a != out)
            shift = (np.asarray(weight.values, np.float64) * spread(affine.shift)).sum(axis=others)
            old = np.zeros(written) if bias is None else np.asarray(bias.values, np.float64).reshape(-1)
            with np.errstate(over="ignore", invalid="ignore"):
                shifted = (old + shift).astype(weight.dtype)
            if rounds(affine.shift, weight.dtype) or rounds(old, weight.dtype) or not np.isfinite(shifted).all():
                return None

        return lambda: self._give(node, scaled if rescaled else None, shifted)

    def _give(self, node: gs.Node, weight: Array | Lazy | None, bias: Array | None) -> None:
        """Put other weights and another bias in the place of those of the node, where they are given."""
        before = operand(node, 2)
        if weight is not None:
            node.inputs[1] = self._editor.constant(node.inputs[1].name, weight)
        if bias is not None:
            constant = self._editor.constant("bias" if before is None else before.name, bias)
            node.inputs = [*list(node.inputs)[:2], constant]


def _own(weight: gs.Tensor) -> bool:
    """Whether a node may change its weights."""
    if not is_constant(weight) or isinstance(weight.dtype, int):
        return False
    if isinstance(weight, Quantized):  # scaled, it would lie between its steps
        return False
    # what others read as it is would be stored twice
    return len(weight.outputs) == 1 or int(np.prod(weight.shape)) <= SMALL


def _scaled(weight: gs.Constant, factors: Array | None) -> Array | Lazy:
    """The weights times factors, in their type; read later if they are elsewhere."""
    values = lazy(weight)
    if factors is not None:  # a product in the weights' own type is as exact where factors are of that type
        narrow = factors.astype(weight.dtype)
        factors = narrow if (narrow == factors).all() else factors
    if values is None or not values.on_disk:
        whole = np.asarray(weight.values)
        return whole if factors is None else (whole * factors).astype(weight.dtype, copy=False)
    return values if factors is None else Scaled(values, factors)


def _keeps_precision(values: Array | Lazy, axis: int, scale: Array) -> bool:
    """Whether weights scaled along the axis are finite, and no slice becomes too small for its type to be exact."""
    precision = limits(values.dtype)
    most, tiny = float(precision.max), float(precision.smallest_normal)
    before = peaks(values, axis).astype(np.float64)
    after = before * np.abs(scale)
    lost = (after < tiny) & (before >= tiny) & (scale != 0)
    return bool((after <= most).all()) and not lost.any()
