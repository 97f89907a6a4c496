"""Separation of what constants add to sums of data that are quantised by their range.

The steps of a constant depend on the range, so no weights or bias can take in what it adds. But it adds the same to
every sum: a product of the steps of the constants alone, found at run time, which is added to the sums of the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import FLOPS_PER_ADDED_ELEMENT
from passes.graph.editor import GraphEditor
from passes.graph.subgraphs import is_read_by_others
from passes.graph.tensors import Mask, along, shape_of
from passes.ops import rules
from passes.ops.contractions.integer import IntegerSums
from passes.ops.traits import WeightedSum
from passes.rewriting.channel_facts import Facts
from passes.weights.quantized import twin


def separate(graph: gs.Graph, facts: Facts) -> frozenset[str]:
    """Separate constants where adding takes less than reading them. Names of the tensors that are new.

    The function of the graph stays the same; facts have to be found anew where there are new tensors.
    """
    editor = GraphEditor(graph)
    found = [(node, each, _constants(node, each, facts)) for node in graph.nodes for each in _sums(editor, node)]
    made: list[str] = []
    for node, each, gone in found:
        if 2 * 2.0 * np.count_nonzero(gone) >= FLOPS_PER_ADDED_ELEMENT:  # they take as much again where they are made
            made += _write(editor, node, each, facts, gone)
    editor.finish()
    return frozenset(made)


def _sums(editor: GraphEditor, node: gs.Node) -> Iterator[WeightedSum]:
    """Sums that read the same at each place, of data that nothing else reads before or after their range is taken."""
    op = rules(node)
    if not isinstance(op, IntegerSums) or op.has_stored_zero(node) or any(node.attrs.get("pads", ())):
        return
    for each in op.weighted_sums(node):
        window = {size for size, letter in zip(each.weights.shape, each.along, strict=True) if letter == "k"}
        alone = editor.sole_reader(node.inputs[0]) is not None and editor.sole_reader(each.data) is not None
        if window <= {1} and alone and not is_read_by_others(each.weights):
            yield each


def _constants(node: gs.Node, each: WeightedSum, facts: Facts) -> Mask:
    """The channels that are read and are constant, but not zero."""
    op, inner, known = rules(node), each.along.index("c"), facts.constant_slices(each.data, each.axes[0])
    assert isinstance(op, IntegerSums)
    steps = op.steps(node)
    if known.mask.size != steps.shape[inner]:
        return np.zeros(0, bool)
    return np.asarray(known.mask & (known.value != 0) & steps.any(axis=tuple({*range(steps.ndim)} - {inner})))


def _write(editor: GraphEditor, node: gs.Node, each: WeightedSum, facts: Facts, gone: Mask) -> list[str]:
    """Sum constant channels apart, and let the node have no weights for them; the names of the tensors that are new."""
    op, (axis,), inner, weights, result = rules(node), each.axes, each.along.index("c"), each.weights, node.outputs[0]
    assert isinstance(op, IntegerSums)
    (data, scale, zero), stored = node.inputs[0].inputs[0].outputs, op.stored_steps(node, weights)
    shape, others = shape_of(result) or (), tuple({*range(len(weights.shape))} - {inner})
    vector = along(axis, len(shape))
    values = editor.constant("constants", facts.constant_slices(each.data, axis).value[gone].reshape(vector))
    levels = editor.variable("levels", data.dtype, values.shape)
    sums = editor.variable(
        f"{result.name}_of_constants", result.dtype, [s if n < 0 else 1 for s, n in zip(shape, vector, strict=True)]
    )
    rest = editor.variable(f"{result.name}_of_others", result.dtype, shape)
    theirs = editor.constant(weights.name, stored.numbers.compress(gone, axis=inner))
    without = np.where(np.expand_dims(gone, others), stored.zero, stored.numbers).astype(stored.numbers.dtype)
    editor.emit("QuantizeLinear", [values, scale, zero], levels, f"{node.name}_levels", before=node)
    # ONNX Runtime cannot make 8-bit weights unsigned whose zero point is shared
    beside = [levels, theirs, zero, *(twin(editor, t) for t in node.inputs[3:] if isinstance(t, gs.Constant))]
    editor.emit(node.op, beside, sums, f"{node.name}_of_constants", dict(node.attrs), before=node)
    node.inputs[op.weight], node.outputs[0] = editor.constant(weights.name, without), rest
    editor.emit("Add", [rest, sums], result, f"{node.name}_add", after=node)
    return [levels.name, sums.name, rest.name]
