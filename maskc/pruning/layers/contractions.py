"""Layers as least squares: the rows that a layer's weights are multiplied with, and the weights as a matrix.

What operators sum with constant weights (`WeightedSums`) is, for each of a layer's groups, `rows @ matrix` with rows
`[n, channels * taps]`, channel after channel, and a matrix `[channels * taps, outputs]`. The taps of a convolution are
found by the same operator, with one kernel for each, on the numbers of the places, so padding, strides and dilations
are what the runtime makes of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from maskc.frontend.graph_queries import copied
from maskc.frontend.one_node import one_node
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from passes.graph.nested_protos import read_names
from passes.graph.subgraphs import bodies
from passes.graph.tensors import describe, is_constant, is_floating, operand, values_of
from passes.ops import UNKNOWN, rules
from passes.ops.traits import WeightedSum, WeightedSums
from passes.sizes.prepare import checked
from passes.weights.steps import Steps

Floats = NDArray[Any]  # float32 or float64
Index = NDArray[np.int64]

_PART = 2**20  # numbers of rows that come together
_TOGETHER = 512  # rows that are multiplied together at least
_OPSET = 17  # in which the taps of a convolution are found


@dataclass(frozen=True, eq=False)
class Contraction:
    """A node and the weights, by their name, that it sums an input's channels with.

    node, output: names of the node and of what it writes first. source: the input's name. shape: of the weights; axes,
    along, groups, scale, bias_scale: as of a `WeightedSum`. bias: the name of the constant that is added, one for each
    output; empty where none is. addend: the operand that this would be, None for an Add that follows; bias_shape: its
    shape, None where nothing can be added. window: a standard node with the same window, of x and w.
    """

    node: str
    output: str
    source: str
    axes: tuple[int, ...]
    weights: str
    shape: tuple[int, ...]
    along: str
    groups: int
    addend: int | None
    bias_shape: tuple[int, ...] | None
    window: bytes
    scale: float = 1.0
    bias_scale: float = 1.0
    bias: str = ""

    @property
    def refits(self) -> bool:
        """Whether the rows of a pruned network are known before the weights are used: those of its own past are not."""
        return self.source != self.output

    @property
    def axis(self) -> int:
        """Of the input, along which channels lie; groups may have an axis of their own."""
        return self._axes("c")[0]

    @property
    def width(self) -> int:
        """Channels of the input in each group."""
        return self._product("c")

    @property
    def taps(self) -> int:
        """Places of the window."""
        return self._product("k")

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.groups * self.width

    @property
    def outputs(self) -> int:
        """What it makes at each place, of all groups."""
        return math.prod(self.shape) // (self.width * self.taps)

    def row_labels(self, labels: Sequence[int] | Index, axis: int) -> Index | None:
        """Labels of slices along one of `axes` as those of the rows that read them, [groups, rows]; None if too few."""
        order = [n for n in self._order if self._letters[n] != "o"]
        divided = len(self._letters) - len(self.along)
        place = [n for n, what in enumerate(self.along) if what != "o"][self.axes.index(axis)] + divided
        sizes = [self._split[n] for n in order]
        shape = [size if n == place or n < divided else 1 for n, size in zip(order, sizes, strict=True)]
        if len(labels) != math.prod(shape):
            return None
        return np.array(np.broadcast_to(np.reshape(labels, shape), sizes), np.int64).reshape(self.groups, -1)

    def by_channel(self, values: NDArray[Any]) -> NDArray[Any]:
        """The input's values as [n, channels of all groups], or rows where no window slides."""
        axes = [axis for what in "gck" for axis in self._axes(what)]
        moved: NDArray[Any] = np.moveaxis(values, axes, range(-len(axes), 0))
        return moved.reshape(-1, math.prod(moved.shape[-len(axes) :]))

    def matrix(self, weights: NDArray[Any]) -> Floats:
        """Weights as they are stored as float64 [groups, width * taps, outputs], times their scale."""
        split = (np.asarray(weights, np.float64) * self.scale).reshape(self._split)
        return split.transpose(self._order).reshape(self.groups, self.width * self.taps, -1)

    def stored(self, matrix: Floats) -> Floats:
        """The inverse of `matrix`."""
        moved = matrix.reshape([self._split[axis] for axis in self._order]) / self.scale
        return moved.transpose(np.argsort(self._order)).reshape(self.shape)

    def shifted(self, bias: NDArray[Any], shift: Floats) -> Floats:
        """The stored bias, with this much more for each output, [outputs of all groups]."""
        more = (shift / self.bias_scale).reshape(len(bias), -1)
        # in each direction of a recurrence the rest is for the weights of the state
        more = np.pad(more, ((0, 0), (0, bias[0].size - more.shape[1])))
        return np.asarray(bias + more.reshape(bias.shape))

    def rows(self, values: NDArray[Any], most: int, rng: np.random.Generator) -> Iterator[Floats]:
        """Of the input's values, up to `most` that are drawn, in parts: float32 [groups, n, width * taps]."""
        if not self.window:
            moved = self.by_channel(values).reshape(-1, self.groups, self.width * self.taps)
            yield moved[_some(len(moved), most, rng)].astype(np.float32, copy=False).transpose(1, 0, 2)
            return
        each = max(1, math.ceil(most / len(values)))
        together = max(1, _PART // (self.channels * self.taps * each))
        for begin in range(0, len(values), together):
            yield self._seen(values[begin : begin + together], each, rng)

    @property
    def _letters(self) -> str:
        """What runs along the axes of the weights, the first of which is divided where there is none of groups."""
        return self.along if "g" in self.along else f"g{self.along}"

    @property
    def _split(self) -> tuple[int, ...]:
        """The shape of the weights, so divided."""
        return self.shape if "g" in self.along else (self.groups, self.shape[0] // self.groups, *self.shape[1:])

    @property
    def _order(self) -> list[int]:
        return sorted(range(len(self._letters)), key=lambda axis: "gcko".index(self._letters[axis]))

    def _axes(self, letter: str) -> list[int]:
        """The input's axes that run along those of the weights with this letter."""
        letters = self.along.replace("o", "")
        return [axis for axis, what in zip(self.axes, letters, strict=False) if what == letter]

    def _product(self, letter: str) -> int:
        return math.prod(size for size, what in zip(self._split, self._letters, strict=True) if what == letter)

    def _seen(self, values: NDArray[Any], most: int, rng: np.random.Generator) -> Floats:
        """What a window sees at up to `most` of its places on each of some values."""
        kernel = (self.taps, 1, *self.shape[2:]) if self.along[0] == "o" else (1, self.taps, *self.shape[2:])
        places = _places(self.window, kernel, values.shape[2:])
        flat = values.reshape(len(values), self.channels, -1).astype(np.float32, copy=False)
        padded = np.pad(flat, ((0, 0), (0, 0), (1, 0)))
        seen = [value[:, places[:, _some(places.shape[1], most, rng)]] for value in padded]
        together = np.concatenate(seen, axis=2)
        return together.reshape(self.groups, -1, together.shape[2]).transpose(0, 2, 1)


def joined(parts: Iterable[Floats]) -> Iterator[Floats]:
    """Rows, [groups, n, width], in parts of some hundred at least: products of few are small beside their sum."""
    waiting: list[Floats] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += part.shape[1]
        if count >= _TOGETHER or count * len(part) * part.shape[2] >= _PART:
            yield np.concatenate(waiting, axis=1)
            waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting, axis=1)


@lru_cache(maxsize=8)
def _places(window: bytes, kernel: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.int64]:
    """Which of one channel's places, counted from 1, a tap reads for each of the output: int64 [taps, places].

    0 is the padding.
    """
    taps = max(kernel[:2])
    weights = np.eye(taps, dtype=np.float32).reshape(kernel)
    model = one_node(onnx.NodeProto.FromString(window), [1, 1, *size], {"w": weights}, _OPSET)
    numbers = np.arange(1, 1 + math.prod(size), dtype=np.float32).reshape(1, 1, *size)
    return OnnxRuntimeSession(model).run({"x": numbers})["y"].reshape(taps, -1).astype(np.int64)


@dataclass(frozen=True)
class Constants:
    """Constants that layers read, by name, in floating point; `steps` of those that are stored as integers.

    What is quantised is in the nearest steps, which are larger where values would be out of range. widened: weights
    whose scale nothing else reads, with the bias whose scale follows it, "" where there is none. shapes: of scales.
    """

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    steps: dict[str, Steps] = field(default_factory=dict)
    widened: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, name: str, tensor: gs.Constant, steps: Steps | None) -> tuple[int, ...]:
        """One that a graph has; its shape."""
        if steps is not None:
            self.steps[name] = steps
        self.values[name] = np.array(values_of(tensor)) if steps is None else steps.values
        return self.values[name].shape

    def widen(
        self, quantised: Mapping[str, Steps], uses: Mapping[str, int], dims: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Let weights, the first, have larger steps with their bias, if there is one, where nothing else reads these.

        uses: how often tensors are read. dims: of initializers.
        """
        name, *biases = quantised
        scales = [each.scale_tensor for each in quantised.values()]
        held = [*quantised, *scales, *(each.tensor for each in quantised.values())]
        alike = len({each.scale.size for each in quantised.values()}) == 1
        if alike and all(uses.get(each) == 1 for each in held) and dims.keys() >= set(scales):
            self.widened[name] = next(iter(biases), "")
            self.shapes.update((scale, dims[scale]) for scale in scales)

    def stored(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What a model stores, by the names of its initializers, where some have other values: the nearest steps."""
        found, steps = {}, dict(self.steps)
        for name in values.keys() & self.widened.keys():
            steps[name] = steps[name].with_room(values[name])
            if bias := self.widened[name]:  # as integer kernels take it for granted
                factor = (steps[name].scale / self.steps[name].scale).reshape(-1)
                steps[bias] = replace(steps[bias], scale=(steps[bias].scale.reshape(-1) * factor).astype(factor.dtype))
                values = {bias: self.values[bias], **values}
        for name, value in values.items():
            if name not in steps:
                found[name] = value.astype(self.values[name].dtype)
                continue
            found[steps[name].tensor] = steps[name].holding(value)
            if (scale := steps[name].scale_tensor) in self.shapes:
                found[scale] = steps[name].scale.reshape(self.shapes[scale])
        return found

    def put(self, model: ModelProto, values: Mapping[str, NDArray[Any]]) -> ModelProto:
        """The model, in which some have other values, in place."""
        stored = self.stored(values)
        for tensor in model.graph.initializer:
            if tensor.name in stored:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(stored[tensor.name], order="C"), tensor.name))
        return model

    def as_inputs(self, model: ModelProto, names: Iterable[str]) -> ModelProto:
        """A copy of the model, to which some are given when it runs."""
        changed, stored = copied(model), self.stored({name: self.values[name] for name in names})
        for place, tensor in reversed([*enumerate(changed.graph.initializer)]):
            if tensor.name in stored:
                del changed.graph.initializer[place]
        types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in sorted(stored.items())}
        changed.graph.input.extend(helper.make_tensor_value_info(n, kind, stored[n].shape) for n, kind in types.items())
        return changed


@dataclass(frozen=True)
class Layers:
    """What a model sums with weights that nothing else reads, in its order.

    constants: these weights, and what is added. outside: the nodes of other layers of the main graph. inside: how many
    there are in bodies.
    """

    contractions: tuple[Contraction, ...]
    constants: Constants
    outside: tuple[str, ...]
    inside: int


def layers(model: ModelProto) -> Layers:
    """Those of a model. Weights that several read are among them if all read them in one way.

    Raises GraphError when the graph is not valid.
    """
    graph = checked(model)
    uses = readers(model)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found: dict[str, list[Contraction]] = {}
    constants, nodes = Constants(), [node for node in graph.nodes if _is_layer(node)]
    for node in nodes:
        if not isinstance(op := rules(node), WeightedSums):
            continue
        for each in op.weighted_sums(node):
            steps, name = op.stored_steps(node, each.weights), each.weights.name
            if name in stored or (steps is not None and steps.tensor in stored and uses[steps.tensor] == 1):
                shape = constants.add(name, each.weights, steps)
                found.setdefault(name, []).append(_contraction(node, each, shape))
            bias, bias_steps = None if each.bias is None else operand(node, each.bias), None
            if bias is not None and is_constant(bias):
                bias_steps = op.stored_steps(node, bias)
                constants.add(bias.name, bias, bias_steps)
            if steps is not None and name in found:
                quantised = {name: steps}
                if bias is not None and bias_steps is not None:
                    quantised[bias.name] = bias_steps
                constants.widen(quantised, uses, stored)
    for name, those in list(found.items()):
        alike = len({(each.along, each.groups, each.scale) for each in those}) == 1
        if uses[name] != len(those) or not alike or not is_floating(constants.values[name].dtype):
            del found[name]
    order = {node.outputs[0].name: number for number, node in enumerate(nodes)}
    read = sorted((each for those in found.values() for each in those), key=lambda each: order[each.output])
    inside = sum(_is_layer(node) for body in bodies(graph) for node in body.nodes)
    among = {each.output for each in read}
    outside = tuple(describe(node) for node in nodes if node.outputs[0].name not in among)
    return Layers(tuple(read), constants, outside, inside)


def readers(model: ModelProto) -> Counter[str]:
    """How often each tensor is read, by what is in bodies and by the outside as well."""
    uses = Counter(name for node in model.graph.node for name in read_names(node))
    uses.update(value.name for value in model.graph.output)
    return uses


def _is_layer(node: gs.Node) -> bool:
    """Whether the node has weights, or operands like these in an operator without rules."""
    op = rules(node)
    known = isinstance(op, WeightedSums) or op is UNKNOWN
    return known and any(is_constant(t) and len(t.shape) > 1 for t in node.inputs)


def _contraction(node: gs.Node, each: WeightedSum, shape: tuple[int, ...]) -> Contraction:
    known = onnx.defs.get_schema(each.slides, _OPSET).attributes.keys() - {"group"} if each.slides else ()
    attributes = {name: value for name, value in node.attrs.items() if name in known}
    slides = helper.make_node(each.slides, ["x", "w"], ["y"], **attributes) if each.slides else onnx.NodeProto()
    return Contraction(
        node=node.name,
        output=node.outputs[0].name,
        source=each.data.name,
        axes=each.axes,
        weights=each.weights.name,
        shape=shape,
        along=each.along,
        groups=each.groups,
        addend=each.bias,
        bias_shape=each.bias_shape,
        window=slides.SerializeToString(deterministic=True),
        scale=each.scale,
        bias_scale=each.bias_scale,
    )


def _some(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64] | slice:
    """Positions, `most` of `count` at most, in their order."""
    return slice(None) if count <= most else np.sort(rng.choice(count, most, replace=False))
