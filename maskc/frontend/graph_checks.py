"""Structural checks of ONNX graphs, and repair of what runtimes accept and the checker does not."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from operator import attrgetter

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto

from maskc.frontend.graph_queries import (
    all_graphs,
    all_nodes,
    all_tensors,
    claimed,
    copied,
    is_external,
    tensor_types,
    type_of,
)
from passes.graph.nested_protos import bodies, read_names
from passes.graph.tensors import STANDARD_DOMAINS, describe
from passes.model.declarations import declare, misdeclared, redeclare, redeclared
from passes.model.set_nodes import set_nodes
from passes.sizes.prepare import tensors_by_name
from passes.weights.streaming import stored_bytes

# Of nodes no published model has a tenth as many.
MOST_NODES = 1_000_000

# Of axes no tensor has as many, and onnx reads no more than 32 bits of their numbers.
_MOST_AXES = 1024

# What the equation of an Einsum is made of.
_EQUATION = frozenset(string.ascii_letters + ",.-> ")

_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}

# Where a tensor may hold its data if not as they are.
_typed_data = attrgetter("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def label(node: NodeProto) -> str:
    """A node in messages: its name or, unnamed, its outputs, with its operator."""
    if node.name:
        return f"'{node.name}' ({node.op_type})"
    return f"{node.op_type} -> '{', '.join(name for name in node.output if name)}'"


def fault(model: ModelProto) -> str | None:
    """The first structural fault: names given twice, tensors that nobody writes, cycles. None if there is none."""
    garbled = _garbled(model)
    if garbled is not None:
        return f"'{garbled.decode(errors='replace')[:60]}' in it is no text in UTF-8"
    if not model.graph.output:
        return "it has no outputs, so there is nothing to compute"
    return next(_faults(model.graph, frozenset()), None) or next(filter(None, map(_misfit, all_tensors(model))), None)


def _misfit(tensor: TensorProto) -> str | None:
    """The fault of a tensor whose data are not of the size it declares; None if they are, or in a file."""
    if is_external(tensor):
        return None
    if not tensor.HasField("raw_data"):
        try:
            onnx.numpy_helper.to_array(tensor)
        except ValueError:  # numpy's reshape
            return f"the data of tensor '{tensor.name}' are not of the shape {list(tensor.dims)} that it declares"
        except Exception:  # a type that there is not, which the checker says
            return None
        return None
    try:
        declared = stored_bytes(tensor)
    except (KeyError, ValueError, TypeError):
        return f"the elements of tensor '{tensor.name}' are of no type that there is"
    held = len(tensor.raw_data)
    if held != declared:
        shape = list(tensor.dims)
        return f"the data of tensor '{tensor.name}' {shape} are {held:,} bytes, and {declared:,} are declared"
    if any(_typed_data(tensor)):
        return f"the data of tensor '{tensor.name}' are there twice"
    return None


def _garbled(model: ModelProto) -> bytes | None:
    """The first name or description that is no text, which protobuf gives as bytes; None where all are."""
    texts: list[str | bytes] = [model.producer_name, model.producer_version, model.domain, model.doc_string]
    texts += [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    texts += [opset.domain for opset in model.opset_import]
    for owner in (model.graph, *model.functions):
        for scope in all_graphs(owner):
            texts += (scope.name, scope.doc_string)
            for node in scope.node:
                texts += (node.name, node.op_type, node.domain)
                texts += node.input
                texts += node.output
                if node.attribute:
                    texts += [attribute.name for attribute in node.attribute]
            if isinstance(scope, GraphProto):
                texts += [tensor.name for tensor in scope.initializer]
                for value in (*scope.input, *scope.output, *scope.value_info):
                    texts.append(value.name)
                    texts += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
            else:
                texts += (*scope.input, *scope.output, *scope.attribute)
    return next((text for text in texts if isinstance(text, bytes)), None)


def endless_functions(model: ModelProto) -> str | None:
    """The fault of local functions that call each other too often to be inlined; None if there is none."""
    if not model.functions or (nodes := _expanded(model)) <= MOST_NODES:
        return None
    how = "call each other in a circle" if nodes == math.inf else f"stand for more than {MOST_NODES:,} nodes"
    names = ", ".join(function.name for function in model.functions[:3]) + ", …" * (len(model.functions) > 3)
    return f"its local functions ({names}) {how}, and cannot be inlined"


def _expanded(model: ModelProto) -> float:
    """The number of nodes with all local functions inlined; infinite where functions call themselves in a circle."""
    functions = {(function.domain, function.name): function for function in model.functions}
    known: dict[tuple[str, str], float] = {}

    def nodes(owner: GraphProto | onnx.FunctionProto) -> float:
        return sum(called(node.domain, node.op_type) for scope in all_graphs(owner) for node in scope.node)

    def called(*key: str) -> float:
        if key not in functions:
            return 1
        if key not in known:
            known[key] = math.inf  # until it is known
            known[key] = nodes(functions[key])
        return known[key]

    return nodes(model.graph)


def shared_names(model: ModelProto) -> list[str]:
    """The names that several nodes have."""
    return _twice(_names(model))


def name_nodes(model: ModelProto, unnamed: bool = True) -> None:
    """Give every node a name of its own, in place, be it `unnamed` or not.

    Names of nodes mean nothing to what a model computes, but ONNX Runtime refuses names given twice, and messages
    speak of nodes by name.
    """
    taken, seen = set(_names(model)), set[str]()
    for node in (node for graph in all_graphs(model.graph) for node in graph.node):
        if (not node.name and not unnamed) or (node.name and node.name not in seen):
            seen.add(node.name)
            continue
        node.name = claimed(describe(node), taken)


def _names(model: ModelProto) -> list[str]:
    return [node.name for graph in all_graphs(model.graph) for node in graph.node if node.name]


def _faults(graph: GraphProto, outer: frozenset[str]) -> Iterator[str]:
    """The faults of a graph that reads `outer` tensors, and of the graphs in it, as they come."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        number = value.type.tensor_type.elem_type
        if number and number not in _TYPES:
            yield f"'{value.name}' has elements of the type {number}, which there is not"
    inputs = [value.name for value in graph.input]
    initializers = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    yield from (f"two inputs are called '{name}'" for name in _twice(inputs))
    yield from (f"two initializers are called '{name}'" for name in _twice(initializers))
    ready = {"", *outer, *inputs, *initializers}
    writers: dict[str, NodeProto] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in writers:
                yield f"nodes {label(writers[name])} and {label(node)} both write '{name}'"
            if name in ready:
                yield f"node {label(node)} writes '{name}', which has a value already"
            writers[name] = node
    for node in graph.node:
        if (missing := _missing_input(node)) is not None:
            yield f"node {label(node)} has nothing as input {missing}, and needs something there"
        if node.domain in STANDARD_DOMAINS and (odd := _impossible_attribute(node)):
            yield f"node {label(node)} has {odd}"
        yield from (_not_ready(node, name, writers) for name in read_names(node) if name not in ready)
        for body in bodies(node):  # it may call its results as its node does
            yield from _faults(body, frozenset(ready))
        ready.update(node.output)
    yield from (f"nothing writes the output '{value.name}'" for value in graph.output if value.name not in ready)


def _impossible_attribute(node: NodeProto) -> str:
    """An attribute at which onnx's own inference, or ONNX Runtime, ends the process or never ends, in words.

    Or one at which it leaves what a Cast writes as it finds the memory.
    """
    numbers = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    axis, batch, parts = (numbers.get(name, 0) for name in ("axis", "batch_dims", "num_outputs"))
    if abs(axis) > _MOST_AXES:
        return f"the axis {axis}, and no tensor has as many"
    if node.op_type == "GatherND" and not 0 <= batch <= _MOST_AXES:
        return f"{batch} batch dimensions"
    if node.op_type == "Split" and 0 < parts < len(node.output):
        return f"{len(node.output)} outputs, and num_outputs says {parts}"
    if numbers.get("saturate", 1) not in (0, 1):
        return f"saturate = {numbers['saturate']}, which is 0 or 1"
    if node.op_type == "Einsum":
        equation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "")
        odd = next((sign for sign in equation if sign not in _EQUATION), "")
        return f"{odd!r} in its equation, which takes letters, commas, dots and an arrow" if odd else ""
    return ""


def _missing_input(node: NodeProto) -> int | None:
    """The first input, from 1 on, that is omitted where ONNX Runtime, or onnx's own inference, crashes then.

    These are the first one of an operator that cannot do without, and those of which there may be any number.
    """
    if all(node.input) or not onnx.defs.has(node.op_type, node.domain):
        return None
    kinds = onnx.defs.OpSchema.FormalParameterOption
    formal = [each.option for each in onnx.defs.get_schema(node.op_type, node.domain).inputs]
    for index, name in enumerate(node.input if formal else ()):
        kind = formal[min(index, len(formal) - 1)]
        if not name and (kind == kinds.Variadic or (index == 0 and kind == kinds.Single)):
            return index + 1
    return None


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _not_ready(node: NodeProto, name: str, writers: dict[str, NodeProto]) -> str:
    """The node reads what nothing writes, or what is written further on: by a cycle, or in the wrong order."""
    if name not in writers:
        return f"node {label(node)} reads '{name}', which nothing writes"
    trail: dict[str, str] = {}  # tensor -> the tensor that it is needed for
    waiting = [name]
    own = set(node.output)
    while waiting:
        current = waiting.pop()
        if current in own:
            ring = [current]
            while ring[-1] != name:
                ring.append(trail[ring[-1]])
            return f"the graph has a cycle through {' and '.join(dict.fromkeys(label(writers[t]) for t in ring))}"
        for needed in read_names(writers[current]):
            if needed in writers and needed not in trail and needed != name:
                trail[needed] = current
                waiting.append(needed)
    return f"node {label(node)} reads '{name}' before node {label(writers[name])} writes it"


def in_order(model: ModelProto) -> ModelProto:
    """The model with each node behind those whose results it reads, as the standard has it, and runtimes do not ask.

    The argument is left untouched, and returned where there is nothing to do, or a cycle.
    """
    if not any(_needs(graph)[1] for owner in (model.graph, *model.functions) for graph in all_graphs(owner)):
        return model
    result = copied(model)
    owners = (result.graph, *result.functions)
    for graph in reversed([graph for owner in owners for graph in all_graphs(owner)]):  # inner ones first
        needs, late = _needs(graph)
        if late:
            try:
                order = [*TopologicalSorter(needs).static_order()]
            except CycleError:
                return model
            set_nodes(graph, [graph.node[index] for index in order])
    return result


def _needs(graph: GraphProto) -> tuple[dict[int, set[int]], bool]:
    """The nodes that each node reads, and whether one of them is further on."""
    writers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {i: {writers[name] for name in read_names(node) if name in writers} for i, node in enumerate(graph.node)}
    return needs, any(max(needed, default=-1) >= index for index, needed in needs.items())


def in_plain_terms(model: ModelProto) -> ModelProto:
    """The model in terms that onnx and runtimes read alike.

    Sizes that are declared as less than zero are open, defaults without which onnx infers wrong shapes or none are
    written out, and outputs of control flow that are left out have names, without which ONNX Runtime crashes at a Loop.
    The graph has a name, and nodes the shorter of the standard's two domains. The argument is left untouched, and
    returned where there is nothing to do.
    """
    odd = (n.domain == "ai.onnx" or _lacks_default(n) or _leaves_out(n) for n in all_nodes(model))
    if model.graph.name and not any(_negative(model)) and not any(odd):
        return model
    result = copied(model)
    result.graph.name = result.graph.name or "graph"
    for node in all_nodes(result):
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    taken = {name for node in all_nodes(result) for name in (*node.input, *node.output)}
    taken.update(value.name for value in result.graph.input)
    for node in filter(_leaves_out, all_nodes(result)):
        for index in (index for index, name in enumerate(node.output) if not name):
            node.output[index] = claimed(f"{node.name or node.op_type}/left_out", taken)
    for dim in _negative(result):
        dim.ClearField("dim_value")
    for node in filter(_lacks_default, all_nodes(result)):
        node.attribute.append(_DEFAULTS[node.op_type])
    return result


def _negative(model: ModelProto) -> Iterator[TensorShapeProto.Dimension]:
    """Dimensions that are declared as less than zero."""
    for graph in all_graphs(model.graph):
        for value in chain(graph.input, graph.output, graph.value_info):
            yield from (dim for dim in value.type.tensor_type.shape.dim if dim.dim_value < 0)


# Without the axes onnx cannot infer what MeanVarianceNormalization gives, and it takes a spectrum to have both sides.
_DEFAULTS = {
    "MeanVarianceNormalization": onnx.helper.make_attribute("axes", [0, 2, 3]),
    "STFT": onnx.helper.make_attribute("onesided", 1),
}


def _lacks_default(node: NodeProto) -> bool:
    default = _DEFAULTS.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
    return default is not None and all(a.name != default.name for a in node.attribute)


def _leaves_out(node: NodeProto) -> bool:
    return "" in node.output and any(bodies(node))


def completed(model: ModelProto) -> ModelProto:
    """The model with the inferred type and shape on outputs that have none, as far as they can be inferred.

    Editors of graphs write such outputs and runtimes take them, though the checker does not. The argument is left
    untouched, and returned where there is nothing to do.
    """
    if not _bare(model.graph.output):
        return model
    types = tensor_types(model)
    values = (*model.graph.input, *model.graph.value_info)
    symbols = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim}
    result = copied(model)
    for value in _bare(result.graph.output):
        inferred = types[value.name]
        if inferred.shape is not None:
            value.type.tensor_type.elem_type = inferred.elem_type
            declare(value, [dim if isinstance(dim, int) or dim in symbols else None for dim in inferred.shape])
    return result


def forget_inner_shapes(model: ModelProto) -> bool:
    """Take away, in place, what is declared of tensors inside and of what bodies give; whether there was any."""
    found = False
    for graph in all_graphs(model.graph):
        found |= bool(graph.value_info)
        del graph.value_info[:]
        for value in graph.output if graph is not model.graph else ():
            found |= value.type.tensor_type.HasField("shape")
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    return found


def redeclare_outputs(model: ModelProto) -> tuple[str, ...]:
    """Let outputs declare what is inferred of them, in place, where that is another shape; a note for each."""
    wrong = redeclared(model, {name: tensor.shape for name, tensor in tensors_by_name(model).items()})
    notes = misdeclared(model.graph.output, wrong)
    redeclare(model.graph, wrong)
    return tuple(notes)


def missing_shape(model: ModelProto) -> str | None:
    """The fault of the first input or output without a shape or a type; None if all have them."""
    given = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type not in _TYPES:
            return f"the elements of the input '{value.name}' have no type"
    for value in _bare(value for value in model.graph.input if value.name not in given):
        return f"the input '{value.name}' has no shape, and must have one, with names for sizes that vary"
    for value in _bare(model.graph.output):
        return f"the output '{value.name}' has no shape, and none can be inferred"
    return None


def _bare(values: Iterable[ValueInfoProto]) -> list[ValueInfoProto]:
    """The values without a type, and the tensors without a rank."""
    return [
        value
        for value in values
        if value.type.WhichOneof("value") in (None, "tensor_type") and type_of(value).shape is None
    ]
