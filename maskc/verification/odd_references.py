"""Oddities of a reference on a sample: weights or tensors that are not finite, sizes other than it declares."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto

from maskc.errors import MaskcError, RunError
from maskc.frontend.graph_queries import all_graphs, array_of, copied
from maskc.runtime.session import load
from maskc.verification.inputs import Sample
from passes.model.declarations import dims_of, written


def where_odd(reference: ModelProto, sample: Sample) -> str | None:
    """A clause that names weights that are not finite or, on this sample, the first tensor with NaN or no elements.

    Or one that says that the reference is not what ONNX Runtime's optimizations make of it, or what it declares; None
    where nothing is odd.
    """
    weight = next(_not_finite_weights(reference), None)
    if weight is not None:
        return f"'{weight}' of the reference holds NaN or infinity, and 0 times that is NaN: put zeros there"
    names = [name for node in reference.graph.node if node.op_type != "Constant" for name in node.output if name]
    try:
        inside = load(exposed(reference, set(names)), optimized=False).run(sample.inputs)
    except MaskcError:
        inside = {}
    values = sample.inputs | {name: inside[name] for name in names if name in inside}
    for name, array in values.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            return f"tensor '{name}' of the reference holds NaN, which no mask takes away, as 0 times NaN is NaN"
        if array.dtype.kind == "f" and not array.size:
            return f"tensor '{name}' of the reference has no elements, at which runtimes do not always follow ONNX"
    return _only_optimized(reference, sample) or _misdeclared(reference, sample)


def _misdeclared(reference: ModelProto, sample: Sample) -> str | None:
    """A clause that names an output of another shape, on this sample, than the reference declares."""
    sizes: dict[str, int] = {}
    for value in reference.graph.input:
        shape = sample.inputs[value.name].shape if value.name in sample.inputs else ()
        sizes |= {d.dim_param: n for d, n in zip(value.type.tensor_type.shape.dim, shape, strict=False) if d.dim_param}
    for value in reference.graph.output:
        dims = dims_of(value)
        if dims is None or value.name not in sample.expected:
            continue
        shape = sample.expected[value.name].shape
        declared = [sizes.get(dim) if isinstance(dim, str) else dim for dim in dims]
        if len(declared) != len(shape) or any(d not in (None, n) for d, n in zip(declared, shape, strict=True)):
            return (
                f"'{value.name}' of the reference is {list(shape)}, which it declares as {written(dims)}: runtimes may "
                "believe that"
            )
    return None


def _only_optimized(reference: ModelProto, sample: Sample) -> str | None:
    """A clause where ONNX Runtime runs the reference as it is written not at all, or to outputs of another shape."""
    because = "without ONNX Runtime's optimizations, which believe the shapes that a model notes"
    try:
        plain = load(reference, optimized=False).run(sample.inputs)
    except RunError:
        return f"the reference does not run {because}"
    except MaskcError:
        return None
    for name, array in plain.items():
        if name in sample.expected and array.shape != sample.expected[name].shape:
            return f"'{name}' of the reference is {list(array.shape)} {because}"
    return None


def _not_finite_weights(model: ModelProto) -> Iterator[str]:
    """The initializers that hold anything but finite numbers."""
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            values = array_of(tensor)
            if values.dtype.kind in "fc" and not np.isfinite(values).all():
                yield tensor.name


def exposed(model: ModelProto, names: set[str]) -> ModelProto:
    """The model with these tensors as outputs as well."""
    copy = copied(model)
    there = {value.name for value in copy.graph.output}
    inferred = onnx.shape_inference.infer_shapes(copy) if copy.ByteSize() < 2**30 else copy
    types = {value.name: value for value in inferred.graph.value_info}
    for node in model.graph.node:
        for name in node.output:
            if name in names and name not in there:
                value = copy.graph.output.add(name=name)
                if name in types:
                    value.type.CopyFrom(types[name].type)
                    value.type.tensor_type.ClearField("shape")
    return copy
