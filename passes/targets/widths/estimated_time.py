"""Estimated time of a plan, by a table of rates: its convolutions, and the operators between them.

ONNX Runtime decides for each convolution whether it runs on NCHWc channel blocks. Where a tensor is written in one form
and read in the other it is reordered, once for all its readers. Matrix products take the time of their multiply-adds,
whatever their widths: no kernel for round ones is faster.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import onnx_graphsurgeon as gs

from passes.rewriting.storage_plan import untouched
from passes.targets.widths.plan_steps import Gains, Network, PlanSteps, Step
from passes.targets.widths.rates import Rates

# A constant map that is added is read as well: it takes so many times what another elementwise operator does. Where
# sizes are open it is made at run time, of rows and of columns, by some operators more.
_ADDED, _ADDED_OPEN = 1.5, 4.0
_NODES_OF_OPEN_MAP = 10

# What joins constants to the channels that there are, and puts all in order.
_NODES_OF_ADAPTER = 3

#: whether each step writes channel blocks, and False for what no step writes
Blocked = list[bool]


class Timing:
    """Estimates of a plan of a network, and of the same plan with other numbers of channels."""

    def __init__(self, plan: PlanSteps, rates: Rates) -> None:
        self.plan = plan
        self.rates = rates
        none = self.no_gains()
        weights = sum(
            s.convolution.weights(self.read(s, none), s.output.stored(none))
            for s in plan.steps
            if s.convolution is not None
        )
        self._from_memory = weights > rates.cached_weights

    def of_relieved(self, plan: PlanSteps) -> Timing:
        """That of the same plan `without` something."""
        other = copy.copy(self)
        other.plan = plan
        return other

    def no_gains(self) -> list[int]:
        """No slice more along any axis."""
        return [0] * len(self.plan.slots)

    def total(self, gains: Gains | None = None) -> float:
        """Nanoseconds of one run for one example."""
        return self.of(range(len(self.plan.steps)), self.no_gains() if gains is None else gains, self.unblocked())

    def unblocked(self) -> Blocked:
        """Nothing is written in channel blocks."""
        return [False] * (len(self.plan.steps) + 1)

    def of(self, steps: Iterable[int], gains: Gains, blocked: Blocked) -> float:
        """Nanoseconds of some of the steps, in order. `blocked` says how tensors are written, and is told of theirs."""
        total, reordered = 0.0, set[tuple[int, bool]]()
        for index in steps:
            time, blocked[index] = self._run(self.plan.steps[index], gains, blocked, reordered)
            total += time
        return total

    def written_in_blocks(self) -> set[str]:
        """Names of the tensors that are written in channel blocks."""
        blocked = self.unblocked()
        self.of(range(len(self.plan.steps)), self.no_gains(), blocked)
        return {name for name, index in self.plan.writers.items() if blocked[index]}

    def read(self, step: Step, gains: Gains) -> int:
        """Channels that the first operand of the step delivers."""
        port = step.inputs[0]
        return port.stored(gains) if port.delivered is None else port.delivered

    def _run(self, step: Step, gains: Gains, blocked: Blocked, reordered: set[tuple[int, bool]]) -> tuple[float, bool]:
        """How long a step runs, and whether it writes channel blocks.

        `reordered` are operands that others may read, too, by who writes them and whether into channel blocks: it is
        told of more.
        """
        runs_blocked, time = self._time(step, gains, blocked)
        if step.multiplied or step.open_maps:
            nodes = _NODES_OF_OPEN_MAP * self.rates.ns_per_node * step.open_maps
            time += step.multiplied * self.rates.ns_per_im2col_mac + nodes
        if step.adapters:
            time += sum(self._restoring(delivery.elements, delivery.pieces) for delivery in step.adapters)
        if step.maps:
            elements = step.output.elements(gains)
            each = self.rates.ns_per_elementwise_element * (_ADDED_OPEN if step.open_maps else _ADDED)
            time += self.rates.ns_per_node + elements * each + (self._reorder(elements) if runs_blocked else 0.0)
        reads_blocked = runs_blocked
        if runs_blocked and step.convolution is not None:
            form = self.rates.form(step.convolution, self.read(step, gains), step.output.stored(gains))
            reads_blocked = form == "nchwc"
        for port in step.inputs:
            wanted = reads_blocked
            if port.delivered is not None:
                time += self._restoring(port.delivered * port.elements_per_channel, port.pieces)
                if wanted:
                    time += self._reorder(port.elements(gains))
                wanted = False
            if wanted != blocked[port.writer] and (port.writer, wanted) not in reordered:
                time += self._reorder(port.elements(gains))
                if port.shared:
                    reordered.add((port.writer, wanted))
        writes = runs_blocked and not step.maps
        if writes and step.given:
            time += self._reorder(step.output.elements(gains))
        return time, writes

    def _restoring(self, elements: float, pieces: float) -> float:
        """An adapter that makes so many elements, each of so many pieces."""
        rates = self.rates
        each = rates.ns_per_adapted_element + pieces * rates.ns_per_gathered_piece
        return _NODES_OF_ADAPTER * rates.ns_per_node + elements * each

    def _reorder(self, elements: float) -> float:
        return self.rates.ns_per_node + elements * self.rates.ns_per_reordered_element

    def _time(self, step: Step, gains: Gains, blocked: Blocked) -> tuple[bool, float]:
        """Whether the step runs on channel blocks, and how long it takes without what has to be moved for it."""
        rates, written = self.rates, step.output.stored(gains)
        if step.convolution is not None:
            widths = self.read(step, gains), written
            form, time = rates.form(step.convolution, *widths), rates.convolution(step.convolution, *widths)
            return form != "im2col", time + (rates.loading(step.convolution, *widths) if self._from_memory else 0.0)
        elements = written * step.output.elements_per_channel
        runs_blocked = self._runs_blocked(step, gains, blocked)
        if runs_blocked and step.channel_blocks == "always" and step.gated:
            # one operand is first brought to the positions of the other
            each = rates.ns_per_elementwise_element + rates.ns_per_touched_element
            return True, 2 * rates.ns_per_node + elements * each
        if step.scales and runs_blocked:
            return runs_blocked, rates.ns_per_node + elements * rates.ns_per_depthwise_mac
        if step.free:
            return runs_blocked, 0.0
        if step.inside or (runs_blocked and step.channel_blocks == "always" and not step.fused):
            return runs_blocked, elements * rates.ns_per_elementwise_element * (step.slowness - 1)
        computed = (rates.padded(written) if runs_blocked else written) * step.output.elements_per_channel
        return runs_blocked, rates.ns_per_node + computed * rates.ns_per_elementwise_element * step.slowness

    def _runs_blocked(self, step: Step, gains: Gains, blocked: Blocked) -> bool:
        """Whether a step that is no convolution runs on channel blocks, which all of its operands must be in."""
        operands = step.inputs
        for port in operands:
            if not blocked[port.writer] or port.delivered is not None:
                return False
        if not operands:
            return False
        if step.channel_blocks == "never":
            return step.free or step.scales
        if step.channel_blocks == "filled":
            return all(p.stored(gains) % self.rates.channels_per_block == 0 for p in operands)
        # operands of other sizes are broadcast, which is done without channel blocks
        return step.gated or len({p.elements(gains) for p in operands}) == 1


def of_nodes(graph: gs.Graph, rates: Rates) -> dict[str, float]:
    """Nanoseconds of each node, by the name of what it writes, without those that any operator takes by itself."""
    timing = of_graph(graph, replace(rates, ns_per_node=0.0))
    gains, blocked = timing.no_gains(), timing.unblocked()
    return {name: timing.of([index], gains, blocked) for name, index in timing.plan.writers.items()}


def of_graph(graph: gs.Graph, rates: Rates) -> Timing:
    """Estimates of a graph as it is."""
    return Timing(PlanSteps(Network(graph), untouched(graph)), rates)
