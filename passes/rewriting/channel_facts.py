"""Channel facts: constants (forward) and reads (backward), per slice of every axis of every tensor.

Both are found by one sweep over the nodes with the operators' own rules; nothing here knows an operator by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap, combined, uniform, whole
from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.slices import ConstantSlices, Link, merge
from passes.graph.tensors import (
    Array,
    Dim,
    Mask,
    is_constant,
    is_float,
    numpy_dtype,
    output_index,
    rank_of,
    shape_of,
    size_of,
    sizes_of,
    values_of,
)
from passes.weights.statistics import FINITE, Nonzero, is_filled_with, nonzero, uniform_slices, zeros
from passes.weights.statistics import lowest as least
from passes.weights.streaming import Kept, Lazy, lazy

AxisMask = dict[int, Mask]

#: the first opset with all operators that compute positions along an axis
COMPUTES_POSITIONS = 11


class SliceFlow(Protocol):
    """From which input slices the slices of the outputs come: what facts ask of the rules of a node."""

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        """As `Op.links`."""

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        """As `Op.carries`."""


@dataclass
class Facts:
    """Facts about the tensors of one graph, by tensor name.

    `constant[name][axis]` says which slices are constant; an absent entry says nothing is known.
    `infinite[name][axis]` says which are minus infinity, `constant_map[name][axis]` has those that are constant maps
    though not uniform. `read[name]` says which slices some consumer reads: absent, the tensor is not read at all; an
    axis absent in it, all its slices are. `dependence[name, axis]` says which slices depend linearly on others.
    `bound[name]` is what no element is below, `natural[name]` says which slices have nothing below 0. `sums[name]` is
    an axis along which the elements add up to one. `adds_maps`: contractions may add the contribution of constant maps,
    as a map, instead of reading these channels. `inside` are the facts of the subgraphs of control flow, by their `id`.
    `rules` finds the rules of a node.

    Links of nodes, and what is found out about weights, are remembered.
    """

    opset: int
    rules: Callable[[gs.Node], SliceFlow]
    adds_maps: bool = True
    constant_map: dict[str, dict[int, ConstantMap]] = field(default_factory=dict)
    constant: dict[str, dict[int, ConstantSlices]] = field(default_factory=dict)
    infinite: dict[str, dict[int, ConstantSlices]] = field(default_factory=dict)
    read: dict[str, AxisMask] = field(default_factory=dict)
    dependence: dict[tuple[str, int], LinearDependence] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    natural: dict[str, AxisMask] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    inside: dict[int, Facts] = field(default_factory=dict)
    _links: dict[int, list[Link]] = field(default_factory=dict)
    _weights: dict[str, Lazy] = field(default_factory=dict)

    def of_copy(self) -> Facts:
        """The same of a copy of the graph, which has no subgraphs: its nodes are others, and its constants may be."""
        constant = {name: dict(axes) for name, axes in self.constant.items()}
        return replace(self, constant=constant, _links={}, _weights=dict(self._weights))

    def size(self, tensor: gs.Tensor, axis: int) -> int | None:
        """Number of slices along the axis, None if it is not static."""
        return size_of(tensor, axis)

    def axes(self, tensor: gs.Tensor) -> list[tuple[int, int]]:
        """Axes of static size with that size, but for empty ones."""
        return [(axis, size) for axis, size in enumerate(sizes_of(tensor)) if size]

    def links(self, node: gs.Node) -> list[Link]:
        """The links of a node of the analysed graph (none, if its operator has none)."""
        found = self._links.get(id(node))
        if found is None:
            # inside a subgraph a size may not be inferred, of constants from outside
            self._links[id(node)] = found = [
                link
                for link in self.rules(node).links(node, self)
                if self.size(node.inputs[link.input], link.input_axis) is not None
                and self.size(node.outputs[link.output], link.output_axis) is not None
            ]
        return found

    def aligned(self, node: gs.Node) -> dict[int, dict[int, int]]:
        """By axis of output 0 of a node, in order: the inputs that are linked to it, each with its own axis."""
        found: dict[int, dict[int, int]] = {}
        for link in sorted(self.links(node), key=lambda k: k.output_axis):
            found.setdefault(link.output_axis, {})[link.input] = link.input_axis
        return found

    def known(self, tensor: gs.Tensor, axis: int) -> ConstantSlices | None:
        """Constant slices along the axis, None if there are none (or none are known)."""
        axes = self.constant.get(tensor.name)
        found = None if axes is None else axes.get(axis)
        if found is None and is_constant(tensor) and axis < len(tensor.shape):
            found = ConstantSlices(*uniform_slices(self._values(tensor), axis))
            self.constant.setdefault(tensor.name, {})[axis] = found
        return found

    def numbers(self, tensor: gs.Tensor, axis: int) -> ConstantSlices | None:
        """As `known`, and slices that are minus infinity, as masks ahead of a Softmax make them."""
        known, infinite = self.known(tensor, axis), self.infinite.get(tensor.name, {}).get(axis)
        return known if infinite is None else infinite if known is None else merge(infinite, known)

    def may_be_infinite(self, tensor: gs.Tensor) -> bool:
        """Whether elements of the tensor are known to be minus infinity, whatever the (finite) input."""
        return self.lowest(tensor) == -math.inf if is_constant(tensor) else tensor.name in self.infinite

    def constant_slices(self, tensor: gs.Tensor, axis: int) -> ConstantSlices:
        """As `known`, and slices of which none is constant where none are known (none at all, of no static size)."""
        if (known := self.known(tensor, axis)) is not None:
            return known
        size = self.size(tensor, axis)
        values = np.zeros(0) if size is None else np.zeros(size, numpy_dtype(tensor))
        return ConstantSlices(np.zeros(values.size, bool), values)

    def dim(self, tensor: gs.Tensor, axis: int) -> Dim:
        """The size of the axis; None where it is not known, or symbolic and cannot be computed with at run time."""
        size, shape = self.size(tensor, axis), shape_of(tensor) or ()
        if size is not None or self.opset < COMPUTES_POSITIONS or axis >= len(shape):
            return size
        return shape[axis] if isinstance(shape[axis], str) else None

    def uneven(self, tensor: gs.Tensor, axis: int) -> ConstantMap | None:
        """The slices along the axis that are known to be constant and not uniform; None if there are none."""
        return self.constant_map.get(tensor.name, {}).get(axis)

    def maps(self, tensor: gs.Tensor, axis: int) -> ConstantMap | None:
        """All that is known of the slices along the axis, uniform or not, as maps."""
        if is_constant(tensor):
            value = self.value(tensor)
            return whole(value, axis) if value.size else None
        known, uneven = self.known(tensor, axis), self.uneven(tensor, axis)
        if known is None:
            return uneven
        even = uniform(known.mask, known.value, rank_of(tensor) - 1)
        return even if uneven is None else combined(known.mask, even, uneven)

    def constants(self, tensor: gs.Tensor, axis: int) -> Mask | None:
        """Slices that do not depend on the input, uniform or not; None if there are none."""
        name = tensor.name
        known = self.constant[name].get(axis) if name in self.constant else None
        uneven = self.uneven(tensor, axis)
        if uneven is None:
            return None if known is None else known.mask
        return uneven.mask if known is None else known.mask | uneven.mask

    def constant_mask(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Slices along the (static) axis that do not depend on the input: bool [size]."""
        constant = self.constants(tensor, axis)
        return np.zeros(self.size(tensor, axis) or 0, bool) if constant is None else constant

    def combinations(self, tensor: gs.Tensor, axis: int) -> LinearDependence | None:
        """Slices that weights for a few others can stand for, those that are constant maps included."""
        uneven = self.uneven(tensor, axis)
        maps = None if uneven is None or not is_float(tensor) else uneven.dependence
        return self.dependence.get((tensor.name, axis)) or maps

    def weights(self, tensor: gs.Tensor, axis: int) -> int:
        """Elements of initializers that each slice along the axis takes, back to the contraction that makes it."""
        total = 0
        while tensor.inputs and (size := self.size(tensor, axis)):
            node = tensor.inputs[0]
            # what others read as well stays for them
            own = [t for t in node.inputs if is_constant(t) and len(t.outputs) == 1]
            total += sum(math.prod(t.shape) // size for t in own if size in t.shape)
            output = output_index(node, tensor)
            carried = [(node.inputs[i], a) for i, a in self.rules(node).carries(node, self, output, axis)]
            computed = [(t, a) for t, a in carried if not is_constant(t)]
            if len(computed) != 1:
                break
            tensor, axis = computed[0]
        return total

    def zero(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Slices along the (static) axis that are known to be zero."""
        if is_constant(tensor):
            return zeros(self._values(tensor), axis)
        known = self.known(tensor, axis)
        return np.zeros(self.size(tensor, axis) or 0, bool) if known is None else known.only(0).mask

    def counts(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Slices along the (static) axis that may not be zero instead.

        They are read, or their readers know them to be no zeros, or to divide by none.
        """
        counts = self.slices_read(tensor, axis) | self.constant_mask(tensor, axis) | (self.lowest(tensor) > 0)
        return np.asarray(counts & ~self.zero(tensor, axis))

    def slices_read(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Slices along the (static) axis that something reads: bool [size]."""
        size, read = self.size(tensor, axis) or 0, self.read.get(tensor.name)
        return np.zeros(size, bool) if read is None else read.get(axis, np.ones(size, bool))

    def value(self, tensor: gs.Tensor) -> Array:
        """The elements of an initializer."""
        return values_of(tensor)

    def _values(self, tensor: gs.Tensor) -> Lazy:
        """The elements of an initializer, which may be elsewhere; what is found out about them is noted there."""
        if tensor.name not in self._weights:
            self._weights[tensor.name] = lazy(tensor) or Kept(self.value(tensor))
        return self._weights[tensor.name]

    def is_finite(self, name: str) -> bool | None:
        """Whether all elements of an initializer are finite, where they were looked at; None where they were not."""
        return self._weights[name].notes.get(FINITE) if name in self._weights else None

    def sums_to_one(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether a sum over the axis, weighted with this tensor, is a mean."""
        return self.sums.get(tensor.name) == axis

    def lowest(self, tensor: gs.Tensor) -> float:
        """A bound that no element of the tensor is below, -inf if none is known."""
        if not is_constant(tensor):
            return self.bound.get(tensor.name, -math.inf)
        values = self._values(tensor)
        lowest = least(values) if values.size > 0 and values.dtype.kind in "fiu" else -math.inf
        return -math.inf if math.isnan(lowest) else lowest

    def not_negative(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Slices along the (static) axis of which no element is negative."""
        known, natural = self.constant_slices(tensor, axis), self.natural.get(tensor.name, {}).get(axis, np.False_)
        return np.asarray(known.mask & (known.value >= 0) | natural)

    def uniform(self, tensor: gs.Tensor) -> Array | None:
        """The one value (shape []) that all elements of an initializer have, None if they differ."""
        if not is_constant(tensor):
            return None
        values = lazy(tensor) or self.value(tensor)
        some = (next(iter(values.blocks())) if isinstance(values, Lazy) else values).reshape(-1)
        same = some.size > 0 and bool(some[0] == some[-1]) and is_filled_with(values, some[0])
        return some[0] if same else None

    def repeated(self, tensor: gs.Tensor, size: int) -> ConstantSlices | None:
        """So many slices that all hold the one value of an initializer; None if its elements differ."""
        value = self.uniform(tensor)
        return None if value is None else ConstantSlices(np.ones(size, bool), np.full(size, value))

    def nonzero(self, tensor: gs.Tensor, axes: tuple[int, int]) -> Nonzero:
        """For an initializer: where anything is not zero, over the indices along these two axes, in that order."""
        return nonzero(self._values(tensor), axes)

    def live(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Slices along the (static) axis that are read and not constant."""
        axes, size = self._live_axes(tensor), self.size(tensor, axis) or 0
        if axes is None:
            return np.zeros(size, bool)
        live, dependence = axes.get(axis, np.ones(size, bool)), self.dependence.get((tensor.name, axis))
        return live if dependence is None else dependence.required(live)

    def is_live(self, tensor: gs.Tensor) -> bool:
        """Whether anything of the tensor is read and not constant."""
        return self._live_axes(tensor) is not None

    def _live_axes(self, tensor: gs.Tensor) -> AxisMask | None:
        """What is read and not constant, along axes where that is not all; None if nothing of the tensor is."""
        name = tensor.name
        if name not in self.read:
            return None
        read, known = self.read[name], {*self.constant.get(name, ()), *self.constant_map.get(name, ())}
        live = {axis: ~self.constant_mask(tensor, axis) & read.get(axis, np.True_) for axis in known.union(read)}
        return live if all(mask.any() for mask in live.values()) else None

    def mark_read(self, tensor: gs.Tensor, axes: AxisMask) -> None:
        """Add slices to what is read; an axis that is not mentioned is read whole."""
        before = self.read.get(tensor.name, axes)
        self.read[tensor.name] = {
            axis: both for axis in before.keys() & axes.keys() if not (both := before[axis] | axes[axis]).all()
        }
