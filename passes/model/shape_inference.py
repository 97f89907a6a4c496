"""Shapes of all tensors, with symbols kept through reshapes where that can be proved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError, in_brief
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import dtype_of
from passes.model.declarations import declare, dims_of, symbol_of, written_by_unknown
from passes.model.element_inference import are_short, bodies_of, with_elements
from passes.model.known_sizes import Sizes, is_open
from passes.model.outline import described_as
from passes.model.told_sizes import tell
from passes.ops.base import rules_of
from passes.ops.slice_gather import Slice

#: elements: values of larger initializers are not looked at, as no shape operand is as large
INFERRED = 1024
#: most rounds at a time
ROUNDS = 7
# What stands for all names of sizes in a part of a model.
_NAMES = "names of sizes"


@dataclass(frozen=True)
class Inferred:
    """What is known of the shapes in a model.

    model: it without its large weights, with a shape for every tensor that inference can give one. sizes: those that it
    says. sound: whether the operands of all operators are known to fit each other; where they are not, `check` tells.
    failed: whether inference found, or thought, that some do not.
    """

    model: onnx.ModelProto
    sizes: Sizes
    sound: bool
    failed: bool = False


def inferred(model: onnx.ModelProto, *, gives_up: bool = False, believes: bool = False) -> Inferred:
    """The shapes of all tensors, as far as inference can tell them; `through_reshapes` tells more.

    What the model declares of inner tensors and outputs is no evidence unless one `believes` it, except where onnx does
    not know the operator that writes them. Every input dimension without a size gets a name, so that equal sizes can be
    recognised further on. Raises GraphError when shapes contradict each other; where nodes hold no graphs and
    `gives_up`, at once.
    """
    light = _without_weights(model)
    replaced = _put_stand_ins(light.graph)
    if not believes:
        _forget_declared(light.graph)
    for value in [*light.graph.input, *light.graph.output, *light.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or (dim.dim_param and not symbol_of(dim)):
                dim.Clear()
    for number, value in enumerate(light.graph.input):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and not dim.dim_param:
                dim.dim_param = f"input{number}_axis{axis}"
    if _hide_misread(light) | replaced:
        return Inferred(*_infer(light), sound=False)
    gives_up = gives_up and not any(True for _ in bodies_of(light.graph))
    plain = _infer_plain(light, strict=True) if gives_up else None
    try:
        return Inferred(*_infer(light, strict=True, plain=plain), sound=True)
    except GraphError:
        return Inferred(*_infer(light), sound=False, failed=True)


def through_reshapes(found: Inferred) -> tuple[Inferred, int]:
    """What layers of reshapes, and operators that inference gives up at, tell of shapes beside what was inferred.

    Each round carries symbols past one more layer of reshapes. The number is that of those that said something, of at
    most `ROUNDS`. What was inferred is changed.
    """
    whole = any(True for _ in bodies_of(found.model.graph))  # which read what they name
    rest = found.model if whole else _rest(found)
    sizes, rounds = found.sizes if rest is found.model else found.sizes.excerpt(rest.graph), 0
    while rounds < ROUNDS and (tell(sizes) or sizes.changed):
        rounds += 1
        if whole:
            rest, sizes = _infer(rest, short=are_short(rest, sizes.known))
        elif any(map(sizes.has_open, (name for n in rest.graph.node for name in n.output if name))):
            _tell_further(rest, sizes)
        else:
            break
    if whole:
        return replace(found, model=rest, sizes=sizes), rounds
    if rounds and rest is not found.model:
        found.sizes.learn(rest.graph.value_info)
    return found, rounds


def tell_at_once(found: Inferred) -> None:
    """Note what `through_reshapes` would, without another inference, where sizes of inputs have names to be carried on.

    The inference that follows on folded constants is then asked of less.
    """
    if found.sound and found.sizes.given() and not any(True for _ in bodies_of(found.model.graph)):
        tell(found.sizes)


def _tell_further(model: onnx.ModelProto, sizes: Sizes) -> None:
    """Write down what inference makes of what the sizes were told: it is asked of what comes after that only."""
    changed, nodes = set(sizes.changed), []
    for node in model.graph.node:
        reads = not changed.isdisjoint(node.input)
        if reads:
            changed.update(node.output)
        if reads or any(len(sizes.known(name) or ()) < 2 for name in node.output):
            nodes.append(node)
    part = _excerpt(model, nodes, sizes)
    names = {d for name in sizes.values for d in sizes.of(name) if isinstance(d, str)}
    declare(part.graph.value_info.add(name=_NAMES), sorted(names))  # new names are to be others
    found, _ = _infer(part, short=are_short(part, sizes.known))
    sizes.changed.clear()
    sizes.learn(v for v in found.graph.value_info if v.name != _NAMES)


def _rest(found: Inferred) -> onnx.ModelProto:
    """The part of an inferred model of which not all is known, or which may compute sizes."""
    light = found.model
    sizes = found.sizes
    nodes = [n for n in light.graph.node if not all(_is_settled(name, sizes) for name in n.output)]
    return light if len(nodes) == len(light.graph.node) else _excerpt(light, nodes, sizes)


def _excerpt(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], sizes: Sizes) -> onnx.ModelProto:
    """These nodes of an inferred model, with what is known of all that they read and write."""
    part = described_as(model)
    part.graph.node.extend(nodes)
    written = dict.fromkeys(name for n in nodes for name in n.output)
    read = dict.fromkeys(name for n in nodes for name in n.input)
    part.graph.initializer.extend(stored for name in read if (stored := sizes.initializer(name)) is not None)
    part.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    inputs = (name for name in read if name not in written)
    part.graph.input.extend(sizes.values[name] for name in inputs if name in sizes.values)
    part.graph.value_info.extend(sizes.values[name] for name in written if name in sizes.values)
    return part


def _is_settled(name: str, sizes: Sizes) -> bool:
    """Whether inference can say no more of the tensor, or there is none."""
    # of vectors and numbers it follows the elements, too
    return not name or (len(sizes.of(name)) > 1 and not sizes.has_open(name))


def _hide_misread(light: onnx.ModelProto) -> bool:
    """Have inference know no elements of vectors where it would believe wrong ones; whether there were any."""

    def misread(graph: onnx.GraphProto, outside: frozenset[str]) -> list[onnx.NodeProto]:
        slices = [(n, op) for n in graph.node if isinstance(op := rules_of(n.domain, n.op_type), Slice)]
        bodies = [*bodies_of(graph)]
        if not slices and not bodies:
            return []
        known = outside | {t.name for t in graph.initializer}
        known |= {name for n in graph.node if not n.input for name in n.output}
        found = [n for n, op in slices if op.misread(n, known)]
        for body in bodies:
            found += misread(body, known)
        return found

    doubtful = misread(light.graph, frozenset())
    if not doubtful:
        return False
    ranks = _ranks(_infer_plain(light).graph)
    for node in doubtful:
        if ranks.get(node.output[0]) == 1:
            # an operator of one operand whose output is a vector of the same type and of unknown length
            node.op_type = "Unique"
            del node.input[1:]
    return True


def _ranks(graph: onnx.GraphProto) -> dict[str, int]:
    values = {v.name: dims_of(v) for v in [*graph.input, *graph.value_info, *graph.output]}
    ranks = {name: len(dims) for name, dims in values.items() if dims is not None}
    for body in bodies_of(graph):
        ranks |= _ranks(body)
    return ranks


def _infer(
    model: onnx.ModelProto, strict: bool = False, plain: onnx.ModelProto | None = None, *, short: bool = False
) -> tuple[onnx.ModelProto, Sizes]:
    """What onnx infers, and its sizes; the arguments are those of `with_elements`.

    Raises GraphError where a tensor has less than no elements; strict, also where onnx finds, or thinks, that operands
    do not fit.
    """
    with _contradictions():
        found = with_elements(model, strict, plain, short=short)
    return found, _check_extents(found)


def _check_extents(found: onnx.ModelProto) -> Sizes:
    """The sizes in what was inferred. Raises GraphError, naming it, where a tensor has less than no elements."""
    sizes = Sizes(found.graph)
    for value in found.graph.value_info:
        if None not in (sizes.known(value.name) or ()):
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0:  # a window that is larger than what it slides over
                maker = next((f"output of {n.op_type}" for n in found.graph.node if value.name in n.output), "tensor")
                raise GraphError(
                    f"The shapes in the graph contradict each other: the {maker} '{value.name}' would have "
                    f"{dim.dim_value} elements along axis {axis}."
                )
    return sizes


def _infer_plain(model: onnx.ModelProto, strict: bool = False) -> onnx.ModelProto:
    """What onnx infers where it follows no elements; strict, it raises GraphError as `_infer` does."""
    with _contradictions():
        return onnx.shape_inference.infer_shapes(model, strict_mode=strict)


@contextmanager
def _contradictions() -> Iterator[None]:
    """What onnx raises in this block is a GraphError."""
    try:
        yield
    except Exception as error:
        raise GraphError(f"The shapes in the graph contradict each other: {in_brief(error)}.") from error


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large initializers as inputs, and large constants without their elements."""
    given = {v.name for v in model.graph.input}
    large = [_is_large(t) for t in model.graph.initializer]
    constants = any(node.op_type == "Constant" for node in model.graph.node)
    if not constants and not any(large) and not any(t.name in given for t in model.graph.initializer):
        light = onnx.ModelProto()
        light.CopyFrom(model)  # all at once takes a fifth of the time
        light.ClearField("training_info")
    else:
        light = described_as(model)
        graph = light.graph
        graph.node.extend(map(_emptied, model.graph.node))
        graph.value_info.extend(model.graph.value_info)
        initializers = {t.name for t in model.graph.initializer}
        graph.input.extend(v for v in model.graph.input if v.name not in initializers)
        graph.output.extend(model.graph.output)
        for tensor, is_large in zip(model.graph.initializer, large, strict=True):
            if is_large:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            else:
                graph.initializer.append(tensor)
        graph.sparse_initializer.extend(model.graph.sparse_initializer)
    light.ir_version = max(model.ir_version, 4)
    return light


def _is_large(tensor: onnx.TensorProto) -> bool:
    """Whether the values of an initializer are not looked at."""
    return prod(tensor.dims) > INFERRED or bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _emptied(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, if it is a constant of many elements without these."""
    constant = node.op_type == "Constant" and not node.domain
    stored = next((a.t for a in node.attribute if a.name == "value"), None) if constant else None
    if stored is None or prod(stored.dims) <= INFERRED:
        return node
    empty = onnx.TensorProto(dims=stored.dims, data_type=stored.data_type)
    return onnx.helper.make_node("Constant", [], node.output, node.name, value=empty)


def check(model: onnx.ModelProto, light: onnx.ModelProto) -> None:
    """Raise GraphError, naming the node, where the operands of an operator that onnx knows do not fit each other.

    `light` is what was inferred of the model.
    """
    strict = _without_weights(model)  # and without stand-ins, which may be more particular than the operator is
    _forget_declared(strict.graph)
    for node in strict.graph.node:
        node.name = node.name or f"{node.op_type} -> {', '.join(node.output)}"
    del strict.graph.value_info[:]
    strict.graph.value_info.extend(light.graph.value_info)
    for value in strict.graph.value_info:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    _check_extents(_infer_plain(strict, strict=True))


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
    for body in bodies_of(graph):
        _forget_declared(body)


def _put_stand_ins(graph: onnx.GraphProto) -> bool:
    """Put operators with the same output shapes in place of those whose shapes onnx does not know; whether any was."""
    likes = {kind: _stand_in(*kind) for kind in {(n.domain, n.op_type) for n in graph.node}}
    for node in graph.node if any(likes.values()) else ():
        like = likes[node.domain, node.op_type]
        if like:
            node.op_type, node.domain = like, ""
    return any(likes.values())


def _stand_in(domain: str, op: str) -> str:
    """An operator with the same output shapes, if onnx does not know those of this one; else ""."""
    like = rules_of(domain, op).like
    known = like and onnx.defs.has(op, domain) and onnx.defs.get_schema(op).has_type_and_shape_inference_function
    return "" if known else like


def annotate(nodes: Sequence[gs.Node], sizes: Sizes, inputs: Sequence[gs.Tensor] = ()) -> None:
    """Write the inferred shapes and element types onto the inputs and what the nodes write.

    The graph whose sizes these are has the same nodes.
    """
    for tensor in [*inputs, *(t for node in nodes for t in node.outputs)]:
        name = tensor.name
        if not name or isinstance(tensor, gs.Constant):
            continue
        value = sizes.values.get(name)
        dims = None if value is None else sizes.known(name)
        fields = vars(tensor)  # which its own setter looks for first
        if fields["shape"] != dims:
            fields["shape"] = None if dims is None else [*dims]
        element = 0 if value is None else value.type.tensor_type.elem_type
        if element:
            fields["dtype"] = dtype_of(element)
    for node, proto in zip(nodes, sizes.graph.node, strict=True):
        for name, body in node.attrs.items():
            if isinstance(body, gs.Graph):
                held = next(a.g for a in proto.attribute if a.name == name)
                annotate(body.nodes, Sizes(held), body.inputs)


def unfinished(nodes: Sequence[gs.Node], inputs: Sequence[gs.Tensor]) -> list[gs.Node]:
    """Nodes that write something whose shape is not known, but for sizes of inputs, and those that may write sizes.

    None where all shapes are known. inputs: those of the graph that the nodes are of.
    """
    given = {dim for tensor in inputs for dim in tensor.shape or () if isinstance(dim, str)}
    missing = {id(node) for node in nodes if not _is_finished(node, given)}
    if not missing:
        return []
    return [n for n in nodes if id(n) in missing or any(t.shape is not None and len(t.shape) < 2 for t in n.outputs)]


def _is_finished(node: gs.Node, given: Collection[str]) -> bool:
    for tensor in node.outputs:
        if tensor.name and (tensor.dtype is None or tensor.shape is None):
            return False
        for dim in tensor.shape or ():
            if not isinstance(dim, int) and is_open(dim, given):
                return False
    return all(_is_finished(inner, given) for body in subgraphs(node) for inner in body.nodes)
