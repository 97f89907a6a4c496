"""Interface of an operator to the passes, with the answers of an operator without rules.

A *slice* of a tensor is what lies at one index along one axis: a channel is a slice along the channel axis. Every rule
speaks of slices as vectors along one `(tensor, axis)`; the passes know no operator by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Link, Maps, Reads, Sets, merge
from passes.graph.evaluate import evaluate
from passes.graph.tensors import STANDARD_DOMAINS, Array, Index, Mask, int_list, is_float, operand, shape_of, volume
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

Preserved = Literal["constants", "zeros", "nothing"]
Scope = Literal["place", "example", "all"]


class Op:
    """An operator without rules: reads everything, requires all channels, nothing of its outputs is known.

    Subclasses override what they understand. All rules are functions of their arguments: an instance has no state.
    """

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        """Forward: which slices of the outputs are constant, given what is known of the inputs."""
        return iter(())

    def maps(self, node: gs.Node, facts: Facts) -> Maps:
        """Forward: slices of the outputs that are constant maps, given what is known of the inputs."""
        return iter(())

    def lowest(self, node: gs.Node, facts: Facts) -> float:
        """Forward: a bound that no element of output 0 is below, whatever the (finite) input."""
        return -math.inf

    def links(self, node: gs.Node, facts: Facts) -> list[Link]:
        """Which input slices the output slices come from, along axes of static size; ask `facts.links`, a cache."""
        return []

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        """Backward: which slices of the inputs the live slices of the outputs depend on."""
        return iter(())

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        """The sets that the outputs will store, each holding at least what is asked for."""
        return {}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        """What must be found at the inputs, when the outputs store these sets."""
        return {}

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        """Adjust attributes, weights and shape operands to the sets that are stored and required."""

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """FLOPs and MACs for one example: so many FLOPs for each element of the outputs that are floating-point."""
        return self.flops_per_element * sum([volume(t) for t in node.outputs if is_float(t)]), 0

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        """Inputs and axes that must store a slice for the output to store it (for estimates of cost only)."""
        return []

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        """The outputs, where all operands are initializers (None: omitted); None if they cannot be had."""
        return evaluate(node, opset, operands)

    def passes_on(self, node: gs.Node) -> gs.Tensor | None:
        """The input that is output 0 as it is, None if the node changes something."""
        return None

    def contradiction(self, node: gs.Node) -> str:
        """What is wrong with the static shapes of the operands that onnx does not notice; "" if nothing is."""
        return ""

    def form(self, node: gs.Node) -> Op:
        """The rules for this form of the operator, where one operator has several that have little in common."""
        return self

    #: why channels are kept that nothing needs
    reason: kept_reasons.Reason | str = kept_reasons.ALL_CHANNELS
    #: FLOPs for each element of the outputs, where `cost` is no formula of the operator's own
    flops_per_element = 1
    #: whether an element that is written may be infinite, or a run time may find it finite, where none that is read is
    may_overflow = True
    #: the axis of the outputs along which its width is counted; None where it is not counted
    width_axis: int | None = None
    #: within what of its data it computes alike: about each place of an image, within each example, or in all of it
    scope: Scope = "all"
    #: whether the node is replaced by its result when its operands are constant
    foldable = False
    #: a standard operator with the same output shapes and types, where onnx does not know this one; "" if there is none
    like = ""


class Linked(Op):
    """Operators whose output slices each come from given input slices: most of those that are not contractions.

    A subclass states its links; what is read, storable and required follows. Axes without a link are whole.
    """

    reason = kept_reasons.EACH_BY_ITSELF
    #: which linked slices, when constant at the input, are the same constant at the output
    preserves: Preserved = "constants"

    def constant(self, node: gs.Node, facts: Facts, link: Link, known: ConstantSlices) -> ConstantSlices | None:
        """What is known of the output when these linked input slices are known; by default what `preserves` says."""
        if self.preserves == "nothing":
            return None
        return known if self.preserves == "constants" else known.only(0)

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        found: dict[tuple[int, int], ConstantSlices] = {}
        for link in facts.links(node):
            known = facts.numbers(node.inputs[link.input], link.input_axis)
            if known is None or not known.mask.size:
                continue
            if link.split and link.source is not None:
                known = gathered(link.source, known, facts.size(node.outputs[link.output], link.output_axis) or 0)
            elif link.source is not None:
                inside = link.source >= 0
                known = ConstantSlices(inside & known.mask[link.source], known.value[link.source])
            moved = self.constant(node, facts, link, known)
            if moved is None or not moved.mask.any():
                continue
            key = link.output, link.output_axis
            before = found.get(key)
            found[key] = moved if before is None else merge(before, moved)
        for (output, axis), known in found.items():
            yield output, axis, known

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        ends = {(link.output, link.output_axis) for link in facts.links(node)}
        live = {(output, axis): facts.live(node.outputs[output], axis) for output, axis in ends}
        yield from ((index, axis, need) for (index, axis), need in self._project(node, facts, live).items())

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        linked = {(link.output, link.output_axis) for link in facts.links(node)}
        return {key: mask for key, mask in asked.items() if key in linked}

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        links = facts.links(node)
        echo = {(k.input, k.input_axis): (k.output, k.output_axis) for k in links if k.source is None}
        return {
            end: Demand(need, reason=self.reason, echo=echo.get(end))
            for end, need in self._project(node, facts, stored).items()
        }

    def _project(self, node: gs.Node, facts: Facts, sets: Sets) -> Sets:
        """Slices of the inputs that these slices of the outputs (all, of axes without a set) come from.

        Axes of one output that share an input axis (a Reshape that splits) narrow it together; different outputs each
        add to it.
        """
        per_output: dict[tuple[int, int, int], Mask] = {}
        for link in facts.links(node):
            output = sets.get((link.output, link.output_axis))
            if output is None:
                output = np.ones(facts.size(node.outputs[link.output], link.output_axis) or 0, bool)
            need = link.backward(output, facts.size(node.inputs[link.input], link.input_axis) or 0)
            end = link.input, link.input_axis, link.output
            per_output[end] = per_output[end] & need if end in per_output else need
        found: Sets = {}
        for (index, axis, _), need in per_output.items():
            found[index, axis] = found[index, axis] | need if (index, axis) in found else need
        return found

    def carries(self, node: gs.Node, facts: Facts, output: int, axis: int) -> list[tuple[int, int]]:
        return [(k.input, k.input_axis) for k in facts.links(node) if (k.output, k.output_axis) == (output, axis)]


def gathered(places: Index, known: ConstantSlices, size: int) -> ConstantSlices:
    """Of `size` slices, at which these lie: those all of whose parts are known and equal."""
    mask, first = np.ones(size, bool), np.zeros(size, known.value.dtype)
    first[places[::-1]] = known.value[::-1]
    np.logical_and.at(mask, places, known.mask & (known.value == first[places]))
    return ConstantSlices(mask, first)


def axis_attribute(node: gs.Node, default: int = 0) -> int:
    """The axis of input 0 that the attribute `axis` names, from the front; 0 where the rank is not known."""
    return int(node.attrs.get("axis", default)) % max(len(shape_of(node.inputs[0]) or ()), 1)


def integers(node: gs.Node, name: str, index: int) -> list[int] | None:
    """Those of an attribute or, as later opsets have it, of input `index`; None if it is absent, or computed."""
    return list(node.attrs[name]) if name in node.attrs else int_list(operand(node, index))


_RULES: dict[tuple[str | None, str], Op] = {}
#: the rules of an operator that has none
UNKNOWN = Op()
OpClass = TypeVar("OpClass", bound=type[Op])


def register(*names: str, domain: str = "") -> Callable[[OpClass], OpClass]:
    """Class decorator: these operators of `domain` follow the rules of the class."""

    if not all(isinstance(text, str) for text in (*names, domain)):
        raise TypeError("register takes names of operators and their domain, as texts.")

    def add(cls: OpClass) -> OpClass:
        if not (isinstance(cls, type) and issubclass(cls, Op)):
            raise TypeError("register is for classes that derive from passes.Op.")
        domains = STANDARD_DOMAINS if domain in STANDARD_DOMAINS else (domain,)
        for name in names:
            rule = cls()
            _RULES.update({(alias, name): rule for alias in domains})
        return cls

    return add


def rules(node: gs.Node) -> Op:
    """The rules of a node's operator; `UNKNOWN` if there are none."""
    return _RULES.get((node.domain, node.op), UNKNOWN).form(node)


def rules_of(domain: str | None, op: str) -> Op:
    """The rules of an operator by name, `UNKNOWN` if there are none."""
    return _RULES.get((domain, op), UNKNOWN)


def with_rules(domain: str) -> list[str]:
    """The operators of a domain that have rules."""
    return sorted(op for each, op in _RULES if each == domain)
