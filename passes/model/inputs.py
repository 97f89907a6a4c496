"""Inputs of a model given sizes, or values: symbolic sizes are fixed, inputs become initializers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from passes.errors import SizeError
from passes.graph.tensors import Array, Dim
from passes.model.declarations import annotated, dims_of, redeclare, redeclared, symbol_of
from passes.model.shape_inference import inferred, through_reshapes

_Symbols = dict[str, tuple[int, str]]  # size, and the input that gave it

_LARGEST = 2**63 - 1  # that a file can hold


def fix_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> onnx.ModelProto:
    """A copy of the model in which these inputs have these sizes.

    shapes: by input name, one entry per dimension: an int fixes it, a string names a symbolic one, None leaves
    it as it is. A symbolic size that several inputs share is fixed in all of them, and the outputs get the sizes that
    follow. The model is left as it is.

    Raises SizeError, in one sentence, for a name that is not that of an input, another number of dimensions, a size
    below 1 or beyond 64 bits, and sizes that contradict the model or each other; GraphError when they contradict each
    other further on.

    >>> fixed = fix_sizes(model, {"image": (1, 3, 224, 224), "tokens": (None, 128)})  # doctest: +SKIP
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fix_inputs(fixed, shapes)
    _fix_outputs(fixed)
    return fixed


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
            listed = ", ".join(f"'{i}'" for i in inputs) or "none"
            raise SizeError(f"The model has no input '{name}'; its inputs are {listed}.")
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


def _fix_outputs(model: onnx.ModelProto) -> None:
    """Write down the sizes of outputs that follow from those of the inputs."""
    for dim in (d for v in model.graph.output for d in v.type.tensor_type.shape.dim):
        if dim.dim_value < 0:  # some exporters write -1 for what is not known
            dim.ClearField("dim_value")
    light = through_reshapes(inferred(model))[0].model
    known = {v.name: v for v in light.graph.output}
    redeclare(model.graph, redeclared(model, {name: dims_of(value) for name, value in known.items()}))
    for value in model.graph.output:
        dims = known[value.name].type.tensor_type.shape.dim
        for dim, found in zip(value.type.tensor_type.shape.dim, dims, strict=False):
            if not dim.HasField("dim_value") and found.HasField("dim_value"):
                dim.dim_value = found.dim_value


def bind(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model in which these graph inputs are initializers with these values.

    Raises KeyError if a name is not that of a graph input.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    inputs = {v.name: v for v in bound.graph.input}
    for name, value in values.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        bound.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        bound.graph.input.remove(inputs[name])
    return bound


def split(values: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """What belongs to each input by name, of values for one after the other."""
    return dict(zip(sizes, np.split(values, np.cumsum([*sizes.values()])[:-1]), strict=True)) if sizes else {}
