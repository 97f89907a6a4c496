"""Weights of few bits: an initializer and its DequantizeLinear, read and sliced as the weight that it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.graph.construct import Composed, constant, variable
from passes.graph.editor import GraphEditor, replace_tensor
from passes.graph.subgraphs import captured
from passes.graph.tensors import Array, values_of
from passes.weights.streaming import Picked, moved


class Quantized(Composed):
    """`(stored - zero) · scale`, an initializer whose values are computed when they are asked for, and not kept.

    `stored` is of an integer type; `scale` and `zero` (None: 0) hold one element, or one for each index along `axis`,
    or, where `block` is not 0, one for each run of `block` indices along `axis`. `attrs` are those of the node.

    Source: ONNX operator specification, DequantizeLinear.
    """

    def __init__(
        self,
        name: str,
        stored: gs.Constant,
        scale: gs.Constant,
        zero: gs.Constant | None,
        attrs: Mapping[str, object],
    ) -> None:
        self.stored, self.scale, self.zero, self.attrs = stored, scale, zero, dict(attrs)
        rank = len(stored.shape)
        self.axis = int(self.attrs.get("axis", 1)) % max(rank, 1)  # type: ignore[call-overload]
        self.block = int(self.attrs.get("block_size", 0))  # type: ignore[call-overload]
        super().__init__(name, _Values(self))

    def copied(self, own: Callable[[gs.Constant], gs.Constant]) -> Quantized:
        """The same weight of copies of what is stored."""
        zero = None if self.zero is None else own(self.zero)
        return Quantized(self.name, own(self.stored), own(self.scale), zero, self.attrs)

    @property
    def key(self) -> tuple[object, ...]:
        """The same for weights that are made from the same initializers in the same way."""
        return id(self.stored), id(self.scale), id(self.zero), tuple(sorted(self.attrs.items()))

    @property
    def values(self) -> Array:
        """The weight, in the type of the scale."""
        stored, scale = values_of(self.stored), values_of(self.scale)
        wide = stored.astype(np.int64)
        if self.zero is not None:
            wide = wide - self._spread(values_of(self.zero)).astype(np.int64)
        # ONNX Runtime computes in single precision, whatever the scale is
        return np.asarray((wide.astype(np.float32) * self._spread(scale).astype(np.float32)).astype(scale.dtype))

    def _spread(self, parameter: Array) -> Array:
        """The scale or zero point in a shape that broadcasts against the weight."""
        rank = len(self.stored.shape)
        if parameter.size == 1 and not self.block:
            return parameter.reshape(())
        if self.block:
            return np.repeat(parameter, self.block, axis=self.axis).take(range(self.shape[self.axis]), self.axis)
        return parameter.reshape([-1 if a == self.axis else 1 for a in range(rank)])

    def moved(self, name: str, move: Callable[[Array], Array]) -> Quantized | None:
        """The weight after its elements were moved or dropped; None where scales would have to be stored for each."""
        stored = constant(f"{name}_quantised", moved(self.stored, move))
        scale = values_of(self.scale)
        if scale.size == 1:
            return Quantized(name, stored, self.scale, self.zero, {k: v for k, v in self.attrs.items() if k != "axis"})
        if isinstance(move, Picked) and not self.block and stored.shape[self.axis] > 1:  # they run along one axis
            return self._with(name, stored, move.picked.get(self.axis, np.arange(scale.size)), self.attrs)
        numbers = self._spread(np.arange(scale.size).reshape(scale.shape))
        places = move(np.broadcast_to(numbers, self.stored.shape))  # which scale each element has now
        changes = [np.flatnonzero(_differs(places, axis)) + 1 for axis in range(places.ndim)]
        varying = [axis for axis, found in enumerate(changes) if found.size]
        others = {k: v for k, v in self.attrs.items() if k not in ("axis", "block_size")}
        if len(varying) <= 1:
            axis = varying[0] if varying else 0
            line = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)[:, 0]
            chosen = line if varying else line[:1].reshape(())
            return self._with(name, stored, chosen, {**others, "axis": axis} if varying else others)
        runs = [gcd(*(int(c) for c in found)) if found.size else 0 for found in changes]
        axis = max(varying, key=lambda a: runs[a])
        if runs[axis] <= 1:
            return None
        chosen = np.take(places, np.arange(0, places.shape[axis], runs[axis]), axis)
        return self._with(name, stored, chosen, {**others, "axis": axis, "block_size": runs[axis]})

    def _with(self, name: str, stored: gs.Constant, chosen: Array, attrs: Mapping[str, object]) -> Quantized:
        """The same scales and zero points, those `chosen`."""
        scale, zero = (
            None if t is None else constant(t.name, np.asarray(values_of(t).reshape(-1)[chosen]))
            for t in (self.scale, self.zero)
        )
        assert scale is not None
        return Quantized(name, stored, scale, zero, attrs)

    def holding(self, name: str, values: Array, slack: Array | float = 0.0) -> Quantized | None:
        """Other values [same shape] in the same steps, where they fall on them but for `slack`; None if they do not."""
        dtype = values_of(self.stored).dtype
        if values.shape != tuple(self.stored.shape):
            return None
        zero = np.zeros(()) if self.zero is None else self._spread(values_of(self.zero)).astype(np.float64)
        scale = self._spread(values_of(self.scale)).astype(np.float64)
        with np.errstate(all="ignore"):
            steps = np.rint(values.astype(np.float64) / scale) + zero
            whole = steps.astype(dtype)
        if not (whole.astype(np.float64) == steps).all():  # out of range, or not a number
            return None
        stored = constant(f"{name}_quantised", whole)
        made = Quantized(name, stored, self.scale, self.zero, self.attrs)
        return made if (np.abs(made.values.astype(np.float64) - values) <= slack).all() else None


class _Values(LazyValues):
    """Shape and type of a weight that is not computed yet."""

    def __init__(self, weight: Quantized) -> None:
        self._weight = weight
        self.shape = list(weight.stored.shape)
        self.dtype = weight.scale.dtype

    def load(self) -> Array:
        return self._weight.values


def restore(graph: gs.Graph) -> None:
    """Put a DequantizeLinear before the first reader of every such weight. Afterwards there are none."""
    editor = GraphEditor(graph)
    stored = {id(t) for t in graph.tensors().values()}
    done: set[int] = set()
    for node in graph.nodes:
        for weight in [*node.inputs, *captured(node)]:
            if not isinstance(weight, Quantized) or id(weight) in done:
                continue
            done.add(id(weight))
            operands = [t for t in (weight.stored, weight.scale, weight.zero) if t is not None]
            for operand in operands:
                if id(operand) not in stored:  # two of them may have the name of what both were cut from
                    operand.name = editor.names.fresh(operand.name)
                    stored.add(id(operand))
            output = variable(weight.name, weight.dtype, list(weight.shape))
            replace_tensor(weight, output)
            editor.emit("DequantizeLinear", operands, output, f"{weight.name}_dequantised", weight.attrs, before=node)
    editor.finish()


def _differs(places: Array, axis: int) -> Array:
    """Where consecutive slices along the axis are not the same: bool [size - 1]."""
    rows = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    return np.asarray((rows[1:] != rows[:-1]).any(axis=1))
