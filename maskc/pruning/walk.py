"""A model run in steps, so that later weights can be chosen by what earlier ones make."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from maskc.errors import RunError
from maskc.runtime.bfloat16_as_float32 import widened
from maskc.runtime.session import Session
from maskc.verification.random_operators import load_repeatable
from passes.graph.nested_protos import read_names

Feeds = Mapping[str, NDArray[Any]]

# Bytes of the tensors of all batches that are kept at a time. Where those that later nodes read are more, they are made
# again, from the last that were kept: the one channel of a spectrogram becomes 128 of its size.
_HELD = 2**28


class Walk:
    """A model on batches of data, as far as it was run.

    `values` are, for each batch, the tensors that nodes not run yet read.
    """

    def __init__(self, model: ModelProto, batches: Sequence[Feeds]) -> None:
        halves = any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer)
        self._model = (widened(model) if halves else None) or model  # sessions give bfloat16 as float32
        self._waiting = list(self._model.graph.node)
        self._constants = {t.name: t for t in self._model.graph.initializer}
        self.values: list[dict[str, NDArray[Any]]] = [dict(batch) for batch in batches]

    def to(self, name: str) -> Sequence[NDArray[Any]]:
        """Run what a tensor needs and was not run yet; its values, for each batch.

        Raises RunError where the runtime cannot run a part of the model by itself.
        """
        nodes, waiting = self._divided(name)
        made = {output for node in nodes for output in node.output if output}
        later = {tensor for node in waiting for tensor in read_names(node)} | {name}
        if nodes:
            step = self._step(nodes, sorted(made & later))
            first = {**self.values[0], **step.on(self.values[0])}
            if len(self.values) * sum(first[tensor].nbytes for tensor in first.keys() & later) > _HELD:
                return _Made(self._step(nodes, [name]), name, list(self.values))
            for number, values in enumerate(self.values):
                found = first if number == 0 else {**values, **step.on(values)}
                self.values[number] = {tensor: value for tensor, value in found.items() if tensor in later}
        self._waiting = waiting
        return [values[name] for values in self.values]

    def give(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Initializers by name that nodes not run yet are to have."""
        for name, value in stored.items():
            wide = value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
            self._constants[name] = numpy_helper.from_array(wide, name)

    def _divided(self, name: str) -> tuple[list[NodeProto], list[NodeProto]]:
        """The waiting nodes that the tensor is computed from, and the others, in their order."""
        wanted, found, others = {name} - self.values[0].keys(), [], []
        for node in reversed(self._waiting):
            if wanted & set(node.output):
                found.append(node)
                wanted.update(read_names(node))
            else:
                others.append(node)
        return found[::-1], others[::-1]

    def _step(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> _Step:
        """These nodes, by which the tensors that are held become these outputs."""
        made = {output for node in nodes for output in node.output}
        read = {tensor for node in nodes for tensor in read_names(node)} - made
        held = self.values[0]
        graph = GraphProto(name="part")
        graph.node.extend(nodes)
        graph.initializer.extend(self._constants[name] for name in sorted(read) if name in self._constants)
        for tensor in sorted(read & held.keys()):
            kind = helper.np_dtype_to_tensor_dtype(held[tensor].dtype)
            graph.input.append(helper.make_tensor_value_info(tensor, kind, [None] * held[tensor].ndim))
        graph.output.extend(ValueInfoProto(name=output) for output in outputs)
        part = ModelProto(ir_version=self._model.ir_version, graph=graph)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        return _Step(load_repeatable(part), read & held.keys())


@dataclass(frozen=True)
class _Step:
    """A part of a model, which reads some tensors."""

    session: Session
    reads: Collection[str]

    def on(self, values: Feeds) -> dict[str, NDArray[Any]]:
        """Its outputs."""
        found = self.session.run({tensor: values[tensor] for tensor in self.reads})
        if lost := sorted(set(self.session.outputs) - found.keys()):
            raise RunError(f"'{lost[0]}' is a sequence, at which a model cannot be cut.")
        return found


@dataclass(frozen=True)
class _Made(Sequence[NDArray[Any]]):
    """A tensor in each batch, made anew whenever it is asked for."""

    step: _Step
    name: str
    values: Sequence[Feeds]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: Any) -> Any:
        return self.step.on(self.values[number])[self.name]
