"""Channels split into heads, followed: zeros that only both axes together show, and which may change their order.

A mask on the channels of a query says, split into heads, something else of every head. Here such channels are followed
through reshapes, transposes and contractions to where they are summed over or merged again. A channel of a query is
not read where the same channel of the key is zero; a merged channel is zero where that of the values is. And what on
the way treats channels differently says which of them may change places.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from passes.attention.channel_index import by_group, fits, in_groups, laid, once, places, repeats, varying
from passes.graph.evaluate import evaluate
from passes.graph.subgraphs import seen_outside
from passes.graph.tensors import Array, Index, Mask, is_constant, is_float, operand, present, shape_of, values_of
from passes.ops import rules
from passes.ops.arithmetic import Difference, Product, Sum
from passes.ops.attention.fused import FusedAttention
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.labels import WHOLE, Terms
from passes.ops.elementwise import Elementwise, is_pointwise
from passes.ops.gather_scatter import GatherElements, GatherND, Scattering
from passes.ops.movement import Movement
from passes.ops.quantization import Dequantize, Quantization, Quantize, same_steps
from passes.ops.reduction import Reduce, ReduceNorm, ReduceSum, reduced_axes
from passes.ops.shape import Measuring, Rearrangement, Regrouping
from passes.rewriting.channel_facts import Facts
from passes.weights.quantized import is_dequantized

#: elements: larger arrays of channel numbers are not followed
_LARGEST = 1 << 21


@dataclass
class Root:
    """A tensor whose `axis` is split: which of its channels are read after it, and which may change places.

    `zero` and `fixed` say which channels are known to be zero, or some constant; `value` holds these constants.
    Channels of one number in `groups` may change places, if `paired` says that no product multiplies them with others.
    """

    tensor: gs.Tensor
    axis: int
    zero: Mask
    fixed: Mask
    value: Array
    needed: Mask
    order: Index
    groups: Index
    paired: Index
    starts: list[gs.Node] = field(default_factory=list)

    @property
    def kept(self) -> Mask:
        """The channels that are read or zero as they are: the others may become zero."""
        return np.asarray(self.zero | self.needed)

    def hold(self, groups: Index) -> None:
        """Let channels change places only within these groups, too."""
        both = np.stack([self.groups, groups], axis=1)
        self.groups = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)

    def pin(self, channels: Mask) -> None:
        """Let these channels stay where they are."""
        self.hold(np.where(channels, np.arange(channels.size) + 1, 0))


@dataclass(frozen=True)
class Trace:
    """For each element (of one example) of a tensor, the channel of the root that it comes from.

    `zeros`: which channels of the root are known to be zero here. `even`: nothing has been done to it but means of its
    elements taken, so a constant is still there as it was.
    """

    root: Root
    index: Index
    zeros: Mask
    even: bool = True

    @property
    def zero(self) -> Mask:
        """Which elements are known to be zero."""
        return np.asarray(self.zeros[self.index])


@dataclass(frozen=True)
class Merge:
    """A tensor whose `axis` holds channels of a root again, in the order of `index`.

    `zero`: which channels of the root are zero here. `even`: constants are still there as they were, and an adapter can
    restore them at their consumers.
    """

    root: Root
    tensor: gs.Tensor
    axis: int
    index: Index
    zero: Mask
    even: bool

    @property
    def fixed(self) -> Mask:
        """Which channels of the root are the constants here that they are there."""
        return self.root.fixed & self.even


class Follower:
    """One sweep over the nodes."""

    def __init__(self, graph: gs.Graph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self.roots: dict[tuple[str, int], Root] = {}
        self.traces: dict[str, Trace] = {}
        #: of products over tokens, as of keys with values in linear attention, the channels of the other factor
        self.beside: dict[str, Trace] = {}
        self.merges: list[Merge] = []
        #: channels [..., inner] that are multiplied with each other and summed over the last axis
        self.products: list[tuple[Trace, Trace]] = []
        self.scaled: list[tuple[gs.Node, int, Trace]] = []  # each channel times its own element of operand `int`
        self.pinned = seen_outside(graph)

    def run(self) -> None:
        """Follow all that is split to where it ends."""
        for node in self.graph.nodes:
            self._visit(node)
        for name in self.pinned & self.traces.keys():
            self._read_whole(name)
        for merge in self.merges:
            counts = self.facts.counts(merge.tensor, merge.axis)
            merge.root.needed[merge.index[counts & ~(merge.fixed | merge.zero)[merge.index]]] = True
        for root in self.roots.values():
            readers = [node for node in root.tensor.outputs if not isinstance(rules(node), Measuring)]
            if len(root.starts) < len(readers) or root.tensor.name in self.pinned:
                root.needed[:] = True
                root.pin(root.needed)

    def _visit(self, node: gs.Node) -> None:
        traced = [(i, t) for i, t in present(node.inputs) if t.name in self.traces]
        if isinstance(rules(node), Measuring):
            return
        if not traced:
            self._start(node)
        elif not self._pass(node, traced):
            for _, tensor in traced:
                self._read_whole(tensor.name)

    def _read_whole(self, name: str) -> None:
        for trace in self._of(name):
            self._need(trace)

    @staticmethod
    def _need(trace: Trace) -> None:
        read = among(trace)
        trace.root.needed[read] = True
        trace.root.pin(read)

    def _hold(self, trace: Trace, free: Collection[int]) -> None:
        """Let the channels change places only along these axes."""
        trace.root.hold(places(trace.index, free, trace.root.zero.size))

    def _start(self, node: gs.Node) -> None:
        """A reshape that splits an axis, of several that with zeros, or the last; the first may be that of tokens."""
        if not isinstance(rules(node), Rearrangement) or is_constant(node.inputs[0]):
            return
        x, y = node.inputs[0], node.outputs[0]
        shape, links = _example(y), self.facts.links(node)
        split = {(bool(self.facts.zero(x, k.input_axis).any()), k.input_axis) for k in links if k.split}
        for _, axis in sorted(split - {(False, 0)}, reverse=True):
            size, out = self.facts.size(x, axis) or 0, {k.output_axis for k in links if k.input_axis == axis}
            sizes = [d if a in out else 1 for a, d in enumerate(shape)]
            if not self._keeps(node, (axis,)) or int(np.prod(sizes)) != size or not 0 < int(np.prod(shape)) <= _LARGEST:
                continue
            key = x.name, axis
            if key not in self.roots:
                known = self.facts.constant_slices(x, axis)
                value = np.where(known.mask, known.value, 0)
                zero, none = known.mask & (value == 0), np.zeros(size, np.int64)
                needed, order = np.zeros(size, bool), np.arange(size)
                self.roots[key] = Root(x, axis, zero, known.mask, value, needed, order, none, none.copy())
            self.roots[key].starts.append(node)
            index = np.broadcast_to(np.arange(size).reshape(sizes), shape)
            self.traces[y.name] = Trace(self.roots[key], index, self.roots[key].zero)
            return

    def _keeps(self, node: gs.Node, axes: tuple[int, ...]) -> bool:
        """Whether these input axes, and no others with them, become axes of the output of a reshape."""
        links = self.facts.links(node)
        for axis in axes:
            out = {k.output_axis for k in links if k.input_axis == axis}
            if not out or any(k.input_axis not in axes for k in links if k.output_axis in out):
                return False
            whole = int(np.prod([self.facts.size(node.outputs[0], a) or 0 for a in out]))
            if any(k.split for k in links if k.input_axis == axis) and whole != self.facts.size(node.inputs[0], axis):
                return False
        return True

    def _pass(self, node: gs.Node, traced: list[tuple[int, gs.Tensor]]) -> bool:
        """Follow the node; False where that is not possible."""
        op = rules(node)
        if isinstance(op, Contraction):
            return self._multiply(node, op, dict(traced))
        place, tensor = traced[0]
        trace, beside = self.traces[tensor.name], [self.beside[t.name] for _, t in traced if t.name in self.beside]
        reduces = isinstance(op, Reduce) and bool((reduced_axes(node) or set()) & {*varying(trace.index)})
        special = reduces or isinstance(op, FusedAttention | Quantization) or len(traced) > 1
        along = self._traces(node, traced, place, beside[0]) if beside and not special else None
        for each in beside if along is None else ():
            self._need(each)
        if isinstance(op, FusedAttention):
            return self._attend(node, op, dict(traced))
        together = isinstance(op, Elementwise) and len(traced) == len(present(node.inputs))
        if len(traced) > 1 and not (together and all(_alike(self.traces[t.name], trace) for _, t in traced)):
            return False
        if reduces:
            trace.root.needed[among(trace)] = True
            self._hold(trace, reduced_axes(node) or ())  # in whatever order they are reduced
            return True
        if isinstance(op, Quantization):
            return self._round(node, trace)
        found = self._traces(node, traced, place, trace) or []
        for n, each in enumerate(found):
            self._arrive(node.outputs[n], each, None if along is None else along[n])
        return bool(found)

    def _traces(
        self, node: gs.Node, traced: Sequence[tuple[int, gs.Tensor]], place: int, trace: Trace
    ) -> list[Trace] | None:
        """The channels in each output of a node that moves them, or lets each pass by itself; None of another one."""
        if any(t.is_empty() for t in node.outputs):
            return None
        even, index = trace.even, self._moved(node, trace) if place == 0 else None
        if index is None and (added := self._added(node, traced, trace)) is not None:
            return [added]
        if index is None:
            even, index = False, self._apart(node, traced, trace) or self._through(node, place, trace)
            scaled = _with_numbers(node.inputs[1 - place], trace) if isinstance(rules(node), Product) else None
            trace = trace if scaled is None else replace(trace, zeros=trace.zeros | among(trace) & ~scaled)
        shapes = [_example(t) for t in node.outputs]
        if index is None or [i.shape for i in index] != shapes or any(i.size == 0 for i in index):
            return None
        return [replace(trace, index=each, even=even) for each in index]

    def _round(self, node: gs.Node, trace: Trace) -> bool:
        """Follow a QuantizeLinear with one scale, if the steps of that are all that is read of it, and then these."""
        output, steps = node.outputs[0], [operand(node, 1), operand(node, 2)]
        if any(t is not None and not (is_constant(t) and values_of(t).size == 1) for t in steps):
            return False
        if isinstance(rules(node), Dequantize):
            if not isinstance(rules(node.inputs[0].inputs[0]), Quantize):
                return False  # integers that are zero, which stand for another number
            self._arrive(output, replace(trace, even=False))
            return True
        back = all(isinstance(rules(k), Dequantize) and same_steps(k, node) for k in output.outputs)
        if back and output.name not in self.pinned:
            self.traces[output.name] = replace(trace, even=False)
        return output.name in self.traces

    def _apart(self, node: gs.Node, traced: Sequence[tuple[int, gs.Tensor]], trace: Trace) -> list[Index] | None:
        """The channels in the output of a node that computes each by itself, and makes zero of zero."""
        op, place = rules(node), traced[0][0]
        scales = isinstance(op, Elementwise) and len(traced) == 1 and op.scales(node, self.facts, place)
        alike = scales or ((len(traced) > 1 or is_pointwise(node)) and place == 0 and self._keeps_zero(node, traced))
        shape = _example(node.outputs[0])
        grows = shape[len(shape) - trace.index.ndim :] != trace.index.shape  # or is of sizes that are not known
        if not alike or not is_float(node.outputs[0]) or grows:
            return None
        if scales:
            self._scale(node, 1 - place, trace)
        return [np.broadcast_to(trace.index, shape)]

    def _added(self, node: gs.Node, traced: Sequence[tuple[int, gs.Tensor]], trace: Trace) -> Trace | None:
        """The channels in a sum with a stored number for each, or the difference; None of another node."""
        place, shape = 1 - traced[0][0], _example(node.outputs[0])
        if not isinstance(rules(node), Sum | Difference) or not is_float(node.outputs[0]) or trace.index.shape != shape:
            return None
        shifted = _with_numbers(node.inputs[place], trace)
        if shifted is None:
            return None
        self._scale(node, place, trace)
        return replace(trace, even=False, zeros=trace.zeros & ~shifted)

    def _scale(self, node: gs.Node, place: int, trace: Trace) -> None:
        """Channels stay where others are combined with another number, but for constants, which go with them."""
        other, axes = node.inputs[place], varying(trace.index)
        shape, rank = shape_of(other), trace.index.ndim
        free = [a for a in axes if shape is not None and (len(shape) < rank - a or shape[a - rank] == 1)]
        if len(free) == len(axes):
            return
        moves = isinstance(other, gs.Constant) and not is_dequantized(other)
        if moves and once(trace.index).size == among(trace).sum():
            self.scaled.append((node, place, trace))
        else:
            self._hold(trace, free)

    def _through(self, node: gs.Node, place: int, trace: Trace) -> list[Index] | None:
        """The channels in the output of a node that lets each pass by itself, all in the same way."""
        op = rules(node)
        picks = isinstance(op, Movement) and op.only_picks and place == 0
        if len(node.outputs) != 1 or not (picks or isinstance(op, ReduceSum | ReduceNorm | Scattering)):
            return None
        found: dict[int, int] = {}  # by axis of the output
        links, shape = self.facts.links(node), _example(node.outputs[0])
        for axis in varying(trace.index):
            out = [k.output_axis for k in links if (k.input, k.input_axis) == (place, axis) and k.source is None]
            beside = [k for k in links if k.output_axis in out and k.input != place]
            if len(out) != 1 or any(not self.facts.zero(node.inputs[k.input], k.input_axis).all() for k in beside):
                return None
            found[out[0]] = axis
        index = laid(trace.index, [found.get(a) for a in range(len(shape))])
        return [np.broadcast_to(index, shape)] if fits(index, shape) else None

    def _keeps_zero(self, node: gs.Node, traced: Sequence[tuple[int, gs.Tensor]]) -> bool:
        places, zero = {place for place, _ in traced}, np.zeros(1, np.float32)
        operands = [
            zero if place in places else None if t.is_empty() else values_of(t) for place, t in enumerate(node.inputs)
        ]
        found = evaluate(node, self.facts.opset, operands)
        return found is not None and not found[0].any()

    def _moved(self, node: gs.Node, trace: Trace) -> list[Array] | None:
        """The channels in each output of a node that moves those of its operand 0; None if it does something else."""
        op = rules(node)
        if isinstance(op, Regrouping):
            return self._reshaped(node, trace)
        if not isinstance(op, Movement) or not op.only_picks or isinstance(op, GatherElements | GatherND):
            return None  # the last two pick each channel at places of its own
        others = list(node.inputs)[1:]
        operands = [trace.index, *(np.asarray(t.values) for t in others if is_constant(t))]
        return evaluate(node, self.facts.opset, operands) if len(operands) > len(others) else None

    def _reshaped(self, node: gs.Node, trace: Trace) -> list[Array] | None:
        shape, axes = _example(node.outputs[0]), {*varying(trace.index)}
        out = {k.output_axis for k in self.facts.links(node) if k.input_axis in axes}
        # what is merged with them, as copies of keys for several queries are, is of a static size
        axes |= {k.input_axis for k in self.facts.links(node) if k.output_axis in out}
        index = trace.index[tuple(slice(None if a in axes else 1) for a in range(trace.index.ndim))]
        sizes = [size if a in out else 1 for a, size in enumerate(shape)]
        whole = int(np.prod(sizes)) == index.size and self._keeps(node, tuple(axes))
        return [np.broadcast_to(index.reshape(sizes), shape)] if whole else None

    def _arrive(self, output: gs.Tensor, trace: Trace, beside: Trace | None = None) -> None:
        """One axis that holds channels by itself, each once or for as many heads, is the end."""
        axes = varying(trace.index)
        if len(axes) == 1 and self.facts.size(output, axes[0]) is not None:
            index = once(trace.index).reshape(-1)
            if len({*np.unique(index, return_counts=True)[1].tolist()}) == 1:
                trace.root.hold(among(trace).astype(np.int64))  # none changes places with others
                even = trace.even and output.name not in self.pinned
                self.merges.append(Merge(trace.root, output, axes[0], index, trace.zeros, even))
                if beside is not None:
                    self._need(beside)
                return
        self.traces[output.name] = trace
        if beside is not None:
            self.beside[output.name] = beside

    def _multiply(self, node: gs.Node, op: Contraction, traced: dict[int, gs.Tensor]) -> bool:
        terms = op.terms(node)
        if terms is None or operand(node, 2) is not None or len(terms.factors) != 2 or max(traced) > 1:
            return False
        if any(len({*letters}) < len(letters) or WHOLE in letters for letters in terms.factors):
            return False
        if len(traced) == 1 and is_constant(node.inputs[1 - min(traced)]):
            return self._weigh(node, terms, min(traced))
        shared = {k for k in terms.factors[0] if k in terms.factors[1]}
        summed, batch = shared.difference(terms.output), [k for k in terms.output if k in shared]
        found = [(i, each) for i, t in sorted(traced.items()) for each in self._of(t.name)]
        along = [{terms.factors[i][a] for a in varying(each.index)} for i, each in found]
        ends = [n for n, letters in enumerate(along) if len(summed) == 1 and summed <= letters <= {*batch, *summed}]
        ends = ends if [found[n][0] for n in ends] == [0, 1] else []
        if ends:
            self._contract(*(self._of_letters(terms, *found[n], [*batch, *summed]) for n in ends))
        passed = [(each, self._passed(node, terms, i, each)) for n, (i, each) in enumerate(found) if n not in ends]
        if not passed:
            return True
        *others, (_, own) = passed
        if own is None:
            return False
        beside = next((each for _, each in others[::-1] if each is not None), None)
        for trace, each in others:
            if each is None or each is not beside:
                self._need(trace)
        self._arrive(node.outputs[0], own, beside)
        return True

    def _weigh(self, node: gs.Node, terms: Terms, factor: int) -> bool:
        """Sum over the channels of each head, times a stored number for each; False of another product."""
        (*beside, trace), constant, letters = self._of(node.inputs[factor].name), node.inputs[1 - factor], terms.factors
        along, own = {letters[factor][a] for a in varying(trace.index)}, letters[1 - factor]
        summed = {*letters[factor]}.intersection(own).difference(terms.output)
        if beside or len(summed) != 1 or not summed <= along <= {*own} or is_dequantized(constant):
            return False
        trace, values = self._of_letters(terms, factor, trace, own), values_of(constant)
        if not fits(trace.index, values.shape) or once(trace.index).size != among(trace).sum():
            return False
        whole = replace(trace, index=np.broadcast_to(trace.index, values.shape))
        trace.root.needed[whole.index[(values != 0) & ~whole.zero]] = True
        self._hold(trace, [own.index(letter) for letter in summed])
        self.scaled.append((node, 1 - factor, trace))
        return True

    def _passed(self, node: gs.Node, terms: Terms, factor: int, trace: Trace) -> Trace | None:
        """The channels of a factor that are not summed over, in the product; None where they cannot be followed."""
        other, letters, shape = 1 - factor, terms.factors[factor], _example(node.outputs[0])
        kept = {letters[a] for a in varying(trace.index)}
        if is_constant(node.inputs[other]) or not kept <= {*terms.output} or kept <= {*terms.factors[other]}:
            return None
        index = self._of_letters(terms, factor, trace, terms.output).index
        if not fits(index, shape):
            return None  # the output is not known to have these sizes
        self._hold(trace, [a for a, letter in enumerate(letters) if letter not in terms.factors[other]])
        summed = [
            a for a, letter in enumerate(terms.factors[other]) if letter in letters and letter not in terms.output
        ]
        mean = len(summed) == 1 and self.facts.sums_to_one(node.inputs[other], summed[0])
        return replace(trace, index=np.broadcast_to(index, shape), even=trace.even and mean)

    def _of(self, name: str) -> list[Trace]:
        """The channels of a tensor: of the factor beside, if there is one, and its own."""
        return [traces[name] for traces in (self.beside, self.traces) if name in traces]

    @staticmethod
    def _of_letters(terms: Terms, factor: int, trace: Trace, order: Sequence[str]) -> Trace:
        """The channels of a factor, which vary along these letters only, laid out along them."""
        letters = terms.factors[factor]
        axes = [letters.index(k) if k in letters else None for k in order]
        return replace(trace, index=laid(trace.index, axes))

    def _attend(self, node: gs.Node, op: FusedAttention, traced: dict[int, gs.Tensor]) -> bool:
        """Fused attention of queries, keys and values [batch, heads, tokens, channels], and nothing else."""
        heads, found = op.heads(node), {index: self.traces[t.name] for index, t in traced.items()}
        alone = all(p.kind == "scores" or (p.index < 3 and len(p.axes) == 2) for p in heads.inputs)
        if not alone or len(heads.outputs) > 1 or max(found) > 2 or any(2 in varying(t.index) for t in found.values()):
            return False
        grouped = {i: replace(t, index=by_group(t.index, heads.keys)) for i, t in found.items()}
        if 0 in found and 1 in found:
            self._contract(grouped[0], grouped[1])
        elif 0 in found or 1 in found:
            self._read_whole(traced[min(found)].name)
        if 2 in found:
            value = grouped[2]
            self._hold(self.traces[traced[2].name], (3,))
            batch, *others = _example(node.outputs[0])
            shape = batch, heads.keys, heads.queries // heads.keys, *others[1:]
            index = np.broadcast_to(value.index[:, :, :, None], shape).reshape(batch, *others)
            even = value.even and op.averages(node, self.facts)
            self._arrive(node.outputs[0], replace(value, index=index, even=even))
        return True

    def _contract(self, left: Trace, right: Trace) -> None:
        """A channel is needed where neither factor is zero."""
        times = max(repeats(left.index), repeats(right.index))  # heads of queries for each of keys, one after another
        if times > 1:
            left, right = (replace(t, index=in_groups(t.index, times)) for t in (left, right))
        first, second = np.broadcast_arrays(left.index, right.index)
        alive = ~(left.zero | right.zero)
        left.root.needed[first[alive]] = True
        right.root.needed[second[alive]] = True
        for trace in (left, right):
            self._hold(trace, (trace.index.ndim - 1,))
        if not any(_alike(left, one) and _alike(right, other) for one, other in self.products):
            left.root.paired[among(left)] += 1
            right.root.paired[among(right)] += 1
            self.products.append((left, right))


def among(trace: Trace) -> Mask:
    """The channels of the root that occur: bool [channels]."""
    found = np.zeros(trace.root.zero.size, bool)
    found[trace.index] = True
    return found


def _with_numbers(tensor: gs.Tensor, trace: Trace) -> Mask | None:
    """The channels that a stored operand has other numbers for than zero; None where these are not known."""
    if not is_constant(tensor) or is_dequantized(tensor):
        return None
    values, shape = values_of(tensor), trace.index.shape
    values = values[(None,) * (len(shape) - values.ndim)]
    read = np.broadcast_to(values != 0, shape) if fits(values, shape) else None
    return None if read is None else among(replace(trace, index=trace.index[read]))


def _alike(one: Trace, other: Trace) -> bool:
    """Whether the same channels lie at the same places."""
    same = one.root is other.root and np.array_equal(one.zeros, other.zeros)
    return one is other or (same and np.array_equal(one.index, other.index))


def _example(tensor: gs.Tensor) -> tuple[int, ...]:
    """The sizes of one example: what is not static counts as 1."""
    return tuple(d if isinstance(d, int) else 1 for d in shape_of(tensor) or ())
