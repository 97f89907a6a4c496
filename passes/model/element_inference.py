"""Inference by onnx that follows the elements of vectors which are made of sizes, where no vector is long."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

from passes.graph.tensors import Dim
from passes.model.declarations import dims_of
from passes.model.outline import described_as

# Sizes: inference that follows elements writes down those of any vector, and of long ones they fill the memory.
_LONGEST = 2**20
# Operators that make vectors as long as elements say.
_MAKERS = frozenset({"ConstantOfShape", "Expand", "Range", "Tile"})
# Operators that make vectors and numbers of the sizes of any tensor.
_MEASURES = frozenset({"Shape", "Size"})


def with_elements(
    model: onnx.ModelProto, strict: bool = False, plain: onnx.ModelProto | None = None, *, short: bool = False
) -> onnx.ModelProto:
    """What onnx infers of a model, elements of vectors that are made of sizes followed where no vector is long.

    plain: what it infers without following them, where it has been asked. short: whether all vectors are known not to
    be long. Raises the errors of `onnx.shape_inference`.
    """
    written = model.SerializeToString()  # as inference would, each time
    if not short:
        if plain is None:
            plain = onnx.shape_inference.infer_shapes(written, strict_mode=strict)
        if not _is_followed(model, plain):
            return plain
    return onnx.shape_inference.infer_shapes(written, strict_mode=strict, data_prop=True)


def are_short(model: onnx.ModelProto, known: Callable[[str], Sequence[Dim] | None]) -> bool:
    """Whether it is known that no vector of a model is long: by the shapes that are declared of all that is written.

    Inference never contradicts these, and follows no elements through an operator of which it would infer other ones.
    """
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 1 and dims[0].dim_value > _LONGEST:
            return False
    for name in (name for node in model.graph.node for name in node.output if name):
        shape = known(name)
        if shape is None or (len(shape) == 1 and not (isinstance(shape[0], int) and shape[0] <= _LONGEST)):
            return False
    return not any(True for _ in bodies_of(model.graph))


def _is_followed(model: onnx.ModelProto, plain: onnx.ModelProto) -> bool:
    """Whether there are elements to follow, and no vector is long; `plain` is what was inferred without."""
    ranks: dict[str, int] = {}
    for value in (*plain.graph.input, *plain.graph.value_info, *plain.graph.output):
        dims = value.type.tensor_type.shape.dim
        ranks[value.name] = rank = len(dims)
        if rank == 1 and dims[0].dim_value > _LONGEST:
            return False
    bodies = [*bodies_of(plain.graph)]
    if any(map(_has_long_vector, bodies)) or not (bodies or _follows_any(model.graph, ranks)):
        return False
    return not _makes_long_vector(model, plain)


def _follows_any(graph: onnx.GraphProto, ranks: Mapping[str, int]) -> bool:
    """Whether there are elements to follow: those of an operator's first operand, where it may have less than two axes.

    ranks: the number of axes by tensor, 0 where it is not known.
    """
    for node in graph.node:
        kind = node.op_type
        if _follows(kind) and (kind in _MEASURES or not node.input or ranks.get(node.input[0], 0) < 2):
            return True
    return False


@functools.cache
def _follows(kind: str) -> bool:
    """Whether inference follows elements through an operator."""
    return onnx.defs.has(kind) and onnx.defs.get_schema(kind).has_data_propagation_function


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
    # asking whether there are attributes takes less than going through none
    return (a.g for n in graph.node if n.attribute for a in n.attribute if a.type == onnx.AttributeProto.GRAPH)
