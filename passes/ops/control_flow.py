"""Control flow, whose subgraphs are shrunk as graphs of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.slices import Constants, ConstantSlices, agreed
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import is_constant, operand, shape_of, size_of, sizes_of, values_of
from passes.ops.base import Op, register
from passes.rewriting.channel_facts import AxisMask, Facts

_ENDLESS = 2**31  # rounds: a number that means none, as exporters write for a `while`

Read = dict[int, AxisMask]  # output of the subgraph -> what is read of it; one that is not mentioned is read whole
Given = dict[tuple[int, int], ConstantSlices]  # (input of the subgraph, axis) -> what is known of it in every round


@dataclass(frozen=True)
class Port:
    """Where data goes into a subgraph, or comes out, or both, as a state does: positions at the node and in it.

    along: the axis outside along which the rounds lie, which is not there inside.
    """

    enters: tuple[int, int] | None = None
    leaves: tuple[int, int] | None = None
    along: int | None = None

    def outside(self, axis: int) -> int:
        """The axis outside that an axis inside is."""
        return axis + (self.along is not None and axis >= self.along)


class ControlFlow(Op):
    """Reads what its graphs read, whole. What these compute is counted there."""

    flops_per_element = 0

    def entering(self, node: gs.Node, facts: Facts) -> Given:
        """What is known of the inputs of the subgraph, in the first round at least."""
        return {}

    def kept(self, node: gs.Node, body: gs.Graph, given: Given, inside: Facts) -> Given:
        """What is left of `given` after a round, when it held before."""
        return given

    def narrow_ports(self, node: gs.Node) -> list[Port]:
        """Those that may have fewer slices."""
        return []

    def read_around(self, node: gs.Node, body: gs.Graph, facts: Facts) -> Read:
        """What is read of the outputs of the subgraph around it."""
        found: Read = {}
        for port in self.narrow_ports(node):
            if port.leaves is not None:
                outer, inner = port.leaves
                read = facts.read.get(node.outputs[outer].name) if outer < len(node.outputs) else None
                for axis, size in enumerate(sizes_of(body.outputs[inner])):
                    mask = np.zeros(size or 0, bool) if read is None else read.get(port.outside(axis))
                    if size and mask is not None and mask.size == size:
                        found.setdefault(inner, {})[axis] = mask
        return found

    def read_again(self, node: gs.Node, body: gs.Graph, read: Read, inside: Facts) -> Read:
        """What is read of them where the subgraph, of which these are the facts, is run again."""
        return read

    def taken(self, node: gs.Node) -> gs.Graph | None:
        """The subgraph that does what the node does, where that is known beforehand."""
        return None

    def never_ends(self, node: gs.Node) -> bool:
        """Whether it is known beforehand that the subgraph is run again without end."""
        return False


@dataclass(frozen=True)
class Ports:
    """How inputs and outputs of a node belong to those of its subgraph, as pairs of positions (node, subgraph)."""

    enter: list[tuple[int, int]]  # states on their way in
    scanned: list[tuple[int, int]]  # inputs of which each round gets one slice
    leave: list[tuple[int, int]]  # states on their way out, in the same order
    collected: list[tuple[int, int]]  # outputs to which each round adds one slice


class Rounds(ControlFlow):
    """A subgraph that hands states on to its next round.

    Channels that are constant in the first round, and after a round if they were so before, are constant in all.
    """

    def ports(self, node: gs.Node, body: gs.Graph) -> Ports:
        """What the operator's specification says about positions."""
        raise NotImplementedError

    def rounds(self, node: gs.Node) -> int | None:
        """How many there are, at most; None where neither a constant nor a size tells."""
        raise NotImplementedError

    def scan_axis(self, node: gs.Node, attribute: str, number: int, rank: int) -> int:
        """The axis of the `number`-th scanned input or collected output along which the rounds lie."""
        axes = node.attrs.get(attribute) or []
        return int(axes[number]) % rank if number < len(axes) else 0

    def narrow_ports(self, node: gs.Node) -> list[Port]:
        ports = self.ports(node, body := subgraphs(node)[0])
        found = [Port(enters, leaves) for enters, leaves in zip(ports.enter, ports.leave, strict=True)]
        for number, each in enumerate(ports.scanned):
            along = self.scan_axis(node, "scan_input_axes", number, len(body.inputs[each[1]].shape or ()) + 1)
            found.append(Port(enters=each, along=along))
        for number, each in enumerate(ports.collected):
            along = self.scan_axis(node, "scan_output_axes", number, len(body.outputs[each[1]].shape or ()) + 1)
            found.append(Port(leaves=each, along=along))
        return found

    def entering(self, node: gs.Node, facts: Facts) -> Given:
        found: Given = {}
        for port in self.narrow_ports(node):
            if port.enters is not None:
                outer, inner = port.enters
                for axis, size in enumerate(sizes_of(subgraphs(node)[0].inputs[inner])):
                    known = facts.known(node.inputs[outer], port.outside(axis))
                    if known is not None and known.mask.any() and known.mask.size == size:
                        found[inner, axis] = known
        return found

    def kept(self, node: gs.Node, body: gs.Graph, given: Given, inside: Facts) -> Given:
        after = {port.enters[1]: port.leaves[1] for port in self.narrow_ports(node) if port.enters and port.leaves}
        found: Given = {}
        for (index, axis), known in given.items():
            if index in after:
                later = inside.known(body.outputs[after[index]], axis)
                known = agreed([known, later]) if later is not None else agreed([])
            if known.mask.any():
                found[index, axis] = known
        return found

    def read_again(self, node: gs.Node, body: gs.Graph, read: Read, inside: Facts) -> Read:
        found = dict(read)
        for port in self.narrow_ports(node):
            if port.enters is not None and port.leaves is not None and (place := port.leaves[1]) in read:
                again = inside.read.get(body.inputs[port.enters[1]].name)
                if again is not None:
                    both = read[place].keys() & again.keys()
                    found[place] = {axis: read[place][axis] | again[axis] for axis in both}
        return found

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        body = subgraphs(node)[0]
        inside = facts.inside.get(id(body))
        if inside is None:
            return
        for port in self.narrow_ports(node):
            if port.leaves is not None:
                outer, inner = port.leaves
                within = body.outputs[inner] if port.enters is None else body.inputs[port.enters[1]]  # of every round
                for axis, size in enumerate(sizes_of(within)):
                    known = inside.known(within, axis)
                    if size and known is not None and size == facts.size(node.outputs[outer], port.outside(axis)):
                        yield outer, port.outside(axis), known


@register("Loop")
class Loop(Rounds):
    """Trip count and condition come first; a condition comes out first."""

    def ports(self, node: gs.Node, body: gs.Graph) -> Ports:
        states = len(node.inputs) - 2
        return Ports(
            enter=[(i + 2, i + 2) for i in range(states)],
            scanned=[],
            leave=[(i, i + 1) for i in range(states)],
            collected=[(i, i + 1) for i in range(states, len(node.outputs))],
        )

    def rounds(self, node: gs.Node) -> int | None:
        most = operand(node, 0)
        known = int(values_of(most).reshape(())) if most is not None and is_constant(most) else _ENDLESS
        return None if known >= _ENDLESS else max(known, 0)

    def never_ends(self, node: gs.Node) -> bool:
        body, first = subgraphs(node)[0], operand(node, 1)
        again = body.outputs[0]
        while again.inputs and again.inputs[0].op == "Identity":
            again = again.inputs[0].inputs[0]
        unchanged = again is body.inputs[1] and (first is None or _is_true(first))
        return operand(node, 0) is None and (unchanged or _is_true(again))


@register("Scan")
class Scan(Rounds):
    """States come before what is scanned, on either side (from opset 9 on)."""

    def ports(self, node: gs.Node, body: gs.Graph) -> Ports:
        if len(node.inputs) != len(body.inputs):  # before opset 9, lengths come first, and examples along an axis
            return Ports([], [], [], [])
        states = len(node.inputs) - int(node.attrs["num_scan_inputs"])
        return Ports(
            enter=[(i, i) for i in range(states)],
            scanned=[(i, i) for i in range(states, len(node.inputs))],
            leave=[(i, i) for i in range(states)],
            collected=[(i, i) for i in range(states, len(node.outputs))],
        )

    def rounds(self, node: gs.Node) -> int | None:
        scanned = self.ports(node, subgraphs(node)[0]).scanned
        rank = len(shape_of(node.inputs[scanned[0][0]]) or ()) if scanned else 0
        return size_of(node.inputs[scanned[0][0]], self.scan_axis(node, "scan_input_axes", 0, rank)) if rank else None


def _is_true(tensor: gs.Tensor) -> bool:
    return is_constant(tensor) and bool(values_of(tensor).all())


@register("If")
class If(ControlFlow):
    """What both branches say is so."""

    def narrow_ports(self, node: gs.Node) -> list[Port]:
        return [Port(leaves=(index, index)) for index in range(len(node.outputs))]

    def taken(self, node: gs.Node) -> gs.Graph | None:
        condition = node.inputs[0]
        if not is_constant(condition) or values_of(condition).size != 1:
            return None
        branch = node.attrs["then_branch" if values_of(condition).all() else "else_branch"]
        assert isinstance(branch, gs.Graph)
        return branch

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        branches = [(body, inside) for body in subgraphs(node) if (inside := facts.inside.get(id(body))) is not None]
        for output, tensor in enumerate(node.outputs):
            for axis in range(len(shape_of(tensor) or ())):
                known = [inside.known(body.outputs[output], axis) for body, inside in branches]
                both = agreed([k for k in known if k is not None])
                if len(known) == 2 and None not in known and both.mask.size == facts.size(tensor, axis):
                    yield output, axis, both
