"""From a model to a graph."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from passes.graph.construct import constant, node, omitted, variable
from passes.graph.name_scopes import distinguish
from passes.graph.nested_protos import captured_names
from passes.graph.opset_versions import opset_of
from passes.graph.subgraphs import Body
from passes.graph.tensors import STANDARD_DOMAINS, Array, Dim, dtype_of
from passes.model import descriptions
from passes.model.declarations import dims_of
from passes.weights.streaming import LARGE, External, Inline, stored_bytes

# Bytes of the largest element.
_MOST = 16


def imported(model: onnx.ModelProto) -> gs.Graph:
    """The graph of a model, with weights that are read as they lie in the model, and without shapes.

    Attributes are the numbers, strings, lists of these, initializers and graphs that they hold. Those of other types,
    which no operator here reads, stay the `AttributeProto` that they are. A graph that is an attribute is a `Body`.

    The standard does not say which tensor is meant where an initializer of a body has the name of one outside. It is
    that which ONNX Runtime takes: the initializer, unless another body of the same node reads the one outside. What has
    the name of a tensor outside, or of a constant of another body, gets one of its own.
    """
    graph = _Scope({}, opset_of(model)).graph(model.graph)
    distinguish(graph)
    return graph


class Empty(list[Any]):
    """The value of an attribute that is an empty list; `kind` says of what."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind


class _Scope:
    """The tensors of one graph, and of those around it."""

    def __init__(self, outside: Mapping[str, gs.Tensor], opset: int | None, *, is_body: bool = False) -> None:
        self._outside, self._opset, self._is_body = outside, opset, is_body
        self._own: dict[str, gs.Tensor] = {}
        self._said: dict[str, onnx.ValueInfoProto] = {}

    def graph(self, proto: onnx.GraphProto, entering: Collection[str] = ()) -> gs.Graph:
        """The graph; its nodes are in order. entering: names of tensors outside that no initializer here shadows."""
        stored = {t.name: t for t in proto.initializer} | {t.values.name: t for t in proto.sparse_initializer}
        self._own |= {name: constant(name, _values(t)) for name, t in stored.items() if name not in entering}
        self._said = {v.name: v for v in proto.value_info}
        inputs = [self._declared(v) for v in proto.input if v.name not in stored]
        outputs = [self._declared(v) for v in proto.output]
        made = (Body if self._is_body else gs.Graph)((), inputs, outputs, proto.name, proto.doc_string, self._opset)
        if isinstance(made, Body):
            made.declared = [dims_of(value) for value in proto.output]
            made.metadata = list(proto.metadata_props)
        made.nodes = [self._node(n) for n in proto.node if not self._stores(n)]
        return made

    def _stores(self, proto: onnx.NodeProto) -> bool:
        """Whether the node is a constant that can be an initializer, and is one now; outputs need a node."""
        if proto.op_type != "Constant" or proto.domain not in STANDARD_DOMAINS or len(proto.attribute) != 1:
            return False
        value = proto.attribute[0]
        if value.type != AttributeProto.TENSOR or proto.output[0] in self._own:
            return False
        stored = constant(proto.output[0], _values(value.t))
        if isinstance(stored.dtype, int):
            return False
        self._own[stored.name] = stored
        return True

    def _declared(self, value: onnx.ValueInfoProto) -> gs.Tensor:
        """An input or output: these have names of their own."""
        if value.name not in self._own:
            self._own[value.name] = _variable(value, dims_of(value))
        return self._own[value.name]

    def _written(self, name: str) -> gs.Tensor:
        """A tensor of this graph; one that has no name is an operand that is left out."""
        if not name:
            return omitted()
        if name not in self._own:
            self._own[name] = _variable(self._said[name]) if name in self._said else variable(name)
        return self._own[name]

    def _node(self, proto: onnx.NodeProto) -> gs.Node:
        entering = captured_names(proto)
        attrs = {attribute.name: self._attribute(attribute, entering) for attribute in proto.attribute}
        own, outside = self._own, self._outside
        inputs = [outside[n] if n in outside and n not in own else self._written(n) for n in proto.input]
        outputs = [self._written(name) for name in proto.output]
        domain = proto.domain if proto.HasField("domain") else None
        return node(proto.op_type, proto.name, attrs, inputs, outputs, domain, descriptions.of_node(proto))

    def _attribute(self, proto: AttributeProto, entering: Collection[str]) -> object:
        kind = proto.type
        if kind in (AttributeProto.INT, AttributeProto.FLOAT):
            return proto.i if kind == AttributeProto.INT else proto.f
        if kind in (AttributeProto.INTS, AttributeProto.FLOATS):
            return [*(proto.ints if kind == AttributeProto.INTS else proto.floats)] or Empty(kind)
        if kind == AttributeProto.TENSOR:
            return constant(proto.t.name, _values(proto.t))
        if kind == AttributeProto.GRAPH:
            return _Scope({**self._outside, **self._own}, self._opset, is_body=True).graph(proto.g, entering)
        try:
            if kind == AttributeProto.STRING:
                return proto.s.decode()
            if kind == AttributeProto.STRINGS:
                return [text.decode() for text in proto.strings] or Empty(kind)
        except UnicodeDecodeError:
            pass
        return proto


def _variable(value: onnx.ValueInfoProto, shape: list[Dim] | None = None) -> gs.Variable:
    kind = value.type.WhichOneof("value") or "tensor_type"
    said = value.type.sequence_type.elem_type.tensor_type if kind == "sequence_type" else getattr(value.type, kind)
    element = getattr(said, "elem_type", None)
    return variable(value.name, dtype_of(element) if isinstance(element, int) else None, shape, kind)


def _values(stored: onnx.TensorProto | onnx.SparseTensorProto) -> LazyValues:
    """Values that are read as they lie in the model; whenever they are asked for, where they are large."""
    if isinstance(stored, onnx.SparseTensorProto):
        return SparseValues(stored)
    if stored.data_location == onnx.TensorProto.EXTERNAL:
        return External(stored)
    values = Stored(stored)
    # asking for `raw_data`, were it for its length, copies it
    large = _MOST * prod(values.shape) >= LARGE and stored.HasField("raw_data") and stored_bytes(stored) >= LARGE
    return Inline(stored) if large else values


class Stored(LazyValues):
    """Values that are read when they are first asked for, and kept then, in the type that numpy has for them."""

    def __init__(self, stored: onnx.TensorProto) -> None:
        self.stored = stored
        self.shape = list(stored.dims)
        self.dtype = onnx.helper.tensor_dtype_to_np_dtype(stored.data_type)

    def load(self) -> Array:
        """The values [shape]."""
        if sys.byteorder == "little" and self.dtype.kind in "biuf" and self.stored.HasField("raw_data"):
            return np.frombuffer(self.stored.raw_data, self.dtype).reshape(self.shape)
        return onnx.numpy_helper.to_array(self.stored)
