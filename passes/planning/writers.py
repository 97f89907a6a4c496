"""Who else writes the channels that an operator holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Index, Mask, describe, is_constant
from passes.ops import Link, Linked, rules
from passes.rewriting.channel_facts import Facts

_FAR = 20  # nodes: a writer further up says little to a person


def writers(
    holder: gs.Node | None, facts: Facts, tensor: gs.Tensor, axis: int, channels: Index
) -> list[tuple[str, Index]]:
    """The channels of the tensor by what writes the holder's other operands there; "" where nothing does.

    The holder reads the tensor, or what is computed from it channel by channel.
    """
    found: list[tuple[str, Index]] = []
    left = channels
    for operand, a in _others(holder, facts, tensor, axis, channels) if holder is not None else ():
        if not left.size:
            break
        constant = _constant(facts, operand, a, left)
        found += _traced(facts, operand, a, left[~constant])
        left = left[constant]
    if left.size:
        found.append(("", left))
    return sorted(found, key=lambda item: int(item[1][0]))


def _others(
    holder: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int, channels: Index
) -> Iterator[tuple[gs.Tensor, int]]:
    """Operands that the holder combines with the tensor, index by index, and the axis along which it does."""
    mine = next(_places(holder, facts, tensor, axis, channels), None)
    if mine is None:
        return
    for k in facts.links(holder):
        other = holder.inputs[k.input]
        same = k.source is None and (k.output, k.output_axis) == (mine.output, mine.output_axis)
        if same and k.input != mine.input and not is_constant(other):
            yield other, k.input_axis


def _places(holder: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int, channels: Index) -> Iterator[Link]:
    """Where the holder may read the tensor: directly, or through what has the same constants."""
    links = [k for k in facts.links(holder) if k.source is None]
    yield from (k for k in links if holder.inputs[k.input] is tensor and k.input_axis == axis)
    size = facts.size(tensor, axis)
    for k in links:
        operand = holder.inputs[k.input]
        fits = not is_constant(operand) and facts.size(operand, k.input_axis) == size
        if fits and _constant(facts, operand, k.input_axis, channels).all():
            yield k


def _traced(facts: Facts, tensor: gs.Tensor, axis: int, channels: Index) -> Iterator[tuple[str, Index]]:
    """The channels by the operator that computes them: up through what only hands channels on."""
    waiting = [(tensor, axis, channels, channels, 0)]
    while waiting:
        current, a, there, asked, hops = waiting.pop()
        if not there.size:
            continue
        node = current.inputs[0] if current.inputs else None
        if node is None:
            yield f"the input {current.name}", asked
            continue
        left = np.ones(there.size, bool)
        for source, b, place in _sources(node, facts, current, a) if hops < _FAR else ():
            from_here = left & (place[there] >= 0)
            from_here[from_here] = ~_constant(facts, source, b, place[there[from_here]])
            waiting.append((source, b, place[there[from_here]], asked[from_here], hops + 1))
            left &= ~from_here
        if left.any():
            yield describe(node), asked[left]


def _sources(node: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int) -> list[tuple[gs.Tensor, int, Index]]:
    """Inputs with the input slice that each output slice comes from (-1: none), those just computed first."""
    output = next(i for i, t in enumerate(node.outputs) if t is tensor)
    found = []
    for k in facts.links(node):
        source = node.inputs[k.input]
        if (k.output, k.output_axis) == (output, axis) and not k.split and not is_constant(source):
            place = np.arange(facts.size(tensor, axis) or 0) if k.source is None else k.source
            found.append((source, k.input_axis, place))
    return sorted(found, key=lambda item: _hands_on(item[0]))


def _hands_on(tensor: gs.Tensor) -> bool:
    return not tensor.inputs or isinstance(rules(tensor.inputs[0]), Linked)


def _constant(facts: Facts, tensor: gs.Tensor, axis: int, channels: Index) -> Mask:
    constant = facts.constants(tensor, axis)
    return np.zeros(channels.size, bool) if constant is None else constant[channels]
