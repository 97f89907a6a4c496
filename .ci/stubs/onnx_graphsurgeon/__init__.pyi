"""The part of onnx-graphsurgeon that is used here; the package itself has no types."""

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx_graphsurgeon.ir.tensor import Constant as Constant
from onnx_graphsurgeon.ir.tensor import Tensor as Tensor
from onnx_graphsurgeon.ir.tensor import Variable as Variable

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    domain: str | None

    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: dict[str, Any] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        domain: str | None = None,
    ) -> None: ...
    @property
    def inputs(self) -> list[Tensor]: ...
    @inputs.setter
    def inputs(self, tensors: Iterable[Tensor]) -> None: ...
    @property
    def outputs(self) -> list[Tensor]: ...
    @outputs.setter
    def outputs(self, tensors: Iterable[Tensor]) -> None: ...

class Graph:
    nodes: list[Node]
    name: str
    doc_string: str
    opset: int

    def __init__(
        self,
        nodes: Sequence[Node] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        name: str | None = None,
        doc_string: str | None = None,
        opset: int | None = None,
    ) -> None: ...
    @property
    def inputs(self) -> list[Tensor]: ...
    @inputs.setter
    def inputs(self, tensors: Iterable[Tensor]) -> None: ...
    @property
    def outputs(self) -> list[Tensor]: ...
    @outputs.setter
    def outputs(self, tensors: Iterable[Tensor]) -> None: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def cleanup(self) -> Graph: ...

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph) -> onnx.ModelProto: ...
