"""Declared shapes of tensors, beside the inferred ones.

It need not be true: runtimes warn of outputs of another shape, and ignore notes on inner tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError
from passes.graph.tensors import Dim

#: how the names begin that stand for sizes of which nothing is known
MADE_UP = "unk__"


def dims_of(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """Dimensions of a value: sizes, symbols, None where nothing is known; None if the rank is not known."""
    tensor = value.type.tensor_type  # of what is no tensor it has no shape
    if not tensor.HasField("shape"):
        return None
    # a size below zero is that of a branch which is never taken
    return [
        size if (size := dim.dim_value) > 0 or (size == 0 and dim.HasField("dim_value")) else (dim.dim_param or None)
        for dim in tensor.shape.dim
    ]


def is_made_up(dim: Dim, given: Collection[str] = ()) -> bool:
    """Whether nothing is known of a size; `given` are names that inputs have, which begin as they like."""
    return dim is None or (isinstance(dim, str) and dim.startswith(MADE_UP) and dim not in given)


def symbol_of(dim: onnx.TensorShapeProto.Dimension) -> str:
    """The name of a size, empty where there is none."""
    return dim.dim_param if is_name(dim.dim_param) else ""


def is_name(text: str | None) -> bool:
    """Whether this is the name of a size: some exporters write "?" for every size they do not know."""
    return any(c.isalnum() for c in text or "")


def annotated(model: onnx.ModelProto) -> set[str]:
    """Tensors noted in the model that an operator writes which onnx does not know."""
    noted = {v.name for v in model.graph.value_info}
    return noted & written_by_unknown(model.graph) if noted else noted


def written_by_unknown(graph: onnx.GraphProto) -> set[str]:
    """Tensors that operators write which onnx does not know."""
    return {name for n in graph.node if not onnx.defs.has(n.op_type, n.domain) for name in n.output}


def check_noted(model: onnx.ModelProto, graph: gs.Graph) -> None:
    """Raise GraphError, naming the tensor, where `model` notes other sizes than were inferred for an inner tensor.

    Only of tensors that an operator writes which onnx does not know are notes believed.
    """
    noted = annotated(model)
    found = {t.name: t.shape for n in graph.nodes if noted for t in n.outputs}
    for value in (v for v in model.graph.value_info if v.name in noted):
        declared, dims = dims_of(value), found.get(value.name)
        if contradict(declared, dims):
            raise GraphError(
                f"Tensor `{value.name}` is declared as {written(declared)}, and what the graph computes is "
                f"{written(dims)}. Declare the sizes that it has, or none."
            )


def symbols(model: onnx.ModelProto) -> set[str]:
    """The names of sizes of its inputs; the empty name where a size has none."""
    return {symbol_of(dim) for value in model.graph.input for dim in value.type.tensor_type.shape.dim}


def redeclared(model: onnx.ModelProto, found: Mapping[str, Sequence[Dim] | None]) -> dict[str, list[Dim]]:
    """The shapes of those outputs of `model` that declare other ones than were found for them.

    A number where an input leaves the size open is another shape too. Runtimes warn of these and run the model. Sizes
    without a name that the model has are None.
    """
    names = symbols(model)
    return {
        value.name: [d if isinstance(d, int) or d in names else None for d in dims]
        for value in model.graph.output
        if (dims := found.get(value.name)) is not None and contradict(dims_of(value), dims, names)
    }


def misdeclared(outputs: Iterable[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[Dim]]) -> list[str]:
    """A sentence about each of these outputs whose shape is another one than it declares."""
    return [
        f"Output `{value.name}` is declared as {written(dims_of(value))} and is {written(shapes[value.name])}; the "
        "compiled model declares what it is."
        for value in outputs
        if value.name in shapes
    ]


def redeclare(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[Dim]]) -> None:
    """Let these outputs declare these shapes."""
    for value in graph.output:
        if value.name in shapes:
            declare(value, shapes[value.name])


def declare(value: onnx.ValueInfoProto, dims: Sequence[Dim]) -> None:
    """Let a tensor declare this shape."""
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    shape.SetInParent()
    for dim in dims:
        proto = shape.dim.add()
        if not isinstance(dim, int):
            proto.dim_param = dim or ""
        elif dim < 2**63:
            proto.dim_value = dim
        else:
            proto.Clear()


def contradict(declared: Sequence[Dim] | None, dims: Sequence[Dim] | None, opened: Collection[str] = ()) -> bool:
    """Whether a tensor of the one shape cannot have the other one, or does not always where these sizes are open."""
    if declared is None or dims is None:
        return False
    sizes = [(d, f) for d, f in zip(declared, dims, strict=False) if isinstance(d, int)]
    return len(declared) != len(dims) or any(
        f in opened if isinstance(f, str) else f not in (None, d) for d, f in sizes
    )


def written(dims: Sequence[Dim] | None) -> str:
    """A shape as messages show it."""
    return f"[{', '.join('?' if d is None else str(d) for d in dims or ())}]"
