"""A graph under construction: nodes that suit the opset, constants in every form, shapes that are tracked."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sym:
    """A dimension that is known only at run time.

    Two of them are equal at every size if their names are equal.
    """

    name: str
    nominal: int


Dim = int | Sym
Shape = tuple[Dim, ...]


def size(dim: Dim) -> int:
    """The dimension, or its smallest value where it is symbolic."""
    return dim if isinstance(dim, int) else dim.nominal


def derived(dim: Dim, label: str, nominal: int) -> Dim:
    """A dimension computed from another one: a number if that one is a number."""
    return nominal if isinstance(dim, int) else Sym(f"({dim.name}{label})", nominal)


@dataclass(frozen=True)
class Value:
    """A floating-point tensor of the graph.

    `axis` is where its channels lie; that dimension is always static.
    """

    name: str
    shape: Shape
    axis: int

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        return size(self.shape[self.axis])

    @property
    def static(self) -> bool:
        """Whether every dimension but the first is a number."""
        return all(isinstance(d, int) for d in self.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether convolutions and poolings can read it: channels second, then one to three spatial axes."""
        return self.axis == 1 and self.rank in (3, 4, 5)


# Names that anybody may give to a tensor, and that a compiler may take for its own.
_STEMS = (
    "axes axis bias channels fill indices pads scale shape shift size sizes weight "
    "x_constant x_expanded x_fit x_padded x_shape"
).split()
_COMMON = tuple(f"{stem}{suffix}" for stem in _STEMS for suffix in ("", "_1", "_2"))


@dataclass
class Network:
    """A generated model with what is needed to run it.

    `ranges` gives the bounds of integer inputs; `symbols` the sizes to try for each symbolic dimension;
    `sharp` says whether the reference evaluator can run it in double precision; `honest` is the model with a true
    declaration for a false one.
    """

    model: onnx.ModelProto
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    symbols: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sharp: bool = True
    honest: onnx.ModelProto | None = None


class Builder:
    """Collects nodes and initializers.

    All structure comes from `rng`, all weights from a seed drawn from it.
    """

    def __init__(self, rng: Random, opset: int, dtype: int = TensorProto.FLOAT) -> None:
        self.rng = rng
        self.opset = opset
        self.dtype = dtype
        self.numpy_type = np.dtype(helper.tensor_dtype_to_np_dtype(dtype))
        self.weights = np.random.default_rng(rng.randrange(1 << 30))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.pool: list[Value] = []
        self.sharp = True
        self.named = self.flip(0.85)
        self.style = self.pick(("plain", "plain", "path", "common"))  # of tensor names
        self.wide = self.flip(0.15)
        self.inline = self.pick((0.0, 0.0, 0.15, 1.0))  # the share of constants that are Constant nodes
        self._common = list(_COMMON)
        self._shared: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def flip(self, chance: float) -> bool:
        """True with the given chance."""
        return self.rng.random() < chance

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.rng.randrange(len(items))]

    def some(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return self.rng.randint(low, high)

    def width(self, low: int, high: int) -> int:
        """A number of channels."""
        return self.some(low, high) * (6 if self.wide and self.flip(0.6) else 1)

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in another order."""
        rest, out = list(items), []
        while rest:
            out.append(rest.pop(self.rng.randrange(len(rest))))
        return out

    def normal(self, *shape: int, scale: float = 1.0, center: float = 0.0) -> Array:
        """Normally distributed numbers in the model's precision."""
        return (self.weights.normal(size=shape) * scale + center).astype(self.numpy_type)

    def positive(self, *shape: int) -> Array:
        """Numbers between 0.5 and 1.5 in the model's precision."""
        return self.weights.uniform(0.5, 1.5, size=shape).astype(self.numpy_type)

    def keep(self, channels: int, kind: str | None = None) -> Array:
        """A 0/1 vector: mostly mixed, sometimes all zeros, all ones, or one survivor."""
        kind = kind or self.pick(("mixed",) * 7 + ("one", "none", "all", "few"))
        mask = np.ones(channels, bool)
        if kind in ("mixed", "few"):
            mask = self.weights.random(channels) < (0.55 if kind == "mixed" else 0.2)
            if not mask.any():
                mask[self.weights.integers(channels)] = True
        elif kind == "one":
            mask[:] = False
            mask[self.weights.integers(channels)] = True
        elif kind == "none":
            mask[:] = False
        return mask

    def fresh(self, stem: str) -> str:
        """A tensor name that nothing else has."""
        self._count += 1
        if self.style == "path":
            return f"/net/{stem.lower()}_{self._count}/{stem}_output_0"
        if self.style == "common" and self._common and self.flip(0.7):
            return self._common.pop(self.rng.randrange(len(self._common)))
        return f"{stem.lower()}{self._count}"

    def const(self, value: Any, dtype: Any = None, stem: str = "w") -> str:
        """The name of a constant: an initializer, or the output of a Constant node, sometimes shared."""
        array = np.array(value, dtype=dtype if dtype is not None else None)
        if array.dtype.kind == "f" and dtype is None:
            array = array.astype(self.numpy_type)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key in self._shared and self.flip(0.5):
            return self._shared[key]
        name = self.fresh(stem)
        if self.flip(self.inline):
            self.nodes.append(self._node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        self._shared[key] = name
        return name

    def ints(self, values: Sequence[int]) -> str:
        """A vector of int64."""
        return self.const(np.array(list(values), np.int64), np.int64, "axes")

    def scalar(self, value: float) -> str:
        """One number in the model's precision, as rank 0 or of shape [1]."""
        return self.const(np.array(value if self.flip(0.6) else [value], self.numpy_type), self.numpy_type, "c")

    def _node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
        self._count += 1
        name = f"{op}_{self._count}" if self.named and self.flip(0.95) else None
        kept = {k: v for k, v in attributes.items() if v is not None}
        return helper.make_node(op, list(inputs), list(outputs), name=name, **kept)

    def raw(self, op: str, inputs: Sequence[str | Value], outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node; the names of its outputs. Attributes that are None are left out."""
        made = [self.fresh(op) for _ in range(outputs)]
        self.nodes.append(self._node(op, [i if isinstance(i, str) else i.name for i in inputs], made, **attributes))
        return made

    def op(
        self,
        op: str,
        inputs: Sequence[str | Value],
        shape: Sequence[Dim],
        channels: int,
        /,
        **attributes: Any,
    ) -> Value:
        """Adds a node with one output of the given shape, whose channels lie on the given axis."""
        return Value(self.raw(op, inputs, **attributes)[0], tuple(shape), channels)

    def like(self, op: str, v: Value, /, *more: str | Value, **attributes: Any) -> Value:
        """Adds a node whose output has the shape of its first input."""
        return self.op(op, [v, *more], v.shape, v.axis, **attributes)

    def per_channel(self, v: Value, vector: Array, *, plain: bool = False) -> str:
        """A vector over the channels of v, in one of the shapes that broadcast against it."""
        after = v.rank - v.axis - 1
        shape = [len(vector)] + [1] * after
        if not plain and self.flip(0.5):
            shape = [1] * v.axis + shape
        return self.const(vector.reshape(shape), vector.dtype)

    def mask(self, v: Value, kind: str | None = None) -> Value:
        """v times a 0/1 vector over its channels, or over another static axis now and then."""
        axis = v.axis
        others = [i for i in range(1, v.rank) if i != v.axis and isinstance(v.shape[i], int)]
        if others and self.flip(0.08):
            axis = self.pick(others)
        keep = self.keep(size(v.shape[axis]), kind)
        name = self._mask_name(Value(v.name, v.shape, axis), keep)
        pair: list[str | Value] = [v, name]
        return self.op("Mul", pair if self.flip(0.7) else pair[::-1], v.shape, v.axis)

    def _mask_name(self, v: Value, keep: Array) -> str:
        """The mask as a constant, or computed from scores as a trainer leaves it."""
        if self.opset < 9 or self.flip(0.85) or self.dtype == TensorProto.FLOAT16:
            return self.per_channel(v, keep.astype(self.numpy_type))
        scores = np.where(keep, 1.0, -1.0) * self.positive(len(keep))
        flags = self.raw("Greater", [self.per_channel(v, scores.astype(self.numpy_type)), self.scalar(0.0)])[0]
        return self.raw("Cast", [flags], to=self.dtype)[0]

    def weight(self, array: Array) -> str:
        """The name of a weight: a constant, or a short chain on constants that gives it."""
        form = self.some(0, 30)
        if form == 0:
            return self.raw("Identity", [self.const(array, array.dtype)])[0]
        if form == 1 and array.ndim > 1:
            order = self.shuffled(range(array.ndim))
            back = [order.index(i) for i in range(array.ndim)]
            return self.raw("Transpose", [self.const(array.transpose(order).copy(), array.dtype)], perm=back)[0]
        if form == 2:
            return self.raw("Reshape", [self.const(array.ravel(), array.dtype), self.ints(array.shape)])[0]
        if form == 3:  # filters masked by a product in the graph
            keep = self.keep(array.shape[0]).astype(array.dtype).reshape([-1] + [1] * (array.ndim - 1))
            return self.raw("Mul", [self.const(array, array.dtype), self.const(keep, keep.dtype)])[0]
        return self.const(array, array.dtype)

    def squeeze(self, v: Value, axes: Sequence[int]) -> Value:
        shape = [d for i, d in enumerate(v.shape) if i not in axes]
        axis = v.axis - sum(a < v.axis for a in axes)
        if self.opset >= 13:
            return self.op("Squeeze", [v, self.ints(axes)], shape, axis)
        return self.op("Squeeze", [v], shape, axis, axes=list(axes))

    def unsqueeze(self, v: Value, axes: Sequence[int]) -> Value:
        """New axes of size one at the given places of the result."""
        shape: list[Dim] = []
        rest, axis = iter(enumerate(v.shape)), v.axis
        for i in range(v.rank + len(axes)):
            if i in axes:
                shape.append(1)
            else:
                old, dim = next(rest)
                axis = i if old == v.axis else axis
                shape.append(dim)
        if self.opset >= 13:
            return self.op("Unsqueeze", [v, self.ints(axes)], shape, axis)
        return self.op("Unsqueeze", [v], shape, axis, axes=list(axes))

    def reduce(self, op: str, v: Value, axes: Sequence[int], keepdims: bool) -> Value:
        """A reduction; if the channels' axis goes away, another static one takes its part."""
        shape: list[Dim] = [1 if i in axes else d for i, d in enumerate(v.shape)]
        axis = v.axis
        if not keepdims:
            shape = [d for i, d in enumerate(v.shape) if i not in axes]
            if v.axis in axes:
                axis = next((i for i, d in enumerate(shape) if i and isinstance(d, int)), 0)
            else:
                axis = v.axis - sum(a < v.axis for a in axes)
        written = [a - v.rank for a in axes] if self.opset >= 11 and self.flip(0.3) else list(axes)
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.op(op, [v, self.ints(written)], shape, axis, keepdims=int(keepdims))
        return self.op(op, [v], shape, axis, axes=written, keepdims=int(keepdims))

    def slice(self, v: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """v[start:stop:step] along a static axis."""
        total = size(v.shape[axis])
        shape = list(v.shape)
        shape[axis] = len(range(*slice(start, stop, step).indices(total)))
        if self.opset < 10:
            return self.op("Slice", [v], shape, v.axis, starts=[start], ends=[stop], axes=[axis])
        operands = [self.ints([start]), self.ints([stop]), self.ints([axis])]
        if step != 1 or self.flip(0.3):
            operands.append(self.ints([step]))
        return self.op("Slice", [v, *operands], shape, v.axis)

    def split(self, v: Value, axis: int, parts: Sequence[int]) -> list[Value]:
        if self.opset >= 13:
            made = self.raw("Split", [v, self.ints(parts)], len(parts), axis=axis)
        else:
            made = self.raw("Split", [v], len(parts), axis=axis, split=list(parts))
        return [
            Value(name, (*v.shape[:axis], part, *v.shape[axis + 1 :]), v.axis)
            for name, part in zip(made, parts, strict=True)
        ]

    def clip(self, v: Value, low: float | None, high: float | None) -> Value:
        if self.opset < 11:
            return self.like("Clip", v, min=low, max=high)
        bounds = ["" if b is None else self.const(np.array(b, self.numpy_type), self.numpy_type) for b in (low, high)]
        while bounds and not bounds[-1]:
            bounds.pop()
        return self.like("Clip", v, *bounds)

    def pad(self, v: Value, begin: Sequence[int], end: Sequence[int], mode: str, value: float = 0.0) -> Value:
        shape = [
            d if b == e == 0 else derived(d, f"+{b}+{e}", size(d) + b + e)
            for d, b, e in zip(v.shape, begin, end, strict=True)
        ]
        if self.opset < 11:
            return self.op("Pad", [v], shape, v.axis, mode=mode, pads=[*begin, *end], value=float(value))
        operands = [self.ints([*begin, *end])]
        if mode == "constant" and (value or self.flip(0.5)):
            operands.append(self.const(np.array(value, self.numpy_type), self.numpy_type))
        return self.op("Pad", [v, *operands], shape, v.axis, mode=mode)

    def reshape(self, v: Value, shape: Sequence[Dim], axis: int) -> Value:
        """A reshape whose target is a constant with 0 and -1, or computed from the shape of v.

        Symbolic dimensions of the target must be at the same place as in v, or be at most one.
        """
        target: list[int] = []
        for i, dim in enumerate(shape):
            if isinstance(dim, int):
                target.append(dim)
            else:
                target.append(0 if i < v.rank and v.shape[i] == dim else -1)
        assert target.count(-1) <= 1, (v.shape, shape)
        computable = all(isinstance(d, int) or d in v.shape for d in shape)
        if computable and self.flip(0.35):
            return self.op("Reshape", [v, self.computed_shape(v, shape)], shape, axis)
        if -1 not in target and self.flip(0.4):
            free = [i for i, t in enumerate(target) if t != 0]
            if free:
                target[self.pick(free)] = -1
        return self.op("Reshape", [v, self.ints(target)], shape, axis)

    def computed_shape(self, v: Value, shape: Sequence[Dim]) -> str:
        """A shape as an int64 vector that the graph computes from the shape of v, as exporters write it."""
        whole = self.raw("Shape", [v])[0]
        pieces: list[str] = []
        for dim in shape:
            if isinstance(dim, int) and (self.flip(0.7) or dim not in v.shape):
                pieces.append(self.ints([dim]))
                continue
            index = v.shape.index(dim)
            form = self.some(0, 2)
            if form == 0 and self.opset >= 10:
                pieces.append(self.raw("Slice", [whole, self.ints([index]), self.ints([index + 1]), self.ints([0])])[0])
            elif form == 1:
                pieces.append(self.raw("Gather", [whole, self.ints([index])], axis=0)[0])
            else:
                item = self.raw("Gather", [whole, self.const(np.array(index, np.int64), np.int64)], axis=0)[0]
                if self.opset >= 13:
                    pieces.append(self.raw("Unsqueeze", [item, self.ints([0])])[0])
                else:
                    pieces.append(self.raw("Unsqueeze", [item], axes=[0])[0])
        return self.raw("Concat", pieces, axis=0)[0]

    def transpose(self, v: Value, order: Sequence[int]) -> Value:
        return self.op("Transpose", [v], [v.shape[i] for i in order], list(order).index(v.axis), perm=list(order))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Concatenation along a static axis."""
        total = sum(size(v.shape[axis]) for v in values)
        first = values[0]
        written = axis - first.rank if self.opset >= 11 and self.flip(0.2) else axis
        return self.op(
            "Concat",
            list(values),
            (*first.shape[:axis], total, *first.shape[axis + 1 :]),
            first.axis,
            axis=written,
        )

    def gather(self, v: Value, indices: Sequence[int], axis: int) -> Value:
        shape = (*v.shape[:axis], len(indices), *v.shape[axis + 1 :])
        dtype = self.pick((np.int64, np.int64, np.int32))
        return self.op("Gather", [v, self.const(np.array(list(indices), dtype), dtype)], shape, v.axis, axis=axis)

    def value_info(self, v: Value, *, loose: bool = False) -> onnx.ValueInfoProto:
        """How a graph declares the tensor; derived dimensions get no name."""
        dims: list[int | str | None] = []
        for dim in v.shape:
            if isinstance(dim, int):
                dims.append(dim)
            else:
                dims.append(None if dim.name.startswith("(") or loose else dim.name)
        return helper.make_tensor_value_info(v.name, self.dtype, dims)


Step = Callable[[Builder, Value], Value | None]
