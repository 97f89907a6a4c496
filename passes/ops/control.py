"""Control flow, whose subgraphs are shrunk as graphs of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from passes.ops.base import Constants, Known, Op, register
from passes.subgraphs import subgraphs
from passes.tensors import shape_of

if TYPE_CHECKING:
    from passes.facts import Facts


@register("Loop", "Scan")
class ControlFlow(Op):
    """Reads what its graphs read, whole. What these compute is counted there."""

    def cost(self, node: gs.Node) -> tuple[int, int]:
        return 0, 0


@register("If")
class If(ControlFlow):
    """What both branches say is so."""

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        branches = [(body, inside) for body in subgraphs(node) if (inside := facts.inside.get(id(body))) is not None]
        for output, tensor in enumerate(node.outputs):
            for axis in range(len(shape_of(tensor) or ())):
                known = [inside.known(body.outputs[output], axis) for body, inside in branches]
                both = _agreed([k for k in known if k is not None])
                if len(known) == 2 and None not in known and both.mask.size == facts.size(tensor, axis):
                    yield output, axis, both


def _agreed(known: list[Known]) -> Known:
    """Slices that all say to be the same constant."""
    if not known or len({k.mask.size for k in known}) > 1:
        return Known(np.zeros(0, bool), np.zeros(0))
    first = known[0]
    same = [k.mask & (k.value == first.value) for k in known]
    return Known(np.asarray(np.logical_and.reduce(same)), first.value)
