"""From a graph back to a model."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto
from onnx_graphsurgeon.ir.tensor import SparseValues

from passes.abstract_values.polynomial import Expression
from passes.abstract_values.shape_rules import LONGEST
from passes.graph import construct
from passes.graph.subgraphs import Body, captured, shared_constants
from passes.graph.tensors import (
    STANDARD_DOMAINS,
    Dim,
    element_of,
    is_constant,
    is_sparse,
    is_standard,
    set_stored,
    stored,
    values_of,
)
from passes.model import descriptions, inputs_with_defaults
from passes.model.declarations import annotated, declare, dims_of, is_made_up, redeclare, redeclared, symbols
from passes.model.onnx_to_graph import Empty, Stored
from passes.model.outline import described_as
from passes.ops import rules
from passes.ops.attention.fused import FusedAttention
from passes.ops.resize import Resize
from passes.ops.shape import Expand, Reshape
from passes.weights.external_file import Store
from passes.weights.streaming import LARGE, Inline, Lazy, raw


def exported(graph: gs.Graph, source: onnx.ModelProto, store: Store | None = None) -> onnx.ModelProto:
    """The graph as a model, with all that the source says about itself and its inputs and outputs in its own words.

    Outputs that declare another shape than they have are given theirs. Sizes of inner tensors are left out, but for
    those that nobody could infer. Weights that are read or computed when they are asked for are written to the store,
    if there is one, and to nowhere else.
    """
    if store is not None:
        store.clear()
    model = described_as(source)
    model.ClearField("training_info")  # which names weights
    model.graph.name, model.graph.doc_string = source.graph.name, source.graph.doc_string
    # the model imports the opset that the graph has now, in a version of the format that knows it
    for said in model.opset_import:
        if said.domain in STANDARD_DOMAINS and said.version < graph.opset:
            said.version = graph.opset
            least: int = onnx.helper.find_min_ir_version_for([said], ignore_unknown=True)
            model.ir_version = max(model.ir_version, least)
    _declare_ends(model, graph, source)
    shared = list({id(t): t for t in [*_constants(graph), *shared_constants(graph)]}.values())
    descriptions.name_back(graph, shared, source)
    constants = {t.name: t for t in shared}
    for tensor in constants.values():
        _append(model.graph, tensor, store)
        values = stored(tensor)
        if isinstance(values, np.ndarray) and values.nbytes >= LARGE:
            # from now on read where it was written: its memory serves the next one, and new memory takes longest of all
            set_stored(tensor, Stored(model.graph.initializer[-1]))
    annotations, opened, described = annotated(source), symbols(source) - {""}, descriptions.of_values(source)
    for node in graph.nodes:
        add_node(model.graph, node, outside=constants)
        noted = {t.name: t for t in _not_inferred(node, annotations, opened)}
        noted |= {t.name: t for t in node.outputs if t.name in described and t.dtype is not None}
        model.graph.value_info.extend(_noted(t, opened) for t in noted.values())
    descriptions.restore(model, source)
    if store is not None:
        store.flush()
    model.ir_version = max(model.ir_version, 4)  # before, initializers had to be inputs, those folded here as well
    return model


def _declare_ends(model: onnx.ModelProto, graph: gs.Graph, source: onnx.ModelProto) -> None:
    """Declare the inputs and outputs as the source does, but for shapes that the outputs do not have."""
    initializers = {t.name for t in source.graph.initializer} - inputs_with_defaults.overridable(source)
    model.graph.input.extend(v for v in source.graph.input if v.name not in initializers)
    model.graph.output.extend(source.graph.output)
    redeclare(model.graph, redeclared(source, {t.name: t.shape for t in graph.outputs}))
    inputs_with_defaults.restore(model, source)


def _not_inferred(node: gs.Node, annotations: Collection[str], opened: set[str]) -> list[gs.Tensor]:
    """Outputs whose shapes are known here, and would not be inferred by those who read the file."""
    if _is_foreign(node):
        return [t for t in node.outputs if t.name in annotations and t.shape is not None]
    # inference takes every open size for changed, also where the scale is 1; runtimes read the note
    resized = isinstance(rules(node), Resize) and bool(opened.intersection(node.outputs[0].shape or ()))
    # where the sizes of values are computed, inference takes what Attention makes of them to be as wide as the queries
    computed = isinstance(rules(node), Reshape | Expand) and not all(map(is_constant, node.inputs[1:]))
    read = computed and any(isinstance(rules(reader), FusedAttention) for reader in node.outputs[0].outputs)
    return [node.outputs[0]] if resized or read else []


def outlined(nodes: Sequence[gs.Node], source: onnx.ModelProto) -> onnx.ModelProto:
    """An outline of some nodes of a graph: what they read of others is an input.

    So are large initializers, and inputs of the graph that nothing here reads.
    """
    model = described_as(source)
    model.ir_version = max(model.ir_version, 4)
    told = annotated(source)
    written = {t.name for node in nodes for t in node.outputs}
    model.graph.output.extend(v for v in source.graph.output if v.name in written)  # what others declare may be false
    model.graph.value_info.extend(v for v in source.graph.value_info if v.name in told & written)
    given = {v.name: v for v in source.graph.input}
    read = {t.name: t for node in nodes for t in [*node.inputs, *captured(node)] if t.name}
    for tensor in read.values():
        if isinstance(tensor, gs.Constant) and (is_sparse(tensor) or math.prod(tensor.shape) <= LONGEST):
            _append(model.graph, tensor)
        elif isinstance(tensor, gs.Variable) and tensor.type != "tensor_type":
            model.graph.input.extend([given[tensor.name]] if tensor.name in given else [])
        elif tensor.name not in written:
            model.graph.input.append(_declared(tensor))
    initializers = {t.name for t in source.graph.initializer}
    model.graph.input.extend(v for name, v in given.items() if name not in read and name not in initializers)
    for node in nodes:
        add_node(model.graph, node)
        if _is_foreign(node):
            known = [t for t in node.outputs if t.name not in told and t.dtype is not None and t.shape is not None]
            model.graph.value_info.extend(map(_declared, known))
    return model


def _is_foreign(node: gs.Node) -> bool:
    """Whether onnx does not know the operator, so that nobody could infer what it writes."""
    return not is_standard(node) and not onnx.defs.has(node.op, node.domain or "")


def add_node(graph: onnx.GraphProto, node: gs.Node, outside: Collection[str] | None = None) -> None:
    """Add the node; its subgraphs read the initializers named `outside` from the graph around them.

    None: they hold all that they read, and say what is known of the shapes in them.
    """
    proto = graph.node.add(op_type=node.op, input=[t.name for t in node.inputs], output=[t.name for t in node.outputs])
    if node.name:
        proto.name = node.name
    if node.domain is not None:
        proto.domain = node.domain
    if (said := construct.said_of(node)) is not None:
        proto.MergeFrom(said)
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            _fill_body(proto.attribute.add(name=name, type=AttributeProto.GRAPH).g, value, outside)
        elif isinstance(value, gs.Constant):
            _fill(proto.attribute.add(name=name, type=AttributeProto.TENSOR).t, value)
        elif isinstance(value, Empty):
            proto.attribute.add(name=name, type=value.kind)
        elif isinstance(value, AttributeProto):
            proto.attribute.append(value)
        else:
            proto.attribute.append(onnx.helper.make_attribute(name, value))


def _fill_body(proto: onnx.GraphProto, graph: gs.Graph, outside: Collection[str] | None) -> None:
    proto.name = graph.name
    if graph.doc_string:
        proto.doc_string = graph.doc_string
    proto.metadata_props.extend(graph.metadata if isinstance(graph, Body) else ())
    declared = _declared if outside is None else _noted
    proto.input.extend(map(declared, graph.inputs))
    proto.output.extend(map(declared, graph.outputs))
    if isinstance(graph, Body):
        for value, dims in zip(proto.output, graph.declared, strict=True):
            _redeclare_open(value, dims)
    for tensor in _constants(graph):
        if outside is None or tensor.name not in outside:
            _append(proto, tensor)
    for node in graph.nodes:
        add_node(proto, node, outside)
        if outside is None:
            proto.value_info.extend(_declared(t) for t in node.outputs if t.dtype is not None)


def _declared(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """The type and shape of a tensor, as far as they are known and need be said."""
    kind = tensor.type if isinstance(tensor, gs.Variable) else "tensor_type"
    if tensor.dtype is None or kind not in _DECLARED:
        return onnx.ValueInfoProto(name=tensor.name)
    return _DECLARED[kind](tensor.name, element_of(tensor.dtype), tensor.shape)


def _noted(tensor: gs.Tensor, names: Collection[str] = ()) -> onnx.ValueInfoProto:
    """What a file says of a tensor: no formulas of sizes, and of made-up names for them only those given."""
    if tensor.shape is None or not isinstance(tensor, gs.Variable):
        return _declared(tensor)
    shape = [None if isinstance(d, Expression) or is_made_up(d, names) else d for d in tensor.shape]
    return _declared(construct.variable(tensor.name, tensor.dtype, shape, tensor.type))


def _redeclare_open(value: onnx.ValueInfoProto, dims: Sequence[Dim] | None) -> None:
    """Let an output of a body declare as much as it did before of the sizes that nobody can infer.

    ONNX Runtime goes by it for what a Loop of no rounds collects.
    """
    if dims is None or not value.type.HasField("tensor_type"):
        return
    found = dims_of(value)
    if found is None:
        declare(value, dims)
    elif len(found) == len(dims):
        pairs = zip(found, dims, strict=True)
        declare(value, [then if isinstance(then, int) and not isinstance(now, int) else now for now, then in pairs])


_DECLARED = {
    "tensor_type": onnx.helper.make_tensor_value_info,
    "sequence_type": onnx.helper.make_tensor_sequence_value_info,
    "sparse_tensor_type": onnx.helper.make_sparse_tensor_value_info,
}


def _constants(graph: gs.Graph) -> list[gs.Constant]:
    read = {t.name: t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    return list((read | {t.name: t for t in graph.outputs if isinstance(t, gs.Constant)}).values())


def _append(graph: onnx.GraphProto, tensor: gs.Constant, store: Store | None = None) -> None:
    # one by one: what is added in one go is serialised, and that ends at 2 GB
    values = stored(tensor)
    if isinstance(values, SparseValues):
        graph.sparse_initializer.append(values.tensor)
    elif isinstance(values, Lazy) and store is not None:
        proto = graph.initializer.add(name=tensor.name, data_type=element_of(values.dtype), dims=values.shape)
        store.put(proto, raw(values))
    else:
        _fill(graph.initializer.add(), tensor)


def _fill(proto: onnx.TensorProto, tensor: gs.Constant) -> None:
    """Write down the initializer: as it was read, or its values, copied once where numpy holds them as a file does."""
    held = stored(tensor)
    if isinstance(held, (Stored, Inline)):
        proto.CopyFrom(held.stored)
        proto.name = tensor.name
        return
    values = values_of(tensor)
    if values.dtype.kind not in "biuf" or not values.dtype.isnative or sys.byteorder != "little":
        proto.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return
    proto.name, proto.data_type = tensor.name, element_of(values.dtype)
    proto.dims.extend(values.shape)
    proto.raw_data = values.tobytes()
