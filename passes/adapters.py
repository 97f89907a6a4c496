"""Bring a tensor from the slices it stores to those a consumer must see. Only data is moved; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.names import Names
from passes.patterns import Pattern
from passes.tensors import Array, Dim, Index, Mask, shape_of
from passes.ties import Tied


class Adapters:
    """Builds adapters and remembers them, so that consumers with the same wish share one."""

    def __init__(self, names: Names, opset: int, inputs: list[gs.Tensor], emit: Callable[[gs.Node], None]) -> None:
        self._names = names
        self._opset = opset
        self._emit = emit
        self._made: dict[tuple[object, ...], gs.Tensor] = {}
        self._sizes: dict[tuple[str, str], gs.Tensor] = {}
        self._sources = {
            dim: (tensor, axis)
            for tensor in inputs
            for axis, dim in enumerate(shape_of(tensor) or ())
            if isinstance(dim, str)
        }

    def fit(self, tensor: gs.Tensor, rank: int, axis: int, have: Mask, want: Mask, fill: Array | Pattern) -> gs.Tensor:
        """`tensor`, which stores `have` along `axis`, as one that stores `want`; missing slices hold `fill`."""
        key = (tensor.name, axis, have.tobytes(), want.tobytes())
        if key not in self._made:
            self._made[key] = self._fit(tensor, rank, axis, have, want, fill)
        return self._made[key]

    def _fit(self, tensor: gs.Tensor, rank: int, axis: int, have: Mask, want: Mask, fill: Array | Pattern) -> gs.Tensor:
        place = np.cumsum(have) - 1  # where each stored slice lies
        missing = want & ~have
        if not missing.any():
            return self._gather(tensor, axis, place[want])
        stored = int(have.sum())
        if isinstance(fill, Pattern) and (fill.uneven & missing).any():
            wider = self._append(tensor, axis, self.expand(fill.value[missing][None], fill.index))
            index = np.where(have, place, stored + np.cumsum(missing) - 1)
            return self._gather(wider, axis, index[want])
        fill = _even(fill)
        values = np.unique(fill[missing])
        # before opset 11 the value is an attribute, and no more than a float32
        if len(values) == 1 and (self._opset >= 11 or float(np.float32(values[0])) == float(values[0])):
            simple = self._pad_at_ends(have, want)
            if simple is not None:
                return self._pad(tensor, rank, axis, simple, values[0])
            wider = self._pad(tensor, rank, axis, (0, 1), values[0])
        else:
            vector = values.reshape([-1 if a == axis else 1 for a in range(rank)])
            wider = self._append(tensor, axis, self._constant("fill", vector))
        index = np.where(have, place, stored + np.searchsorted(values, np.where(missing, fill, values[0])))
        return self._gather(wider, axis, index[want])

    def follow(
        self, tensor: gs.Tensor, rank: int, axis: int, have: Mask, want: Mask, fill: Array | Pattern, tied: Tied
    ) -> gs.Tensor:
        """As `fit`, where some of the missing slices follow from representatives that are stored."""
        key = ("follow", tensor.name, axis, have.tobytes(), want.tobytes())
        if key not in self._made:
            self._made[key] = self._follow(tensor, rank, axis, have, want, fill, tied)
        return self._made[key]

    def _follow(
        self, tensor: gs.Tensor, rank: int, axis: int, have: Mask, want: Mask, fill: Array | Pattern, tied: Tied
    ) -> gs.Tensor:
        missing, place = tied.mask & want & ~have, np.cumsum(have) - 1
        original = tied.copies
        if not (want & ~have & ~(missing & (original >= 0))).any():  # all that is missing is stored elsewhere
            return self._gather(tensor, axis, np.where(have, place, place[original])[want])
        current = self.fit(tensor, rank, axis, have, want, fill)
        shape = [-1 if a == axis else 1 for a in range(rank)]
        for number, rep in enumerate(tied.reps):
            factor = np.where(missing, tied.coef[:, number], 0)[want].astype(tensor.dtype).reshape(shape)
            if factor.any():
                picked = self._gather(tensor, axis, place[[rep]])
                if (factor != 1).any():
                    picked = self._node("Mul", [picked, self._constant("factor", factor)], "scaled", tensor)
                current = self._node("Add", [current, picked], f"{tensor.name}_followed", tensor)
        shift = np.where(missing, tied.shift, 0)[want].astype(tensor.dtype).reshape(shape)
        if shift.any():
            current = self._node("Add", [current, self._constant("shift", shift)], f"{tensor.name}_shifted", tensor)
        return current

    @staticmethod
    def _pad_at_ends(have: Mask, want: Mask) -> tuple[int, int] | None:
        """Amounts before and after, if all that is missing lies there."""
        if (have & ~want).any():
            return None
        order = have[want]
        present = np.flatnonzero(order)
        before, after = int(present[0]), int(order.size - present[-1] - 1)
        return (before, after) if before + after + present.size == order.size else None

    def create(
        self,
        tensor: gs.Tensor,
        shape: tuple[Dim, ...],
        axis: int,
        wanted: Mapping[int, Mask],
        fill: Array | Pattern,
        broadcast: bool,
    ) -> gs.Tensor:
        """A tensor that is constant along `axis`, made of nothing. `broadcast`: the other axes may have size 1."""
        key = (tensor.name, axis, broadcast, *(w.tobytes() for w in wanted.values()))
        if key in self._made:
            return self._made[key]
        sizes = [int(wanted[a].sum()) if a in wanted else dim for a, dim in enumerate(shape)]
        if isinstance(fill, Pattern) and (fill.uneven & wanted[axis]).any():
            index = tuple(i[wanted[a + 2]] for a, i in enumerate(fill.index))
            constant, uneven = self.expand(fill.value[wanted[axis]][None], index), True
        else:
            vector = _even(fill)[wanted[axis]].reshape([-1 if a == axis else 1 for a in range(len(shape))])
            constant, uneven = self._constant(f"{tensor.name}_constant", vector), False
        if broadcast or (not uneven and sizes == list(constant.shape)):
            self._made[key] = constant
        else:
            self._made[key] = self._node("Expand", [constant, self._shape(sizes)], f"{tensor.name}_expanded", tensor)
        return self._made[key]

    def _shape(self, sizes: list[Dim]) -> gs.Tensor:
        """A tensor of these sizes; symbols are read off the graph inputs that have them."""
        if all(isinstance(s, int) for s in sizes):
            return self._ints("sizes", [int(s) for s in sizes])  # type: ignore[arg-type]
        parts = [self._ints("size", [s]) if isinstance(s, int) else self._symbol(str(s)) for s in sizes]
        return self._node("Concat", parts, "sizes", None, axis=0)

    def _symbol(self, name: str) -> gs.Tensor:
        tensor, axis = self._sources[name]
        shape = ("shape", str(tensor.name))
        if shape not in self._sizes:
            self._sizes[shape] = self._node("Shape", [tensor], f"{tensor.name}_shape", None)
        size = ("size", name)
        if size not in self._sizes:
            inputs = [self._sizes[shape], self._ints("axis", [axis])]
            self._sizes[size] = self._node("Gather", inputs, f"{tensor.name}_size", None, axis=0)
        return self._sizes[size]

    def expand(self, value: Array, index: tuple[Index, ...]) -> gs.Tensor:
        """Maps [1, channels, *spatial] (or size 1 where they do not vary) from their distinct rows and columns.

        ONNX Runtime does this once, when it loads the model; the file holds the distinct ones only.
        """
        current: gs.Tensor = self._constant("maps", value)
        for axis, places in enumerate(index):
            if value.shape[axis + 2] > 1 and not np.array_equal(places, np.arange(value.shape[axis + 2])):
                hint = "rows" if axis == 0 else "columns"
                operands = [current, self._ints(hint, places)]
                current = self._node("Gather", operands, f"maps_{hint}", current, axis=axis + 2)
        return current

    # -- single nodes ----------------------------------------------------------------------------------------------

    def _node(self, op: str, inputs: list[gs.Tensor], hint: str, like: gs.Tensor | None, **attrs: object) -> gs.Tensor:
        output = gs.Variable(self._names.fresh(hint), np.int64 if like is None else like.dtype)
        self._emit(gs.Node(op, self._names.fresh(f"{hint}_{op.lower()}"), attrs, inputs=inputs, outputs=[output]))
        return output

    def _ints(self, hint: str, values: list[int] | Array) -> gs.Constant:
        return gs.Constant(self._names.fresh(hint), np.asarray(values, np.int64))

    def _gather(self, tensor: gs.Tensor, axis: int, index: Array) -> gs.Tensor:
        return self._node("Gather", [tensor, self._ints("channels", index)], f"{tensor.name}_fit", tensor, axis=axis)

    def _pad(self, tensor: gs.Tensor, rank: int, axis: int, amounts: tuple[int, int], value: Array) -> gs.Tensor:
        pads = np.zeros((2, rank), np.int64)
        pads[:, axis] = amounts
        hint = f"{tensor.name}_padded"
        if self._opset < 11:
            return self._node("Pad", [tensor], hint, tensor, pads=pads.reshape(-1).tolist(), value=float(value))
        constant = gs.Constant(self._names.fresh("fill"), np.asarray(value, tensor.dtype))
        return self._node("Pad", [tensor, self._ints("pads", pads.reshape(-1)), constant], hint, tensor)

    def _constant(self, hint: str, values: Array) -> gs.Constant:
        return gs.Constant(self._names.fresh(hint), np.ascontiguousarray(values))

    def _append(self, tensor: gs.Tensor, axis: int, constant: gs.Tensor) -> gs.Tensor:
        """`tensor` with the slices of a constant behind its own, of the other sizes that it has at run time."""
        hint = tensor.name
        bounds = [self._ints(n, [v]) for n, v in (("starts", 0), ("ends", 1), ("axes", axis))]
        if self._opset < 10:
            first = self._node("Slice", [tensor], f"{hint}_first", tensor, starts=[0], ends=[1], axes=[axis])
        else:
            first = self._node("Slice", [tensor, *bounds], f"{hint}_first", tensor)
        shape = self._node("Shape", [first], f"{hint}_shape", None)
        expanded = self._node("Expand", [constant, shape], f"{hint}_fill", tensor)
        return self._node("Concat", [tensor, expanded], f"{hint}_filled", tensor, axis=axis)


def _even(fill: Array | Pattern) -> Array:
    """One constant per slice."""
    return fill.value.reshape(len(fill.mask), -1)[:, 0] if isinstance(fill, Pattern) else fill
