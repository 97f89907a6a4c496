"""Causes of stored constants: for each slice the consumer that needs it, or the operator that keeps it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.kept_reasons import Reason
from passes.graph.tensors import Index, describe, is_constant, present
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, Requirement, Settled, StoragePlan


class Reasons:
    """The reasons of a plan, found after it was made: most plans are made to be compared, and nobody asks why.

    `by_slice[key]` gives for each slice that is stored the index in `found` (node, operator, code, words) of why it is
    although it is constant, or -1: `otherwise`. `aligned` are the indices of those that speak of a width.
    """

    otherwise = ("the entire graph", "all", *kept_reasons.in_words(kept_reasons.WHOLE_GRAPH))

    def __init__(self, plan: StoragePlan, facts: Facts) -> None:
        self.by_slice: dict[Key, Index] = {}
        self.found: list[tuple[str, str, str, str]] = []
        self.aligned: set[int] = set()
        self._facts = facts
        self._numbers: dict[int, int] = {}  # by the id of the cause
        for settled in plan.settled:
            self.by_slice[settled.tensor.name, settled.axis] = self._of(settled)

    def _of(self, settled: Settled) -> Index:
        stored, writer = settled.stored, settled.tensor.inputs[0] if settled.tensor.inputs else None
        why = np.full(stored.size, -1)
        if writer is not None and settled.wider is not None and settled.wider.any():
            why[settled.wider] = number = self._number(writer, replace(kept_reasons.SPEED, words=settled.words))
            self.aligned.add(number)
        for requirement in settled.requirements:
            why = np.where((why < 0) & requirement.demand.need, self._required(requirement), why)
        if writer is not None and (stored & (why < 0)).any():
            why = np.where(why < 0, self._number(writer, kept_reasons.CHEAPER_COMPUTED), why)
        return np.where(stored, why, -1)

    def _required(self, requirement: Requirement) -> Index:
        """The reason for each slice of a demand: the node's own, or why the output stores the slice if it echoes it."""
        cause, demand = requirement.cause, requirement.demand
        if id(cause) not in self._numbers:
            self._numbers[id(cause)] = self._number(cause.node, cause.reason)
        own = np.full(demand.need.size, self._numbers[id(cause)])
        if demand.echo is None or cause.node is None:
            return own
        output, axis = cause.node.outputs[demand.echo[0]], demand.echo[1]
        passed, known = self.by_slice.get((output.name, axis)), self._facts.known(output, axis)
        source = np.arange(own.size) if demand.order is None else demand.order
        if passed is None or known is None or passed.size != source.size:
            return own
        # a slice that is constant after this operator too is kept alive further on, the others by this one
        further_on = known.mask & (passed >= 0)
        own[source[further_on]] = passed[further_on]
        return own

    def _number(self, node: gs.Node | None, reason: Reason | str) -> int:
        if node is not None and reason is kept_reasons.COMBINED:
            computed = [t for _, t in present(node.inputs) if not is_constant(t)]
            reason = reason if len(computed) > 1 else kept_reasons.EACH_BY_ITSELF  # no other operand could be live
        where = ("the caller", "output") if node is None else (describe(node), str(node.op))
        self.found.append((*where, *kept_reasons.in_words(reason)))
        return len(self.found) - 1
