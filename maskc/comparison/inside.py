"""The tensors inside two models, on the same data: in double precision where there is one, else as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.comparison.double import Evaluator, has_double, to_double, widen
from maskc.comparison.exact import FLOOR
from maskc.noise import Sample, rounded_weights
from maskc.runtime import Session

Tensors = dict[str, NDArray[Any]]

_COPIES = 2


class Inside:
    """Runs both models and tells what is in the tensors that have one name in both.

    `shared` are these names, and `floor` what double precision may round relative to the scale, or None where the
    models run in the precision that they have.
    """

    def __init__(self, reference: ModelProto, compiled: ModelProto, seed: int) -> None:
        ours, theirs = ({name for node in m.graph.node for name in node.output if name} for m in (reference, compiled))
        self.shared = ours & theirs
        rng = np.random.default_rng(seed)
        models = [reference, compiled, *(rounded_weights(reference, rng) for _ in range(_COPIES))]
        self._models = [_telling(model, self.shared) for model in models]
        self._double: list[Evaluator] | None = None
        self._sessions: list[Session] | None = None
        if has_double(reference) and has_double(compiled):
            try:
                self._double = [Evaluator(to_double(model)) for model in self._models]
            except Exception:
                self._double = None

    @property
    def floor(self) -> float | None:
        """What may be rounded at least, relative to the scale; None if that is for the types to say."""
        return None if self._double is None else FLOOR

    def values(self, sample: Sample) -> tuple[Tensors, Tensors, list[Tensors]]:
        """What the reference, the compiled model, and the reference with rounded weights have in their tensors.

        Raises `RunError` when one of them cannot be run.
        """
        if self._double is not None:
            feeds = widen(sample.inputs)
            try:
                found = [
                    {n: np.asarray(v) for n, v in zip(e.outputs, e(feeds), strict=True) if not isinstance(v, list)}
                    for e in self._double
                ]
                return found[0], found[1], found[2:]
            except Exception:
                self._double = None
        if self._sessions is None:
            self._sessions = [Session(model, optimized=False) for model in self._models]
        values = [session.run(sample.inputs) for session in self._sessions]
        return values[0], values[1], values[2:]


def _telling(model: ModelProto, names: set[str]) -> ModelProto:
    """The model with these tensors as outputs as well."""
    copy = ModelProto()
    copy.CopyFrom(model)
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


