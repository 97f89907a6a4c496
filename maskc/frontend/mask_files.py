"""Mask files, and the multiplications that insert masks into a graph."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.errors import InputError
from maskc.frontend import npz_files, stand_ins
from maskc.frontend.graph_queries import (
    TensorType,
    all_graphs,
    array_of,
    claimed,
    copied,
    defined,
    rename_tensors,
    tensor_types,
)
from passes.graph.opset_versions import opset_of

# Mul takes these only since opset 14; the other numbers since opset 7.
_SMALL_INTEGERS = frozenset(map(TensorProto.DataType.Value, "INT8 INT16 UINT8 UINT16".split()))
_NUMBERS = frozenset(map(TensorProto.DataType.Value, "FLOAT16 BFLOAT16 FLOAT DOUBLE INT32 INT64 UINT32 UINT64".split()))

# Of all masks together: hundreds of millions of channels.
_MOST_BYTES = 2**28

# Arrays of 0 and 1 by `tensor` or `tensor@axis`, or a file of them.
Masks = str | os.PathLike[str] | Mapping[str, ArrayLike]


def read_masks(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read masks from an `.npz` or `.safetensors` file, in the file's order.

    Keys are `tensor` or `tensor@axis`. Raises `InputError` when the file cannot be read or holds no mask.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is no file, but a device or a pipe" if path.exists() else None
        raise InputError(f"The mask file {path} {what or 'does not exist'}. Give an .npz or .safetensors file.")
    if path.suffix not in (".npz", ".safetensors"):
        raise InputError(f"The mask file {path} must be an .npz or a .safetensors file.")
    _check_size(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            masks = dict(load_file(path))
        else:
            masks = npz_files.read(path)
    except Exception as error:
        raise InputError(
            f"The mask file {path} {stand_ins.fault(path, 'cannot be read; it is damaged or of another format')}."
        ) from error
    if not masks:
        raise InputError(f"The mask file {path} holds no masks.")
    return masks


def in_memory(masks: Masks) -> Mapping[str, ArrayLike]:
    """The masks by key, read where a file is named. Raises as `read_masks` does."""
    return masks if isinstance(masks, Mapping) else read_masks(masks)


def all_alike(masks: Mapping[str, ArrayLike]) -> Iterator[str]:
    """Sentences about masks that remove nothing or everything, which is seldom meant."""
    for value, words in (
        (True, "Masks of ones only remove nothing"),
        (False, "Masks of zeros only remove whole tensors"),
    ):
        keys = [key for key, values in masks.items() if np.all(np.asarray(values, bool) == value)]
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            yield f"{words}: {', '.join(keys[:3])}{more}."


def _check_size(path: Path) -> None:
    """Raise `InputError` where the file holds more than masks can be, which compressed takes next to no room."""
    try:
        size = npz_files.unpacked_bytes(path) if path.suffix == ".npz" else path.stat().st_size
    except Exception:  # of any kind where it is damaged, which reading says better
        return
    if size > _MOST_BYTES:
        raise InputError(
            f"The mask file {path} holds {size:,} bytes, and masks are {_MOST_BYTES:,} at most. A mask has one number "
            "for each channel."
        )


def apply_masks(model: ModelProto, masks: Masks) -> ModelProto:
    """Multiply tensors of the graph by masks, given by name or as a file of them; the argument is left untouched.

    A key is the name of a tensor, or `name@axis`; names may themselves contain `@`. The axis may be negative and is 1
    for tensors of rank 3 or more and the last one otherwise. A mask is 1-D and holds 0 and 1 only. Initializers are
    multiplied in place; after any other tensor a multiplication is inserted (a conjunction for booleans), whose output
    all consumers of the tensor then read, nested graphs and graph outputs included. Names of inputs and outputs stay.

    Raises `InputError` when a mask does not fit.
    """
    masks = in_memory(masks)
    result = copied(model)
    graph = result.graph
    types = tensor_types(result)
    opset = opset_of(result) or 0
    taken = {name for inner in all_graphs(graph) for name in (*defined(inner), *(node.name for node in inner.node))}
    inserted: dict[str, list[NodeProto]] = {}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    for key, values in masks.items():
        tensor, axis = _resolve(key, types, graph)
        mask = _validated(key, values)
        type_ = types[tensor]
        shape = _mask_shape(key, tensor, axis, mask, type_)
        if tensor in stored and tensor not in inputs:
            # An initializer that is also an input is only a default, so the caller's value is masked as well.
            _multiply_initializer(key, stored[tensor], mask.reshape(shape))
        else:
            _refuse_sizes(key, tensor, type_.elem_type == TensorProto.INT64 and len(type_.shape or (0, 0)) == 1)
            dtype = _mask_dtype(key, tensor, type_, opset)
            name = claimed(f"{tensor}/mask", taken)
            graph.initializer.append(numpy_helper.from_array(mask.reshape(shape).astype(dtype), name))
            op = "And" if type_.elem_type == TensorProto.BOOL else "Mul"
            node = helper.make_node(op, [tensor, name], [""], name=claimed(f"{tensor}/masked", taken))
            inserted.setdefault(tensor, []).append(node)
    for tensor, nodes in inserted.items():
        _insert(graph, tensor, nodes, taken, is_input=tensor in inputs)
    return result


def _resolve(key: str, types: Mapping[str, TensorType], graph: GraphProto) -> tuple[str, int | None]:
    """The tensor and axis that a key names; the whole key is tried as a name first."""
    if key in types:
        return key, None
    tensor, separator, axis = key.rpartition("@")
    if separator and tensor in types:
        try:
            return tensor, int(axis)
        except ValueError:
            raise InputError(f"Mask '{key}': '{axis}' is not an axis. Write 'tensor@axis' with a number.") from None
    wanted = tensor if separator and axis.lstrip("-").isdigit() else key
    if any(wanted in defined(inner) for inner in all_graphs(graph) if inner is not graph):
        raise InputError(
            f"Mask '{key}': tensor '{wanted}' is inside an If, Loop or Scan, where masks cannot be put. "
            "Mask a tensor of the main graph."
        )
    holding = [name for name in types if wanted.lower() in name.lower()]
    near = holding[:3] or difflib.get_close_matches(wanted, types, n=3, cutoff=0.5)
    others = [name for node in graph.node for name in node.output if name][:3]
    hint = (
        f". Did you mean {' or '.join(map(repr, near))}?"
        if near
        else f", but {', '.join(map(repr, others))} and so on."
    )
    raise InputError(f"Mask '{key}': the graph has no tensor '{wanted}'{hint}")


def _validated(key: str, values: ArrayLike) -> NDArray[Any]:
    try:
        mask = np.asarray(values)
    except ValueError as error:
        raise InputError(f"Mask '{key}' is no array: its parts differ in length.") from error
    if mask.dtype.name.startswith(("bfloat", "float")):  # numpy itself does not know all of these
        mask = mask.astype(np.float64)
    if mask.ndim != 1:
        raise InputError(f"Mask '{key}' has {mask.ndim} dimensions; a mask has one, with an entry per channel.")
    if not mask.size:
        raise InputError(f"Mask '{key}' is empty; a mask has an entry per channel.")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise InputError(f"Mask '{key}' holds NaN; its values must be 0 and 1.")
    if mask.dtype.kind not in "biuf":
        raise InputError(f"Mask '{key}' holds values of type {mask.dtype}; its values must be 0 and 1.")
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.size:
        raise InputError(f"Mask '{key}' holds the value {wrong[0]}; its values must be 0 and 1.")
    return mask.astype(np.bool_)


def _mask_shape(key: str, tensor: str, axis: int | None, mask: NDArray[Any], type_: TensorType) -> tuple[int, ...]:
    """The shape in which the mask broadcasts along its axis."""
    if type_.shape is None:
        if axis is None or axis >= 0:
            raise InputError(
                f"Mask '{key}': the rank of tensor '{tensor}' is not known. "
                f"Count the axis from the end, as in '{tensor}@-1'."
            )
        return (mask.size,) + (1,) * (-axis - 1)
    rank = len(type_.shape)
    if rank == 0:
        raise InputError(f"Mask '{key}': tensor '{tensor}' is a single number and has no channels.")
    if axis is None:
        axis = 1 if rank >= 3 else rank - 1
    if not -rank <= axis < rank:
        raise InputError(f"Mask '{key}': tensor '{tensor}' has {rank} dimensions, so there is no axis {axis}.")
    axis %= rank
    size = type_.shape[axis]
    if isinstance(size, int) and size != mask.size:
        raise InputError(
            f"Mask '{key}' has {mask.size} entries, and axis {axis} of tensor '{tensor}' has {size} channels."
        )
    return (mask.size,) + (1,) * (rank - axis - 1)


def _mask_dtype(key: str, tensor: str, type_: TensorType, opset: int) -> np.dtype[Any]:
    """The dtype of a mask initializer, once it is certain that the operator takes it."""
    elem_type = type_.elem_type
    if elem_type == 0:
        raise InputError(f"Mask '{key}': the type of tensor '{tensor}' is not known, so it cannot be multiplied.")
    if opset < 7:
        raise InputError(
            f"Masks need opset 7 or newer and the model has opset {opset}. Convert it with onnx.version_converter."
        )
    fits = elem_type in _NUMBERS or elem_type == TensorProto.BOOL or (elem_type in _SMALL_INTEGERS and opset >= 14)
    if not fits or (elem_type == TensorProto.BFLOAT16 and opset < 13):
        name = TensorProto.DataType.Name(elem_type).lower()
        raise InputError(
            f"Mask '{key}': tensor '{tensor}' is of type {name}, which opset {opset} cannot multiply by a mask."
        )
    return helper.tensor_dtype_to_np_dtype(elem_type)


def _refuse_sizes(key: str, tensor: str, holds_sizes: bool) -> None:
    if holds_sizes:  # a product of which would be other sizes
        raise InputError(f"Mask '{key}': tensor '{tensor}' holds sizes or indices and has no channels.")


def _multiply_initializer(key: str, tensor: TensorProto, mask: NDArray[Any]) -> None:
    if tensor.data_type == TensorProto.STRING:
        raise InputError(f"Mask '{key}': tensor '{tensor.name}' holds text and cannot be masked.")
    _refuse_sizes(key, tensor.name, tensor.data_type == TensorProto.INT64)
    values = array_of(tensor)
    kept = TensorProto(doc_string=tensor.doc_string, metadata_props=tensor.metadata_props)
    tensor.CopyFrom(numpy_helper.from_array(np.where(mask, values, np.zeros((), values.dtype)), tensor.name))
    tensor.MergeFrom(kept)


def _insert(graph: GraphProto, tensor: str, chain: Sequence[NodeProto], taken: set[str], *, is_input: bool) -> None:
    """Insert the chain of nodes after the tensor, so that its consumers read the last one's output."""
    if is_input:
        # The caller's name must stay on the input, so the consumers read another.
        if any(value.name == tensor for value in graph.output):
            raise InputError(
                f"Mask on '{tensor}': it is both an input and an output of the model, so it cannot be masked."
            )
        last = claimed(f"{tensor}/masked", taken)
        rename_tensors(graph, {tensor: last})
        for value in (*graph.input, *graph.initializer, *graph.value_info):
            value.name = tensor if value.name == last else value.name
        source, place = tensor, 0
    else:
        # The producer's output gets a new name, so that consumers and graph outputs keep theirs.
        last, source = tensor, claimed(f"{tensor}/unmasked", taken)
        place, producer = next((i, node) for i, node in enumerate(graph.node, 1) if tensor in node.output)
        producer.output[list(producer.output).index(tensor)] = source
    for offset, node in enumerate(chain):
        node.input[0] = source
        source = claimed(f"{tensor}/partly_masked", taken) if node is not chain[-1] else last
        node.output[0] = source
        graph.node.insert(place + offset, node)
