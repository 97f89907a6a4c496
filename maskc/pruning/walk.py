"""A model run in steps, each node once, so that later weights can be chosen by what earlier ones make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from maskc.errors import RunError
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from passes.graph.name_scopes import captured_names

Feeds = Mapping[str, NDArray[Any]]


class Walk:
    """A model on batches of data, as far as it was run.

    `values` are, for each batch, the tensors that nodes not run yet read.
    """

    def __init__(self, model: ModelProto, batches: Sequence[Feeds]) -> None:
        self._model = model
        self._waiting = list(model.graph.node)
        self._constants = {t.name: t for t in model.graph.initializer}
        self.values: list[dict[str, NDArray[Any]]] = [dict(batch) for batch in batches]

    def to(self, name: str) -> list[NDArray[Any]]:
        """Run what a tensor needs and was not run yet; its values, for each batch.

        Raises RunError where the runtime cannot run a part of the model by itself.
        """
        if name not in self.values[0]:
            self._run(self._needed(name), name)
        return [values[name] for values in self.values]

    def give(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Initializers by name that nodes not run yet are to have."""
        self._constants |= {name: numpy_helper.from_array(value, name) for name, value in stored.items()}

    def _needed(self, name: str) -> list[NodeProto]:
        """The waiting nodes that the tensor is computed from, in their order."""
        wanted, found = {name}, []
        for node in reversed(self._waiting):
            if wanted & set(node.output):
                found.append(node)
                wanted |= _read(node)
        return found[::-1]

    def _run(self, nodes: Sequence[NodeProto], name: str) -> None:
        running = {id(node) for node in nodes}
        self._waiting = [node for node in self._waiting if id(node) not in running]
        made = {output for node in nodes for output in node.output if output}
        read = {tensor for node in nodes for tensor in _read(node)} - made
        later = {tensor for node in self._waiting for tensor in _read(node)} | {name}
        outputs = sorted(made & later)
        session = OnnxRuntimeSession(self._part(nodes, read, outputs))
        inputs = read & self.values[0].keys()
        for number, values in enumerate(self.values):
            found = session.run({tensor: values[tensor] for tensor in inputs})
            if lost := sorted(set(outputs) - found.keys()):
                raise RunError(f"'{lost[0]}' is a sequence, at which a model cannot be cut.")
            self.values[number] = {k: v for k, v in {**values, **found}.items() if k in later}

    def _part(self, nodes: Sequence[NodeProto], read: set[str], outputs: Sequence[str]) -> ModelProto:
        graph = GraphProto(name="part")
        graph.node.extend(nodes)
        graph.initializer.extend(self._constants[name] for name in sorted(read) if name in self._constants)
        for tensor in sorted(read & self.values[0].keys()):
            value = self.values[0][tensor]
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph.input.append(helper.make_tensor_value_info(tensor, kind, [None] * value.ndim))
        graph.output.extend(ValueInfoProto(name=output) for output in outputs)
        part = ModelProto(ir_version=self._model.ir_version, graph=graph)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        return part


def _read(node: NodeProto) -> set[str]:
    """Names of the tensors that a node reads, its bodies included."""
    return {*filter(None, node.input), *filter(None, captured_names(node))}
