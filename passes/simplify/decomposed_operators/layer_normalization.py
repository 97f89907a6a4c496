"""A decomposed LayerNormalization of masked channels becomes the operator, or the steps that runtimes know as one.

The rules of the operator leave channels out and put zeros behind the others; the steps, with constants in the
statistics, would each take their time. Without masks nothing is gained, as runtimes fuse what they load.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, erase
from passes.graph.expression_match import Expression, Match, X, match_at, number_of
from passes.graph.tensors import Array, is_standard, shape_of, values_of
from passes.ops.reduction import reduced_axes
from passes.rewriting.channel_facts import Facts
from passes.simplify import dead_code

#: that brought the operator
OPSET = 17

# Names of initializers.
_SCALE, _BIAS, _EPSILON = "scale", "bias", "epsilon"

_MEAN: Expression = ("ReduceMean", X)
_CENTRED: Expression = ("Sub", X, _MEAN)
_SQUARES: tuple[Expression, ...] = (("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED))
_ROOTS: tuple[Expression, ...] = tuple(("Sqrt", ("Add", ("ReduceMean", square), _EPSILON)) for square in _SQUARES)
_INVERSE: tuple[Expression, ...] = tuple(each for r in _ROOTS for each in (("Reciprocal", r), ("Div", 1.0, r)))
_NORMALISED: tuple[Expression, ...] = (
    *(("Div", _CENTRED, root) for root in _ROOTS),
    *(("Mul", _CENTRED, inverse) for inverse in _INVERSE),
)
_SCALED: tuple[Expression, ...] = tuple(("Mul", normalised, _SCALE) for normalised in _NORMALISED)


def _of_batch_normalization(inverse: Expression) -> tuple[Expression, ...]:
    """x · s + (bias - mean · s), as TensorFlow computes it."""
    factor: Expression = ("Mul", inverse, _SCALE)
    product: Expression = ("Mul", X, factor)
    shifts: tuple[Expression, ...] = (
        ("Sub", _BIAS, ("Mul", _MEAN, factor)),
        ("Add", ("Mul", ("Neg", _MEAN), factor), _BIAS),
    )
    return tuple(("Add", product, shift) for shift in shifts)


# By the last operator: what there is most of comes first.
_EXPRESSIONS: dict[str, tuple[Expression, ...]] = {
    "Add": (
        *(("Add", scaled, _BIAS) for scaled in _SCALED),
        *(each for inverse in _INVERSE for each in _of_batch_normalization(inverse)),
    ),
    "Mul": (*_SCALED, *_NORMALISED),
    "Div": _NORMALISED,
}


def fuse(graph: gs.Graph, facts: Facts) -> bool:
    """Fuse those over the last axis, in single precision, of which channels are constants; whether there are any.

    The opset may know nothing of the operator; `contrib_operators.decompose` writes its steps.
    """
    if not any(node.op == "Sqrt" for node in graph.nodes):
        return False
    editor, fused = GraphEditor(graph), False
    ends = [node for op in _EXPRESSIONS for node in graph.nodes if node.op == op and is_standard(node)]
    for node in ends:
        found = next((m for e in _EXPRESSIONS[node.op] if node.outputs and (m := match_at(e, node.outputs[0]))), None)
        if found is not None and _is_masked(found.tensors[X], facts):
            fused |= _fused(found, facts, editor)
    editor.finish()
    if fused:
        dead_code.drop_unused(graph)
    return fused


def _is_masked(data: gs.Tensor, facts: Facts) -> bool:
    rank = len(shape_of(data) or ())
    return rank > 0 and data.dtype == np.float32 and bool(facts.constant_slices(data, rank - 1).mask.any())


def _fused(found: Match, facts: Facts, editor: GraphEditor) -> bool:
    """Put the operator in place of the last of these nodes, where they are one; whether they are."""
    data, last = found.tensors[X], found.nodes[-1]
    shape, output = shape_of(data) or (), last.outputs[0]
    size = facts.size(data, len(shape) - 1)
    assert size is not None  # channels of it are known
    epsilon = number_of(found.tensors[_EPSILON])
    given = (found.tensors.get(name) for name in (_SCALE, _BIAS))
    # decomposed again it is recognised with both of them alone
    vectors = [
        _vector(np.asarray(default, np.float32) if tensor is None else values_of(tensor), size)
        for tensor, default in zip(given, (1, 0), strict=True)
        if default or tensor is not None or editor.opset < OPSET
    ]
    means = [node for node in found.nodes if node.op == "ReduceMean"]
    over_last = all(reduced_axes(n) == {len(shape) - 1} and n.attrs.get("keepdims", 1) for n in means)
    operands = [editor.constant(f"{output.name}_vector", vector) for vector in vectors if vector is not None]
    if epsilon is None or epsilon <= 0 or not over_last or len(operands) < len(vectors):
        return False
    erase(last)
    attrs = {"axis": -1, "epsilon": epsilon}
    editor.emit("LayerNormalization", [data, *operands], output, last.name, attrs, before=last)
    return True


def _vector(values: Array, size: int) -> Array | None:
    """The values for each of the channels; None if they differ along other axes."""
    if values.size not in (1, size) or (values.shape or (1,))[-1] != values.size:
        return None
    return np.broadcast_to(values.reshape(-1), (size,)).copy()
