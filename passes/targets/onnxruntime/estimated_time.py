"""What a plan takes to run, by a table of rates: its convolutions, and what stands between them.

ONNX Runtime decides for each convolution whether it runs on NCHWc channel blocks. Where a tensor is written in one form
and read in the other it is reordered, once for all its readers. Matrix products take the time of their multiply-adds,
whatever their widths: no kernel for round ones is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.adapters.price import only_at_ends
from passes.cost.tokens_per_example import multiples, repeated, usual_sizes
from passes.graph.tensors import is_constant, present, shape_of
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

#: how many slices more than the plan are stored
Gains = Mapping[Key, int]
#: whether each tensor is written in channel blocks
Blocked = dict[str, bool]


@dataclass(frozen=True)
class Port:
    """An operand or output: its channels, and its elements for each.

    `delivered` is None, or the number of channels that an adapter makes of them, at `ns_per_delivered` an element.
    """

    name: str
    key: Key
    width: int
    elements_per_channel: float
    delivered: int | None = None
    ns_per_delivered: float = 0.0

    def stored(self, gains: Gains) -> int:
        """Channels that are stored."""
        return self.width + gains.get(self.key, 0)

    def elements(self, gains: Gains) -> float:
        """Elements that are stored."""
        return self.stored(gains) * self.elements_per_channel


@dataclass(frozen=True)
class Step:
    """One node of the plan that is computed; `free` if it becomes a part of what is before it.

    `slowness`: how many times as long as an addition it takes for an element. `inside`: it becomes a part of the
    convolution before it. `fused`: it is the last of several nodes that become one, which is a part of no convolution.
    `scales`: it is a scale and shift that no weights take, which is done on channel blocks as well as without. `maps`:
    constant maps are added to what it writes, and not in channel blocks. `gated`: it is a product with a gate, which
    `keep_nchwc_layout.py` lets stay in channel blocks. `open_maps`: these, or their means, are made at run time.
    `fixed_ns`: what does not depend on numbers of channels:
    multiply-adds that are no convolution's, and adapters along other axes.
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
    fixed_ns: float


class Timing:
    """Estimates of a plan, and of the same plan with other numbers of channels.

    `facts` are those that the plan was made with; without them no constant maps are taken to be added.
    """

    def __init__(self, graph: gs.Graph, plan: StoragePlan, rates: Rates, facts: Facts | None = None) -> None:
        self.rates = rates
        self._plan = plan
        self._facts = facts
        self._opset: int = graph.opset
        self._multiples = multiples(graph, facts)
        self._parts: set[str] = set()  # what contractions write, scaled and shifted or not
        #: whether there are any
        self.adapters = False
        self._outputs = {t.name for t in graph.outputs}
        # nodes that become one with others: by which fusion, and whether it is the last of them
        self._fused: dict[int, tuple[Fusion, bool]] = {}
        for fusion, nodes in fusions(graph):
            self._fused |= {id(n): (fusion, n is nodes[-1]) for n in nodes}
        self.steps = [s for i, n in enumerate(graph.nodes) if i in plan.computed and (s := self._step(i, n))]
        weights = sum(
            s.convolution.weights(self.read(s, {}), s.output.stored({}))
            for s in self.steps
            if s.convolution is not None
        )
        self._from_memory = weights > rates.cached_weights

    def total(self, gains: Gains | None = None) -> float:
        """Nanoseconds of one run for one example."""
        return self.of(range(len(self.steps)), gains or {}, {})

    def of(self, steps: Iterable[int], gains: Gains, blocked: Blocked) -> float:
        """Nanoseconds of some of the steps, in order. `blocked` says how tensors are written, and is told of theirs."""
        total, reordered = 0.0, set[tuple[str, bool]]()
        for index in steps:
            step = self.steps[index]
            runs_blocked, time = self._time(step, gains, blocked)
            total += time + step.fixed_ns
            if step.open_maps:
                total += _NODES_OF_OPEN_MAP * self.rates.ns_per_node
            if step.maps:
                elements = step.output.elements(gains)
                added = elements * self.rates.ns_per_elementwise_element
                total += self.rates.ns_per_node + added * (_ADDED_OPEN if step.open_maps else _ADDED)
                total += self._reorder(elements) if runs_blocked else 0.0
            for port in step.inputs:
                wanted = runs_blocked and self._reads_blocks(step, gains)
                elements = port.elements(gains)
                if port.delivered is not None:
                    delivered = port.delivered * port.elements_per_channel
                    total += self.rates.ns_per_node + delivered * port.ns_per_delivered
                    if wanted:
                        total += self._reorder(elements)
                    wanted = False
                if wanted != blocked.get(port.name, False) and (port.name, wanted) not in reordered:
                    reordered.add((port.name, wanted))
                    total += self._reorder(elements)
            blocked[step.output.name] = runs_blocked and not step.maps
            if blocked[step.output.name] and step.output.name in self._outputs:
                total += self._reorder(step.output.elements(gains))
        return total

    def read(self, step: Step, gains: Gains) -> int:
        """Channels that the first operand of the step delivers."""
        port = step.inputs[0]
        return port.stored(gains) if port.delivered is None else port.delivered

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
        if not operands or not all(blocked.get(p.name, False) and p.delivered is None for p in operands):
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

    def _step(self, index: int, node: gs.Node) -> Step | None:
        op = rules(node)
        outputs = [t for t in node.outputs if not t.is_empty()]
        if not outputs or outputs[0].name in self._plan.absent:
            return None
        inputs = tuple(self._ports(index, node))
        shape = convolution_shape(node, self._multiples) if inputs else None
        output = self._port(outputs[0])
        fused = self._fused.get(id(node))
        affine = op.affine(node) if len(inputs) == 1 and fused is None else None
        free = affine is not None and affine.data.name in self._parts
        if free or op.cost(node)[1]:
            self._parts.add(outputs[0].name)
        blocks = channel_blocks(node) if fused is None else fused[0].channel_blocks
        added = self._added_maps(index, node)
        return Step(
            inputs=inputs,
            output=output,
            convolution=shape,
            # an operand of no channels, or of sizes that are not known, is not in channel blocks
            channel_blocks=blocks if len(inputs) == len(list(self._computed(node))) else "never",
            free=free or (fused is not None and not fused[1]),
            slowness=slowness(node) if fused is None else fused[0].slowness,
            inside=fused is None and fuses_into_convolution(node) and self._alone_after_convolution(node),
            fused=fused is not None and fused[1],
            scales=affine is not None and len(shape_of(outputs[0]) or ()) == 4 and affine.axis in (None, 3),
            maps=bool(added) and op.cost(node)[1] > 0 and is_constant(node.inputs[1]),
            open_maps=not all(each.is_static(range(len(each.index))) for each in added),
            gated=gate_operand(node, self._opset) is not None,
            fixed_ns=self._other_adapters(index, node) + (0.0 if shape else self._multiplied(index, node)),
        )

    def _alone_after_convolution(self, node: gs.Node) -> bool:
        data = node.inputs[0]
        return data.name in self._parts and len(data.outputs) == 1 and len(shape_of(data) or ()) > 2

    def _added_maps(self, index: int, node: gs.Node) -> list[ConstantMap]:
        """Constant maps with channels that the node does not require: it or what is after it adds their part."""
        uneven = {} if self._facts is None or not node.inputs else self._facts.constant_map.get(node.inputs[0].name, {})
        required = {axis: self._plan.required.get((index, 0, axis)) for axis in uneven}
        return [
            constant_map
            for axis, constant_map in uneven.items()
            if (mask := required[axis]) is not None and bool((constant_map.mask & ~mask).any())
        ]

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
        return macs * left * (1.0 if read is None else float(read.mean())) * self.rates.ns_per_im2col_mac

    def _ports(self, index: int, node: gs.Node) -> Iterator[Port]:
        for i, tensor in self._computed(node):
            if len(shape_of(tensor) or ()) > 2:
                port, adapter = self._port(tensor), self._adapter(index, i, tensor, 1)
                yield port if adapter is None else replace(port, delivered=adapter[0], ns_per_delivered=adapter[1])

    def _other_adapters(self, index: int, node: gs.Node) -> float:
        """Nanoseconds of adapters that are not along channels."""
        total = 0.0
        for i, tensor in self._computed(node):
            rank = len(shape_of(tensor) or ())
            for axis in (a for a in range(rank) if a != 1 or rank < 3):
                adapter = self._adapter(index, i, tensor, axis)
                if adapter is not None:
                    sizes, (delivered, ns_per_element) = self._stored_sizes(tensor), adapter
                    others = math.prod(sizes[:axis] + sizes[axis + 1 :])
                    total += self.rates.ns_per_node + others * delivered * ns_per_element
        return total

    def _computed(self, node: gs.Node) -> Iterator[tuple[int, gs.Tensor]]:
        for i, tensor in present(node.inputs):
            if not is_constant(tensor) and tensor.name not in self._plan.absent:
                yield i, tensor

    def _adapter(self, index: int, i: int, tensor: gs.Tensor, axis: int) -> tuple[int, float] | None:
        """The slices that an adapter delivers there, and nanoseconds for each element; None if there is none."""
        stored, required = self._plan.stored.get((tensor.name, axis)), self._plan.required.get((index, i, axis))
        if stored is None and required is None:
            return None
        whole = np.ones(usual_sizes(tensor, self._multiples)[axis], bool)
        stored, required = (whole if mask is None else mask for mask in (stored, required))
        if np.array_equal(stored, required):
            return None
        self.adapters = True
        block = math.prod(self._stored_sizes(tensor)[axis + 1 :])
        copied = 0.0 if only_at_ends(stored, required) else self.rates.ns_per_gathered_piece / max(block, 1)
        return int(required.sum()), self.rates.ns_per_adapted_element + copied

    def _stored_sizes(self, tensor: gs.Tensor) -> list[int]:
        sizes = usual_sizes(tensor, self._multiples)
        stored = (self._plan.stored.get((tensor.name, a)) for a in range(len(sizes)))
        return [size if mask is None else int(mask.sum()) for size, mask in zip(sizes, stored, strict=True)]

    def _port(self, tensor: gs.Tensor) -> Port:
        sizes = self._stored_sizes(tensor)
        width = sizes[1] if len(sizes) > 2 else 1
        return Port(tensor.name, (tensor.name, 1), width, math.prod(sizes) / max(width, 1))


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
