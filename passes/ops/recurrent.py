"""LSTM, GRU and RNN: a contraction of the data at each step, and one of the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values import kept_reasons
from passes.abstract_values.shape_rules import OutputSizesRule, ReadRule, Shape
from passes.abstract_values.slices import Constants, ConstantSlices, Demand, Demands, Reads, Sets
from passes.graph.tensors import (
    Array,
    Dim,
    Mask,
    initializer,
    is_constant,
    numpy_dtype,
    operand,
    present,
    product,
    shape_of,
    static_shape,
    volume,
)
from passes.ops.base import UNKNOWN, Op, register
from passes.ops.traits import WeightedSum, WeightedSums
from passes.rewriting.channel_facts import Facts
from passes.rewriting.lower_ops import Rewriter

#: activations that leave zero as it is
_ODD = {"tanh", "relu", "softsign", "leakyrelu", "elu", "scaledtanh"}


class Recurrent(ReadRule, Op, WeightedSums):
    """Data [.., .., features], weights [ways, gates · units, features], recurrent weights [ways, gates · units, units].

    The weights shrink with the features that are stored. A hidden unit is kept for its consumers, other units included.
    A unit whose candidate gets nothing and whose state begins at zero is zero at all times. Of two directions, one that
    nothing reads goes whole.
    No `Contraction`: the output is an operand of the next step, so that units are read by other units.

    Source: ONNX operator specification, LSTM, GRU and RNN.
    """

    reason = kept_reasons.RECURRENT
    width_axis = -1
    gates = 1
    #: which gate makes the candidate of the new state
    candidate = 0
    #: activations per way
    functions = 1
    #: inputs that hold the state at the beginning
    states: tuple[int, ...] = (5,)
    #: which axes of the weights run along the gates' units, and along what these read
    axes = (1, 2)
    #: inputs with an element for each gate's unit, beside the weights and the bias
    per_unit: tuple[int, ...] = (7,)
    foldable = True

    def form(self, node: gs.Node) -> Op:
        given = all(operand(node, index) is not None for index in range(3))
        return self if given and isinstance(node.attrs.get("activations", []), list) else UNKNOWN

    def read_sizes(self, node: gs.Node) -> Iterator[tuple[int, Shape]]:
        weights = shape_of(node.inputs[1])
        yield 0, [None, None, weights[self.axes[1]] if weights is not None and len(weights) == 3 else None]

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        """Of the features, and of the units of the step before in each direction."""
        weights, state = node.inputs[1:3]
        if is_constant(weights):
            ways, rows, _ = weights.shape
            yield WeightedSum(node.inputs[0], (2,), weights, "ooc", bias=3, bias_shape=(ways, 2 * rows))
            if is_constant(state) and not node.outputs[0].is_empty():
                axes, along = ((3,), "ooc") if ways == 1 else ((1, 3), "goc")
                yield WeightedSum(node.outputs[0], axes, state, along, groups=ways)

    def computed(self, node: gs.Node, opset: int, operands: Sequence[Array | None]) -> list[Array] | None:
        # the reference implementation knows one direction, and no sequence lengths
        forward = node.attrs.get("direction", "forward") == "forward" and all(x is None for x in operands[4:5])
        plain = forward and not {"activations", "clip", "layout"} & {*node.attrs}
        return super().computed(node, opset, operands) if plain else None

    def contradiction(self, node: gs.Node) -> str:
        shapes = [static_shape(t) if (t := operand(node, i)) is not None else None for i in (1, 2, 3)]
        if shapes[0] is None:
            return ""
        if len(shapes[0]) != 3:
            return f"its weights have shape {shapes[0]} and must have three axes"
        ways, rows = shapes[0][0], shapes[0][self.axes[0]]
        for name, shape, wanted in (
            ("recurrent weights", shapes[1], (ways, *self._turned(rows, rows // self.gates))),
            ("biases", shapes[2], (ways, 2 * rows)),
        ):
            if shape not in (None, wanted):
                return f"its {name} have shape {shape}, and by its weights it is {wanted}"
        return ""

    def is_understood(self, node: gs.Node, facts: Facts) -> bool:
        """Whether the input weights are an initializer and the sizes fit together."""
        weights = operand(node, 1)
        if weights is None or not is_constant(weights) or operand(node, 2) is None:
            return False
        rows, features = (weights.shape[axis] for axis in self.axes)
        units = [facts.size(t, len(shape_of(t) or ()) - 1) for t in node.outputs if not t.is_empty()]
        return facts.size(node.inputs[0], 2) == features and set(units) == {rows // self.gates}

    def tells_units_apart(self, node: gs.Node, facts: Facts) -> bool:
        """Whether all weights and biases are initializers, and the sizes of states known."""
        given = dict(present(node.inputs))
        constant = all(is_constant(given[i]) for i in (1, 2, 3, *self.per_unit) if i in given)
        return constant and all(facts.size(given[i], 2) == self.units(node) for i in self.states if i in given)

    def units(self, node: gs.Node) -> int:
        """Number of hidden units."""
        return int(initializer(node, 1).shape[self.axes[0]]) // self.gates

    def _turned(self, rows: Dim, columns: Dim) -> tuple[Dim, Dim]:
        """The last two sizes of weights with so many rows and columns, in the order in which they are stored."""
        return (rows, columns) if self.axes == (1, 2) else (columns, rows)

    def numbers(self, node: gs.Node, facts: Facts, index: int) -> Array:
        """Weights as [ways, gates · units, columns], zero where they add nothing."""
        return facts.value(node.inputs[index])

    def _per_gate(self, node: gs.Node, facts: Facts, index: int) -> Array:
        """Weights as [ways, gates, units, columns]."""
        values = self.numbers(node, facts, index)
        return values.reshape(values.shape[0], self.gates, self.units(node), -1)

    def _hidden(self, node: gs.Node) -> list[tuple[int, int]]:
        """Outputs with the axis along which their units lie."""
        ranks = (len(shape_of(t) or ()) for t in node.outputs)
        return [(o, rank - 1) for o, rank in enumerate(ranks) if rank]

    def _ways(self, node: gs.Node, facts: Facts) -> list[tuple[int, int]]:
        """Outputs with the axis along which their directions lie, if there are two of which one can go."""
        keys = [(output, axis - 2) for output, axis in self._hidden(node)]
        places = [(node.outputs[output], axis) for output, axis in keys]
        places += [(state, 0) for index in self.states if (state := operand(node, index)) is not None]
        told = all(facts.size(*place) == 2 for place in places)
        # some functions have no alpha or beta, so that there is no telling whose those are that are given
        plain = not {"activation_alpha", "activation_beta"} & {*node.attrs} and not node.attrs.get("layout", 0)
        return keys if told and plain and self.tells_units_apart(node, facts) else []

    def _within(self, node: gs.Node, facts: Facts, sets: Callable[[int, int], Mask | None]) -> tuple[Mask, Mask]:
        """The units and the directions in any of the sets that outputs have along axes; all where there is none."""
        both, ways = [], int(initializer(node, 1).shape[0])
        for keys, size in (self._hidden(node), self.units(node)), (self._ways(node, facts), ways):
            found = [slices for key in keys if (slices := sets(*key)) is not None]
            both.append(np.asarray(np.logical_or.reduce(found or [np.ones(size, bool)])))
        return both[0], both[1]

    def constants(self, node: gs.Node, facts: Facts) -> Constants:
        if not self.is_understood(node, facts) or not self.tells_units_apart(node, facts):
            return
        zero = self._zero(node, facts)
        if zero.any():
            for output, axis in self._hidden(node):
                yield output, axis, ConstantSlices(zero, np.zeros(zero.size, numpy_dtype(node.outputs[output])))

    def _zero(self, node: gs.Node, facts: Facts) -> Mask:
        """Units that are zero at all times."""
        zero = np.ones(self.units(node), bool)
        names = [str(n).lower() for n in node.attrs.get("activations", [])]
        spared = [n for i, n in enumerate(names) if i % self.functions or self.functions == 1]  # the first is a gate's
        if not set(spared) <= _ODD:
            return ~zero
        for state in self.states:
            if (tensor := operand(node, state)) is not None:
                zero &= facts.zero(tensor, 2)
        data = self._per_gate(node, facts, 1)[:, self.candidate][:, :, ~facts.zero(node.inputs[0], 2)]
        zero &= ~(data != 0).any(axis=(0, 2))
        if (bias := operand(node, 3)) is not None:
            halves = facts.value(bias).reshape(-1, 2, self.gates, zero.size)
            zero &= ~(halves[:, :, self.candidate] != 0).any(axis=(0, 1))
        state = (self._per_gate(node, facts, 2)[:, self.candidate] != 0).any(axis=0)  # [units, units before]
        while (fed := zero & state[:, ~zero].any(axis=1)).any():
            zero &= ~fed
        return zero

    def reads(self, node: gs.Node, facts: Facts) -> Reads:
        if not self.is_understood(node, facts):
            return
        units, ways = self._within(node, facts, lambda output, axis: facts.live(node.outputs[output], axis))
        kept = self._kept(node, facts, units)
        yield 0, 2, self._features(node, facts, kept, ways)
        for state in self.states:
            yield state, 2, kept
            yield state, 0, ways

    def _kept(self, node: gs.Node, facts: Facts, wanted: Mask) -> Mask:
        """These units, and all that they depend on through the state."""
        if not self.tells_units_apart(node, facts):
            return np.ones(wanted.size, bool)
        influence = (self._per_gate(node, facts, 2) != 0).any(axis=(0, 1)) & ~self._zero(node, facts)
        kept = wanted.copy()
        while (more := influence[kept].any(axis=0) & ~kept).any():
            kept |= more
        return kept

    def _features(self, node: gs.Node, facts: Facts, units: Mask, ways: Mask) -> Mask:
        """Features that these units depend on, in these directions."""
        return np.asarray((self._per_gate(node, facts, 1)[ways][:, :, units] != 0).any(axis=(0, 1, 2)))

    def storable_outputs(self, node: gs.Node, facts: Facts, asked: Sets) -> Sets:
        if not asked or not self.is_understood(node, facts) or not self.tells_units_apart(node, facts):
            return {}
        keys = [*self._hidden(node), *self._ways(node, facts)]
        wanted = {(o, axis): np.ones(facts.size(node.outputs[o], axis) or 0, bool) for o, axis in keys} | asked
        units, ways = self._within(node, facts, lambda *key: wanted[key])
        kept = self._kept(node, facts, units)
        for slices in (kept, ways):
            slices[0] |= not slices.any()
        return dict.fromkeys(self._hidden(node), kept) | dict.fromkeys(self._ways(node, facts), ways)

    def required_inputs(self, node: gs.Node, facts: Facts, stored: Sets) -> Demands:
        if not self.is_understood(node, facts):
            return {}
        kept, ways = self._within(node, facts, lambda *key: stored.get(key))
        need = self._features(node, facts, kept, ways) & ~self._absorbed(node, facts)
        flops = 2.0 * self._steps(node) * self.gates * float(kept.sum())
        demands = {(0, 2): Demand(need, flexible=True, flops=flops, reason=kept_reasons.NO_BIAS)}
        for state in self.states:
            if operand(node, state) is not None:
                demands[state, 2] = Demand(kept, reason=kept_reasons.EACH_BY_ITSELF)
                if not ways.all():
                    demands[state, 0] = Demand(ways, reason=kept_reasons.EACH_BY_ITSELF)
        return demands

    def _absorbed(self, node: gs.Node, facts: Facts) -> Mask:
        """Features that are constant, and of which a bias takes what they add."""
        known, bias = facts.constant_slices(node.inputs[0], 2), operand(node, 3)
        return known.mask if bias is None or is_constant(bias) else known.only(0).mask

    def lower(self, node: gs.Node, rewriter: Rewriter) -> None:
        facts, before = rewriter.facts, rewriter.before
        if not self.is_understood(before, facts):
            return
        required = rewriter.required(node, 0, 2)
        kept, ways = self._within(before, facts, lambda output, axis: rewriter.stored(before.outputs[output], axis))
        features = np.ones(initializer(before, 1).shape[self.axes[1]], bool) if required is None else required
        if kept.all() and features.all() and ways.all():
            return
        rewriter.set_input(node, 1, rewriter.moved(before.inputs[1], lambda w: self._cut(w[ways], kept, features)))
        bias = self._bias(before, facts, features)
        if bias is not None:
            rewriter.set_input(node, 3, rewriter.constant("bias", self._cut(bias[ways], kept)))
        if kept.all() and ways.all():
            return
        rewriter.set_input(node, 2, rewriter.moved(before.inputs[2], lambda r: self._cut(r[ways], kept, kept)))
        for index in self.per_unit:
            if (vector := operand(before, index)) is not None:
                rewriter.set_input(node, index, rewriter.moved(vector, lambda p: self._cut(p[ways], kept)))
        node.attrs["hidden_size"] = int(kept.sum())
        if not ways.all():
            node.attrs["direction"] = "forward" if ways[0] else "reverse"
            if "activations" in node.attrs:
                first = 0 if ways[0] else self.functions
                node.attrs["activations"] = node.attrs["activations"][first : first + self.functions]

    def _cut(self, values: Array, kept: Mask, columns: Mask | None = None) -> Array:
        """What belongs to kept units, of every gate, of [ways, several · units] or, with `columns`, of weights."""
        if columns is None:  # nor units, in a scale of all
            return values[:, np.resize(kept, values.shape[1])] if values.ndim > 1 else values
        rows = np.resize(kept, values.shape[self.axes[0]])
        return values.compress(rows, self.axes[0]).compress(columns, self.axes[1])

    def _bias(self, node: gs.Node, facts: Facts, features: Mask) -> Array | None:
        """The bias with what the features add that are constant and not there; None where there is none."""
        bias, known = operand(node, 3), facts.constant_slices(node.inputs[0], 2)
        if bias is not None and not is_constant(bias):
            return None
        old = None if bias is None else facts.value(bias)
        gone = known.mask & ~features & (known.value != 0)
        if not gone.any():
            return old
        weights = facts.value(node.inputs[1])
        rows = weights.shape[1]
        total = np.zeros((weights.shape[0], 2 * rows)) if old is None else old.astype(np.float64)
        total[:, :rows] += weights[..., gone].astype(np.float64) @ known.value[gone].astype(np.float64)
        return total.astype(weights.dtype)

    @staticmethod
    def _steps(node: gs.Node) -> int:
        """Positions for one example: dimensions that are not static count as 1."""
        return product((shape_of(node.inputs[0]) or ())[:2])

    def cost(self, node: gs.Node) -> tuple[int, int]:
        """At every step `gates · units · (features + units)` MACs in each way.

        FLOPs: two for each of these, less one for each of the two sums, two that add the biases, and two more for the
        activation of every gate and what it is combined with.
        """
        shape = static_shape(node.inputs[1])
        if shape is None or len(shape) != 3:
            return sum(volume(t) for t in node.outputs), 0
        ways, rows, features = (shape[axis] for axis in (0, *self.axes))
        width = features + rows // self.gates
        gates = self._steps(node) * ways * rows
        return gates * (2 * width + 2), gates * width


@register("RNN")
class RNN(Recurrent):
    """One gate, which is the new state."""


@register("GRU")
class GRU(Recurrent):
    """Update and reset gate, then the candidate."""

    gates, candidate, functions = 3, 2, 2


@register("LSTM")
class LSTM(Recurrent):
    """Input, output and forget gate, then the candidate; the cell is a second state."""

    gates, candidate, functions = 4, 3, 3
    states = (5, 6)


@register("DynamicQuantizeLSTM", domain="com.microsoft")
class DynamicQuantizeLSTM(OutputSizesRule, LSTM):
    """Weights of 8 bits that lie the other way round; data and states are rounded by their range, in which zero lies.

    So whatever is not zero is read, if only for the range. Source: ONNX Runtime's contrib operators.
    """

    axes = (2, 1)
    per_unit = (7, 8, 9, 10, 11)
    reason = kept_reasons.SCALE_OF_ALL
    foldable = False
    reads = Op.reads

    def form(self, node: gs.Node) -> Op:
        """Nobody checks that of such operators."""
        weights, steps = shape_of(node.inputs[1]) if len(node.inputs) > 1 else None, self.per_unit[1:]
        shapes = [shape_of(t) for index in steps if (t := operand(node, index)) is not None]
        fits = weights is None or all(shape in (None, weights[:1], weights[::2]) for shape in shapes)
        given = len(shapes) == len(steps) and "hidden_size" in node.attrs
        return super().form(node) if given and fits else UNKNOWN

    def weighted_sums(self, node: gs.Node) -> Iterator[WeightedSum]:
        return iter(())

    def output_sizes(self, node: gs.Node) -> Sequence[Shape]:
        if self.form(node) is not self:
            return []
        data, weights = shape_of(node.inputs[0]) or (None, None, None), shape_of(node.inputs[2])
        if weights is None or len(weights) != 3 or len(data) != 3:
            return []
        ways, units, _ = weights
        return [[data[0], ways, data[1], units], *[[ways, data[1], units]] * 2]

    def numbers(self, node: gs.Node, facts: Facts, index: int) -> Array:
        zero = facts.value(node.inputs[2 * index + 7])  # of one element, or one for each column
        values = facts.value(node.inputs[index]).astype(np.int16)
        return np.asarray((values - zero.reshape(len(values), 1, -1)).swapaxes(1, 2))

    def _kept(self, node: gs.Node, facts: Facts, wanted: Mask) -> Mask:
        return ~self._zero(node, facts) if self.tells_units_apart(node, facts) else np.ones(wanted.size, bool)

    def _features(self, node: gs.Node, facts: Facts, units: Mask, ways: Mask) -> Mask:
        return np.ones(initializer(node, 1).shape[1], bool)

    def _absorbed(self, node: gs.Node, facts: Facts) -> Mask:
        return facts.zero(node.inputs[0], 2)
