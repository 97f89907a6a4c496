"""Makes a model that fails smaller while it keeps failing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, numpy_helper

from maskc.frontend.graph_queries import all_graphs as graphs

Fails = Callable[[ModelProto], bool]


def minimize(model: ModelProto, fails: Fails, *, seconds: float = 60) -> ModelProto:
    """The smallest model found, by cutting ends, bypassing nodes and simplifying constants, that `fails`.

    `fails` is called on valid models only and must be true of `model` itself. The search ends when nothing
    can be taken away any more, or after `seconds`.
    """
    end = time.monotonic() + seconds
    outside = _tidy(_constants_outside(model))
    model = outside if fails(outside) else model
    size = model.ByteSize() + 1
    while model.ByteSize() < size and time.monotonic() < end:
        size = model.ByteSize()
        for shorten in _WAYS:
            tried, more = 0, True
            while more and time.monotonic() < end:
                more = False
                for candidate in islice(shorten(model), tried, None):
                    candidate = _tidy(candidate)
                    if time.monotonic() > end:
                        break
                    if candidate != model and _valid(candidate) and fails(candidate):
                        model, more = candidate, True
                        break
                    tried += 1
    return model


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return bool(model.graph.output) and bool(model.graph.node)


def _constants_outside(model: ModelProto) -> ModelProto:
    """Constant nodes as initializers."""
    model = _copy(model)
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _tidy(model: ModelProto) -> ModelProto:
    """Without nodes, initializers, declared shapes and inputs that nothing reads."""
    model = _copy(model)
    graph = model.graph
    del graph.value_info[:]
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(o in needed for o in node.output):
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    needed.update(n for g in graphs(attribute.g) for inner in g.node for n in inner.input)
                    needed.update(o.name for g in graphs(attribute.g) for o in g.output)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for items in (graph.initializer, graph.input):
        held = [i for i in items if i.name in needed]
        del items[:]
        items.extend(held)
    return model


def _types(model: ModelProto) -> dict[str, ValueInfoProto]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return {}
    found = {i.name: i for i in (*inferred.graph.value_info, *inferred.graph.output)}
    for info in found.values():  # names that inference made up would bind sizes together
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):
                dim.ClearField("dim_param")
    return found


def _fewer_outputs(model: ModelProto) -> Iterator[ModelProto]:
    for k in range(len(model.graph.output)):
        if len(model.graph.output) > 1:
            candidate = _copy(model)
            del candidate.graph.output[k]
            yield candidate


def _earlier_outputs(model: ModelProto) -> Iterator[ModelProto]:
    """Some inner tensors as outputs instead of what is made of them, from the front to the back."""
    types = _types(model)
    outputs = {o.name for o in model.graph.output}
    for node in model.graph.node[:-1]:
        infos = [types[o] for o in node.output if o in types and o not in outputs]
        if infos and all(i.type.tensor_type.HasField("shape") for i in infos):
            candidate = _copy(model)
            del candidate.graph.output[:]
            candidate.graph.output.extend(infos)
            yield candidate


def _later_inputs(model: ModelProto) -> Iterator[ModelProto]:
    """Inner tensors as inputs instead of being computed, from the back to the front."""
    types = _types(model)
    outputs = {o.name for o in model.graph.output}
    for k, node in reversed(list(enumerate(model.graph.node))):
        infos = [types.get(o) for o in node.output if o]
        if not all(i and i.type.tensor_type.HasField("shape") for i in infos) or set(node.output) & outputs:
            continue
        candidate = _copy(model)
        del candidate.graph.node[k]
        candidate.graph.input.extend(i for i in infos if i)
        yield candidate


def _without_node(model: ModelProto) -> Iterator[ModelProto]:
    """A node left out where one of its inputs can stand for its output."""
    types = _types(model)
    types.update({i.name: i for i in model.graph.input})
    outputs = {o.name for o in model.graph.output}
    for k, node in reversed(list(enumerate(model.graph.node))):
        if len(node.output) != 1 or node.output[0] not in types or node.output[0] in outputs:
            continue
        made = types[node.output[0]].type
        for name in node.input:
            if name in types and types[name].type == made:
                candidate = _copy(model)
                del candidate.graph.node[k]
                for other in candidate.graph.node:
                    for i, read in enumerate(other.input):
                        if read == node.output[0]:
                            other.input[i] = name
                yield candidate


def _fixed_sizes(model: ModelProto) -> Iterator[ModelProto]:
    """Symbolic dimensions as numbers, one name at a time; then those that have no name."""
    dims = [d for i in model.graph.input for d in i.type.tensor_type.shape.dim if not d.HasField("dim_value")]
    for name in sorted({d.dim_param for d in dims}):
        candidate = _copy(model)
        for info in candidate.graph.input:
            for dim in info.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value") and dim.dim_param == name:
                    dim.dim_value = {"N": 1, "H": 6, "W": 5, "T": 7}.get(name, 2)
        for info in candidate.graph.output:
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")
        yield candidate


def _plain_constants(model: ModelProto) -> Iterator[ModelProto]:
    """Floating-point constants as ones, as zeros, or as few digits."""
    for k, tensor in enumerate(model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f" or array.size == 0:
            continue
        for simple in (np.ones_like(array), np.round(array * 2) / 2):
            if not np.array_equal(simple, array) and (array == 0).sum() >= (simple == 0).sum():
                candidate = _copy(model)
                plain = numpy_helper.from_array(simple.astype(array.dtype), tensor.name)
                candidate.graph.initializer[k].CopyFrom(plain)
                yield candidate


_WAYS = (_earlier_outputs, _fewer_outputs, _later_inputs, _without_node, _fixed_sizes, _plain_constants)
