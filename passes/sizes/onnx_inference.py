"""Shape inference by onnx: of a whole model without its weights, and of single nodes.

It follows no elements (`sweep` does), as it would misread those of a Slice whose start is not known and write down all
elements of any vector, and it believes nothing that the model declares of shapes it can infer itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import ShapeVectors
from passes.abstract_values.windows import windows_rounded_up
from passes.errors import GraphError, in_brief
from passes.graph.nested_protos import bodies
from passes.graph.subgraphs import captured, with_bodies
from passes.graph.tensors import Array, Dim, describe, dtype_of, element_of, is_standard, present
from passes.model.declarations import MADE_UP, dims_of, is_name, written_by_unknown
from passes.model.graph_to_onnx import add_node, outlined
from passes.ops import rules
from passes.ops.attention.fused import FusedAttention
from passes.ops.base import rules_of


def made_up_names(taken: Collection[str]) -> Iterator[str]:
    """Names for sizes of which nothing is known, each of which is another one, and none of those that are taken."""
    return (name for number in count() if (name := f"{MADE_UP}{number}") not in taken)


def name_inputs(graph: gs.Graph) -> None:
    """Give every open size of an input a name, so that equal sizes can be recognised further on."""
    for number, tensor in enumerate(graph.inputs):
        if isinstance(tensor, gs.Variable) and tensor.shape is not None:
            tensor.shape = [
                dim if isinstance(dim, int) or is_name(dim) else f"input{number}_axis{axis}"
                for axis, dim in enumerate(tensor.shape)
            ]


def forget_shapes(graph: gs.Graph) -> None:
    """Leave the shapes of all that nodes write to inference, but for those that nobody could infer."""
    for scope in with_bodies(graph):
        for node in scope.nodes:
            if is_standard(node) or onnx.defs.has(node.op, node.domain or "") or rules(node).like:
                for tensor in node.outputs:
                    if isinstance(tensor, gs.Variable):
                        tensor.shape = None


def infer(nodes: Sequence[gs.Node], model: onnx.ModelProto, names: Iterator[str], *, gives_up: bool = False) -> bool:
    """Refine types and shapes of what these nodes of the model's graph write; whether operands are known to fit.

    Raises GraphError where a tensor has less than no elements; where it `gives_up`, also where operands do not fit.
    """
    light = outlined(nodes, model)
    fits = not _put_stand_ins(light.graph)
    _forget_declared(light.graph)
    try:
        found = _inferred(light, strict=fits)
    except GraphError:
        if gives_up:
            raise
        fits, found = False, _inferred(light)
    given: dict[str, Dim] = {d: d for v in light.graph.input for d in dims_of(v) or () if isinstance(d, str)}
    given |= {str(dim): dim for node in nodes for t in node.inputs for dim in t.shape or () if isinstance(dim, str)}
    _annotate(nodes, found.graph, names, given)
    return fits


def check(nodes: Sequence[gs.Node], model: onnx.ModelProto) -> None:
    """Raise GraphError, naming the node, where the operands of an operator that onnx knows do not fit each other."""
    light = outlined(nodes, model)  # without stand-ins: they may be more particular
    _forget_declared(light.graph)
    for node in light.graph.node:
        node.name = describe(node)
    declared = {value.name for value in [*light.graph.value_info, *light.graph.output]}
    # of Attention whose values have a shape that it does not infer, onnx believes that they are like the queries
    shaped = {id(t) for n in nodes if isinstance(rules(n), FusedAttention) for t in n.inputs if t.shape}
    light.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(
            tensor.name, element_of(tensor.dtype), tensor.shape if id(tensor) in shaped else None
        )
        for node in nodes
        for tensor in node.outputs
        if tensor.name and tensor.name not in declared and tensor.dtype is not None
    )
    _inferred(light, strict=True)


def infer_node(node: gs.Node, opset: int, values: Mapping[str, Array]) -> dict[str, tuple[Any, list[Dim] | None]]:
    """Types and shapes of the outputs of a node, by name; None for sizes that are not known.

    values: of inputs that are shape operands, by name. Empty for an operator that onnx does not know. Raises GraphError
    where operands do not fit each other.
    """
    read = {t.name: t for t in [*node.inputs, *captured(node)] if t.name}
    op = node.op if is_standard(node) and onnx.defs.has(node.op, opset, "") else rules(node).like
    if not op or any(vars(t).get("type", "tensor_type") != "tensor_type" for t in read.values()):
        return {}
    inferred = _inferred(_standing_alone(node, op, opset, read, values), strict=True)
    given = {str(dim): dim for t in read.values() for dim in t.shape or () if isinstance(dim, str)}
    typed = all(t.dtype is not None for t in read.values())
    written = {t.name: t for t in node.outputs}
    types: dict[str, tuple[Any, list[Dim] | None]] = {}
    for value in inferred.graph.value_info:
        dims, element = dims_of(value), value.type.tensor_type.elem_type
        own = None if dims is None else [given.get(dim) if isinstance(dim, str) else dim for dim in dims]
        types[value.name] = dtype_of(element) if typed and element else written[value.name].dtype, own
    return types


def _standing_alone(
    node: gs.Node, op: str, opset: int, read: Mapping[str, gs.Tensor], values: Mapping[str, Array]
) -> onnx.ModelProto:
    """A model of the node alone, as the standard operator `op`, that is given what it reads."""
    model = onnx.ModelProto(ir_version=10, opset_import=[onnx.OperatorSetIdProto(version=opset)])
    add_node(model.graph, node)
    model.graph.node[0].op_type, model.graph.node[0].domain = op, ""
    for name, tensor in read.items():
        element = onnx.TensorProto.FLOAT if tensor.dtype is None else element_of(tensor.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, element, tensor.shape))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in values.items())
    return model


def annotate_node(node: gs.Node, opset: int) -> None:
    """Write onto the outputs what follows from the inputs; nothing where that is not known or operands do not fit."""
    operands = [t for _, t in present(node.inputs)]
    if any(t.dtype is None for t in operands):
        return
    vectors = ShapeVectors(opset)
    with suppress(GraphError):
        found = infer_node(node, opset, {t.name: x for t in operands if (x := vectors.of(t)) is not None})
        for tensor in node.outputs:
            if tensor.name in found and isinstance(tensor, gs.Variable):
                tensor.dtype, tensor.shape = found[tensor.name]


def _annotate(nodes: Sequence[gs.Node], graph: onnx.GraphProto, names: Iterator[str], renamed: dict[str, Dim]) -> None:
    """Refine types and shapes of what the nodes write by what was inferred of the same graph.

    renamed: sizes that had names before; others get made-up ones.
    """

    def own(dim: Dim) -> Dim:
        if isinstance(dim, str) and dim not in renamed:
            renamed[dim] = next(names)
        return renamed[dim] if isinstance(dim, str) else dim

    def write(nodes: Sequence[gs.Node], inputs: Sequence[gs.Tensor], graph: onnx.GraphProto) -> None:
        values = {v.name: v for v in [*graph.input, *graph.value_info, *graph.output]}
        for tensor in [*inputs, *(t for node in nodes for t in node.outputs)]:
            if tensor.name not in values or not isinstance(tensor, gs.Variable):
                continue
            value = values[tensor.name]
            dims, element = dims_of(value), value.type.tensor_type.elem_type
            refine(tensor, None if dims is None else [*map(own, dims)])
            if element:
                tensor.dtype = dtype_of(element)
        for node, proto in zip(nodes, graph.node, strict=True):
            for body in (a for a in proto.attribute if a.type == onnx.AttributeProto.GRAPH):
                held = node.attrs[body.name]
                write(held.nodes, held.inputs, body.g)

    write(nodes, (), graph)


def refine(tensor: gs.Tensor, dims: Sequence[Dim] | None) -> bool:
    """Write onto a tensor what `dims` say more of its shape; whether that is anything.

    A number says more than a formula or a name, and these than nothing. Raises GraphError where the two contradict.
    """
    before = tensor.shape
    if dims is None or before == dims or not isinstance(tensor, gs.Variable):
        return False
    if before is None:
        tensor.shape = [*dims]
        return True
    if len(before) != len(dims):
        raise GraphError(f"The shapes in the graph contradict each other: {before} is no {dims}.")
    pairs = zip(before, dims, strict=True)
    after = [old if new is None or isinstance(old, (int, np.integer)) else new for old, new in pairs]
    if after == before:
        return False
    tensor.shape = after
    return True


def _inferred(model: onnx.ModelProto, strict: bool = False) -> onnx.ModelProto:
    """What onnx infers.

    Raises GraphError where a tensor has less than no elements; strict, also where operands do not fit.
    """
    _put_functions(model, model.graph, any(each.domain == "" and each.version == 10 for each in model.opset_import))
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=strict)
    except Exception as error:
        if strict and "but instead is null" in str(error):  # of an operator that onnx knows no type of
            return _inferred(model)
        raise GraphError(f"The shapes in the graph contradict each other: {in_brief(error)}.") from error
    for value in found.graph.value_info:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0:  # a window that is larger than what it slides over
                maker = next((f"output of {n.op_type}" for n in found.graph.node if value.name in n.output), "tensor")
                raise GraphError(
                    f"The shapes in the graph contradict each other: the {maker} '{value.name}' would have "
                    f"{dim.dim_value} elements along axis {axis}."
                )
    return found


def _put_functions(model: onnx.ModelProto, graph: onnx.GraphProto, slices: bool) -> None:
    """Put functions of opset 11 in place of operators of whose sizes onnx believes what is not so.

    Of `slices` of opset 10, that they keep open sizes. Of `ceil_mode`, that windows count that begin behind the data:
    a Pad of unknown amounts has open sizes.
    """
    for node in graph.node:
        if slices and node.op_type == "Slice" and not node.domain:
            names = [f"operand{i}" for i in range(len(node.input))]
            _put_function(model, node, names, [onnx.helper.make_node("Slice", names, ["y"])])
        elif node.op_type in _POOLINGS and not node.domain:
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if attrs.get("ceil_mode") and windows_rounded_up(tuple(attrs.get("kernel_shape", ())), attrs) is None:
                parts = [
                    onnx.helper.make_node("Pad", ["x"] * 2, ["y"]),
                    onnx.helper.make_node("Cast", ["y"], ["i"], to=7),
                ]
                _put_function(model, node, ["x"], parts[: len(node.output)])
        for body in bodies(node):
            _put_functions(model, body, slices)


_POOLINGS = ("AveragePool", "LpPool", "MaxPool")


def _put_function(model: onnx.ModelProto, node: onnx.NodeProto, inputs: list[str], parts: list[onnx.NodeProto]) -> None:
    node.domain = f"later.{len(inputs)}.{len(parts)}"
    if all((f.domain, f.name) != (node.domain, node.op_type) for f in model.functions):
        later, outputs = onnx.helper.make_opsetid("", 11), [part.output[0] for part in parts]
        model.functions.append(onnx.helper.make_function(node.domain, node.op_type, inputs, outputs, parts, [later]))
        model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))
        model.ir_version = max(model.ir_version, 8)


def _forget_declared(graph: onnx.GraphProto) -> None:
    """Leave shapes of inner tensors and outputs to inference, where it knows what writes them.

    What a model declares need not be true, and sizes that an exporter wrote under a name of its own for each tensor say
    less than those inferred again.
    """
    told = written_by_unknown(graph)
    if graph.value_info:
        kept = [v for v in graph.value_info if v.name in told]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    declared = {v.name: v.type.tensor_type for v in graph.output if v.type.tensor_type.HasField("shape")}
    for node in graph.node if declared else ():  # inputs and initializers can be outputs too
        for name in node.output:
            if name in declared and name not in told:
                declared[name].ClearField("shape")
    for body in (body for node in graph.node for body in bodies(node)):
        _forget_declared(body)


def _put_stand_ins(graph: onnx.GraphProto) -> bool:
    """Put operators with the same output shapes in place of those whose shapes onnx does not know; whether any was."""
    found = False
    for node in graph.node:
        kind, like = (node.op_type, node.domain), rules_of(node.domain, node.op_type).like
        known = like and onnx.defs.has(*kind) and onnx.defs.get_schema(*kind).has_type_and_shape_inference_function
        if like and not known:
            node.op_type, node.domain, found = like, "", True
    return found
