"""Oddities of a reference on a sample: weights or tensors that are not finite, sizes other than it declares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from onnx import ModelProto

from maskc.errors import MaskcError, RunError
from maskc.frontend.graph_queries import all_graphs, array_of, showing
from maskc.runtime.session import load
from maskc.verification.error_statistics import distance
from maskc.verification.inputs import Outputs, Sample
from maskc.verification.random_operators import draws
from maskc.verification.recheck import MOST, sign_alike
from passes.model.declarations import dims_of, written


def where_odd(reference: ModelProto, sample: Sample) -> str | None:
    """A clause that names weights that are not finite or, on this sample, the first tensor with NaN or no elements.

    Or one that says that the reference is not what ONNX Runtime's optimizations make of it, or what it declares; None
    where nothing is odd.
    """
    return next(_oddities(reference, sample), None)


def _oddities(reference: ModelProto, sample: Sample) -> Iterator[str]:
    for tensor in (tensor for graph in all_graphs(reference.graph) for tensor in graph.initializer):
        weights = array_of(tensor)
        if weights.dtype.kind in "fc" and not np.isfinite(weights).all():
            yield f"'{tensor.name}' of the reference holds NaN or infinity, and 0 times that is NaN: put zeros there"
    names = [name for node in reference.graph.node if node.op_type != "Constant" for name in node.output if name]
    exposed = showing(reference, names)
    sign_alike(exposed)  # no sum is clipped
    because = "without ONNX Runtime's optimizations, which believe the shapes that a model notes"
    inside: Outputs = {}
    with suppress(MaskcError):  # there are types that no output may have
        inside = load(exposed, optimized=False).run(sample.inputs)
    try:
        inside = inside or load(reference, optimized=False).run(sample.inputs)
    except RunError:
        yield f"the reference does not run {because}"
    except MaskcError:
        return
    for name, array in (sample.inputs | {name: inside[name] for name in names if name in inside}).items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            yield f"tensor '{name}' of the reference holds NaN, which no mask takes away, as 0 times NaN is NaN"
        if array.dtype.kind == "f" and not array.size:
            yield f"tensor '{name}' of the reference has no elements, at which runtimes do not always follow ONNX"
    for name, expected in sample.expected.items():
        if name in inside and inside[name].shape != expected.shape:
            yield f"'{name}' of the reference is {list(inside[name].shape)} {because}"
    yield from _wrongly_optimized(reference, sample, inside)
    yield from _misdeclared(reference, sample)


def _wrongly_optimized(reference: ModelProto, sample: Sample, inside: Outputs) -> Iterator[str]:
    """Clauses that name outputs of which ONNX Runtime's optimizations make something else than is written."""
    for name, expected in sample.expected.items() if not draws(reference) else ():
        error = distance(inside[name], expected) if name in inside else None
        if error is not None and not error.exact and error.max_abs > MOST * error.scale:
            yield (
                f"ONNX Runtime's optimizations compute the reference wrongly: without them, '{name}' is other by "
                f"{error.max_abs:.3g} (largest value {error.scale:.3g})"
            )


def _misdeclared(reference: ModelProto, sample: Sample) -> Iterator[str]:
    """Clauses that name outputs of another shape, on this sample, than the reference declares."""
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
            yield (
                f"'{value.name}' of the reference is {list(shape)}, which it declares as "
                f"{written(dims)}: runtimes may believe that"
            )
