"""Weights that are read, or computed, when they are asked for and not kept, so that a model may be larger than memory.

A `Lazy` stands where an initializer's array would stand. numpy makes it an array wherever it needs one (`np.asarray`);
what can do with a part at a time goes through its blocks.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.errors import GraphError
from passes.graph.tensors import Array, Index, stored, values_of

#: bytes of a block: little beside any memory, and much beside what a step of a loop takes
BLOCK = 1 << 22

#: bytes: smaller initializers are read once, and kept
LARGE = 1 << 16


class Lazy(LazyValues):
    """An array [shape] that is not in memory.

    Its blocks follow each other along the axis `lead`; axes before it have at most one slice. `on_disk`: it takes no
    memory while nobody asks for it.
    """

    shape: list[int]
    on_disk = False

    def __init__(self, shape: list[int], dtype: np.dtype[np.generic], lead: int | None = None) -> None:
        self.shape, self.dtype = [int(d) for d in shape], np.dtype(dtype)
        #: what was found out about the values, by whoever looked at them
        self.notes: dict[object, Any] = {}
        self.lead = next((a for a, d in enumerate(self.shape) if d != 1), 0) if lead is None else lead

    def blocks(self) -> Iterator[Array]:
        """Its slices along `lead`, in order, some at a time; all of it at once where it has no axis."""
        raise NotImplementedError

    def placed(self) -> Iterator[tuple[int, int, Array]]:
        """Its blocks that hold anything, each with the numbers of its first slice along `lead` and of the one after."""
        start = 0
        for block in self.blocks():
            stop = start + (block.shape[self.lead] if self.shape else 1)
            if block.size:
                yield start, stop, block
            start = stop

    def load(self) -> Lazy:
        """Itself: onnx-graphsurgeon would keep what this gives."""
        return self

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None) -> Array:
        whole: Array = np.empty(self.shape, dtype or self.dtype)
        for start, stop, block in self.placed():
            if block.size == self.size:
                return block.astype(whole.dtype, copy=bool(copy))
            np.moveaxis(whole, self.lead, 0)[start:stop] = np.moveaxis(block, self.lead, 0)
        return whole

    def _step(self) -> int:
        """Slices in a block."""
        if not self.shape:
            return 1
        return max(1, BLOCK // max(1, self.nbytes // max(1, self.shape[self.lead])))


def raw(values: Lazy) -> Iterator[bytes | memoryview]:
    """The bytes of the elements as a file holds them."""
    element = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    if element_bits(element) % 8:
        yield onnx.numpy_helper.from_array(np.asarray(values)).raw_data
        return
    for block in values.blocks():
        yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data


class Kept(Lazy):
    """Values that are in memory, in one block."""

    def __init__(self, values: Array) -> None:
        super().__init__(list(values.shape), values.dtype)
        self.values = values

    def blocks(self) -> Iterator[Array]:
        """All of it."""
        yield self.values


class Inline(Lazy):
    """Values that lie in the model."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        super().__init__(list(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        self.stored = tensor

    def blocks(self) -> Iterator[Array]:
        """Views of the values."""
        values, step = np.asarray(self), self._step()
        return iter(np.split(values, range(step, self.shape[self.lead], step), self.lead) if self.shape else [values])

    def __array__(self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None) -> Array:
        values: Array = onnx.numpy_helper.to_array(self.stored)
        return values.astype(dtype or values.dtype, copy=bool(copy))


class External(Lazy):
    """Values in a file: `location` of the tensor is a path, from the working directory if it is not absolute."""

    on_disk = True

    def __init__(self, tensor: onnx.TensorProto) -> None:
        super().__init__(list(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        self._tensor = tensor
        said = {entry.key: entry.value for entry in tensor.external_data}
        self.path, self.offset = Path(said["location"]), int(said.get("offset", 0))

    def blocks(self) -> Iterator[Array]:
        """Read one after another. Raises GraphError where there is no such file, or too little in it."""
        if element_bits(self._tensor.data_type) % 8:
            yield self._unpacked()
            return
        count = self.shape[self.lead] if self.shape else 1
        step = self._step()
        slice_size = self.size // max(count, 1)
        with self._opened() as file:
            file.seek(self.offset)
            for start in range(0, count, step):
                size = min(step, count - start)
                values = np.fromfile(file, self.dtype, size * slice_size)
                if values.size < size * slice_size:
                    raise GraphError(f"The data of tensor `{self._tensor.name}` end too early in {self.path}.")
                yield values.reshape([size if a == self.lead else d for a, d in enumerate(self.shape)])

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise GraphError(f"The data of tensor `{self._tensor.name}` cannot be read: {error}.") from error

    def _unpacked(self) -> Array:
        """Elements of less than a byte."""
        whole = onnx.TensorProto(data_type=self._tensor.data_type, dims=self.shape)
        with self._opened() as file:
            file.seek(self.offset)
            whole.raw_data = file.read(stored_bytes(self._tensor))
        return np.asarray(onnx.numpy_helper.to_array(whole))


@dataclass(frozen=True)
class Picked:
    """Takes slices of an array by their indices along each of some axes."""

    picked: Mapping[int, Index]

    def __call__(self, values: Array) -> Array:
        """These slices."""
        for axis, index in self.picked.items():
            values = np.take(values, index, axis)
        return values


class Cut(Lazy):
    """Some slices of other values, by their indices along each of some axes."""

    def __init__(self, source: Lazy, picked: Mapping[int, Index]) -> None:
        shape = [len(picked[a]) if a in picked else d for a, d in enumerate(source.shape)]
        super().__init__(shape, source.dtype, source.lead)
        self.on_disk = source.on_disk
        self._source, self._along = source, picked.get(self.lead)
        self._others = Picked({axis: index for axis, index in picked.items() if axis != self.lead})

    def blocks(self) -> Iterator[Array]:
        """What is left of the blocks of the source; all of it is read at once where slices along `lead` go back."""
        along = self._along
        if along is not None and (np.diff(along) < 0).any():
            whole, step = np.asarray(self._source), self._step()
            for start in range(0, len(along), step):
                yield self._others(np.take(whole, along[start : start + step], self.lead))
            return
        for start, stop, block in self._source.placed():
            if along is not None:
                first, last = np.searchsorted(along, [start, stop])
                block = np.take(block, along[first:last] - start, self.lead)
            if block.size:
                yield self._others(block)


class Changed(Lazy):
    """Other values after a change of each block, which is told the block's place: its first slice and the one after."""

    def __init__(self, source: Lazy, change: Callable[[int, int, Array], Array]) -> None:
        super().__init__(source.shape, source.dtype, source.lead)
        self.on_disk = source.on_disk
        self._source, self._change = source, change

    def blocks(self) -> Iterator[Array]:
        """The changed blocks, in the type of these values."""
        for start, stop, block in self._source.placed():
            yield self._change(start, stop, block).astype(self.dtype, copy=False)


def scaled(source: Lazy, factors: Array) -> Lazy:
    """Other values times factors [as many axes, broadcast], in the same type."""
    varies = factors.ndim > 0 and factors.shape[source.lead] > 1

    def change(start: int, stop: int, block: Array) -> Array:
        return np.asarray(block * (np.take(factors, range(start, stop), source.lead) if varies else factors))

    return Changed(source, change)


def patched(source: Lazy, axis: int, places: Index, slices: Array) -> Lazy:
    """Other values with some slices along one axis replaced, by those of an array along its first axis."""

    def change(start: int, stop: int, block: Array) -> Array:
        result = np.array(block)
        along = np.moveaxis(result, axis, 0)
        if axis == source.lead:
            inside = (places >= start) & (places < stop)
            along[places[inside] - start] = slices[inside]
        else:
            lead = source.lead + (axis > source.lead)  # of the slices, whose first axis was this one
            along[places] = np.take(slices, range(start, stop), lead)
        return result

    return Changed(source, change)


def moved(tensor: gs.Constant, move: Callable[[Array], Array]) -> Array | Lazy:
    """The values of an initializer after their elements were moved or dropped."""
    values = lazy(tensor)
    if values is not None and values.on_disk:
        if isinstance(move, Picked):
            return Cut(values, move.picked)
        shape = move(np.broadcast_to(np.zeros((), values.dtype), values.shape)).shape
        return Made(shape, values.dtype, lambda: np.ascontiguousarray(move(np.asarray(values))))
    return np.ascontiguousarray(move(values_of(tensor)))


def contracted(values: Lazy, axis: int, factors: Array) -> Array:
    """Sums of the slices along `axis`, each times its factors [slices, sums]: float64 [sums, other axes...]."""
    rest = [d for a, d in enumerate(values.shape) if a != axis]
    total = np.zeros([factors.shape[1], *rest])
    for start, stop, block in values.placed():
        rows = np.moveaxis(block, axis, 0)
        if axis == values.lead:
            used = factors[start:stop].any(axis=1)
            total += np.tensordot(factors[start:stop][used].T, rows[used].astype(np.float64), axes=1)
        else:
            lead = values.lead + (axis > values.lead)
            part = (slice(None),) * lead + (slice(start, stop),)
            total[part] = np.tensordot(factors.T, rows.astype(np.float64), axes=1)
    return total


class Made(Lazy):
    """Values that are all made at once, each time that they are asked for, of others that are on disk."""

    on_disk = True

    def __init__(self, shape: Sequence[int], dtype: np.dtype[np.generic], make: Callable[[], Array]) -> None:
        super().__init__(list(shape), dtype)
        self._make = make

    def blocks(self) -> Iterator[Array]:
        """One block."""
        yield self._make()


@functools.cache
def element_bits(data_type: int) -> int:
    """Bits that an element of an ONNX type takes in a file."""
    number = re.match(r"U?INT(\d+)|FLOAT(\d+)E", onnx.TensorProto.DataType.Name(data_type))
    if number:
        return int(number[1] or number[2])
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the elements of a tensor take in a file."""
    return -(-int(prod(tensor.dims)) * element_bits(tensor.data_type) // 8)


def lazy(tensor: gs.Tensor) -> Lazy | None:
    """The values of an initializer that are not kept, None if they are, or if it is none."""
    values = stored(tensor) if isinstance(tensor, gs.Constant) else None
    return values if isinstance(values, Lazy) else None


def is_on_disk(tensor: gs.Tensor) -> bool:
    """Whether the values of an initializer take no memory while nobody asks for them."""
    values = lazy(tensor)
    return values is not None and values.on_disk
