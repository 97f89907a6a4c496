"""From a graph back to a model."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from passes import defaults
from passes.lazy import External, Inline, lazy, raw
from passes.shapes import annotated
from passes.store import Store
from passes.subgraphs import shared_constants
from passes.tensors import Array, is_sparse


def exported(graph: gs.Graph, source: onnx.ModelProto, store: Store | None = None) -> onnx.ModelProto:
    """The graph as a model, with all that the source says about itself and its inputs and outputs in its own words.

    Sizes of inner tensors are left out, but for those that the source tells and nobody could infer. Weights that are
    read or computed when they are asked for are written to the store, if there is one, and to nowhere else.
    """
    if store is not None:
        store.clear()
    model = _described_as(source)
    told = annotated(source)
    initializers = {t.name for t in source.graph.initializer} - defaults.overridable(source)
    model.graph.input.extend(v for v in source.graph.input if v.name not in initializers)
    model.graph.output.extend(source.graph.output)
    defaults.restore(model, source)
    constants = {t.name: t for t in [*_constants(graph), *shared_constants(graph)]}
    for tensor in constants.values():
        _append(model.graph, tensor, store)
    for node in graph.nodes:
        model.graph.node.append(_node(node, constants))
        _fetch(model.graph.node[-1])
        model.graph.value_info.extend(_noted(t) for t in node.outputs if t.name in told and t.shape is not None)
    if store is not None:
        store.flush()
    if initializers and model.ir_version < 4:  # from then on initializers need not be inputs
        model.ir_version = 4
    return model


def outlined(graph: gs.Graph, source: onnx.ModelProto, largest: int) -> onnx.ModelProto:
    """The graph without its weights, for shape inference: initializers of more than `largest` elements are inputs."""
    model = _described_as(source)
    model.ir_version = max(model.ir_version, 4)
    told = annotated(source)
    initializers = {t.name for t in source.graph.initializer}
    model.graph.input.extend(v for v in source.graph.input if v.name not in initializers)
    model.graph.output.extend(source.graph.output)
    model.graph.value_info.extend(v for v in source.graph.value_info if v.name in told)
    for tensor in _constants(graph):
        if is_sparse(tensor) or math.prod(tensor.shape) <= largest:
            _append(model.graph, tensor)
        else:
            model.graph.input.append(OnnxExporter.export_value_info_proto(tensor, do_type_check=False))
    model.graph.node.extend(OnnxExporter.export_node(node) for node in graph.nodes)
    return model


def _node(node: gs.Node, outside: Collection[str]) -> onnx.NodeProto:
    """The node; its subgraphs read the initializers named `outside` from the graph around them."""
    proto: onnx.NodeProto = OnnxExporter.export_node(node)
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _without(attribute.g, outside)
    return proto


def _without(graph: onnx.GraphProto, outside: Collection[str]) -> None:
    del graph.value_info[:]
    for tensor in [t for t in graph.initializer if t.name in outside]:
        graph.initializer.remove(tensor)
    for sparse in [t for t in graph.sparse_initializer if t.values.name in outside]:
        graph.sparse_initializer.remove(sparse)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _without(attribute.g, outside)


def _fetch(node: onnx.NodeProto) -> None:
    """Put weights into the subgraphs that only say where they lie."""
    for graph in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(External(tensor)), tensor.name))
        for inner in graph.node:
            _fetch(inner)


def _noted(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    element = tensor.dtype if isinstance(tensor.dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    return onnx.helper.make_tensor_value_info(tensor.name, element, tensor.shape)


def _described_as(source: onnx.ModelProto) -> onnx.ModelProto:
    """An empty model with every field of the source but its graph's contents, and training: that names old weights."""
    model = onnx.ModelProto()
    for field, value in source.ListFields():
        if field.name in ("graph", "training_info"):
            continue
        if field.is_repeated:
            getattr(model, field.name).extend(value)
        else:
            setattr(model, field.name, value)
    model.graph.name = source.graph.name
    model.graph.doc_string = source.graph.doc_string
    return model


def _constants(graph: gs.Graph) -> list[gs.Constant]:
    return [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]


def _append(graph: onnx.GraphProto, tensor: gs.Constant, store: Store | None = None) -> None:
    # one by one: what is added in one go is serialised, and that ends at 2 GB
    if is_sparse(tensor):
        graph.sparse_initializer.append(OnnxExporter.export_sparse_tensor_proto(tensor))
        return
    values = lazy(tensor)
    if values is not None and store is not None:
        element = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        store.put(graph.initializer.add(name=tensor.name, data_type=element, dims=values.shape), raw(values))
        return
    as_read = values.stored if isinstance(values, Inline) else None
    if values is None:
        as_read = getattr(tensor._values, "tensor", None)  # not looked into since it was read
    if as_read is None:
        _add(graph, np.asarray(tensor.values), tensor.name)
    else:
        added = graph.initializer.add()
        added.CopyFrom(as_read)
        added.name = tensor.name


def _add(graph: onnx.GraphProto, values: Array, name: str) -> None:
    """Add an initializer with these values, which are copied once where numpy holds them as a file does."""
    if values.dtype.kind not in "biuf" or not values.dtype.isnative or sys.byteorder != "little":
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return
    element = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    graph.initializer.add(name=name, data_type=element, dims=values.shape).raw_data = values.tobytes()
