"""Live masks of one tensor: the slices to compute, axis by axis.

The answers are keep-vectors, one per axis: bool [size], True for slices to keep, None for an axis whose size is not
static. `graph` is a model or, to ask more than once, what `analyse` made of it. The examples speak of `EXAMPLE`, in
which a mask zeroes channel 1 of `h`, and channel 2 meets nothing but zero weights in `v`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.analysis import dataflow
from passes.errors.arguments import typed
from passes.graph.tensors import Dim, Mask, is_constant, shape_of
from passes.ops import rules
from passes.rewriting.channel_facts import Facts
from passes.sizes.prepare import checked

Keep = tuple[Mask | None, ...]

EXAMPLE = """
<ir_version: 8, opset_import: ["" : 17]>
example (float[N,2] x) => (float[N,1] y)
<float[2,3] w = {1,2,3,4,5,6}, float[3] mask = {1,0,1}, float[3,1] v = {1,1,0}>
{
    h = MatMul(x, w)
    m = Mul(h, mask)
    r = Relu(m)
    y = MatMul(r, v)
}
"""


@dataclass(frozen=True)
class Analysis:
    """A graph with its constants folded and its shapes inferred, and what is known and read of every tensor."""

    graph: gs.Graph
    facts: Facts
    tensors: dict[str, gs.Tensor]


@typed
def analyse(model: onnx.ModelProto) -> Analysis:
    """Find what is constant and what is read in a model, which is left as it is.

    Raises GraphError when the graph is not valid.
    """
    graph = checked(model)
    tensors = {t.name: t for t in [*graph.inputs, *graph.outputs]} | dict(graph.tensors())
    return Analysis(graph, dataflow.analyse(graph), tensors)


@typed
def find_input_mask(graph: onnx.ModelProto | Analysis, tensor: str) -> Keep:
    """Per axis, the slices that are not a known constant: forward from the inputs, masks and weights.

    Raises LookupError if there is no such tensor, GraphError when the graph is not valid.

    >>> model = onnx.parser.parse_model(EXAMPLE)
    >>> find_input_mask(model, "r")
    (None, array([ True, False,  True]))
    """
    return _per_axis(*_found(graph, tensor), lambda *of: ~_constant(*of))


@typed
def find_output_mask(graph: onnx.ModelProto | Analysis, tensor: str) -> Keep:
    """Per axis, the slices that something reads which is not a constant itself: backward from the outputs.

    Nothing is read to compute a constant, so what a mask zeroes is not read before the mask either. The weights of a
    convolution count as read whole. Raises as `find_input_mask` does.

    >>> model = onnx.parser.parse_model(EXAMPLE)
    >>> find_output_mask(model, "r")
    (None, array([ True,  True, False]))
    >>> find_output_mask(model, "h")
    (None, array([ True, False, False]))
    """
    return _per_axis(*_found(graph, tensor), _read)


@typed
def find_mask(graph: onnx.ModelProto | Analysis, tensor: str) -> Keep:
    """Per axis, the slices to compute: read, and not a known constant.

    Raises as `find_input_mask` does.

    >>> model = onnx.parser.parse_model(EXAMPLE)
    >>> find_mask(model, "r")
    (None, array([ True, False, False]))
    """
    return _per_axis(*_found(graph, tensor), _live)


@typed
def pruned_shape(graph: onnx.ModelProto | Analysis, tensor: str) -> tuple[Dim, ...] | None:
    """The shape that is left of the tensor when only what `find_mask` keeps is computed.

    Symbolic sizes keep their names (None where they have none); the shape is None where not even the rank is known.
    A compiled model may store more where that is cheaper. Raises as `find_input_mask` does.

    >>> model = onnx.parser.parse_model(EXAMPLE)
    >>> pruned_shape(model, "r")
    ('N', 1)
    """
    analysis, found = _found(graph, tensor)
    shape = shape_of(found)
    if shape is None:
        return None
    kept = find_mask(analysis, tensor)
    return tuple(dim if keep is None else int(keep.sum()) for dim, keep in zip(shape, kept, strict=True))


def _found(graph: onnx.ModelProto | Analysis, tensor: str) -> tuple[Analysis, gs.Tensor]:
    analysis = graph if isinstance(graph, Analysis) else analyse(graph)
    if tensor not in analysis.tensors:
        near = difflib.get_close_matches(tensor, analysis.tensors, n=3)
        hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        raise LookupError(f"The graph has no tensor '{tensor}', or it is computed from constants alone.{hint}")
    return analysis, analysis.tensors[tensor]


def _per_axis(analysis: Analysis, tensor: gs.Tensor, keep: Callable[[Analysis, gs.Tensor, int, int], Mask]) -> Keep:
    sizes = [analysis.facts.size(tensor, axis) for axis in range(len(shape_of(tensor) or ()))]
    return tuple(None if size is None else keep(analysis, tensor, axis, size) for axis, size in enumerate(sizes))


def _constant(analysis: Analysis, tensor: gs.Tensor, axis: int, size: int) -> Mask:
    known = analysis.facts.known(tensor, axis) if is_constant(tensor) else None
    return analysis.facts.constant_mask(tensor, axis) if known is None else known.mask


def _read(analysis: Analysis, tensor: gs.Tensor, axis: int, size: int) -> Mask:
    if not is_constant(tensor):
        return analysis.facts.slices_read(tensor, axis)
    read_by_any = np.zeros(size, bool)
    if any(t is tensor for t in analysis.graph.outputs):
        return ~read_by_any
    for node in tensor.outputs:
        if not any(analysis.facts.is_live(t) for t in node.outputs):
            continue
        told = {(i, a): mask for i, a, mask in rules(node).reads(node, analysis.facts)}
        for i, operand in enumerate(node.inputs):
            if operand is tensor:
                read_by_any |= told.get((i, axis), np.ones(size, bool))
    return read_by_any


def _live(analysis: Analysis, tensor: gs.Tensor, axis: int, size: int) -> Mask:
    if not is_constant(tensor):
        return analysis.facts.live(tensor, axis).copy()
    return _read(analysis, tensor, axis, size) & ~_constant(analysis, tensor, axis, size)
