"""Convolutions of few filters compute neighbouring positions as further filters, where that takes less time.

NCHWc kernels take as long for one filter as for a channel block of them, and a matrix product lays out each window for
one filter as well as for many. `n` neighbours along an axis, each a filter of its own on a window that is `n - 1`
strides longer, take one window for all of them: the same products, and beside them some with zeros. The output, a
space-to-depth of what is wanted, is then brought into the order of positions. The file keeps the weights as they were,
and operators that ONNX Runtime folds when it loads the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor
from passes.graph.tensors import (
    Dim,
    dimensions,
    initializer,
    is_constant,
    numpy_dtype,
    operand,
    shape_of,
    size_of,
    values_of,
)
from passes.ops.elementwise import pointwise_after
from passes.ops.shape import is_static
from passes.sizes.sum_over_nodes import flops_of
from passes.targets.widths.convolution_shape import ConvolutionShape, convolution_shape
from passes.targets.widths.operator_kernels import channel_blocks
from passes.targets.widths.rates import Rates
from passes.weights.quantized import Quantized
from passes.weights.streaming import is_on_disk

# Neighbours that are tried. More filters than fill four channel blocks gain nothing.
_NEIGHBOURS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_CHANNEL_BLOCKS = 4

# To be worth it, so much must be won: the share of a convolution's time, and nanoseconds.
_SHARE = 0.2
_WORTH = 10_000.0

_PAD_BY_OPERANDS = 11  # the opset from which Pad takes them as such

# Bringing an element to its place takes so many times what moving it in a row does, by the axis along which neighbours
# lie: rows are copied whole, elements of a row one by one.
_TURNED = (2.0, 8.0)


@dataclass(frozen=True)
class _Form:
    """So many neighbours along a spatial axis (0 or 1) at once; what that wins, and the FLOPs that come in addition."""

    axis: int
    neighbours: int
    gain: float
    flops: int


def unroll(graph: gs.Graph, rates: Rates, limit: int) -> None:
    """Let convolutions of few filters compute neighbours at once, for FLOPs up to `limit` in the whole graph.

    Afterwards no convolution on two spatial axes of static sizes is left that these rates say to be so much faster in
    such a form, whatever its batch, as far as the FLOPs go.
    """
    unroller = _Unroller(graph, rates)
    found = [(form, node) for node in graph.nodes if (form := unroller.best(node)) is not None]
    flops = limit - flops_of(graph) if found else 0
    for form, node in sorted(found, key=lambda pair: -pair[0].gain):
        if form.flops <= flops:
            flops -= form.flops
            unroller.write(node, form)
    unroller.editor.finish()


class _Unroller:
    def __init__(self, graph: gs.Graph, rates: Rates) -> None:
        self._rates = rates
        self.editor = GraphEditor(graph)

    def best(self, node: gs.Node) -> _Form | None:
        """The form of the node that takes the least time, None if that is as it is or little is won."""
        convolution = convolution_shape(node)
        if convolution is None or not convolution.nchwc or convolution.groups > 1 or not self._can_be_changed(node):
            return None
        written, read = initializer(node, 1).shape[:2]
        before = self._rates.convolution(convolution, read, written)
        best = max(self._forms_of(convolution, read, written), key=lambda form: form.gain, default=None)
        return best if best is not None and best.gain > max(_WORTH, _SHARE * before) else None

    def _can_be_changed(self, node: gs.Node) -> bool:
        weight, bias = node.inputs[1], operand(node, 2)
        before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
        if before is None or after is None or not is_static([*before[1:], *after[1:]]):  # with any batch
            return False
        if isinstance(weight, Quantized) or len(weight.outputs) > 1 or is_on_disk(weight):
            return False
        if bias is not None and not is_constant(bias):
            return False
        padded = node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and min(node.attrs.get("pads", [0])) >= 0
        return padded and self.editor.opset >= _PAD_BY_OPERANDS

    def _forms_of(self, convolution: ConvolutionShape, read: int, written: int) -> Iterator[_Form]:
        rates = self._rates
        before = rates.convolution(convolution, read, written)
        for axis in range(2):
            for many in _NEIGHBOURS:
                if (
                    written * many > _CHANNEL_BLOCKS * rates.channels_per_block
                    or many > convolution.positions[axis]
                    or convolution.dilations[axis] != 1
                ):
                    continue
                other = unrolled(convolution, axis, many)
                elements = convolution.batch * written * many * int(np.prod(other.positions))
                moved = (
                    elements * (2 * rates.ns_per_reordered_element + _TURNED[axis] * rates.ns_per_adapted_element)
                    + 5 * rates.ns_per_node
                )
                gain = before - rates.convolution(other, read, written * many) - moved
                products = read * int(np.prod(other.kernel)) * elements - read * convolution.taps * (
                    convolution.batch * written * int(np.prod(convolution.positions))
                )
                yield _Form(axis, many, gain, 2 * products + elements)

    def write(self, node: gs.Node, form: _Form) -> None:
        """Write the convolution in this form, and after it and its activation what orders the positions."""
        axis, many = form.axis, form.neighbours
        batch, *sizes = dimensions(node.outputs[0])
        written, *positions = (int(size) for size in sizes if size is not None)  # only the batch may be open
        weight, bias = initializer(node, 1), operand(node, 2)
        kernel = weight.shape[2 + axis]
        stride = int(node.attrs.get("strides", [1, 1])[axis])
        pads = [int(p) for p in node.attrs.get("pads", [0, 0, 0, 0])]
        size = size_of(node.inputs[0], 2 + axis) or 0
        steps = -(-positions[axis] // many)
        reach = (steps * many - 1) * stride + kernel
        pads[2 + axis] = max(reach - size - pads[axis], 0)
        node.inputs[1] = self._side_by_side(node, weight, axis, many, stride)
        if bias is not None:
            node.inputs[2] = self.editor.constant(bias.name, np.repeat(values_of(bias), many))
        strides = list(node.attrs.get("strides", [1, 1]))
        strides[axis] = stride * many
        node.attrs |= {"strides": strides, "pads": pads, "kernel_shape": list(dimensions(node.inputs[1])[2:])}
        apart = [*positions]
        apart[axis] = steps
        last = node
        activations = takewhile(lambda each: channel_blocks(each) == "always", pointwise_after(node, self.editor))
        for each in [*activations]:
            last.outputs = [self._variable(last.outputs[0], [batch, written * many, *apart])]
            each.inputs[0] = last.outputs[0]
            last = each
        output = last.outputs[0]
        last.outputs = [self._variable(output, [batch, written * many, *apart])]
        self._order(last, output, batch, [written, many, *apart], axis, positions)

    def _side_by_side(self, node: gs.Node, weight: gs.Constant, axis: int, many: int, stride: int) -> gs.Tensor:
        """The weights as those of neighbours: [filters · neighbours, in, ...], one longer along the axis."""
        shape = list(weight.shape)
        kernel = shape[2 + axis]
        place = np.arange(kernel + stride * (many - 1)) - stride * np.arange(many)[:, None]
        place = np.where((place >= 0) & (place < kernel), place, kernel)  # where no weight lies there is a zero
        ends = np.zeros((2, 4), np.int64)
        ends[1, 2 + axis] = 1
        longer = [d + (a == 2 + axis) for a, d in enumerate(shape)]
        split = [*shape[: 2 + axis], *place.shape, *shape[3 + axis :]]
        order = [0, 2 + axis, *(a for a in range(1, 5) if a != 2 + axis)]
        turned = [split[a] for a in order]
        whole = [turned[0] * turned[1], *turned[2:]]
        positions = self.editor.constant("places", place)

        def emit(op: str, inputs: list[gs.Tensor], shape: list[int], **attrs: object) -> gs.Tensor:
            output = self._variable(weight, shape)
            return self.editor.emit(op, inputs, output, f"{weight.name}_{op.lower()}", attrs, before=node)

        padded = emit("Pad", [weight, self._ints(ends.reshape(-1).tolist())], longer)
        picked = emit("Gather", [padded, positions], split, axis=2 + axis)
        moved = emit("Transpose", [picked], turned, perm=order)
        return emit("Reshape", [moved, self._ints(whole)], whole)

    def _order(
        self, last: gs.Node, output: gs.Tensor, batch: Dim, sizes: list[int], axis: int, positions: list[int]
    ) -> None:
        """From [batch, filters, neighbours, height, width], these `sizes` after the batch, to positions in order."""
        order = [0, 1, 3, 2, 4] if axis == 0 else [0, 1, 3, 4, 2]
        whole = [sizes[0], *positions]
        whole[1 + axis] = sizes[2 + axis] * sizes[1]
        kept = batch if isinstance(batch, int) else 0  # zero is as many as there are

        def emit(op: str, inputs: list[gs.Tensor], shape: list[Dim], **attrs: object) -> gs.Tensor:
            made = self._variable(output, shape)
            return self.editor.emit(op, inputs, made, f"{output.name}_{op.lower()}", attrs, after=last)

        split: list[Dim] = [batch, *sizes]
        apart = emit("Reshape", [last.outputs[0], self._ints([kept, *sizes])], split)
        turned = emit("Transpose", [apart], [split[i] for i in order], perm=order)
        joined = [turned, self._ints([kept, *whole])]
        if whole[1:] == positions:
            self.editor.emit("Reshape", joined, output, f"{output.name}_joined", after=last)
        else:
            longer = emit("Reshape", joined, [batch, *whole])
            bounds = [self._ints([0]), self._ints([positions[axis]]), self._ints([2 + axis])]
            self.editor.emit("Slice", [longer, *bounds], output, f"{output.name}_cut", after=last)

    def _variable(self, like: gs.Tensor, shape: Sequence[Dim]) -> gs.Variable:
        return self.editor.variable(f"{like.name}_apart", numpy_dtype(like), shape)

    def _ints(self, values: list[int]) -> gs.Constant:
        return self.editor.ints("sizes", values)


def unrolled(convolution: ConvolutionShape, axis: int, many: int) -> ConvolutionShape:
    """The convolution that computes so many neighbours along a spatial axis as filters of their own."""

    def at(values: tuple[int, ...], value: int) -> tuple[int, ...]:
        return tuple(value if a == axis else v for a, v in enumerate(values))

    stride = convolution.strides[axis]
    return replace(
        convolution,
        kernel=at(convolution.kernel, convolution.kernel[axis] + stride * (many - 1)),
        strides=at(convolution.strides, stride * many),
        positions=at(convolution.positions, -(-convolution.positions[axis] // many)),
    )
