"""Inputs of a model given sizes, or values: symbolic sizes are fixed, inputs become initializers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from passes.errors import SizeError
from passes.errors.arguments import typed
from passes.graph.tensors import Array, Dim
from passes.model.declarations import annotated, symbol_of

_Symbols = dict[str, tuple[int, str]]  # size, and the input that gave it

_LARGEST = 2**63 - 1  # that a file can hold


def fix_inputs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> None:
    """Give the inputs of a model these sizes, in place, as `fix_sizes` does; what follows for outputs is not looked at.

    Raises SizeError as `fix_sizes` does.
    """
    initializers = {t.name for t in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in initializers}
    symbols: _Symbols = {}
    names: dict[str, str] = {}
    for name, sizes in shapes.items():
        if name not in inputs:
            raise SizeError(no_input(name, inputs))
        _fix_input(inputs[name], sizes, symbols, names)
    told = annotated(model)
    annotations = [v for v in model.graph.value_info if v.name in told]
    del model.graph.value_info[:]  # those that can be inferred speak of the old sizes
    model.graph.value_info.extend(annotations)
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for dim in (d for v in values for d in v.type.tensor_type.shape.dim):
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param][0]
        elif dim.dim_param in names:
            dim.dim_param = names[dim.dim_param]


def no_input(name: str, inputs: Iterable[str]) -> str:
    """What to say where a model has no input of this name."""
    listed = ", ".join(f"'{i}'" for i in inputs) or "none"
    return f"The model has no input '{name}'; its inputs are {listed}."


def _fix_input(value: onnx.ValueInfoProto, sizes: Sequence[Dim], symbols: _Symbols, names: dict[str, str]) -> None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape"):
        raise SizeError(f"The number of dimensions of input '{value.name}' is not known, so its sizes cannot be fixed.")
    if len(dims) != len(sizes):
        raise SizeError(f"Input '{value.name}' has {len(dims)} dimensions, and {len(sizes)} sizes are given for it.")
    for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
        stated = dim.HasField("dim_value") and dim.dim_value >= 0
        if size is None or (stated and size == dim.dim_value):
            continue
        if isinstance(size, int) and size < 1:
            raise SizeError(f"Axis {axis} of input '{value.name}' cannot have size {size}; sizes are at least 1.")
        if isinstance(size, int) and size > _LARGEST:
            raise SizeError(f"Axis {axis} of input '{value.name}' cannot have size {size}; sizes are below 2^63.")
        if stated:
            raise SizeError(f"Axis {axis} of input '{value.name}' has size {dim.dim_value} and cannot become {size}.")
        symbol = symbol_of(dim)
        if isinstance(size, str):
            if symbol and names.setdefault(symbol, size) != size:
                raise SizeError(f"The size '{symbol}' cannot be called both '{names[symbol]}' and '{size}'.")
            dim.dim_param = symbol or size
            continue
        if symbol and symbols.setdefault(symbol, (size, value.name))[0] != size:
            other, by = symbols[symbol]
            raise SizeError(f"The size '{symbol}' is {other} in input '{by}' and {size} in input '{value.name}'.")
        dim.dim_value = size


@typed
def bind(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model in which these graph inputs are initializers with these values.

    Raises LookupError if a name is not that of a graph input, ValueError if its values are no numbers.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    inputs = {v.name: v for v in bound.graph.input}
    for name, value in values.items():
        if name not in inputs:
            raise LookupError(no_input(name, inputs))
        if value.dtype.kind not in "biufcV":  # the last are the small floating-point types
            raise ValueError(f"The values of input '{name}' must be numbers, and not {value.dtype.name}.")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        bound.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        bound.graph.input.remove(inputs[name])
    return bound


def split(values: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """What belongs to each input by name, of values for one after the other."""
    return dict(zip(sizes, np.split(values, np.cumsum([*sizes.values()])[:-1]), strict=True)) if sizes else {}
