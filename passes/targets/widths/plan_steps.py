"""Steps of a plan, node by node: slices that operands and outputs store, and that adapters deliver."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.abstract_values.scale_shift import Affine
from passes.adapters.price import only_at_ends
from passes.graph.tensors import Mask, bits, is_constant, present, shape_of
from passes.ops import rules, traits
from passes.ops.arithmetic import is_product
from passes.ops.slice_gather import Slice
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import Key, StoragePlan
from passes.sizes.tokens_per_example import multiples, repeated, usual_sizes
from passes.targets.widths.convolution_shape import ConvolutionShape, convolution_shape
from passes.targets.widths.fusions import Fusion, fusions
from passes.targets.widths.operator_kernels import ChannelBlocks, channel_blocks, fuses_into_convolution, slowness

_RESIZE_WITHOUT_REGION = 13  # the opset from which Resize needs none

#: how many slices more than the plan are stored, by the slot of their axis
Gains = Sequence[int]


@dataclass(frozen=True, slots=True)
class Port:
    """An operand or output: its channels, and its elements for each.

    `writer` is the step that writes it, -1 if none does, and `shared` says whether others read it as well. `delivered`
    is None, or the number of channels that an adapter makes of them, of `pieces` pieces an element.
    """

    writer: int
    slot: int
    width: int
    elements_per_channel: float
    shared: bool = False
    delivered: int | None = None
    pieces: float = 0.0

    def stored(self, gains: Gains) -> int:
        """Channels that are stored."""
        return self.width + gains[self.slot]

    def elements(self, gains: Gains) -> float:
        """Elements that are stored."""
        return (self.width + gains[self.slot]) * self.elements_per_channel


@dataclass(frozen=True, slots=True)
class Delivery:
    """Elements that an adapter makes, and of how many pieces each: none where it only cuts or pads the ends."""

    elements: float
    pieces: float


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the plan that is computed; `free` if it becomes a part of what is before it.

    `slowness`: how many times as long as an addition it takes for an element. `inside`: it becomes a part of the
    convolution before it. `fused`: it is the last of several nodes that become one, which is a part of no convolution.
    `scales`: it is a scale and shift that no weights take, which is done on channel blocks as well as without. `maps`:
    constant maps are added to what it writes, and not in channel blocks. `open_maps`: these, or the means of maps, are
    made at run time. `gated`: it is a product with a gate, which `keep_nchwc_layout.py` lets stay in channel blocks.
    `given`: it writes an output of the graph.

    What does not depend on numbers of channels: `multiplied` are multiply-adds that are no convolution's, `adapters`
    what adapters along other axes deliver.
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
    multiplied: float
    adapters: tuple[Delivery, ...]
    given: bool


class _Operand(NamedTuple):
    """A computed operand, its sizes, and by axis the slices that adapters deliver, of how many pieces an element."""

    tensor: gs.Tensor
    sizes: tuple[int, ...]
    adapters: Mapping[int, tuple[int, float]]


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
        self.picks = isinstance(rules(node), Slice)
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
        return traits.affine(self._node) if self.fused is None else None

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


class PlanSteps:
    """The nodes of a plan of a network that are computed."""

    def __init__(self, network: Network, plan: StoragePlan) -> None:
        self._plan = plan
        self._widths: dict[str, dict[int, int]] = {}  # by tensor and axis, where not all is stored
        for (name, axis), mask in plan.stored.items():
            self._widths.setdefault(name, {})[axis] = int(np.count_nonzero(mask))
        self._required: dict[tuple[int, int], list[int]] = {}  # by node and operand, the axes not all of which is
        for index, i, axis in plan.required:
            self._required.setdefault((index, i), []).append(axis)
        self._outputs = network.outputs
        self._parts: set[str] = set()  # what contractions write, scaled and shifted or not
        self._ports: dict[str, Port] = {}  # by tensor, without adapters
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

    def without(self, *, maps: bool = False, adapters: bool = False) -> PlanSteps:
        """The same where no constant maps are added, or no adapters are written."""

        def relieved(step: Step) -> Step:
            adapted = adapters and (bool(step.adapters) or any(port.delivered is not None for port in step.inputs))
            open_maps = step.open_maps and not maps and (step.maps or not adapters)  # means are restored
            inputs = tuple(replace(port, delivered=None) for port in step.inputs) if adapted else step.inputs
            left = () if adapted else step.adapters
            return replace(step, inputs=inputs, maps=step.maps and not maps, open_maps=open_maps, adapters=left)

        other = copy.copy(self)
        other.steps = [relieved(step) for step in self.steps]
        return other

    def _step(self, index: int, node: _Node, output: gs.Tensor) -> Step:
        computed = [
            _Operand(t, sizes, self._adapters(index, i, t, sizes, node.picks))
            for i, t, sizes in node.operands
            if t.name not in self._plan.absent
        ]
        inputs = tuple(self._port(t, sizes, found.get(1)) for t, sizes, found in computed if len(sizes) > 2)
        convolution = node.convolution if inputs else None
        affine = node.affine if len(inputs) == 1 else None
        part = affine is not None and affine.data.name in self._parts
        if part or node.macs:
            self._parts.add(output.name)
        maps, open_maps = self._maps(index, node)
        self.writers[output.name] = len(self.steps)
        return Step(
            inputs=inputs,
            output=self._port(output, node.sizes),
            convolution=convolution,
            # an operand of no channels, or of sizes that are not known, is not in channel blocks
            channel_blocks=node.blocks if len(inputs) == len(computed) else "never",
            free=part or (node.fused is not None and not node.fused[1]),
            slowness=node.slowness,
            inside=node.fuses and bool(node.operands) and node.operands[0][1].name in self._parts,
            fused=node.fused is not None and node.fused[1],
            scales=affine is not None and len(node.sizes) == 4 and affine.axis in (None, 3),
            maps=maps,
            open_maps=open_maps,
            gated=node.gated,
            multiplied=0.0 if convolution else node.multiplied(index, self._plan),
            adapters=tuple(self._deliveries(computed)),
            given=output.name in self._outputs,
        )

    def _maps(self, index: int, node: _Node) -> tuple[bool, bool]:
        """Whether a contraction adds constant maps, and whether some of the maps are made at run time.

        That are those which are not required of the first operand.
        """
        added = made = False
        for axis, found in node.maps.items():
            required = self._plan.required.get((index, 0, axis))
            if required is not None and (found.mask & ~required).any():
                made = made or not found.is_static()
                if node.adds_maps:
                    added = True
                    self.mapped.append(((node.operands[0][1].name, axis), found.mask & ~required))
        return added, made

    def _deliveries(self, operands: Sequence[_Operand]) -> Iterator[Delivery]:
        """What adapters along axes deliver that are not those of channels."""
        for tensor, sizes, adapters in operands:
            stored = self._stored(tensor, sizes)
            for axis, (delivered, pieces) in adapters.items():
                if axis != 1 or len(sizes) < 3:
                    yield Delivery(math.prod(stored[:axis] + stored[axis + 1 :]) * delivered, pieces)

    def _adapters(
        self, index: int, i: int, tensor: gs.Tensor, sizes: Sequence[int], picks: bool
    ) -> dict[int, tuple[int, float]]:
        """By axis, the slices that adapters deliver to an operand, and pieces for each element."""
        found: dict[int, tuple[int, float]] = {}
        narrowed, asked = self._widths.get(tensor.name), self._required.get((index, i))
        if narrowed is None and asked is None:
            return found
        for axis in sorted({*(narrowed or ()), *(asked or ())}):
            stored, required = self._plan.stored.get((tensor.name, axis)), self._plan.required.get((index, i, axis))
            if stored is required:
                continue
            stored, required = (np.ones(sizes[axis], bool) if mask is None else mask for mask in (stored, required))
            if picks and i == 0 and not (required & ~stored).any():
                continue  # the adapter takes the place of the node
            if (stored ^ required).any():
                self.adapters = True
                block = math.prod(self._stored(tensor, sizes)[axis + 1 :])
                pieces = 0.0 if only_at_ends(bits(stored), bits(required)) else 1 / max(block, 1)
                found[axis] = int(np.count_nonzero(required)), pieces
        return found

    def _stored(self, tensor: gs.Tensor, sizes: Sequence[int]) -> list[int]:
        """The sizes of what is stored of the tensor."""
        widths = self._widths.get(tensor.name, {})
        return [widths.get(axis, size) for axis, size in enumerate(sizes)]

    def _port(self, tensor: gs.Tensor, sizes: Sequence[int], adapter: tuple[int, float] | None = None) -> Port:
        port = self._ports.get(tensor.name)
        if port is None:
            stored = self._stored(tensor, sizes)
            width = stored[1] if len(stored) > 2 else 1
            self._ports[tensor.name] = port = Port(
                writer=self.writers.get(tensor.name, -1),
                slot=self.slots.setdefault((tensor.name, 1), len(self.slots)),
                width=width,
                elements_per_channel=math.prod(stored) / max(width, 1),
                shared=len(tensor.outputs) > 1,
            )
        return port if adapter is None else replace(port, delivered=adapter[0], pieces=adapter[1])


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
