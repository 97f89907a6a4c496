"""Movement of a model's outputs when its weights are rounded: what TensorFlow's kernels may differ by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from maskc.errors import RunError
from maskc.frontend.graph_queries import all_graphs, all_nodes, copied, is_external
from maskc.runtime.session import Provider, Session, load
from maskc.verification.error_statistics import Distance, distance
from maskc.verification.inputs import Sample
from maskc.verification.tolerance import NOISE_FACTOR

_COPIES = 3
# Weights are moved by at most this many units in the last place: one for being stored, one for being combined.
_ULPS = 2.0
# No error above this share of the scale is one of rounding.
_MOST = 1e-2
# Operators whose float operands are sizes, not weights.
_SIZED_BY_FLOATS = frozenset({"Resize", "Upsample", "Range"})
_MOVED = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


class RoundedWeights:
    """Copies of a model with rounded weights, made when they are first needed."""

    def __init__(self, model: ModelProto, provider: Provider, seed: int) -> None:
        self._model, self._provider, self._rng = model, provider, np.random.default_rng(seed)
        self._sessions: list[Session] = []

    def moved(self, name: str, error: Distance, sample: Sample) -> float:
        """How far an output moves on a sample, times the factor by which an error may exceed that; at most 1%."""
        if not self._sessions:
            self._sessions = [load(rounded(self._model, self._rng), self._provider) for _ in range(_COPIES)]
        farthest = 0.0
        for session in self._sessions:
            with contextlib.suppress(RunError):
                step = distance(sample.expected[name], session.run(sample.inputs)[name])
                farthest = max(farthest, 0.0 if step is None else step.max_abs)
        return min(NOISE_FACTOR * farthest, error.scale if error.exact else _MOST * error.scale)


def rounded(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """A copy in which the floating-point weights, but for whole numbers, are moved by random roundings."""
    copy = copied(model)
    for tensor in _weights(copy):
        if tensor.data_type in _MOVED and not is_external(tensor):  # all of those would be written anew
            values: NDArray[Any] = numpy_helper.to_array(tensor)
            step = _ULPS * np.finfo(values.dtype).eps * rng.uniform(-1, 1, values.shape)
            moved = np.where(np.rint(values) == values, values, values * (1 + step)).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return copy


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    """Initializers and constants, without those that are sizes."""
    nodes = list(all_nodes(model))
    sizes = {name for node in nodes if node.op_type in _SIZED_BY_FLOATS for name in node.input}
    for graph in all_graphs(model.graph):
        yield from (tensor for tensor in graph.initializer if tensor.name not in sizes)
    for node in nodes:
        if not sizes.intersection(node.output):
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
