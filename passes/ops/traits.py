"""Traits of operators: what a few kinds of them can, beside the rules that `Op` has for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.abstract_values import linear_dependence
from passes.abstract_values.linear_dependence import Combination, LinearDependence
from passes.abstract_values.scale_shift import Affine, ClampedAffine
from passes.abstract_values.slices import Couples, Dependences, Masks, Partitions
from passes.graph.tensors import is_constant, shape_of
from passes.ops.base import rules
from passes.rewriting.channel_facts import Facts
from passes.weights.quantized import Quantized
from passes.weights.steps import Steps


class Distribution:
    """Operators whose outputs may be weights of a mean."""

    def sums_to_one(self, node: gs.Node, facts: Facts) -> int | None:
        """An axis along which the elements of output 0, none of them negative, add up to one; None if none does."""
        raise NotImplementedError


class ScaleShift:
    """Operators that with constants beside their data are a scale and a shift, perhaps clamped."""

    def affine(self, node: gs.Node) -> Affine | None:
        """The node as scale and shift, per channel, of one computed operand; None if it is something else."""
        return None

    def clamped_affine(self, node: gs.Node) -> ClampedAffine | None:
        """The node as scale, shift and bounds, of one computed operand and the same everywhere; None if it is none."""
        return None


class NaturalSlices:
    """Operators after which some slices hold nothing negative where others may."""

    def natural(self, node: gs.Node, facts: Facts) -> Masks:
        """Forward: those slices of the outputs."""
        raise NotImplementedError


class DependenceTransfer:
    """Operators after which slices may be linear combinations of a few others of the same axis."""

    def linear_dependences(self, node: gs.Node, facts: Facts) -> Dependences:
        """Forward: which slices of the outputs linearly depend on a few others."""
        raise NotImplementedError


def combination(facts: Facts, tensor: gs.Tensor, axis: int) -> Combination:
    """What is known of the slices, constants and those that depend on others, as combinations."""
    known, dependence = facts.constant_slices(tensor, axis), facts.dependence.get((tensor.name, axis))
    fixed = linear_dependence.constants(known.mask, known.value)
    if dependence is None:
        return fixed
    return linear_dependence.either(fixed, linear_dependence.of_dependence(tensor.name, dependence))


def in_sums(facts: Facts, tensor: gs.Tensor, axis: int) -> LinearDependence | None:
    """How slices depend on each other once each is summed along other axes: constants are multiples of one sum."""
    size, before = facts.size(tensor, axis), facts.dependence.get((tensor.name, axis))
    if size is None or is_constant(tensor) or (before is None and facts.known(tensor, axis) is None):
        return None
    found = linear_dependence.multiplied(combination(facts, tensor, axis), linear_dependence.broadcast("sum", size))
    return None if found is None else linear_dependence.dependence(found, None if before is None else before.reps)


def passed_on(node: gs.Node, facts: Facts, *, means: bool = True) -> Dependences:
    """Those of axes that stay as they are, where of each slice elements are picked, or `means` taken, or else sums."""
    links = facts.links(node)
    for link in links:
        data, axis = node.inputs[link.input], link.input_axis
        found = facts.dependence.get((data.name, axis)) if means else in_sums(facts, data, axis)
        others = [k for k in links if (k.output, k.output_axis) == (link.output, link.output_axis)]
        if found is not None and link.source is None and len(others) == 1:
            yield link.output, link.output_axis, found


class CoupledAxes:
    """Operators that couple axes of which no link speaks."""

    def couples(self, node: gs.Node, facts: Facts) -> Couples:
        """Axes of which a slice of one is coupled with slices of the other."""
        raise NotImplementedError

    def partitions(self, node: gs.Node, facts: Facts) -> Partitions:
        """Axes that are stored by whole classes of slices, with the class of each slice: one of several divisions."""
        return iter(())


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """The channels of a tensor, each times a weight and summed.

    data: the tensor, which may be the node's own output, of the step before. along: what runs along each axis of the
    weights, "o" outputs, "c" channels, "k" a window or what else is summed, "g" groups with weights and channels of
    their own; without "g", `groups` divide the first axis, and the channels. axes: those of the data that run along
    the same but "o", in their order, or that of the channels where a window slides. bias_shape: of what can be added,
    which begins with one element for each output; None where nothing can. bias: the operand that adds it, None where a
    node after this one would. slides: the standard operator with the same window, if there is one. scale, bias_scale:
    factors of the weights, and of what the operand adds.
    """

    data: gs.Tensor
    axes: tuple[int, ...]
    weights: gs.Constant
    along: str
    groups: int = 1
    bias: int | None = None
    bias_shape: tuple[int, ...] | None = None
    slides: str = ""
    scale: float = 1.0
    bias_scale: float = 1.0


class WeightedSums:
    """Operators that sum channels with constant weights, so that others can make up for those that go."""

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        """What the node sums."""
        raise NotImplementedError

    def stored_steps(self, node: gs.Node, weights: gs.Constant) -> Steps | None:
        """The numbers of few bits that make up an initializer of the node; None where it is stored as it is."""
        return weights.steps() if isinstance(weights, Quantized) else None


def affine(node: gs.Node) -> Affine | None:
    """The node as scale and shift, per channel, of one computed operand; None if it is something else."""
    op = rules(node)
    return op.affine(node) if isinstance(op, ScaleShift) else None


def clamped_affine(node: gs.Node) -> ClampedAffine | None:
    """The node as scale, shift and bounds, of one computed operand and the same everywhere; None if it is none."""
    op = rules(node)
    return op.clamped_affine(node) if isinstance(op, ScaleShift) else None


def couples(node: gs.Node, facts: Facts) -> Couples:
    """Axes, beside those that are linked, that a node couples: where it says nothing, those that carry a slice on."""
    op = rules(node)
    if isinstance(op, CoupledAxes):
        yield from op.couples(node, facts)
        return
    for output, tensor in enumerate(node.outputs):
        for axis in range(len(shape_of(tensor) or ())):
            for index, a in op.carries(node, facts, output, axis):
                if facts.size(node.inputs[index], a) == facts.size(tensor, axis):
                    yield (node.inputs[index], a), (tensor, axis), None


def partitions(node: gs.Node, facts: Facts) -> Partitions:
    """Axes that a node has stored by whole classes of slices, as `CoupledAxes.partitions` says."""
    op = rules(node)
    return op.partitions(node, facts) if isinstance(op, CoupledAxes) else iter(())
