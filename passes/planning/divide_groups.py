"""Division of grouped convolutions whose groups keep unequal numbers of channels.

All groups of one convolution read and write as many channels as the fullest. A convolution for each run of groups that
are alike computes less, and so does what is before it, where that is worth more than taking the data apart and joining
it again. Groups that make several channels of one read it once for each that is kept.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from passes.adapters.price import Policy, flops_per_moved_element, piece_size
from passes.graph import construct
from passes.graph.editor import GraphEditor, erase
from passes.graph.tensors import is_constant, product, shape_of, size_of, volume
from passes.ops import rules
from passes.ops.convolutions.channel_groups import group_size
from passes.ops.convolutions.grouped_sums import GroupedSums
from passes.planning.upstream_cost import UpstreamCost
from passes.rewriting.channel_facts import Facts
from passes.sizes.tokens_per_example import multiples
from passes.weights.quantized import is_dequantized, moved_initializer, twin
from passes.weights.streaming import Picked

# What a convolution takes beside its work, in the time of moved elements. With it blocks of 64 to 450 channels that are
# divided take 0.78 to 0.95 of the time in ONNX Runtime, and 0.96 to 1.06 in OpenVINO.
_ELEMENTS_PER_NODE = 2000

# Kernels are fast for groups of one channel, and slow for those that make some more of one. Half masked, networks with
# these take 0.6 to 0.85 of the time with a Gather in ONNX Runtime, and 1.2 to 2 times it where groups make 6 or more;
# in OpenVINO convolutions take 0.5 to 0.8 of the time with all of their channels.
_MOST_TIMES = 4

# Of 32 groups and more, divided, ONNX Runtime is as fast as before, and OpenVINO slower.
_MOST_GROUPS = 24


def divide(graph: gs.Graph, facts: Facts, policy: Policy) -> frozenset[str]:
    """Divide the grouped convolutions of which less is computed then. Names of the tensors that are new.

    The function of the graph stays the same; facts have to be found anew where there are new tensors.
    """
    candidates = [node for node in graph.nodes if _may_be_divided(node, facts)]
    multiplied = [node for node in graph.nodes if _multiplies_unequally(node, facts, policy)]
    if not candidates and not multiplied:
        return frozenset()
    price, editor = flops_per_moved_element(policy), GraphEditor(graph)
    upstream = UpstreamCost(graph, facts, multiples(graph, facts))
    divided = [
        (node, _Runs(node, facts, price, upstream.per_slice(node.inputs[0], 1)).cheapest()) for node in candidates
    ]
    made = [name for node, runs in divided if len(runs) > 1 for name in _write(editor, node, runs)]
    made += [_repeat_inputs(editor, node) for node in multiplied]
    editor.finish()
    return frozenset(made)


def _sums(node: gs.Node, facts: Facts) -> GroupedSums | None:
    """The rules of a grouped convolution that can be divided; None of another node."""
    op = rules(node)
    if not isinstance(op, GroupedSums) or group_size(node) == 1 or not op.understood_shapes(node, facts):
        return None
    beside = all(is_constant(node.inputs[i]) for i in op.along_output(node))
    return op if beside and not is_dequantized(node.inputs[op.weight]) and volume(node.inputs[0]) > 0 else None


def _may_be_divided(node: gs.Node, facts: Facts) -> bool:
    if _sums(node, facts) is None:
        return False
    return group_size(node) <= min(_MOST_GROUPS, (size_of(node.inputs[0], 1) or 0) - 1)


def _multiplies_unequally(node: gs.Node, facts: Facts, policy: Policy) -> bool:
    """Whether each group makes several channels of one, and some keep more of them than others."""
    op = None if policy == "never" else _sums(node, facts)
    if op is None:
        return False
    groups, count = group_size(node), size_of(node.outputs[0], 1) or 0
    times = count // groups
    if not 1 < times <= (times if policy == "always" else _MOST_TIMES) or groups != size_of(node.inputs[0], 1):
        return False
    if size_of(node.inputs[op.weight], 0) != count:  # weights that lie by what is read, as those of ConvTranspose
        return False
    kept = np.unique(facts.live(node.outputs[0], 1).reshape(groups, -1).sum(axis=1))
    return kept[kept > 0].size > 1


def _repeat_inputs(editor: GraphEditor, node: gs.Node) -> str:
    """Let the convolution read its input once for each channel that it writes; the name of the tensor of these."""
    data, groups, count = node.inputs[0], group_size(node), size_of(node.outputs[0], 1) or 0
    each = np.arange(groups).repeat(count // groups)
    node.inputs[0] = editor.gather(data, 1, each, f"{data.name}_each", before=node)
    node.attrs["group"] = count
    return node.inputs[0].name


class _Runs:
    """The divisions of the groups of one convolution into runs, and what they cost in FLOPs.

    price: of moving an element. upstream: of computing one more channel of the input.
    """

    def __init__(self, node: gs.Node, facts: Facts, price: float, upstream: float) -> None:
        op = rules(node)
        assert isinstance(op, GroupedSums)
        self.groups = group_size(node)
        data, result = node.inputs[0], node.outputs[0]
        outputs = facts.live(result, 1)
        inputs = op.read_by(node, facts, outputs) & facts.live(data, 1)
        self.inputs, self.outputs = (m.reshape(self.groups, -1).sum(axis=1) for m in (inputs, outputs))
        read, written = (piece_size(shape_of(t) or (), 1) for t in (data, result))
        kernel = product((shape_of(node.inputs[op.weight]) or ())[2:])
        self.pair = 2.0 * kernel * min(read, written)  # a channel of the input for one of the output
        self.read, self.written, self.node = price * read, price * written, price * _ELEMENTS_PER_NODE
        self.upstream = upstream * read * inputs.size / volume(data)

    def cheapest(self) -> list[int]:
        """Where runs begin, and the number of groups."""
        best: list[tuple[float, int]] = [(0.0, 0)]  # by the end of the last run: what it costs so far, and its start
        for stop in range(1, self.groups + 1):
            best.append(min((best[start][0] + self._cost(start, stop, moves=1), start) for start in range(stop)))
        if self._cost(0, self.groups, moves=0) <= best[-1][0] + 2 * self.node:
            return [0]
        runs = [self.groups]
        while runs[-1]:
            runs.append(best[runs[-1]][1])
        return runs[::-1]

    def _cost(self, start: int, stop: int, *, moves: int) -> float:
        """Of one convolution of these groups: its work, channels that nobody needs, and data that is moved.

        A channel that is not needed is picked out or computed, and read, which is taken to cost the same on both sides.
        """
        inputs, outputs = self.inputs[start:stop], self.outputs[start:stop]
        groups = np.count_nonzero(inputs * outputs)
        read, written = int(inputs.max()) * groups, int(outputs.max()) * groups
        needless = min((read - int(inputs.sum())) * self.upstream, read * self.read)
        needless += min((written - int(outputs.sum())) * self.upstream, int(outputs.sum()) * self.written)
        work = self.pair * read * int(outputs.max())
        return float(work + needless + moves * (read * self.read + written * self.written + self.node))


def _write(editor: GraphEditor, node: gs.Node, runs: list[int]) -> list[str]:
    """Put a convolution for each run in place of one for all groups; the names of the tensors that these read."""
    op, groups, (data, *others), result = rules(node), group_size(node), node.inputs, node.outputs[0]
    assert isinstance(op, GroupedSums)
    divided = {op.weight, *op.along_output(node)}
    counts = [stop - start for start, stop in pairwise(runs)]

    def parts(tensor: gs.Tensor) -> list[gs.Variable]:
        shape = list(shape_of(tensor) or ())
        each = (size_of(tensor, 1) or 0) // groups
        sizes = [[shape[0], count * each, *shape[2:]] for count in counts]
        return [editor.variable(f"{tensor.name}_part", tensor.dtype, size) for size in sizes]

    def cut(index: int, tensor: gs.Tensor, start: int, stop: int) -> gs.Tensor:
        if not isinstance(tensor, gs.Constant):
            return tensor
        if index not in divided:  # ONNX Runtime cannot make 8-bit weights unsigned whose zero point is shared
            return twin(editor, tensor)
        each = tensor.shape[0] // groups  # weights lie by group along the first axis
        return moved_initializer(editor, tensor, Picked({0: np.arange(start * each, stop * each)}))

    read, written = parts(data), parts(result)
    sizes = [size_of(t, 1) or 0 for t in read]
    inputs, attrs = editor.form("Split", [data], {"axis": 1, "split": sizes})
    editor.insert(construct.node("Split", editor.names.fresh(f"{node.name}_split"), attrs, inputs, read), before=node)
    for (start, stop), source, output in zip(pairwise(runs), read, written, strict=True):
        operands = [source, *(cut(i, tensor, start, stop) for i, tensor in enumerate(others, 1))]
        attrs, name = {**node.attrs, "group": stop - start}, editor.names.fresh(node.name)
        said = construct.said_of(node)
        editor.insert(construct.node(node.op, name, attrs, operands, [output], node.domain, said), before=node)
    erase(node)
    editor.emit("Concat", written, result, f"{node.name}_concat", {"axis": 1}, before=node)
    return [t.name for t in read]
