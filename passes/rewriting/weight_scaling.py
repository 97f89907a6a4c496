"""A scale and shift before or after a contraction, put into its weights and its bias."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeGuard

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import ONE, ZERO, Affine, keeps_shape, limits, rounds, with_constant
from passes.graph.editor import Change, GraphEditor
from passes.graph.subgraphs import is_read_by_others
from passes.graph.tensors import SMALL, Array, is_constant, is_float, operand, shape_of, values_of
from passes.weights import quantized
from passes.weights.quantized import Quantized
from passes.weights.statistics import peaks
from passes.weights.streaming import Lazy, is_on_disk, lazy, scaled


class AffineFolding:
    """A trait of operators: a scale and shift beside the node goes into its own constants."""

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Fuser) -> bool:
        """Put an affine map of the output into the node's own constants; whether that was possible."""
        return False

    def fold_input_affine(self, node: gs.Node, index: int, affine: Affine, fuser: Fuser) -> Change | None:
        """What puts an affine map of input `index` into the node's own constants; None if that cannot be."""
        return None


class Fuser:
    """What an operator's `fold_output_affine` and `fold_input_affine` ask for to change its own constants."""

    def __init__(self, editor: GraphEditor, rules: Callable[[gs.Node], object]) -> None:
        self._editor, self._rules = editor, rules

    def fold(self, affine: Affine) -> bool:
        """Whether the map could be put into the node before it, whose result nothing else may read; it is renamed."""
        producer = self._editor.sole_producer(affine.data)
        if producer is None or rounds(affine.shift, affine.data.dtype):
            return False
        op = self._rules(producer)
        folded = isinstance(op, AffineFolding) and op.fold_output_affine(producer, affine, self)
        if folded:
            self.rename(affine.data)
        return folded

    def rename(self, tensor: gs.Tensor) -> None:
        """Give a tensor that is another one now a name that the source does not have."""
        tensor.name = self._editor.names.fresh(tensor.name)

    def into_addend(self, node: gs.Node, affine: Affine) -> bool:
        """(x + b) · s + t = x · s + (b · s + t): the scale goes to the contraction before the Add, the rest into it.

        b may differ from channel to channel or from place to place, as a constant map does.
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
        before = values_of(old)
        with np.errstate(over="ignore", invalid="ignore"):
            values = (before.astype(np.float64) * scale + shift).astype(before.dtype)
        if rounds(before, values.dtype) or not np.isfinite(values).all():
            return False
        scaling = Affine(data, affine.scale, ZERO, affine.axis)
        if (affine.scale != 1).any() and not self.fold(scaling):
            return False
        node.inputs[0 if old is node.inputs[0] else 1] = self._editor.constant(old.name, values)
        return True

    def into_weights(self, node: gs.Node, affine: Affine, axis: int, output_axis: int) -> bool:
        """Scale the weights (input 1) along `axis`, shift the bias (input 2).

        `output_axis` is the axis of the output, from its end, along which that axis of the weights runs.
        """
        weight, bias = node.inputs[1], operand(node, 2)
        if not _may_change(weight, affine) or (bias is not None and not is_constant(bias)):
            return False
        channels = weight.shape[axis]
        if affine.axis not in (None, output_axis):
            return False
        if any(v.size not in (1, channels) for v in (affine.scale, affine.shift)):
            return False
        scale, scaled = np.broadcast_to(affine.scale, channels), None
        if (scale != 1).any():
            if not _keeps_precision(weight, axis, scale):
                return False
            scaled = _scaled(weight, scale.reshape([channels if a == axis else 1 for a in range(len(weight.shape))]))
            if scaled is None:
                return False
        shifted = _mapped_bias(bias, scale, affine.shift, weight.dtype)
        if shifted is None:
            return False
        self._give(node, scaled, shifted if bias is not None or affine.shift.any() else None)
        return True

    def from_inputs(self, node: gs.Node, affine: Affine, axes: tuple[int, int], groups: int = 1) -> Change | None:
        """What puts an affine map of input 0 into the weights (input 1) and the bias (input 2); None if it cannot be.

        `axes` are those of the weights that run along the channels of the output and, in each group, of the input.
        """
        weight, bias = node.inputs[1], operand(node, 2)
        if not _may_change(weight, affine):
            return None
        if any(v.size not in (1, weight.shape[axes[1]] * groups) for v in (affine.scale, affine.shift)):
            return None
        scaled = shifted = None
        if (affine.scale != 1).any():
            if not _keeps_precision_of_inputs(weight, affine.scale, axes, groups):
                return None
            scaled = _scaled(weight, _per_weight(affine.scale, weight, axes, groups))
            if scaled is None:
                return None
        if affine.shift.any():
            if (bias is not None and not is_constant(bias)) or is_on_disk(weight):
                return None  # all of the weights would be read again
            shift = values_of(weight).astype(np.float64) * _per_weight(affine.shift, weight, axes, groups)
            shift = shift.sum(axis=tuple(a for a in range(shift.ndim) if a != axes[0]))
            shifted = _mapped_bias(bias, ONE, shift, weight.dtype)
            if shifted is None or rounds(affine.shift, weight.dtype):
                return None
        return lambda: self._give(node, scaled, shifted)

    def _give(self, node: gs.Node, weight: Array | Lazy | Quantized | None, bias: Array | None) -> None:
        """Put other weights and another bias in the place of those of the node, where they are given."""
        before = operand(node, 2)
        if isinstance(weight, Quantized):
            node.inputs[1] = quantized.twin(self._editor, weight)
        elif weight is not None:
            node.inputs[1] = self._editor.constant(node.inputs[1].name, weight)
        if bias is not None:
            name = "bias" if before is None else before.name
            held = before.holding(self._editor.names.fresh(name), bias) if isinstance(before, Quantized) else None
            constant = held or self._editor.constant(name, bias)
            node.inputs = [*node.inputs[:2], constant, *node.inputs[3:]]


def _may_change(weight: gs.Tensor, affine: Affine) -> TypeGuard[gs.Constant]:
    """Whether a node may change its weights so."""
    if not is_constant(weight) or isinstance(weight.dtype, int):
        return False
    # what DequantizeLinear makes, scaled, would lie between its steps, unless by a mask
    if quantized.is_dequantized(weight) and (affine.shift.any() or not np.isin(affine.scale, (0, 1)).all()):
        return False
    # what others read as it is would be stored twice
    return not is_read_by_others(weight) or prod(weight.shape) <= SMALL


def _scaled(weight: gs.Constant, factors: Array) -> Array | Lazy | Quantized | None:
    """The weights times factors, in their type; read later if they are elsewhere, and in as few bits.

    None of what DequantizeLinear makes of no integers.
    """
    fewer = quantized.scaled(weight, weight.name, factors) if isinstance(weight, Quantized) else None
    if fewer is not None or quantized.is_dequantized(weight):
        return fewer
    narrow = factors.astype(weight.dtype)  # a product in the weights' own type is as exact where factors are of it
    factors = narrow if (narrow == factors).all() else factors
    values = lazy(weight)
    if values is not None and values.on_disk:
        return scaled(values, factors)
    return (values_of(weight) * factors).astype(weight.dtype, copy=False)


def _mapped_bias(bias: gs.Constant | None, scale: Array, shift: Array, dtype: np.dtype[Any]) -> Array | None:
    """scale · bias + shift in this type, [channels]; None where it overflows, or adding the bias rounds on purpose."""
    before = ZERO if bias is None else values_of(bias).astype(np.float64).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        after = (scale * before + shift).astype(dtype)
    return after if np.isfinite(after).all() and not rounds(before, dtype) else None


def _per_weight(values: Array, weight: gs.Constant, axes: tuple[int, int], groups: int) -> Array:
    """For each element of the weights, the value of the input channel that it is multiplied with; broadcasts."""
    (out, inner), shape = axes, [1] * len(weight.shape)
    shape[inner] = read = weight.shape[inner]
    rows = np.broadcast_to(values, read * groups).reshape(groups, read)
    if groups == 1:
        return rows.reshape(shape)
    shape[out] = written = weight.shape[out]
    rows = np.repeat(rows, written // groups, axis=0)
    return rows.reshape(shape) if out < inner else rows.T.reshape(shape)


def _keeps_precision_of_inputs(weight: gs.Constant, scale: Array, axes: tuple[int, int], groups: int) -> bool:
    """As `_keeps_precision`, scaled along the channels of the input."""
    (out, inner), read = axes, weight.shape[axes[1]]
    scale = np.broadcast_to(scale, read * groups)
    if groups == 1:
        return _keeps_precision(weight, inner, scale)
    # each row of the weights meets the channels of its group: the smallest and the largest scale of these
    spans = np.abs(scale).reshape(groups, read)
    outer = np.repeat([spans.min(axis=1), spans.max(axis=1)], weight.shape[out] // groups, axis=1)
    return all(_keeps_precision(weight, out, each) for each in outer)


def _keeps_precision(weight: gs.Constant, axis: int, scale: Array) -> bool:
    """Whether weights scaled along the axis are finite, and no slice becomes too small for its type to be exact."""
    values = lazy(weight) or values_of(weight)
    precision = limits(values.dtype)
    most, tiny = float(precision.max), float(precision.smallest_normal)
    before = peaks(values, axis).astype(np.float64)
    after = before * np.abs(scale)
    lost = (after < tiny) & (before >= tiny) & (scale != 0)
    return bool((after <= most).all()) and not lost.any()
