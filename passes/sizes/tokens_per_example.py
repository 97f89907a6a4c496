"""Positions of one example along an axis whose size is not static.

Costs count a size that is not static as one. To compare them it must be a usual one: of an image so many pixels, fewer
after each stride, and where a reshape merges an open batch with tokens or windows, these for each example.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import Expression
from passes.graph.tensors import Dim, shape_of
from passes.ops import rules
from passes.ops.shape import Rearrangement
from passes.rewriting.channel_facts import Facts

#: height or width of an image where nothing is known of them, or tokens of a text
USUAL = 32
#: height and width of an image that a model is given
IMAGE = 224
_IMAGE_RANK = 4


def multiples(graph: gs.Graph, facts: Facts | None = None) -> dict[str, int]:
    """By the name of a size that is not static: how much of it each example brings. Those absent bring one.

    Without `facts` only sizes that a reshape makes are counted.
    """
    given = {*_open_sizes(graph.inputs)}
    sizes = {} if facts is None else _usual_inputs(graph)
    for node in graph.nodes:
        for dim in _open_sizes(node.outputs):
            if isinstance(dim, Expression) and dim not in sizes:
                polynomial = dim.polynomial
                sizes[dim] = max(polynomial.at({name: sizes.get(name, 1) for name in polynomial.symbols}) or 1, 1)
        if isinstance(rules(node), Rearrangement):
            sizes |= _regrouped(shape_of(node.inputs[0]) or (), shape_of(node.outputs[0]) or (), given, sizes)
        if facts is not None:  # the rest depends on data
            sizes |= {d: USUAL for d in _open_sizes(node.outputs, 1) if d not in given and d not in sizes}
    return sizes


def _open_sizes(tensors: Iterable[gs.Tensor], first: int = 0) -> list[str]:
    """The sizes that are not static of tensors, but for those that nothing is known of, from axis `first` on."""
    return [d for t in tensors for d in (shape_of(t) or ())[first:] if isinstance(d, str)]


def _regrouped(
    before: Sequence[Dim], after: Sequence[Dim], given: Collection[str], sizes: Mapping[str, int]
) -> dict[str, int]:
    """The size that a reshape makes of others, as the elements for one example have it; none unless it is one."""
    new = [d for d in after if isinstance(d, str) and d not in before and d not in given and d not in sizes]
    if len(new) != 1 or None in before or None in after:
        return {}
    others = _elements(after, sizes)
    times, rest = divmod(_elements(before, sizes), others) if others else (0, 0)
    return {new[0]: times} if times and not rest else {}


def _usual_inputs(graph: gs.Graph) -> dict[str, int]:
    """Usual sizes for the open ones of inputs, but for the first of each, the batch."""
    shapes = [shape_of(t) or () for t in graph.inputs]
    batches = {shape[0] for shape in shapes if shape}
    return {
        d: IMAGE if len(shape) == _IMAGE_RANK else USUAL
        for shape in shapes
        for d in shape
        if isinstance(d, str) and d not in batches
    }


def repeated(tensor: gs.Tensor, found: Mapping[str, int]) -> int:
    """How many times more elements the tensor has for one example than `volume` counts."""
    return math.prod(found.get(d, 1) for d in shape_of(tensor) or () if isinstance(d, str)) if found else 1


def _elements(shape: Iterable[Dim], found: Mapping[str, int]) -> int:
    return math.prod(d if isinstance(d, int) else found.get(d or "", 1) for d in shape)


def usual_sizes(tensor: gs.Tensor, found: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """The sizes of a tensor, with 1 for a batch that is not static and `USUAL` for any other such size.

    `found`: the `multiples` of such sizes, where they were asked for.
    """
    shape, known = shape_of(tensor) or (), found or {}
    return tuple(d if isinstance(d, int) else known.get(d or "", USUAL if axis else 1) for axis, d in enumerate(shape))
