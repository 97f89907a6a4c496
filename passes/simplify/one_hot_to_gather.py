"""A matrix product with one-hot rows is a look-up in the matrix.

JAX embeds tokens so: it compares each with all classes, casts that, and multiplies rows of zeros and a one. A token
that is none of the classes has no one, and gets zeros. Scales and shifts after the product go into the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become, erase
from passes.graph.tensors import Array, is_constant, is_float, is_standard, numpy_dtype, shape_of
from passes.ops import rules, traits
from passes.ops.contractions.matmul import MatMul
from passes.weights.quantized import Quantized
from passes.weights.statistics import is_finite
from passes.weights.streaming import is_on_disk

_CLIPS_INTEGERS = 12  # the opset from which Clip does


@dataclass(frozen=True)
class _OneHot:
    """Rows with a one where the token, an integer [..., 1], is the class: int64 [classes]."""

    tokens: gs.Tensor
    classes: Array


def look_up(graph: gs.Graph) -> None:
    """Write products of one-hot rows and a constant matrix as Gathers, where that does not take more weights.

    That is so of classes that follow each other, in any order, and of a matrix of numbers that are finite.
    """
    editor = GraphEditor(graph)
    for node in graph.nodes if editor.opset >= _CLIPS_INTEGERS else ():
        found = (
            _one_hot(node.inputs[0], editor) if isinstance(rules(node), MatMul) and is_float(node.outputs[0]) else None
        )
        rows = None if found is None else _rows(node.inputs[1], found.classes)
        if found is not None and rows is not None:
            _write(node, found, _with_affine(rows, node, editor), editor)
    editor.finish()


def _one_hot(tensor: gs.Tensor, editor: GraphEditor) -> _OneHot | None:
    """What one-hot rows that nothing else reads are made of."""
    cast = editor.sole_producer(tensor)
    equal = editor.sole_producer(cast.inputs[0]) if cast is not None and cast.op == "Cast" else None
    if equal is None or equal.op != "Equal" or not is_standard(equal):
        return None
    rank = len(shape_of(equal.outputs[0]) or ())
    for tokens, classes in (equal.inputs, equal.inputs[::-1]):
        shape = shape_of(tokens)
        if is_constant(tokens) or not is_constant(classes) or tokens.dtype not in (np.int32, np.int64):
            continue
        if shape and len(shape) == rank and shape[-1] == 1 and math.prod(classes.shape) == [1, *classes.shape][-1]:
            values, limits = np.asarray(classes.values).reshape(-1).astype(np.int64), np.iinfo(tokens.dtype)
            if values.size and limits.min < values.min() and values.max() < limits.max:
                return _OneHot(tokens, values)
    return None


def _rows(matrix: gs.Tensor, classes: Array) -> Array | None:
    """The rows of the matrix by class, and one of zeros before and after them: [classes + 2, columns]."""
    if not is_constant(matrix) or isinstance(matrix, Quantized) or is_on_disk(matrix):
        return None
    if len(matrix.shape) != 2 or matrix.shape[0] != classes.size or 2 * matrix.shape[1] > classes.size:
        return None
    order = np.argsort(classes)
    if not np.array_equal(classes[order], classes.min() + np.arange(classes.size)):
        return None
    rows = np.asarray(matrix.values)[order]
    return np.pad(rows, ((1, 1), (0, 0))) if is_finite(rows) else None


def _with_affine(rows: Array, node: gs.Node, editor: GraphEditor) -> Array:
    """The rows with the scales and shifts after the product in them, whose nodes are erased."""
    while (reader := editor.sole_reader(node.outputs[0])) is not None:
        affine = traits.affine(reader)
        if affine is None or affine.axis not in (None, 1):
            break
        changed = (rows.astype(np.float64) * affine.scale + affine.shift).astype(rows.dtype)
        if not is_finite(changed):
            break
        rows, output = changed, reader.outputs[0]
        erase(reader)
        node.outputs = [output]
    return rows


def _write(node: gs.Node, found: _OneHot, rows: Array, editor: GraphEditor) -> None:
    """The product as a Gather of these rows, with what is no class brought to the first or the last of them."""
    tokens, output = found.tokens, node.outputs[0]
    shape, before = [*(shape_of(tokens) or ())][:-1], int(found.classes.min()) - 1

    def emit(op: str, inputs: list[gs.Tensor], attrs: dict[str, object] | None = None) -> gs.Tensor:
        result = editor.variable(f"{output.name}_row", tokens.dtype, shape)
        return editor.emit(op, inputs, result, f"{output.name}_{op.lower()}", attrs, before=node)

    def number(value: int) -> gs.Tensor:
        return editor.constant("row", np.asarray(value, numpy_dtype(tokens)))

    flat = emit("Squeeze", [tokens], {"axes": [-1]})
    place = emit("Clip", [flat, number(before), number(before + len(rows) - 1)])
    place = emit("Sub", [place, number(before)]) if before else place
    become(node, "Gather", [editor.constant(node.inputs[1].name, rows), place], {"axis": 0})
