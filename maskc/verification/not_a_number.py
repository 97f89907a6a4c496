"""What of a reference is not a number, which no mask takes away, as 0 times NaN is NaN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto

from maskc.errors import MaskcError
from maskc.frontend.graph_queries import all_graphs, array_of
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.inputs import Sample
from maskc.verification.intermediate_tensors import exposed


def where_not_a_number(reference: ModelProto, sample: Sample) -> str | None:
    """A clause that names weights that are not finite or else, on this sample, the first tensor that holds NaN.

    None where there is neither, or the reference cannot be run with what is inside as outputs.
    """
    weight = next(_not_finite(reference), None)
    if weight is not None:
        return f"'{weight}' of the reference holds NaN or infinity, and 0 times that is NaN: put zeros there"
    names = [name for node in reference.graph.node for name in node.output if name]
    try:
        values = OnnxRuntimeSession(exposed(reference, set(names)), optimized=False).run(sample.inputs)
    except MaskcError:
        return None
    holds = (
        name for name in names if (a := values.get(name)) is not None and a.dtype.kind == "f" and np.isnan(a).any()
    )
    tensor = next(holds, None)
    return tensor and f"tensor '{tensor}' of the reference holds NaN, which no mask takes away, as 0 times NaN is NaN"


def _not_finite(model: ModelProto) -> Iterator[str]:
    """The initializers that hold anything but finite numbers."""
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            values = array_of(tensor)
            if values.dtype.kind in "fc" and not np.isfinite(values).all():
                yield tensor.name
