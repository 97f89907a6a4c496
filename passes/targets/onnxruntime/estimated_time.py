"""What a plan takes to run, by a table of rates: its convolutions, and what stands between them.

ONNX Runtime decides for each convolution whether it runs on NCHWc channel blocks. Where a tensor is written in one form
and read in the other it is reordered, once for all its readers. Matrix products take the time of their multiply-adds,
whatever their widths: no kernel for round ones is faster.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.abstract_values.scale_shift import Affine
from passes.adapters.price import only_at_ends
from passes.cost.tokens_per_example import multiples, repeated, usual_sizes
from passes.graph.tensors import Mask, any_set, is_constant, present, shape_of
from passes.ops import rules
from passes.ops.arithmetic import is_product
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StoragePlan
from passes.targets.onnxruntime.convolution_shape import ConvolutionShape, convolution_shape
from passes.targets.onnxruntime.fusions import Fusion, fusions
from passes.targets.onnxruntime.operator_kernels import ChannelBlocks, channel_blocks, fuses_into_convolution, slowness
from passes.targets.onnxruntime.processors import Rates

# A constant map that is added is read as well: it takes so many times what another elementwise operator does. Where
# sizes are open it is made at run time, of rows and of columns, by some operators more.
_ADDED, _ADDED_OPEN = 1.5, 4.0
_NODES_OF_OPEN_MAP = 10

_RESIZE_WITHOUT_REGION = 13  # the opset from which Resize needs none

#: how many slices more than the plan are stored, by the slot of their axis
Gains = Sequence[int]
#: whether each step writes channel blocks, and False for what no step writes
Blocked = list[bool]


@dataclass(frozen=True)
class Port:
    """An operand or output: its channels, and its elements for each.

    `writer` is the step that writes it, -1 if none does, and `shared` says whether others read it as well. `delivered`
    is None, or the number of channels that an adapter makes of them, at `ns_per_delivered` an element.
    """

    writer: int
    slot: int
    width: int
    elements_per_channel: float
    shared: bool = False
    delivered: int | None = None
    ns_per_delivered: float = 0.0

    def stored(self, gains: Gains) -> int:
        """Channels that are stored."""
        return self.width + gains[self.slot]

    def elements(self, gains: Gains) -> float:
        """Elements that are stored."""
        return (self.width + gains[self.slot]) * self.elements_per_channel


@dataclass(frozen=True)
class Step:
    """One node of the plan that is computed; `free` if it becomes a part of what is before it.

    `slowness`: how many times as long as an addition it takes for an element. `inside`: it becomes a part of the
    convolution before it. `fused`: it is the last of several nodes that become one, which is a part of no convolution.
    `scales`: it is a scale and shift that no weights take, which is done on channel blocks as well as without. `maps`:
    constant maps are added to what it writes, and not in channel blocks. `open_maps`: these, or the means of maps, are
    made at run time. `gated`: it is a product with a gate, which `keep_nchwc_layout.py` lets stay in channel blocks.
    `given`: it writes an output of the graph.

    What does not depend on numbers of channels: `multiplied_ns` are multiply-adds that are no convolution's,
    `adapters_ns` adapters along other axes.
    """

    inputs: tuple[Port, ...]
    output: Port
    convolution: ConvolutionShape | None
    channel_blocks: ChannelBlocks
    free: bool
    slowness: float
    inside: bool
    fused: bool
    scales: bool
    maps: bool
    open_maps: bool
    gated: bool
    multiplied_ns: float
    adapters_ns: float
    given: bool


@dataclass(frozen=True)
class _Run:
    """How a step runs: its time, whether it writes channel blocks, and operands reordered that others may read, too.

    Of each of these: who writes it, whether into channel blocks, and the nanoseconds.
    """

    time: float
    blocked: bool
    reordered: tuple[tuple[int, bool, float], ...]


class Network:
    """What the times of nodes depend on that is the same in all plans of a graph.

    Without `facts` no constant maps are taken to be added.
    """

    def __init__(self, graph: gs.Graph, facts: Facts | None = None) -> None:
        self.outputs = {t.name for t in graph.outputs}
        found = multiples(graph, facts)
        # nodes that become one with others: by which fusion, and whether it is the last of them
        fused = {id(n): (fusion, n is nodes[-1]) for fusion, nodes in fusions(graph) for n in nodes}
        maps = {} if facts is None else facts.constant_map
        self.nodes = [_Node(node, graph.opset, found, fused.get(id(node)), maps) for node in graph.nodes]


class _Node:
    """A node of a network; without an output it takes no time."""

    def __init__(
        self,
        node: gs.Node,
        opset: int,
        found: Mapping[str, int],
        fused: tuple[Fusion, bool] | None,
        maps: Mapping[str, Mapping[int, ConstantMap]],
    ) -> None:
        self._node, self._found = node, found
        self.output = next((t for t in node.outputs if not t.is_empty()), None)
        if self.output is None:
            return
        self.sizes = usual_sizes(self.output, found)
        self.operands = [(i, t, usual_sizes(t, found)) for i, t in present(node.inputs) if not is_constant(t)]
        self.fused = fused
        self.blocks = channel_blocks(node) if fused is None else fused[0].channel_blocks
        self.slowness = slowness(node) if fused is None else fused[0].slowness
        self.macs = rules(node).cost(node)[1]
        self.gated = gate_operand(node, opset) is not None
        data = node.inputs[0] if node.inputs else None
        #: whether it may be a part of the convolution before it
        self.fuses = (
            fused is None
            and fuses_into_convolution(node)
            and data is not None
            and len(data.outputs) == 1
            and len(shape_of(data) or ()) > 2
        )
        #: constant maps of the first operand, by axis, and whether their contribution can be added
        self.maps = maps.get(node.inputs[0].name, {}) if node.inputs else {}
        self.adds_maps = self.macs > 0 and len(node.inputs) > 1 and is_constant(node.inputs[1])

    @functools.cached_property
    def convolution(self) -> ConvolutionShape | None:
        return convolution_shape(self._node, self._found)

    @functools.cached_property
    def affine(self) -> Affine | None:
        return rules(self._node).affine(self._node) if self.fused is None else None

    def multiplied(self, index: int, plan: StoragePlan) -> float:
        """Multiply-adds: as many as are left where the first operand and the output are narrower."""
        if not self.macs:
            return 0.0
        output, data = self._node.outputs[0], self._node.inputs[0]
        left = float(repeated(output, self._found))
        for axis in range(len(shape_of(output) or ())):
            mask = plan.stored.get((output.name, axis))
            left *= 1.0 if mask is None else float(mask.mean())
        read = plan.required.get((index, 0, len(shape_of(data) or ()) - 1))
        return self.macs * left * (1.0 if read is None else float(read.mean()))


class Timing:
    """Estimates of a plan of a network, and of the same plan with other numbers of channels."""

    def __init__(self, network: Network, plan: StoragePlan, rates: Rates) -> None:
        self.rates = rates
        self._plan = plan
        self._widths: dict[str, dict[int, int]] = {}  # by tensor and axis, where not all is stored
        for (name, axis), mask in plan.stored.items():
            self._widths.setdefault(name, {})[axis] = int(np.count_nonzero(mask))
        self._required: dict[tuple[int, int], list[int]] = {}  # by node and operand, the axes not all of which is
        for index, i, axis in plan.required:
            self._required.setdefault((index, i), []).append(axis)
        self._outputs = network.outputs
        self._parts: set[str] = set()  # what contractions write, scaled and shifted or not
        #: whether there are any
        self.adapters = False
        #: slices that are not read as their constant maps are added to what a contraction writes
        self.mapped: list[tuple[Key, Mask]] = []
        #: by axis: where `Gains` say how much more of it is stored
        self.slots: dict[Key, int] = {}
        #: by tensor: the step that writes it
        self.writers: dict[str, int] = {}
        self.steps: list[Step] = []
        for i, node in enumerate(network.nodes):
            if i in plan.computed and node.output is not None and node.output.name not in plan.absent:
                self.steps.append(self._step(i, node, node.output))
        none = self.gains({})
        weights = sum(
            s.convolution.weights(self.read(s, none), s.output.stored(none))
            for s in self.steps
            if s.convolution is not None
        )
        self._from_memory = weights > rates.cached_weights
        # for each step how it runs, by numbers of channels and by what its operands are written in
        self._runs: list[dict[tuple[object, object], _Run]] = [{} for _ in self.steps]
        self._asks = [
            (_picked([p.slot for p in (*s.inputs, s.output)]), _picked([p.writer for p in s.inputs]))
            for s in self.steps
        ]

    def without(self, *, maps: bool = False, adapters: bool = False) -> Timing:
        """The same where no constant maps are added, or no adapters are written."""

        def relieved(step: Step) -> Step:
            inputs = tuple(replace(port, delivered=None) for port in step.inputs) if adapters else step.inputs
            return replace(
                step,
                inputs=inputs,
                maps=step.maps and not maps,
                open_maps=step.open_maps and not maps and (step.maps or not adapters),  # means are restored
                adapters_ns=0.0 if adapters else step.adapters_ns,
            )

        other = copy.copy(self)
        other.steps = [relieved(step) for step in self.steps]
        other._runs = [{} for _ in self.steps]
        return other

    def gains(self, more: Mapping[Key, int]) -> list[int]:
        """As many slices more along each of these axes."""
        found = [0] * len(self.slots)
        for key, count in more.items():
            if key in self.slots:
                found[self.slots[key]] = count
        return found

    def total(self, gains: Gains | None = None) -> float:
        """Nanoseconds of one run for one example."""
        return self.of(range(len(self.steps)), self.gains({}) if gains is None else gains, self.unblocked())

    def unblocked(self) -> Blocked:
        """Nothing is written in channel blocks."""
        return [False] * (len(self.steps) + 1)

    def of(self, steps: Iterable[int], gains: Gains, blocked: Blocked) -> float:
        """Nanoseconds of some of the steps, in order. `blocked` says how tensors are written, and is told of theirs."""
        total, reordered = 0.0, set[tuple[int, bool]]()
        for index in steps:
            widths, operands = self._asks[index]
            asked = widths(gains), operands(blocked)
            run = self._runs[index].get(asked)
            if run is None:
                run = self._runs[index][asked] = self._run(self.steps[index], gains, blocked)
            total += run.time
            for writer, wanted, time in run.reordered:
                if (writer, wanted) not in reordered:
                    reordered.add((writer, wanted))
                    total += time
            blocked[index] = run.blocked
        return total

    def written_in_blocks(self) -> set[str]:
        """Names of the tensors that are written in channel blocks."""
        blocked = self.unblocked()
        self.of(range(len(self.steps)), self.gains({}), blocked)
        return {name for name, index in self.writers.items() if blocked[index]}

    def read(self, step: Step, gains: Gains) -> int:
        """Channels that the first operand of the step delivers."""
        port = step.inputs[0]
        return port.stored(gains) if port.delivered is None else port.delivered

    def _run(self, step: Step, gains: Gains, blocked: Blocked) -> _Run:
        runs_blocked, time = self._time(step, gains, blocked)
        time += step.multiplied_ns + step.adapters_ns + _NODES_OF_OPEN_MAP * self.rates.ns_per_node * step.open_maps
        if step.maps:
            elements = step.output.elements(gains)
            time += self._adding(step, elements) + (self._reorder(elements) if runs_blocked else 0.0)
        reordered = []
        for port in step.inputs:
            wanted = runs_blocked and self._reads_blocks(step, gains)
            elements = port.elements(gains)
            if port.delivered is not None:
                delivered = port.delivered * port.elements_per_channel
                time += self.rates.ns_per_node + delivered * port.ns_per_delivered
                if wanted:
                    time += self._reorder(elements)
                wanted = False
            if wanted != blocked[port.writer]:
                if port.shared:
                    reordered.append((port.writer, wanted, self._reorder(elements)))
                else:
                    time += self._reorder(elements)
        writes = runs_blocked and not step.maps
        if writes and step.given:
            time += self._reorder(step.output.elements(gains))
        return _Run(time, writes, tuple(reordered))

    def _adding(self, step: Step, elements: float) -> float:
        each = self.rates.ns_per_elementwise_element * (_ADDED_OPEN if step.open_maps else _ADDED)
        return self.rates.ns_per_node + elements * each

    def _reorder(self, elements: float) -> float:
        return self.rates.ns_per_node + elements * self.rates.ns_per_reordered_element

    def _time(self, step: Step, gains: Gains, blocked: Blocked) -> tuple[bool, float]:
        """Whether the step runs on channel blocks, and how long it takes without what has to be moved for it."""
        rates, written, elements = self.rates, step.output.stored(gains), step.output.elements(gains)
        if step.convolution is not None:
            widths = self.read(step, gains), written
            form, time = rates.form(step.convolution, *widths), rates.convolution(step.convolution, *widths)
            return form != "im2col", time + (rates.loading(step.convolution, *widths) if self._from_memory else 0.0)
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
        if not operands or not all(blocked[p.writer] and p.delivered is None for p in operands):
            return False
        if step.channel_blocks == "never":
            return step.free or step.scales
        if step.channel_blocks == "filled":
            return all(p.stored(gains) % self.rates.channels_per_block == 0 for p in operands)
        # operands of other sizes are broadcast, which is done without channel blocks
        return step.gated or len({p.elements(gains) for p in operands}) == 1

    def _reads_blocks(self, step: Step, gains: Gains) -> bool:
        """Whether the step reads channel blocks, where it runs on them."""
        if step.convolution is None:
            return True
        return self.rates.form(step.convolution, self.read(step, gains), step.output.stored(gains)) == "nchwc"

    # -- steps ---------------------------------------------------------------------------------------------------

    def _step(self, index: int, node: _Node, output: gs.Tensor) -> Step:
        computed = [(i, t, sizes) for i, t, sizes in node.operands if t.name not in self._plan.absent]
        adapters = [self._adapters(index, i, t, sizes) for i, t, sizes in computed]
        inputs = tuple(
            self._port(t, sizes, found.get(1))
            for (_, t, sizes), found in zip(computed, adapters, strict=True)
            if len(sizes) > 2
        )
        convolution = node.convolution if inputs else None
        affine = node.affine if len(inputs) == 1 else None
        free = affine is not None and affine.data.name in self._parts
        inside = node.fuses and bool(node.operands) and node.operands[0][1].name in self._parts
        if free or node.macs:
            self._parts.add(output.name)
        multiplied = 0.0 if convolution else node.multiplied(index, self._plan) * self.rates.ns_per_im2col_mac
        mapped = list(self._mapped(index, node))
        if node.adds_maps:
            self.mapped += [(key, unread) for key, unread, _ in mapped]
        self.writers[output.name] = len(self.steps)
        return Step(
            inputs=inputs,
            output=self._port(output, node.sizes),
            convolution=convolution,
            # an operand of no channels, or of sizes that are not known, is not in channel blocks
            channel_blocks=node.blocks if len(inputs) == len(computed) else "never",
            free=free or (node.fused is not None and not node.fused[1]),
            slowness=node.slowness,
            inside=inside,
            fused=node.fused is not None and node.fused[1],
            scales=affine is not None and len(node.sizes) == 4 and affine.axis in (None, 3),
            maps=bool(mapped) and node.adds_maps,
            open_maps=not all(static for *_, static in mapped),
            gated=node.gated,
            multiplied_ns=multiplied,
            adapters_ns=sum(
                self._restoring(t, sizes, axis, *adapter)
                for (_, t, sizes), found in zip(computed, adapters, strict=True)
                for axis, adapter in found.items()
                if axis != 1 or len(sizes) < 3
            ),
            given=output.name in self._outputs,
        )

    def _mapped(self, index: int, node: _Node) -> Iterator[tuple[Key, Mask, bool]]:
        """The constant maps that are not required of the first operand, and whether their sizes are known beforehand.

        A contraction adds their part to what it writes.
        """
        for axis, found in node.maps.items():
            required = self._plan.required.get((index, 0, axis))
            if required is not None and any_set(found.mask & ~required):
                yield (node.operands[0][1].name, axis), found.mask & ~required, found.is_static()

    def _adapters(self, index: int, i: int, tensor: gs.Tensor, sizes: Sequence[int]) -> dict[int, tuple[int, float]]:
        """By axis, the slices that adapters deliver to an operand, and nanoseconds for each element."""
        found: dict[int, tuple[int, float]] = {}
        for axis in sorted({*self._widths.get(tensor.name, ()), *self._required.get((index, i), ())}):
            stored, required = self._plan.stored.get((tensor.name, axis)), self._plan.required.get((index, i, axis))
            if stored is required:
                continue
            stored, required = (np.ones(sizes[axis], bool) if mask is None else mask for mask in (stored, required))
            if any_set(stored ^ required):
                self.adapters = True
                block = math.prod(self._stored(tensor, sizes)[axis + 1 :])
                apart = 0.0 if only_at_ends(stored, required) else self.rates.ns_per_gathered_piece / max(block, 1)
                found[axis] = int(np.count_nonzero(required)), self.rates.ns_per_adapted_element + apart
        return found

    def _restoring(
        self, tensor: gs.Tensor, sizes: Sequence[int], axis: int, delivered: int, ns_per_element: float
    ) -> float:
        """Nanoseconds of an adapter along an axis that is not that of channels."""
        stored = self._stored(tensor, sizes)
        return self.rates.ns_per_node + math.prod(stored[:axis] + stored[axis + 1 :]) * delivered * ns_per_element

    def _stored(self, tensor: gs.Tensor, sizes: Sequence[int]) -> list[int]:
        """The sizes of what is stored of the tensor."""
        widths = self._widths.get(tensor.name, {})
        return [widths.get(axis, size) for axis, size in enumerate(sizes)]

    def _port(self, tensor: gs.Tensor, sizes: Sequence[int], adapter: tuple[int, float] | None = None) -> Port:
        stored = self._stored(tensor, sizes)
        width = stored[1] if len(stored) > 2 else 1
        delivered, ns_per_delivered = adapter or (None, 0.0)
        return Port(
            writer=self.writers.get(tensor.name, -1),
            slot=self.slots.setdefault((tensor.name, 1), len(self.slots)),
            width=width,
            elements_per_channel=math.prod(stored) / max(width, 1),
            shared=len(tensor.outputs) > 1,
            delivered=delivered,
            ns_per_delivered=ns_per_delivered,
        )


#: which operand of a node, the tensor, and its sizes
_Operand = tuple[int, gs.Tensor, tuple[int, ...]]


def _picked(places: Sequence[int]) -> Callable[[Sequence[Any]], object]:
    """What picks the values at these places."""
    return itemgetter(*places) if places else len


def gate_operand(node: gs.Node, opset: int) -> int | None:
    """Which operand of a product of images is a gate that a Resize could bring to the positions of the other one.

    A gate is one number for each channel and example, as squeeze and excitation makes them. None where neither operand
    is, where the positions are not static, or for other types than single precision.
    """
    if opset < _RESIZE_WITHOUT_REGION or not node.outputs or not is_product(node):
        return None
    shapes = [shape_of(t) or () for t in node.inputs]
    if len(shapes) != 2 or any(len(shape) != 4 for shape in shapes) or node.outputs[0].dtype != np.float32:
        return None
    index = 0 if shapes[0][2:] == (1, 1) else 1
    gate, other = shapes[index], shapes[1 - index]
    fits = gate[:2] == other[:2] and gate[2:] == (1, 1) != other[2:]
    return index if fits and all(isinstance(d, int) for d in other[2:]) else None
