"""What a plan takes to run, by a table of rates: its convolutions, and what stands between them.

ONNX Runtime decides for each convolution whether it runs on channels in blocks. Where a tensor is written in one form
and read in the other it is reordered, once for all who read it. Matrix products take the time of their multiply-adds,
whatever their widths: no kernel for round ones is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.adapters.price import only_at_ends
from passes.cost.per_example import multiples, repeated
from passes.graph.assumed_sizes import usual_sizes
from passes.graph.tensors import is_constant, present, shape_of
from passes.ops import rules
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StoragePlan
from passes.targets.onnxruntime.convolution_shape import ConvolutionShape, convolution_shape
from passes.targets.onnxruntime.fusions import Fusion, fusions
from passes.targets.onnxruntime.gates import gated
from passes.targets.onnxruntime.kernel_rates import Rates, up
from passes.targets.onnxruntime.operator_kernels import ChannelBlocks, channel_blocks, fuses_into_convolution, slowness

# A map that is added is read as well: it takes so many times what another elementwise operator does.
_ADDED = 1.5

#: how many slices more than the plan are stored
Gains = Mapping[Key, int]
#: whether each tensor is written in blocks
Forms = dict[str, bool]


@dataclass(frozen=True)
class Port:
    """An operand or output: its channels, and its elements for each.

    `delivered` is None, or the number of channels that an adapter makes of them, which takes `moving` nanoseconds an
    element.
    """

    name: str
    key: Key
    width: int
    each: float
    delivered: int | None = None
    moving: float = 0.0

    def wide(self, gains: Gains) -> int:
        """Channels that are stored."""
        return self.width + gains.get(self.key, 0)


@dataclass(frozen=True)
class Step:
    """One node of the plan that is computed; `free` if it becomes a part of what is before it.

    `slow`: how many times as long as an addition it takes for an element. `inside`: ONNX Runtime makes it a part of
    the convolution before it. `joined`: it is the last of several nodes that ONNX Runtime makes one of, which is a part
    of no convolution.

    `scales`: it is a scale and shift that nothing takes, which is done on blocks as well as without. `maps`: known maps
    are added to what it writes, and not in blocks. `gated`: it is a product of which one operand has one place for each
    channel, which `inblocks.py` lets stay in blocks. `fixed` are the nanoseconds of what does not depend on numbers of
    channels: multiply-adds that are no convolution's, and adapters along other axes.
    """

    inputs: tuple[Port, ...]
    output: Port
    work: ConvolutionShape | None
    blocks: ChannelBlocks
    free: bool
    slow: float
    inside: bool
    joined: bool
    scales: bool
    maps: bool
    gated: bool
    fixed: float


class Timing:
    """Estimates of a plan, and of the same plan with other numbers of channels.

    `facts` are those that the plan was made with; without them no maps are taken to be added.
    """

    def __init__(self, graph: gs.Graph, plan: StoragePlan, rates: Rates, facts: Facts | None = None) -> None:
        self.rates = rates
        self._plan = plan
        self._facts = facts
        self._opset: int = graph.opset
        self._multiples = multiples(graph)
        self._parts: set[str] = set()  # what contractions write, scaled and shifted or not
        #: whether there are any
        self.adapters = False
        self._outputs = {t.name for t in graph.outputs}
        # nodes that become one with others: by which fusion, and whether it is the last of them
        self._fused: dict[int, tuple[Fusion, bool]] = {}
        for fusion, nodes in fusions(graph):
            self._fused |= {id(n): (fusion, n is nodes[-1]) for n in nodes}
        self.steps = [s for i, n in enumerate(graph.nodes) if i in plan.computed and (s := self._step(i, n))]
        stored = sum(s.work.weights(self.read(s, {}), s.output.wide({})) for s in self.steps if s.work)
        self._from_memory = stored > rates.near

    def total(self, gains: Gains | None = None) -> float:
        """Nanoseconds of one run for one example."""
        return self.of(range(len(self.steps)), gains or {}, {})

    def of(self, steps: Iterable[int], gains: Gains, forms: Forms) -> float:
        """Nanoseconds of some of the steps, in order. `forms` says how tensors are written, and is told of theirs."""
        total, there = 0.0, set[tuple[str, bool]]()
        for index in steps:
            step = self.steps[index]
            blocked, time = self._time(step, gains, forms)
            total += time + step.fixed
            if step.maps:
                moved = step.output.wide(gains) * step.output.each
                total += self.rates.node + moved * self.rates.element * _ADDED
                total += self._reordered(moved) if blocked else 0.0
            for port in step.inputs:
                wanted = self._reads_blocks(step, blocked, port, gains)
                written = forms.get(port.name, False)
                moved = port.wide(gains) * port.each
                if port.delivered is not None:
                    total += self.rates.node + port.delivered * port.each * port.moving
                    if wanted:
                        total += self._reordered(moved)
                    wanted = False
                if wanted != written and (port.name, wanted) not in there:
                    there.add((port.name, wanted))
                    total += self._reordered(moved)
            forms[step.output.name] = blocked = blocked and not step.maps
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
            return form != "plain", time + (self.rates.loading(step.work, read, written) if self._from_memory else 0.0)
        computed = step.inputs
        blocked = bool(computed) and all(forms.get(p.name, False) and p.delivered is None for p in computed)
        if step.blocks == "never":
            blocked = blocked and (step.free or step.scales)
        elif step.blocks == "filled":
            blocked = blocked and all(p.wide(gains) % self.rates.block == 0 for p in computed)
        elif blocked and step.gated:  # one operand is first brought to the places of the other
            moved = written * step.output.each
            return True, 2 * self.rates.node + moved * (self.rates.element + self.rates.touched)
        else:  # operands of other sizes are broadcast, which is done without blocks
            blocked = blocked and len({p.each * p.wide(gains) for p in computed}) == 1
        if step.scales and blocked:
            return blocked, self.rates.node + written * step.output.each * self.rates.depthwise
        if step.free:
            return blocked, 0.0
        if step.inside or (blocked and step.blocks == "always" and not step.joined):
            return blocked, written * step.output.each * self.rates.element * (step.slow - 1)
        wide = up(written, self.rates.block) if blocked else written
        return blocked, self.rates.node + wide * step.output.each * self.rates.element * step.slow

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
        work = convolution_shape(node) if inputs else None
        output = self._port(outputs[0])
        fused = self._fused.get(id(node))
        affine = op.affine(node) if len(inputs) == 1 and fused is None else None
        free = affine is not None and affine.data.name in self._parts
        if free or op.cost(node)[1]:
            self._parts.add(outputs[0].name)
        blocks = channel_blocks(node) if fused is None else fused[0].channel_blocks
        return Step(
            inputs=inputs,
            output=output,
            work=work,
            # an operand of no channels, or of sizes that are not known, is not in blocks
            blocks=blocks if len(inputs) == len(list(self._computed(node))) else "never",
            free=free or (fused is not None and not fused[1]),
            slow=slowness(node) if fused is None else fused[0].slowness,
            inside=fused is None and fuses_into_convolution(node) and self._alone_behind_convolution(node),
            joined=fused is not None and fused[1],
            scales=affine is not None and len(shape_of(outputs[0]) or ()) == 4 and affine.axis in (None, 3),
            maps=self._maps(index, node),
            gated=gated(node, self._opset) is not None,
            fixed=self._other_doors(index, node) + (0.0 if work else self._multiplied(index, node)),
        )

    def _alone_behind_convolution(self, node: gs.Node) -> bool:
        data = node.inputs[0]
        return data.name in self._parts and len(data.outputs) == 1 and len(shape_of(data) or ()) > 2

    def _maps(self, index: int, node: gs.Node) -> bool:
        """Whether known maps of channels that the node does not see are added to its output."""
        uneven = {} if self._facts is None or not node.inputs else self._facts.constant_map.get(node.inputs[0].name, {})
        found = False
        for axis, constant_map in uneven.items():
            seen = self._plan.required.get((index, 0, axis))
            found = found or (seen is not None and bool((constant_map.mask & ~seen).any()))
        return found and rules(node).cost(node)[1] > 0 and is_constant(node.inputs[1])

    def _multiplied(self, index: int, node: gs.Node) -> float:
        """Nanoseconds of multiply-adds: of as many as are left where the first operand and the output are narrower."""
        macs = rules(node).cost(node)[1]
        if not macs:
            return 0.0
        left = float(repeated(node.outputs[0], self._multiples))
        for axis in range(len(shape_of(node.outputs[0]) or ())):
            mask = self._plan.stored.get((node.outputs[0].name, axis))
            left *= 1.0 if mask is None else float(mask.mean())
        read = self._plan.required.get((index, 0, len(shape_of(node.inputs[0]) or ()) - 1))
        return macs * left * (1.0 if read is None else float(read.mean())) * self.rates.plain

    def _ports(self, index: int, node: gs.Node) -> Iterator[Port]:
        for i, tensor in self._computed(node):
            if len(shape_of(tensor) or ()) > 2:
                port, door = self._port(tensor), self._door(index, i, tensor, 1)
                yield port if door is None else replace(port, delivered=door[0], moving=door[1])

    def _other_doors(self, index: int, node: gs.Node) -> float:
        """Nanoseconds of adapters that are not along channels."""
        total = 0.0
        for i, tensor in self._computed(node):
            rank = len(shape_of(tensor) or ())
            for axis in (a for a in range(rank) if a != 1 or rank < 3):
                door = self._door(index, i, tensor, axis)
                if door is not None:
                    sizes = self._stored_sizes(tensor)
                    total += self.rates.node + math.prod(sizes[:axis] + sizes[axis + 1 :]) * door[0] * door[1]
        return total

    def _computed(self, node: gs.Node) -> Iterator[tuple[int, gs.Tensor]]:
        for i, tensor in present(node.inputs):
            if not is_constant(tensor) and tensor.name not in self._plan.absent:
                yield i, tensor

    def _door(self, index: int, i: int, tensor: gs.Tensor, axis: int) -> tuple[int, float] | None:
        """The slices that an adapter delivers there, and nanoseconds for each element; None if there is none."""
        stored, seen = self._plan.stored.get((tensor.name, axis)), self._plan.required.get((index, i, axis))
        if stored is None and seen is None:
            return None
        whole = np.ones(usual_sizes(tensor, self._multiples)[axis], bool)
        stored, seen = (whole if mask is None else mask for mask in (stored, seen))
        if np.array_equal(stored, seen):
            return None
        self.adapters = True
        block = math.prod(self._stored_sizes(tensor)[axis + 1 :])
        copied = 0.0 if only_at_ends(stored, seen) else self.rates.copy / max(block, 1)
        return int(seen.sum()), self.rates.move + copied

    def _stored_sizes(self, tensor: gs.Tensor) -> list[int]:
        sizes = usual_sizes(tensor, self._multiples)
        stored = (self._plan.stored.get((tensor.name, a)) for a in range(len(sizes)))
        return [size if mask is None else int(mask.sum()) for size, mask in zip(sizes, stored, strict=True)]

    def _port(self, tensor: gs.Tensor) -> Port:
        sizes = self._stored_sizes(tensor)
        width = sizes[1] if len(sizes) > 2 else 1
        return Port(tensor.name, (tensor.name, 1), width, math.prod(sizes) / max(width, 1))
