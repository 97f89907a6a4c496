"""The nodes of an adapter, inserted where a consumer requires other slices of a tensor than it stores.

Constants are restored and data is moved; only linearly dependent slices are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.abstract_values.linear_dependence import LinearDependence
from passes.abstract_values.polynomial import Expression, Polynomial, Term
from passes.abstract_values.row_index import Rows
from passes.adapters import price
from passes.graph.editor import GraphEditor
from passes.graph.tensors import SMALL, Array, Dim, Dtype, Mask, along, bits, numpy_dtype, rank_of, shape_of, values_of

_INT64 = np.dtype(np.int64)

# So many distinct rows of maps are few.
_FEW_ROWS = 5

#: constants for all slices along an axis, as one value each or as maps
Fill = Array | ConstantMap


def _is_plain(tensor: gs.Tensor) -> bool:
    """Whether the elements are of a type that every version of Shape takes."""
    if isinstance(tensor.dtype, int) or tensor.dtype is None:
        return False
    dtype = np.dtype(tensor.dtype)
    return dtype.kind in "biuf" and dtype.isbuiltin == 1  # numpy's own, unlike some of 8 bits


class Adapters:
    """Builds adapters and remembers them, so that consumers that require the same share one.

    absent: names of tensors that are not computed, whose sizes are computed instead where formulas say them.
    """

    def __init__(self, editor: GraphEditor, absent: Collection[str] = ()) -> None:
        self._editor = editor
        self._made: dict[tuple[object, ...], gs.Tensor] = {}
        graph = editor.graph
        computed = [tensor for node in reversed(graph.nodes) for tensor in node.outputs]
        computed = sorted(computed, key=lambda t: (t.name not in absent, _is_plain(t)))
        self._sources = {
            dim: (tensor, axis)  # of those that have a size, the last counts: an input, or else the first
            for tensor in (*computed, *sorted(graph.inputs, key=_is_plain))
            for axis, dim in enumerate(shape_of(tensor) or ())
            if isinstance(dim, str) and not (isinstance(dim, Expression) and tensor.name in absent)
        }

    def fit(
        self,
        tensor: gs.Tensor,
        sizes: Sequence[Dim],
        axis: int,
        have: Mask,
        want: Mask,
        fill: Fill,
        dependence: LinearDependence | None,
    ) -> gs.Tensor:
        """`tensor`, which is of these sizes and stores `have` along `axis`, as one that stores `want`.

        Missing slices are the constants `fill` or, with a dependence, computed from representatives that are stored.
        """
        key = (dependence is not None, tensor.name, axis, have.tobytes(), want.tobytes())
        if key not in self._made:
            if dependence is None:
                self._made[key] = self._restored(tensor, sizes, axis, have, want, fill)
            else:
                self._made[key] = self._recomputed(tensor, sizes, axis, have, want, fill, dependence)
        return self._made[key]

    def _restored(
        self, tensor: gs.Tensor, sizes: Sequence[Dim], axis: int, have: Mask, want: Mask, fill: Fill
    ) -> gs.Tensor:
        place = np.cumsum(have) - 1  # where each stored slice lies
        missing = want & ~have
        if not missing.any():
            return self._gather(tensor, axis, place[want])
        stored = int(have.sum())
        if isinstance(fill, ConstantMap) and (fill.uneven & missing).any():
            chosen = ConstantMap(fill.mask[missing], fill.value[missing], fill.index)
            wider = self.append(tensor, sizes, axis, self.expand(chosen, axis), len(chosen.mask))
            index = np.where(have, place, stored + np.cumsum(missing) - 1)
            return self._gather(wider, axis, index[want])
        fill = _even(fill)
        values = np.unique(fill[missing])
        if len(values) == 1 and self._can_pad(values):
            if price.only_at_ends(bits(have), bits(want)):
                kept = np.flatnonzero(have[want])
                return self._pad(tensor, sizes, axis, (kept[0], np.count_nonzero(want) - 1 - kept[-1]), values[0])
            wider = self._pad(tensor, sizes, axis, (0, 1), values[0])
        else:
            vector = values.reshape(along(axis, rank_of(tensor)))
            wider = self.append(tensor, sizes, axis, self._editor.constant("fill", vector), len(values))
        index = np.where(have, place, stored + np.searchsorted(values, np.where(missing, fill, values[0])))
        return self._gather(wider, axis, index[want])

    def _can_pad(self, values: Array) -> bool:
        """Whether Pad takes this type, and the value: an attribute, no more than a float32, before opset 11."""
        if self._editor.opset >= 13:
            return True
        if self._editor.opset >= 11:
            return values.dtype.kind in "fiu"
        return values.dtype.kind == "f" and bool((values.astype(np.float32) == values).all())

    def _recomputed(
        self,
        tensor: gs.Tensor,
        sizes: Sequence[Dim],
        axis: int,
        have: Mask,
        want: Mask,
        fill: Fill,
        dependence: LinearDependence,
    ) -> gs.Tensor:
        missing, place = dependence.mask & want & ~have, np.cumsum(have) - 1
        original = dependence.copies
        if not (want & ~have & ~(missing & (original >= 0))).any():  # all that is missing is stored elsewhere
            return self._gather(tensor, axis, np.where(have, place, place[original])[want])
        current = self.fit(tensor, sizes, axis, have, want, fill, None)
        shape, dtype = along(axis, rank_of(tensor)), numpy_dtype(tensor)
        for number, rep in enumerate(dependence.reps):
            factor = np.where(missing, dependence.coef[:, number], 0)[want].astype(dtype).reshape(shape)
            if factor.any():
                picked = self._gather(tensor, axis, place[[rep]])
                if (factor != 1).any():
                    picked = self._node("Mul", [picked, self._editor.constant("factor", factor)], "scaled", tensor)
                current = self._node("Add", [current, picked], f"{tensor.name}_followed", tensor)
        shift = np.where(missing, dependence.shift, 0)[want].astype(dtype).reshape(shape)
        if shift.any():
            inputs = [current, self._editor.constant("shift", shift)]
            current = self._node("Add", inputs, f"{tensor.name}_shifted", tensor)
        return current

    def create(
        self, tensor: gs.Tensor, shape: tuple[Dim, ...], axis: int, wanted: dict[int, Mask], fill: Fill, broadcast: bool
    ) -> gs.Tensor:
        """A tensor that is constant along `axis`, made of nothing. `broadcast`: the other axes may have size 1."""
        key = (tensor.name, axis, broadcast, *(w.tobytes() for w in wanted.values()))
        if key in self._made:
            return self._made[key]
        sizes = [int(wanted[a].sum()) if a in wanted else dim for a, dim in enumerate(shape)]
        if isinstance(fill, ConstantMap) and (fill.uneven & wanted[axis]).any():
            chosen = fill.cut(axis, {a: w for a, w in wanted.items() if a != axis})
            chosen = ConstantMap(chosen.mask[wanted[axis]], chosen.value[wanted[axis]], chosen.index)
            constant, uneven = self.expand(chosen, axis), True
        else:
            values = _even(fill)[wanted[axis]]
            if not broadcast and values.size > SMALL and (values == values[0]).all():
                values = values[:1]  # an operator that reads it must not become a constant as large
            vector = values.reshape(along(axis, len(shape)))
            constant, uneven = self._editor.constant(f"{tensor.name}_constant", vector), False
        if broadcast or (not uneven and sizes == list(shape_of(constant) or ())):
            self._made[key] = constant
        else:
            self._made[key] = self._node("Expand", [constant, self._shape(sizes)], f"{tensor.name}_expanded", tensor)
        return self._made[key]

    def _shape(self, sizes: list[Dim]) -> gs.Tensor:
        """A tensor of these sizes; symbols are read off the graph inputs that have them."""
        if all(isinstance(s, int) for s in sizes):
            return self._editor.ints("sizes", [int(s) for s in sizes])  # type: ignore[arg-type]
        return self._node("Concat", [self._size_vector(s) for s in sizes], "sizes", None, axis=0)

    def _size_vector(self, dim: Dim) -> gs.Tensor:
        """The size of an axis: [1]."""
        assert dim is not None
        if isinstance(dim, int):
            return self._editor.ints("size", [dim])
        if dim in self._sources:
            return self._axis_size(*self._sources[dim])
        return self._once("Reshape", [self._size(dim), self._editor.ints("vector", [1])], "size")

    def _axis_size(self, tensor: gs.Tensor, axis: int) -> gs.Tensor:
        """The size that the axis has at run time: [1]."""
        shape = self._once("Shape", [tensor], f"{tensor.name}_shape")
        if rank_of(tensor) == 1:
            return shape
        return self._once("Gather", [shape, self._editor.ints("axis", [axis])], f"{tensor.name}_size", axis=0)

    def expand(self, constant_map: ConstantMap, axis: int) -> gs.Tensor:
        """The maps of channels along the axis as a tensor, of size 1 where they do not vary.

        The file stores the distinct rows only. Where the sizes are static ONNX Runtime expands them once, when it loads
        the model. Else they are stored in an order in which what is picked lies together (`_order`): ONNX Runtime
        copies that 5 to 40 times as fast as single elements (measured on one core, 7 ns for each of these).
        """
        constant_map = constant_map.compact()
        order, last = self._order(constant_map, axis), len(constant_map.index)
        current, channels_last = self._rows_of(constant_map, axis, order), order[-1] == axis != last
        others = [a for a in range(last + 1) if a != axis]
        for other in others if channels_last else reversed(others):
            place = other - (other > axis)
            rows = constant_map.index[place]
            if rows is not None and not rows.is_each(constant_map.value.shape[place + 1]):
                inputs = [current, self._index(rows)]
                current = self._node("Gather", inputs, "maps_expanded", current, axis=order.index(other))
            if other == last:  # columns, which come first or, in channels-last order, at last
                current, order = self._in_order(current, order), [*range(last + 1)]
        return current

    def average(self, constant_map: ConstantMap, axis: int) -> gs.Tensor:
        """The means of the maps of channels along the axis over all of their positions, of size 1 there."""
        order = self._order(constant_map, axis)
        current = self._rows_of(constant_map, axis, order)
        for place, rows in enumerate(constant_map.index):
            if rows is None:
                continue
            other = order.index(place + (place >= axis))
            current = self._node("Gather", [current, self._index(rows)], "maps_expanded", current, axis=other)
            current = self._node("ReduceMean", [current], "maps_mean", current, axes=[other])
        return self._in_order(current, order)

    def _order(self, constant_map: ConstantMap, axis: int) -> list[int]:
        """In which order the axes of maps are stored.

        Where columns are picked at run time, channels come last, and all is moved at the end; OpenVINO, which computes
        channels last, has nothing to move then. Where few rows are repeated, columns come first: then less is moved.
        """
        last = len(constant_map.index)
        natural = [*range(last + 1)]
        columns = constant_map.index[-1] if axis < last else None
        if columns is None or columns.course is None:
            return natural
        distinct = constant_map.value.shape[1:-1]
        repeated = [r for r, n in zip(constant_map.index, distinct, strict=False) if r is not None and not r.is_each(n)]
        if repeated and max(distinct) <= _FEW_ROWS:
            return [last, *natural[:-1]]
        return [*(a for a in natural if a != axis), axis]

    def _rows_of(self, constant_map: ConstantMap, axis: int, order: Sequence[int]) -> gs.Tensor:
        """The distinct rows of the maps as an initializer with the axes in this order, stored once."""
        value = np.transpose(np.moveaxis(constant_map.value, 0, axis), order)
        key = "maps", value.shape, str(value.dtype), value.tobytes()
        if key not in self._made:
            self._made[key] = self._editor.constant("maps", value)
        return self._made[key]

    def _in_order(self, tensor: gs.Tensor, order: Sequence[int]) -> gs.Tensor:
        """A tensor whose axes are in this order, as one with them where they belong."""
        if [*order] == sorted(order):
            return tensor
        return self._node("Transpose", [tensor], "maps_turned", tensor, perm=[order.index(a) for a in sorted(order)])

    def _index(self, rows: Rows) -> gs.Tensor:
        """The row at each position: int64 [size]."""
        return self._editor.ints("rows", rows.places) if rows.course is None else self._rows(rows)

    def _size(self, dim: int | str) -> gs.Tensor:
        """The size of an axis: []."""
        if isinstance(dim, int):
            return self._number(dim)
        computed = Polynomial.of(dim).as_shifted_quotient
        source, shift, stride = computed if computed is not None and computed[0] in self._sources else (dim, 0, 1)
        if source not in self._sources:
            return self._computed(Polynomial.of(dim))
        size = self._once("Squeeze", [self._axis_size(*self._sources[source])], "size_scalar")
        shifted = self._with("Add", size, shift) if shift else size
        return self._with("Div", shifted, stride) if stride > 1 else shifted

    def _computed(self, formula: Polynomial) -> gs.Tensor:
        """The value of a formula of sizes: []."""
        total: gs.Tensor | None = None
        for monomial, coefficient in formula.terms:
            part = self._number(coefficient)
            for factor in monomial:
                value = self._size(factor) if isinstance(factor, str) else self._opaque(factor)
                part = value if part is self._number(1) else self._once("Mul", [part, value], "product")
            total = part if total is None else self._once("Add", [total, part], "total")
        return self._number(0) if total is None else total

    def _opaque(self, term: Term) -> gs.Tensor:
        one, other = map(self._computed, term.operands)
        if term.operation != "floordiv":
            return self._once(term.operation.title(), [one, other], term.operation)
        rest = self._once("Mod", [one, other], "rest")  # which has the sign of the divisor, so that this rounds down
        return self._once("Div", [self._once("Sub", [one, rest], "multiple"), other], "quotient")

    def _rows(self, rows: Rows) -> gs.Tensor:
        """`_index` for a course: `Rows.table` says how the row follows from the position and the size."""
        course, table = rows.course, rows.table()
        assert course is not None
        residues, lefts, rights = table.shape
        size = self._size(course.start)
        ends = [self._number(0), self._size(course.size), self._number(1)]
        position = self._once("Range", ends, "positions")
        parts = []
        if rights > 1:
            floor = min(course.low, 0)
            last = self._with("Sub", size, floor) if floor else size
            steps = self._times(position, course.stride)
            parts.append(self._least(self._once("Sub", [last, steps], "from_end"), rights - 1))
        if lefts > 1:
            parts.append(self._times(self._least(position, lefts - 1), rights))
        if residues > 1:
            residue = self._times(self._with("Mod", size, course.stride), lefts * rights)
            parts.append(residue if parts else self._once("Add", [residue, self._times(position, 0)], "place"))
        place = parts[0]
        for part in parts[1:]:
            place = self._once("Add", [place, part], "place")
        key = "rows", place.name, table.tobytes()
        if key not in self._made:
            self._made[key] = self._node(
                "Gather", [self._editor.ints("rows", table.reshape(-1)), place], "rows", None, axis=0
            )
        return self._made[key]

    def _least(self, tensor: gs.Tensor, limit: int) -> gs.Tensor:
        if self._editor.opset >= 12:
            return self._with("Min", tensor, limit)
        below = self._once("Less", [tensor, self._number(limit)], "below", np.dtype(bool))
        return self._once("Where", [below, tensor, self._number(limit)], "least")

    def _times(self, tensor: gs.Tensor, number: int) -> gs.Tensor:
        return tensor if number == 1 else self._with("Mul", tensor, number)

    def _with(self, op: str, tensor: gs.Tensor, number: int) -> gs.Tensor:
        return self._once(op, [tensor, self._number(number)], f"{tensor.name}_{op.lower()}")

    def _number(self, value: int) -> gs.Tensor:
        key = "number", value
        if key not in self._made:
            self._made[key] = self._editor.constant("number", np.asarray(value, np.int64))
        return self._made[key]

    def _once(self, op: str, inputs: list[gs.Tensor], hint: str, dtype: Dtype = _INT64, **attrs: object) -> gs.Tensor:
        """The integers that a node computes; the same node is made once."""
        key = op, *(values_of(t).tobytes() if isinstance(t, gs.Constant) else t.name for t in inputs)
        if key not in self._made:
            self._made[key] = made = self._node(op, inputs, hint, None, **attrs)
            made.dtype = dtype
        return self._made[key]

    def _node(
        self, op: str, inputs: Sequence[gs.Tensor], hint: str, like: gs.Tensor | None, **attrs: object
    ) -> gs.Variable:
        output = self._editor.variable(hint, _INT64 if like is None else like.dtype)
        return self._editor.emit(op, inputs, output, f"{hint}_{op.lower()}", attrs)

    def _gather(self, tensor: gs.Tensor, axis: int, index: Array) -> gs.Tensor:
        hint = f"{tensor.name}_fit"
        if self._editor.opset >= 10 and (np.diff(index) == 1).all():  # neighbours are copied at once
            bounds = {"starts": [int(index[0])], "ends": [int(index[-1]) + 1], "axes": [axis]}
            return self._node("Slice", [tensor], hint, tensor, **bounds)
        return self._node("Gather", [tensor, self._editor.ints("channels", index)], hint, tensor, axis=axis)

    def _pad(
        self, tensor: gs.Tensor, sizes: Sequence[Dim], axis: int, amounts: tuple[int, int], value: Array
    ) -> gs.Variable:
        pads = np.zeros((2, rank_of(tensor)), np.int64)
        pads[:, axis] = amounts
        hint = f"{tensor.name}_padded"
        if self._editor.opset < 11:
            padded = self._node("Pad", [tensor], hint, tensor, pads=pads.reshape(-1).tolist(), value=float(value))
        else:
            constant = self._editor.constant("fill", np.asarray(value, numpy_dtype(tensor)))
            padded = self._node("Pad", [tensor, self._editor.ints("pads", pads.reshape(-1)), constant], hint, tensor)
        padded.shape = _longer(sizes, axis, int(sum(amounts)))
        return padded

    def append(self, tensor: gs.Tensor, sizes: Sequence[Dim], axis: int, constant: gs.Tensor, more: int) -> gs.Variable:
        """`tensor`, of these sizes, with so many slices of a constant after its own, of its other sizes at run time."""
        hint = tensor.name
        first = self._node("Slice", [tensor], f"{hint}_first", tensor, starts=[0], ends=[1], axes=[axis])
        shape = self._node("Shape", [first], f"{hint}_shape", None)
        expanded = self._node("Expand", [constant, shape], f"{hint}_fill", tensor)
        filled = self._node("Concat", [tensor, expanded], f"{hint}_filled", tensor, axis=axis)
        filled.shape = _longer(sizes, axis, more)
        return filled


def _longer(sizes: Sequence[Dim], axis: int, more: int) -> list[Dim]:
    """These sizes with so many more slices along an axis of static size."""
    return [d + more if a == axis and isinstance(d, int) else d for a, d in enumerate(sizes)]


def _even(fill: Fill) -> Array:
    """One constant per slice."""
    return fill.value.reshape(len(fill.mask), -1)[:, 0] if isinstance(fill, ConstantMap) else fill
