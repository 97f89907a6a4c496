"""Accessors of tensors: kind, shape, element type and stored values."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]
Dim = int | str | None
#: an element type: the number of an ONNX type where numpy has none for it
Dtype = np.dtype[Any] | int

#: how nodes call the domain of the standard's operators
STANDARD_DOMAINS = (None, "", "ai.onnx")

#: how sizes that are known come
_INTEGERS = (int, np.integer)

#: elements: a constant up to this size may be stored twice without a thought
SMALL = 64

#: slices along an axis: of longer ones no slice is told from another, as a mask of them would take much memory
MOST_SLICES = 2**22

#: elements: no tensor has more, as they would take terabytes
MOST_ELEMENTS = 2**40


def is_constant(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    """Whether the tensor is an initializer (a sparse one is left as it is, like something computed)."""
    return isinstance(tensor, gs.Constant) and not isinstance(stored(tensor), SparseValues)


def is_sparse(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    """Whether the tensor is a sparse initializer."""
    return isinstance(tensor, gs.Constant) and isinstance(stored(tensor), SparseValues)


def stored(tensor: gs.Constant) -> Array | LazyValues:
    """What an initializer holds: an array, or values that are read when they are needed, which this does not do."""
    return tensor._values


def set_stored(tensor: gs.Constant, values: Array | LazyValues) -> None:
    """Let an initializer hold other values."""
    tensor._values = values


def values_of(tensor: gs.Tensor) -> Array:
    """The elements of an initializer, which are read if need be."""
    assert isinstance(tensor, gs.Constant), tensor.name
    return np.asarray(tensor.values)


def initializer(node: gs.Node, index: int) -> gs.Constant:
    """Input `index` of a node that has an initializer there."""
    tensor = node.inputs[index]
    assert isinstance(tensor, gs.Constant), tensor.name
    return tensor


def is_standard(node: gs.Node) -> bool:
    """Whether the operator is one of the ONNX standard, and not of another domain."""
    return node.domain in STANDARD_DOMAINS


def shape_of(tensor: gs.Tensor) -> tuple[Dim, ...] | None:
    """Dimensions of the tensor: an int, a symbol, or None where nothing is known; None if the rank is not known."""
    shape = tensor.shape
    return None if shape is None else tuple(shape)


def dimensions(tensor: gs.Tensor) -> Sequence[Dim]:
    """`shape_of` a tensor whose rank is known."""
    assert tensor.shape is not None, tensor.name
    return tensor.shape


def along(axis: int, rank: int) -> list[int]:
    """The shape of a vector along one of so many axes."""
    return [-1 if each == axis else 1 for each in range(rank)]


def rank_of(tensor: gs.Tensor) -> int:
    """Number of dimensions of a tensor of which it is known."""
    return len(dimensions(tensor))


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape, None unless every size is static."""
    sizes = [int(d) for d in tensor.shape or () if isinstance(d, _INTEGERS)]
    return tuple(sizes) if tensor.shape is not None and len(sizes) == len(tensor.shape) else None


def size_of(tensor: gs.Tensor, axis: int) -> int | None:
    """Number of slices along `axis` (may be negative), None where it is not static, or above `MOST_SLICES`."""
    sizes = sizes_of(tensor)
    return sizes[axis] if -len(sizes) <= axis < len(sizes) else None


def sizes_of(tensor: gs.Tensor) -> tuple[int | None, ...]:
    """`size_of` for each axis; none where the rank is not known."""
    shape = tensor.shape or ()
    if isinstance(tensor.dtype, int) or is_sparse(tensor):  # an element type that numpy does not have: left as it is
        return (None,) * len(shape)
    return tuple([int(dim) if isinstance(dim, _INTEGERS) and dim <= MOST_SLICES else None for dim in shape])


def volume(tensor: gs.Tensor) -> int:
    """Number of elements for one example: dimensions that are not static count as 1."""
    return product(tensor.shape or ())


def product(dims: Iterable[Dim]) -> int:
    """Their product, where dimensions that are not static count as 1."""
    return math.prod([int(dim) for dim in dims if isinstance(dim, _INTEGERS)])


@functools.cache
def dtype_of(element: int) -> Dtype:
    """What numpy has for an element type of ONNX, or the number of the type."""
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(element)
    except KeyError:
        return element


def element_of(dtype: Dtype | None) -> int:
    """The element type of ONNX for what `dtype_of` says; 0, undefined, for none."""
    if dtype is None:
        return onnx.TensorProto.UNDEFINED
    return dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def numpy_dtype(tensor: gs.Tensor) -> np.dtype[Any]:
    """The type of the elements, float32 where it is not known. Raises TypeError for a type that numpy does not have."""
    dtype = tensor.dtype
    if isinstance(dtype, int):
        raise TypeError(f"numpy has no type for the elements of {tensor.name}")
    return np.dtype(np.float32) if dtype is None else dtype


def is_float(tensor: gs.Tensor) -> bool:
    """Whether the elements are floating-point numbers (of any width), as far as the type is known."""
    dtype = tensor.dtype
    return dtype is None or is_floating(dtype)


@functools.cache
def is_floating(dtype: Any) -> bool:
    """Whether elements of this type are floating-point numbers."""
    if isinstance(dtype, (int, np.integer)):  # an ONNX type that numpy does not have
        return True
    return np.dtype(dtype).kind not in "iubSUO" and "int" not in np.dtype(dtype).name


def present(tensors: list[gs.Tensor]) -> list[tuple[int, gs.Tensor]]:
    """The operands that are given (an omitted optional operand has an empty name), with their positions."""
    return [(index, tensor) for index, tensor in enumerate(tensors) if tensor.name]


def operand(node: gs.Node, index: int) -> gs.Tensor | None:
    """Input `index` of the node, None where it is omitted."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def output_index(node: gs.Node, tensor: gs.Tensor) -> int:
    """Which output of the node the tensor is."""
    return next(index for index, output in enumerate(node.outputs) if output is tensor)


def inverse(order: Index) -> Index:
    """The permutation that undoes this one."""
    return np.argsort(order)


def unite(root: Index, a: Index, b: Index) -> bool:
    """Put `a[i]` and `b[i]` in one class, where `root` is the least number of each one's class; whether any was not."""
    changed = False
    while not np.array_equal(root[a], root[b]):
        changed = True
        low = np.minimum(root[a], root[b])
        np.minimum.at(root, root[a], low)
        np.minimum.at(root, root[b], low)
        while not np.array_equal(root, root[root]):
            root[:] = root[root]
    return changed


def bits(mask: Mask) -> int:
    """The mask as a number with a bit for each slice: `&`, `|` and counting take a tenth of the time of numpy's."""
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def mask_of(number: int, size: int) -> Mask:
    """The mask of so many slices that has these `bits`."""
    packed = np.frombuffer(number.to_bytes(-(-size // 8), "little"), np.uint8)
    return np.unpackbits(packed, count=size, bitorder="little").view(bool)


def describe(node: gs.Node | onnx.NodeProto) -> str:
    """How messages speak of a node: by its name or, unnamed, by its operator and first output."""
    if isinstance(node, onnx.NodeProto):
        op, outputs = node.op_type, list(node.output)
    else:
        op, outputs = node.op, [tensor.name for tensor in node.outputs]
    return node.name or (f"{op} -> {outputs[0]}" if outputs else op)


def int_list(tensor: gs.Tensor | None) -> list[int] | None:
    """Values of a constant integer operand, None if it is absent or computed at run time."""
    if tensor is None or not is_constant(tensor):
        return None
    return [int(v) for v in values_of(tensor).reshape(-1)]
