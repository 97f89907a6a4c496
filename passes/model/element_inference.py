"""Inference by onnx that follows the elements of vectors which are made of sizes, where no vector is long."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from passes.model.declarations import dims_of
from passes.model.graph_to_onnx import described_as

# Sizes: inference that follows elements writes down those of any vector, and of long ones they fill the memory.
_LONGEST = 2**20
# Operators that make vectors as long as elements say.
_MAKERS = frozenset({"ConstantOfShape", "Expand", "Range", "Tile"})


def with_elements(model: onnx.ModelProto, strict: bool = False) -> onnx.ModelProto:
    """What onnx infers of a model, elements of vectors that are made of sizes followed where no vector is long.

    Raises the errors of `onnx.shape_inference`.
    """
    plain = onnx.shape_inference.infer_shapes(model, strict_mode=strict)
    if _has_long_vector(plain.graph) or _makes_long_vector(model, plain):
        return plain
    return onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)


def _has_long_vector(graph: onnx.GraphProto) -> bool:
    """Whether a vector of the graph, or of one that its nodes hold, has more elements than are to be followed."""
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 1 and dims[0].dim_value > _LONGEST:
            return True
    return any(map(_has_long_vector, bodies_of(graph)))


def _makes_long_vector(model: onnx.ModelProto, plain: onnx.ModelProto) -> bool:
    """Whether a vector is made as long in the main graph, of a length that only its elements tell.

    `plain` is what was inferred without these. What reads such vectors is left out, so that nothing follows them.
    """
    made = {n.output[0] for n in model.graph.node if n.op_type in _MAKERS}
    if not made:
        return False
    known = {v.name: dims_of(v) for v in (*plain.graph.value_info, *plain.graph.output) if v.name in made}

    def is_open(name: str) -> bool:
        dims = known.get(name)
        return dims is None or (len(dims) == 1 and not isinstance(dims[0], int))

    lengths = set(filter(is_open, made))
    if not lengths:
        return False
    part, beyond = described_as(model), set(lengths)
    for node in model.graph.node:
        if beyond.isdisjoint(node.input):
            part.graph.node.append(node)
        else:
            beyond.update(node.output)
    part.graph.input.extend(model.graph.input)
    part.graph.initializer.extend(model.graph.initializer)
    found = onnx.shape_inference.infer_shapes(part, data_prop=True).graph
    return _has_long_vector(found)


def bodies_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs that nodes of this one hold."""
    return (a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH)
