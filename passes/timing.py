"""What a plan takes to run, by a table of rates: its convolutions, and what stands between them.

ONNX Runtime decides for each convolution whether it runs on channels in blocks. Where a tensor is written in one form
and read in the other it is reordered, once for all who read it. Matrix products are not among what is counted: they
take no shorter time where widths are round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.layout import Key, Layout
from passes.ops import rules
from passes.ops.base import Blocks, Work
from passes.rates import Rates
from passes.tensors import is_constant, present, shape_of
from passes.usual import usual_sizes

#: how many slices more than the plan are stored
Gains = Mapping[Key, int]
#: whether each tensor is written in blocks
Forms = dict[str, bool]


@dataclass(frozen=True)
class Port:
    """An operand or output: its elements for each channel. `delivered` is None, or what an adapter makes of it."""

    name: str
    key: Key
    width: int
    each: float
    delivered: int | None = None

    def wide(self, gains: Gains) -> int:
        """Channels that are stored."""
        return self.width + gains.get(self.key, 0)


@dataclass(frozen=True)
class Step:
    """One node of the plan that is computed; `free` if it becomes a part of what is before it."""

    inputs: tuple[Port, ...]
    output: Port
    work: Work | None
    blocks: Blocks
    free: bool


class Timing:
    """Estimates of a plan, and of the same plan with other numbers of channels."""

    def __init__(self, graph: gs.Graph, plan: Layout, rates: Rates) -> None:
        self.rates = rates
        self._plan = plan
        self._outputs = {t.name for t in graph.outputs}
        self.steps = [s for i, n in enumerate(graph.nodes) if i in plan.computed and (s := self._step(i, n))]

    def total(self, gains: Gains | None = None) -> float:
        """Nanoseconds of one run for one example."""
        return self.of(range(len(self.steps)), gains or {}, {})

    def of(self, steps: Iterable[int], gains: Gains, forms: Forms) -> float:
        """Nanoseconds of some of the steps, in order. `forms` says how tensors are written, and is told of theirs."""
        total, there = 0.0, set[tuple[str, bool]]()
        for index in steps:
            step = self.steps[index]
            blocked, time = self._time(step, gains, forms)
            total += time
            for port in step.inputs:
                wanted = self._reads_blocks(step, blocked, port, gains)
                written = forms.get(port.name, False)
                moved = port.wide(gains) * port.each
                if port.delivered is not None:
                    total += self.rates.node + moved * self.rates.move
                    if wanted:
                        total += self._reordered(moved)
                    wanted = False
                if wanted != written and (port.name, wanted) not in there:
                    there.add((port.name, wanted))
                    total += self._reordered(moved)
            forms[step.output.name] = blocked
            if blocked and step.output.name in self._outputs:
                total += self._reordered(step.output.wide(gains) * step.output.each)
        return total

    def read(self, step: Step, gains: Gains) -> int:
        """Channels that the first operand of the step delivers."""
        port = step.inputs[0]
        return port.wide(gains) if port.delivered is None else port.delivered

    def _reordered(self, elements: float) -> float:
        return self.rates.node + elements * self.rates.reorder

    def _time(self, step: Step, gains: Gains, forms: Forms) -> tuple[bool, float]:
        """Whether the step runs on blocks, and how long it takes without what has to be moved for it."""
        written = step.output.wide(gains)
        if step.work is not None:
            read = self.read(step, gains)
            form, time = self.rates.form(step.work, read, written), self.rates.convolution(step.work, read, written)
            return form != "plain", time
        computed = step.inputs
        blocked = bool(computed) and all(forms.get(p.name, False) and p.delivered is None for p in computed)
        if step.blocks == "never":
            blocked = blocked and step.free
        elif step.blocks == "whole":
            blocked = blocked and all(p.wide(gains) % self.rates.block == 0 for p in computed)
        else:  # operands of other sizes are broadcast, which is done without blocks
            blocked = blocked and len({p.each * p.wide(gains) for p in computed}) == 1
        if step.free or (step.blocks == "always" and blocked):
            return blocked, 0.0
        return blocked, self.rates.node + written * step.output.each * self.rates.element

    def _reads_blocks(self, step: Step, blocked: bool, port: Port, gains: Gains) -> bool:
        if step.work is None:
            return blocked
        return blocked and self.rates.form(step.work, self.read(step, gains), step.output.wide(gains)) == "blocked"

    # -- steps ---------------------------------------------------------------------------------------------------

    def _step(self, index: int, node: gs.Node) -> Step | None:
        op = rules(node)
        outputs = [t for t in node.outputs if not t.is_empty()]
        if not outputs or outputs[0].name in self._plan.absent:
            return None
        inputs = tuple(self._ports(index, node))
        return Step(
            inputs=inputs,
            output=self._port(outputs[0]),
            work=op.work(node) if inputs else None,
            blocks=op.in_blocks(node),
            free=len(inputs) == 1 and op.affine(node) is not None,
        )

    def _ports(self, index: int, node: gs.Node) -> Iterator[Port]:
        for i, tensor in present(node.inputs):
            if is_constant(tensor) or tensor.name in self._plan.absent or len(shape_of(tensor) or ()) < 3:
                continue
            port, whole = self._port(tensor), np.ones(usual_sizes(tensor)[1], bool)
            stored, seen = self._plan.stored.get(port.key, whole), self._plan.seen.get((index, i, 1), whole)
            yield port if np.array_equal(stored, seen) else replace(port, delivered=int(seen.sum()))

    def _port(self, tensor: gs.Tensor) -> Port:
        sizes = usual_sizes(tensor)
        stored = [self._plan.stored.get((tensor.name, a)) for a in range(len(sizes))]
        counts = [size if mask is None else int(mask.sum()) for size, mask in zip(sizes, stored, strict=True)]
        width = counts[1] if len(counts) > 1 else 1
        return Port(tensor.name, (tensor.name, 1), width, math.prod(counts) / max(width, 1))
