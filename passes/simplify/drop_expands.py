"""Expands ahead of operators that broadcast: these read what is repeated for them as it was before.

PyTorch repeats the norms that `normalize` divides by. As they were before, they are one number for all channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import broadcast
from passes.graph.tensors import Dim, is_constant, is_float, shape_of
from passes.ops import rules
from passes.ops.elementwise import Elementwise
from passes.ops.shape import Expand


def drop_expands(graph: gs.Graph) -> None:
    """Let elementwise operators read what an Expand reads where they give the same.

    Masks that are true or false stay as they are: runtimes fuse attention by the form of its mask.
    """
    for node in graph.nodes:
        if isinstance(rules(node), Expand) and is_float(node.outputs[0]) and not is_constant(node.inputs[0]):
            once, repeated = node.inputs[0], node.outputs[0]
            for reader in [n for n in repeated.outputs if _broadcasts(n, repeated, shape_of(once))]:
                reader.inputs = [once if t is repeated else t for t in reader.inputs]


def _broadcasts(reader: gs.Node, repeated: gs.Tensor, shape: Sequence[Dim] | None) -> bool:
    """Whether the node gives the same sizes if it reads a tensor of this shape instead."""
    op, before = rules(reader), shape_of(repeated)
    if not isinstance(op, Elementwise) or not op.broadcasts or type(op).align is not Elementwise.align:
        return False
    others = [shape_of(t) for t in reader.inputs if t is not repeated]
    after = broadcast([before, *others])
    return None not in (before, shape, after) and None not in (after or ()) and broadcast([shape, *others]) == after
