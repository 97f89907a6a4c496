"""From a masked model to the smaller dense one, pass by pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes import cost, explain, facts, fold, fuse, layout, rewrite
from passes.errors import GraphError
from passes.report import Report
from passes.shaped import shaped
from passes.tensors import Array


@dataclass(frozen=True)
class Shrunk:
    """A compiled model and what was done to get there."""

    model: onnx.ModelProto
    report: Report


def shrink(model: onnx.ModelProto) -> Shrunk:
    """The same function as a smaller dense graph; `model` is left as it is.

    Raises GraphError when the graph is not valid: nodes out of order, shapes that contradict each other.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare"):
        graph = prepared(model)
    with _timed(seconds, "cost"):
        before = cost.count(model)
    with _timed(seconds, "facts"):
        found = facts.analyse(graph)
    with _timed(seconds, "layout"):
        plan = layout.plan(graph, found)
    with _timed(seconds, "explain"):
        masked, held = explain.explain(graph, found, plan)
    with _timed(seconds, "rewrite"):
        rewrite.apply(graph, found, plan)
    with _timed(seconds, "clean"):
        cleaned(graph)
        compiled = _exported(graph, model)
        _tidy(compiled)
    with _timed(seconds, "cost"):
        after = cost.count(compiled)
    return Shrunk(compiled, Report(before, after, masked, held, seconds))


def prepared(model: onnx.ModelProto) -> gs.Graph:
    """The graph of a model with constants folded, identities gone and shapes on every tensor."""
    _check_order(model.graph)
    graph = shaped(model)
    fold.drop_identities(graph)
    fold.fold_constants(graph)
    fold.drop_unused(graph)
    return graph


def cleaned(graph: gs.Graph) -> None:
    """Leave nothing of the masks behind: fold, fuse, drop, share."""
    fold.fold_constants(graph)
    fuse.drop_neutral(graph)
    fold.drop_identities(graph)
    fuse.fuse(graph)
    fold.drop_unused(graph)
    fold.share_constants(graph)


def bind(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model in which these graph inputs are initializers with these values.

    Raises KeyError if a name is not that of a graph input.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    inputs = {v.name: v for v in bound.graph.input}
    for name, value in values.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        bound.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        bound.graph.input.remove(inputs[name])
    return bound


def _check_order(graph: onnx.GraphProto) -> None:
    ready = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    ready |= {t.values.name for t in graph.sparse_initializer} | {""}
    for node in graph.node:
        label = node.name or f"{node.op_type} -> {', '.join(node.output)}"
        for name in node.input:
            if name not in ready:
                raise GraphError(f"Node `{label}` reads `{name}`, which nothing before it writes.")
        for name in node.output:
            if name and name in ready:
                raise GraphError(f"Node `{label}` writes `{name}`, which already has a value.")
            ready.add(name)
    for value in graph.output:
        if value.name not in ready:
            raise GraphError(f"Nothing writes the graph output `{value.name}`.")


def _exported(graph: gs.Graph, source: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as a model with all that the source says about itself."""
    exported = gs.export_onnx(graph, do_type_check=False)
    model = onnx.ModelProto()
    model.CopyFrom(source)
    model.graph.Clear()
    model.graph.CopyFrom(exported.graph)
    model.graph.name = source.graph.name
    model.graph.doc_string = source.graph.doc_string
    # interfaces as they were: shapes and types in the source's own words
    del model.graph.input[:]
    initializers = {t.name for t in source.graph.initializer}
    model.graph.input.extend(v for v in source.graph.input if v.name not in initializers)
    del model.graph.output[:]
    model.graph.output.extend(source.graph.output)
    model.ir_version = max(source.ir_version, 4) if initializers else source.ir_version
    return model


def _tidy(model: onnx.ModelProto) -> None:
    """Inner shapes are inferred again by whoever wants them; those of the source are no longer true."""
    del model.graph.value_info[:]


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
