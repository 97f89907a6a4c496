"""Explanation of a plan: masked channels, those removed, and for the others the operator that needs them, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.kept_reasons import (
    ALL_CHANNELS,
    CHEAPER_COMPUTED,
    COMBINED,
    EACH_BY_ITSELF,
    FROM_ALL,
    GROUPS,
    NO_RULE,
    UNKNOWN_SHAPE,
    Reason,
    in_words,
)
from passes.analysis import dataflow
from passes.graph.subgraphs import captured
from passes.graph.tensors import Index, Mask, describe, is_constant, is_float, output_index, present, shape_of
from passes.ops import UNKNOWN, rules
from passes.ops.arithmetic import Product
from passes.ops.movement import Movement
from passes.ops.shape import Measuring
from passes.ops.softmax_like import AlongAxes
from passes.planning.causes import Reasons
from passes.planning.masked_axes import Held, MaskedAxis, Operand
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan

_OF_CHANNELS = (COMBINED, EACH_BY_ITSELF, GROUPS)

_ALIGN_NONE = "compile with `--align none`, which leaves fewer FLOPs"

_FAR = 20  # nodes: a writer further up says little to a person


def explain(
    graph: gs.Graph,
    facts: Facts,
    plan: StoragePlan,
    made: Collection[str] = (),
    unread: Mapping[str, str] | None = None,
) -> tuple[tuple[MaskedAxis, ...], tuple[Held, ...]]:
    """Masked axes, and masked channels that are still computed, in the order of the graph.

    made: names of tensors that are not the model's own; nothing is masked there. unread: as of `dataflow.analyse`, for
    what a mask behind zeroes.

    A channel is masked where it becomes constant: the operator that makes it so reads something that is not.
    """
    masked: list[MaskedAxis] = []
    held: list[Held] = []
    reasons = Reasons(plan, facts)
    consumers = {describe(node): node for node in reversed(graph.nodes)}
    own = dataflow.analyse(graph, inside=facts.inside, unread=unread) if unread else facts
    for tensor, axis, channels in _masked(graph, own, made):
        stays = channels & plan.stays(tensor.name, axis, channels.size)
        idle = _computed_for_nobody(tensor, axis, channels & ~stays, facts, plan)
        gone = int((channels & ~stays).sum()) - sum(some.size for _, _, some in idle)
        indices = tuple(np.flatnonzero(channels).tolist())
        masked.append(MaskedAxis(tensor.name, axis, channels.size, len(indices), gone, indices))
        why = reasons.by_slice.get((tensor.name, axis), np.full(stays.size, -1))
        for number in dict.fromkeys(why[stays].tolist()):
            label, op, code, words = reasons.found[number] if number >= 0 else reasons.otherwise
            aligned = number in reasons.aligned
            advice = _ALIGN_NONE if aligned else ""
            channels_of_it = np.flatnonzero(stays & (why == number))
            for writer, some, other in _writers(consumers.get(label), facts, tensor, axis, channels_of_it):
                place = tensor.name, axis, tuple(some.tolist())
                held.append(Held(*place, label, op, words, writer, advice, aligned, code, other))
        for node, reason, some in idle:
            label, (code, words) = describe(node), in_words(reason)
            held.append(Held(tensor.name, axis, tuple(some.tolist()), label, str(node.op), words, code=code))
    for node, axis, channels in _beside_unknown_sizes(graph, facts):
        name, indices = node.outputs[0].name, tuple(np.flatnonzero(channels).tolist())
        masked.append(MaskedAxis(name, axis, channels.size, len(indices), 0, indices))
        reason = UNKNOWN_SHAPE
        held.append(Held(name, axis, indices, describe(node), str(node.op), reason.words, code=reason.code))
    return tuple(masked), tuple(held)


def _beside_unknown_sizes(graph: gs.Graph, facts: Facts) -> Iterator[tuple[gs.Node, int, Mask]]:
    """Products with a mask along an axis of which the other operand does not say that it has as many slices.

    With the axis of the output, counted from the last where its rank is not known, and the slices that are masked.
    """
    for node in graph.nodes:
        masks = [t for t in node.inputs if is_constant(t)] if isinstance(rules(node), Product) else []
        if len(masks) != 1 or len(node.inputs) != 2 or not is_float(masks[0]):
            continue
        (mask,) = masks
        (data,) = (t for t in node.inputs if t is not mask)
        rank, output = len(mask.shape), shape_of(node.outputs[0])
        for axis, size in enumerate(mask.shape):
            known = data.shape is not None and (
                len(data.shape) < rank - axis or facts.size(data, axis - rank) is not None
            )
            zero = np.zeros(0, bool) if size < 2 or known else facts.zero(mask, axis)
            if zero.any():
                yield node, axis - rank if output is None else len(output) + axis - rank, zero


def _masked(graph: gs.Graph, facts: Facts, made: Collection[str]) -> Iterator[tuple[gs.Tensor, int, Mask]]:
    """Tensors and axes with the slices that become constant there: bool [size].

    What is made of constants and sizes alone is constant by intention, as the first state of a recurrent network is.
    """
    fixed: set[str] = set()
    for node in graph.nodes:
        op = rules(node)
        read = [*(t for _, t in present(node.inputs)), *captured(node)]
        if isinstance(op, Measuring) or all(is_constant(t) or t.name in fixed for t in read):
            fixed.update(t.name for t in node.outputs)
        if isinstance(op, Movement) or node.outputs[0].name in fixed:
            continue
        for tensor in node.outputs:
            if tensor.name in made or tensor.name not in facts.constant:
                continue
            for axis, _ in facts.axes(tensor):
                known = facts.known(tensor, axis)
                if known is not None:
                    born = known.mask & ~_inherited(node, facts, tensor, axis, known.mask.size)
                    if born.any():
                        yield tensor, axis, born


def _computed_for_nobody(
    tensor: gs.Tensor, axis: int, channels: Mask, facts: Facts, plan: StoragePlan
) -> list[tuple[gs.Node, Reason | str, Index]]:
    """Channels that are gone where they are masked, but computed before: by which operator first, and why."""
    computing, writers = np.full(channels.size, -1), list[tuple[gs.Node, Reason | str]]()
    waiting = [(tensor, axis, np.flatnonzero(channels), np.flatnonzero(channels))]
    while waiting:
        current, a, there, asked = waiting.pop(0)
        for source, b, place in _sources(current.inputs[0], facts, current, a) if current.inputs and there.size else ():
            from_here = place[there] >= 0
            idle = np.zeros(facts.size(source, b) or 0, bool)
            idle[place[there[from_here]]] = True
            idle &= ~facts.live(source, b) & ~facts.constant_mask(source, b)
            from_here[from_here] = idle[place[there[from_here]]]
            stays = plan.stays(source.name, b, idle.size)
            if source.inputs and (stays & idle).any():
                computing[asked[from_here][stays[place[there[from_here]]]]] = len(writers)
                writers.append((source.inputs[0], _reason_for_idle(source, b, stays & ~idle, facts)))
            waiting.append((source, b, place[there[from_here]], asked[from_here]))
    return [(*writers[i], np.flatnonzero(computing == i)) for i in np.unique(computing[computing >= 0])]


def _reason_for_idle(tensor: gs.Tensor, axis: int, needed: Mask, facts: Facts) -> Reason | str:
    """Why more than what is needed is computed: the operator cannot do with less, or it would cost more."""
    node = tensor.inputs[0]
    op, output = rules(node), output_index(node, tensor)
    if op is UNKNOWN or not needed.any():
        return NO_RULE if op is UNKNOWN else op.reason
    stored = op.storable_outputs(node, facts, {(output, axis): needed}).get((output, axis))
    if stored is None:  # along another axis than that of its channels, one by one or in groups
        return FROM_ALL if isinstance(op, AlongAxes) else ALL_CHANNELS if op.reason in _OF_CHANNELS else op.reason
    return CHEAPER_COMPUTED if np.array_equal(stored, needed) else op.reason


def _inherited(node: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int, size: int) -> Mask:
    """Slices that are constant because what they are computed from along this axis is."""
    inherited = np.zeros(size, bool)
    for i, a in rules(node).carries(node, facts, output_index(node, tensor), axis):
        source = node.inputs[i]
        known = None if is_constant(source) else facts.known(source, a)
        if known is not None and known.mask.size == size:
            inherited |= known.mask
    return inherited


# -- who else writes the channels that a consumer needs ----------------------------------------------------------------


def _writers(
    consumer: gs.Node | None, facts: Facts, tensor: gs.Tensor, axis: int, channels: Index
) -> list[tuple[str, Index, Operand | None]]:
    """The channels of the tensor by the operator that writes the consumer's other operands there; "" where none does.

    With the channels of that operand, which are the same. The consumer reads the tensor, or what is computed from it
    channel by channel.
    """
    found: list[tuple[str, Index, Operand | None]] = []
    left = channels
    for operand, a in _others(consumer, facts, tensor, axis, channels) if consumer is not None else ():
        constant = facts.constant_mask(operand, a)[left]
        size = facts.size(operand, a) or 0
        for writer, some in _traced(facts, operand, a, left[~constant]):
            found.append((writer, some, Operand(operand.name, a, size, tuple(some.tolist()))))
        left = left[constant]
    if left.size:
        found.append(("", left, None))
    return sorted(found, key=lambda item: int(item[1][0]))


def _others(
    consumer: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int, channels: Index
) -> Iterator[tuple[gs.Tensor, int]]:
    """Operands that the consumer combines with the tensor, index by index, and the axis along which it does."""
    links, size = [k for k in facts.links(consumer) if k.source is None], facts.size(tensor, axis)
    # it reads the tensor, directly or through what has the same constants
    direct = (k for k in links if consumer.inputs[k.input] is tensor and k.input_axis == axis)
    through = (k for k in links if _repeats(facts, consumer.inputs[k.input], k.input_axis, size, channels))
    mine = next(chain(direct, through), None)
    if mine is None:
        return
    for k in links:
        other = consumer.inputs[k.input]
        same = (k.output, k.output_axis) == (mine.output, mine.output_axis)
        if same and k.input != mine.input and not is_constant(other):
            yield other, k.input_axis


def _repeats(facts: Facts, operand: gs.Tensor, axis: int, size: int | None, channels: Index) -> bool:
    """Whether an operand with as many channels is constant in these."""
    fits = not is_constant(operand) and facts.size(operand, axis) == size
    return fits and bool(facts.constant_mask(operand, axis)[channels].all())


def _traced(facts: Facts, tensor: gs.Tensor, axis: int, channels: Index) -> Iterator[tuple[str, Index]]:
    """The channels by the operator that computes them: up through operators that only pass channels on."""
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
            from_here[from_here] = ~facts.constant_mask(source, b)[place[there[from_here]]]
            waiting.append((source, b, place[there[from_here]], asked[from_here], hops + 1))
            left &= ~from_here
        if left.any():
            yield describe(node), asked[left]


def _sources(node: gs.Node, facts: Facts, tensor: gs.Tensor, axis: int) -> list[tuple[gs.Tensor, int, Index]]:
    """Inputs with the input slice that each output slice comes from (-1: none), those just computed first."""
    output, found = output_index(node, tensor), []
    for k in facts.links(node):
        source = node.inputs[k.input]
        if (k.output, k.output_axis) == (output, axis) and not k.split and not is_constant(source):
            place = np.full(facts.size(tensor, axis) or 0, -1)
            before, after = k.pairs(facts.size(source, k.input_axis) or 0)
            place[after] = before
            found.append((source, k.input_axis, place))
    return sorted(found, key=lambda item: not item[0].inputs or bool(facts.links(item[0].inputs[0])))
