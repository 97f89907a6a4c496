"""How many positions of one example a size that is not static counts.

Where a reshape merges an open batch with tokens or windows, the new size counts these for each example. Costs count a
size that is not static as one; this says what they are to be multiplied with before they are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx_graphsurgeon as gs

from passes.graph.tensors import Dim, shape_of
from passes.ops import rules
from passes.ops.shape import Rearrangement

#: height or width of an image where nothing is known of them
USUAL = 32


def multiples(graph: gs.Graph) -> dict[str, int]:
    """By the name of a size that is not static: how much of it each example brings. Those absent bring one."""
    found: dict[str, int] = {}
    given = {d for t in graph.inputs for d in shape_of(t) or () if isinstance(d, str)}
    for node in graph.nodes:
        if not isinstance(rules(node), Rearrangement):
            continue
        before, after = shape_of(node.inputs[0]) or (), shape_of(node.outputs[0]) or ()
        made = [d for d in after if isinstance(d, str) and d not in before and d not in given and d not in found]
        if len(made) != 1 or None in before or None in after:
            continue
        elements, others = _elements(before, found), _elements(after, found)
        if others and elements >= others and elements % others == 0:
            found[made[0]] = elements // others
    return found


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
