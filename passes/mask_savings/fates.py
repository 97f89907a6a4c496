"""What is left of slices whose masks are zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from passes.analysis import dataflow
from passes.graph.tensors import Array, Index, is_constant, shape_of, size_of
from passes.model.bind import bind
from passes.model.prepare import prepared

Fates = dict[tuple[str, int], Index]


def fates(model: onnx.ModelProto, masks: Mapping[str, Array]) -> Fates:
    """How each slice ends when its entry of a mask is zeroed: constant or not, zero or not, uniform or not.

    Whether a channel without input is zero behind a bias and a Relu is decided by the weights, and by it what the
    channel costs then. So entries are not alike whose channels end differently. All entries of all masks but one each
    are zeroed at once, once all but the first and once all but the last: what mixes channels still has an input, and
    what keeps them apart has none. Only the sizes of the masks matter. Returns int64 [size] by name of the tensor and
    axis.
    """
    found: Fates = {}
    for kept in (0, -1):
        trial = {name: np.zeros(len(mask)) for name, mask in masks.items()}
        for mask in trial.values():
            mask[kept : kept + 1 or None] = 1
        graph = prepared(bind(model, trial), keep=masks)
        known = dataflow.analyse(graph)
        for tensor in (t for node in graph.nodes for t in node.outputs if not is_constant(t)):
            for axis in range(len(shape_of(tensor) or ())):
                size, constant = size_of(tensor, axis), known.constants(tensor, axis)
                if not size or constant is None:
                    continue
                even = known.known(tensor, axis)
                fate = constant.astype(np.int64)
                if even is not None:
                    fate = fate + even.mask + 2 * (even.mask & (even.value == 0))
                key = tensor.name, axis
                found[key] = np.maximum(found.get(key, 0), fate)  # of what is kept, the other time says it
    return found
