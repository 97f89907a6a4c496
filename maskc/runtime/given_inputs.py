"""Arrays that a user gives for the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from maskc.errors import InputError
from maskc.runtime.random_inputs import Inputs, Port
from passes.errors import in_brief


def fitted(given: Mapping[str, Any], ports: Sequence[Port], where: str) -> Inputs:
    """The arrays of the inputs in the types that the model declares, without what else is given.

    Along a first axis of a fixed size there may be several times as much. Raises InputError for one that is missing or
    does not fit, in a sentence that says `where` it is.
    """
    return {
        port.name: _typed(_shaped(array_of(given, port.name, ports, where), port, where), port, where) for port in ports
    }


def array_of(given: Mapping[str, Any], name: str, ports: Sequence[Port], where: str) -> NDArray[Any]:
    """What is given by a name, as an array. Raises InputError for what is missing or cannot be one."""
    if name not in given:
        names = ", ".join(f"'{port.name}'" for port in ports)
        others = ", ".join(f"'{other}'" for other in [*given][:3]) + " and so on" * (len(given) > 3)
        there = f", but {others}" if given else ""
        raise InputError(f"There is no array '{name}' in {where}{there}. The model's inputs are {names or 'none'}.")
    try:
        return np.asarray(given[name])
    except Exception as error:  # of any kind: tensors of other libraries, lists of unequal lengths
        raise InputError(f"What {where} gives for '{name}' is no array: {in_brief(error)}.") from error


def declared(port: Port) -> tuple[int | None, ...]:
    """The sizes that the model declares, None for those that it leaves open."""
    return tuple(size if isinstance(size, int) else None for size in port.type.shape or ())


def _shaped(array: NDArray[Any], port: Port, where: str) -> NDArray[Any]:
    sizes = declared(port)
    fits = array.ndim == len(sizes) and all(s in (None, n) for s, n in zip(sizes[1:], array.shape[1:], strict=True))
    batch = (sizes[0] or 1) if sizes else 1
    if not fits or (sizes and array.shape[0] % batch):
        more = f": give a multiple of {batch} samples" if fits else ""
        raise InputError(f"Input '{port.name}' is {_told(sizes)}, and in {where} it is {_told(array.shape)}{more}.")
    return array


def _told(shape: Sequence[int | None]) -> str:
    return f"of shape {'x'.join('?' if n is None else str(n) for n in shape)}" if shape else "a single number"


def _typed(array: NDArray[Any], port: Port, where: str) -> NDArray[Any]:
    if port.type.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return array
    dtype = helper.tensor_dtype_to_np_dtype(port.type.elem_type)
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(f"Input '{port.name}' must be of type {dtype}, and in {where} it is of type {array.dtype}.")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    kept = cast == array if cast.dtype.kind in "iu" else np.isfinite(cast) | ~np.isfinite(array)
    if not kept.all():
        raise InputError(f"Input '{port.name}' is of type {dtype}, which has no room for some numbers in {where}.")
    return cast
