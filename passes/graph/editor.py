"""Edits of a graph: new nodes and constants in their places, nodes that are erased, tensors that are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.graph import construct
from passes.graph.opset_versions import became_operands
from passes.graph.subgraphs import seen_outside, with_bodies
from passes.graph.tensors import Array, Dim, Dtype, shape_of

_Tensor = TypeVar("_Tensor", bound=gs.Tensor)

#: what is left to do once it is known that all of it can be done
Change = Callable[[], None]


def sequence(changes: list[Change]) -> Change:
    """All of them."""

    def change() -> None:
        for each in changes:
            each()

    return change


def all_or_none(changes: Sequence[Change | None]) -> Change | None:
    """All of them; None if any of them cannot be."""
    possible = [change for change in changes if change is not None]
    return sequence(possible) if len(possible) == len(changes) else None


def erase(*nodes: gs.Node) -> None:
    """Let nodes read and write nothing any more; `drop_erased` and `GraphEditor.finish` take them out of the graph."""
    for node in nodes:
        node.inputs.clear()
        node.outputs.clear()


def drop_erased(graph: gs.Graph) -> None:
    """Leave out of the graph's list the nodes that write nothing."""
    graph.nodes = [node for node in graph.nodes if node.outputs]


def replace_tensor(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old`, subgraphs included, read `new`."""
    for consumer in list(old.outputs):
        for index, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[index] = new


def erase_keeping_input(node: gs.Node, source: gs.Tensor) -> None:
    """Erase the node; what reads its output 0 reads `source`."""
    replace_tensor(node.outputs[0], source)
    erase(node)


def erase_keeping_output(node: gs.Node, source: gs.Tensor) -> None:
    """Erase the node; what writes `source`, which nothing else may read, writes its output 0."""
    output, producer = node.outputs[0], source.inputs[0]
    erase(node)
    producer.outputs = [output if t is source else t for t in producer.outputs]


def become(node: gs.Node, op: str, inputs: Sequence[gs.Tensor], attrs: Mapping[str, Any] | None = None) -> None:
    """Let the node be another operator of the standard, with its name and its outputs."""
    if node.domain not in ("", "ai.onnx"):
        node.domain = None
    node.op, node.attrs, node.inputs = op, dict(attrs or {}), list(inputs)


class GraphEditor:
    """New nodes and constants for a graph, under names that nothing in it has.

    New nodes are in the graph's list from `finish` on; until then the list is left alone.
    """

    #: nothing comes before the one, or after the other; for all editors, as a node waits for a collection
    start: ClassVar[gs.Node] = construct.node("Start", "", {}, (), ())
    end: ClassVar[gs.Node] = construct.node("End", "", {}, (), ())

    def __init__(self, graph: gs.Graph, names: Names | None = None) -> None:
        """A subgraph needs the `names` of the graph around it where both are kept."""
        self.graph = graph
        self.names = names or Names(graph)
        #: the node before which new ones are put, unless it is said otherwise
        self.place = self.end
        self._before: dict[int, list[gs.Node]] = {}
        self._after: dict[int, list[gs.Node]] = {}

    @property
    def opset(self) -> int:
        """That of the graph."""
        return int(self.graph.opset)

    @cached_property
    def seen_outside(self) -> set[str]:
        """Names of the tensors that others than the graph's own nodes see: its outputs, and what subgraphs read."""
        return seen_outside(self.graph)

    @cached_property
    def _own(self) -> set[int]:
        return {id(node) for node in self.graph.nodes}

    def sole_producer(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node of this graph that writes a tensor which is read once, and not seen outside; None for others."""
        if len(tensor.inputs) != 1 or self.sole_reader(tensor) is None:
            return None
        return tensor.inputs[0] if id(tensor.inputs[0]) in self._own else None

    def sole_reader(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that reads a tensor once, if nothing else reads it and it is not seen outside; None for others."""
        return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in self.seen_outside else None

    def constant(self, hint: str, values: Array | LazyValues) -> gs.Constant:
        """A new initializer."""
        stored = values if isinstance(values, LazyValues) else np.asarray(values, order="C")
        return construct.constant(self.names.fresh(hint), stored)

    def ints(self, hint: str, values: Iterable[int]) -> gs.Constant:
        """A new initializer: int64 [values]."""
        return self.constant(hint, np.asarray(values, np.int64))

    def variable(self, hint: str, dtype: Dtype | None = None, shape: Sequence[Dim] | None = None) -> gs.Variable:
        """A new tensor that a node is to write."""
        return construct.variable(self.names.fresh(hint), dtype, shape)

    def form(
        self, op: str, inputs: Sequence[gs.Tensor], attrs: Mapping[str, Any]
    ) -> tuple[list[gs.Tensor], dict[str, Any]]:
        """Inputs and attributes of a node of the standard, of which some are operands in this opset."""
        became = became_operands(op, self.opset)
        operands = [self.ints(name, attrs[name]) for name in became if name in attrs]
        return [*inputs, *operands], {name: value for name, value in attrs.items() if name not in became}

    def emit(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        output: _Tensor,
        name: str,
        attrs: Mapping[str, Any] | None = None,
        *,
        domain: str | None = None,
        before: gs.Node | None = None,
        after: gs.Node | None = None,
    ) -> _Tensor:
        """Put a new node in, and return its output. `name` is a hint.

        It comes right before `before`, or after `after` and all that was put there.
        """
        inputs, attrs = self.form(op, inputs, attrs or {}) if not domain else (inputs, attrs or {})
        node = construct.node(op, self.names.fresh(name), attrs, inputs, [output], domain)
        self.insert(node, before=before, after=after)
        return output

    def gather(
        self,
        tensor: gs.Tensor,
        axis: int,
        slices: Array | gs.Constant,
        hint: str,
        *,
        before: gs.Node | None = None,
        after: gs.Node | None = None,
    ) -> gs.Variable:
        """Slices of a tensor along an axis, by their indices, from a new Gather that `emit` puts in."""
        index = slices if isinstance(slices, gs.Constant) else self.ints("slices", slices)
        shape = shape_of(tensor)
        sizes = None if shape is None else [index.shape[0] if a == axis else size for a, size in enumerate(shape)]
        output, name = self.variable(hint, tensor.dtype, sizes), f"{hint}_gather"
        return self.emit("Gather", [tensor, index], output, name, {"axis": axis}, before=before, after=after)

    def insert(self, node: gs.Node, *, before: gs.Node | None = None, after: gs.Node | None = None) -> None:
        """Put a node that is made already in, as `emit` does."""
        if after is not None:
            self._after.setdefault(id(after), []).append(node)
        else:
            self._before.setdefault(id(before or self.place), []).append(node)
        self._own.add(id(node))

    def finish(self) -> None:
        """Bring the graph's list up to date: with the new nodes, without those that write nothing."""
        if self._before or self._after:
            self.graph.nodes = list(self._in_order((self.start, *self.graph.nodes, self.end)))
        drop_erased(self.graph)  # with them the start and the end
        self._before.clear()
        self._after.clear()

    def _in_order(self, nodes: Iterable[gs.Node]) -> Iterator[gs.Node]:
        for node in nodes:
            yield from self._in_order(self._before.get(id(node), ()))
            yield node
            yield from self._in_order(self._after.get(id(node), ()))


class Names:
    """Names that nothing in a graph has, subgraphs included; the same graph gives the same names."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """`hint`, with a number after it if it is taken."""
        if not self._taken:  # most never make a name
            for scope in with_bodies(self._graph):
                self._taken.update([t.name for t in [*scope.inputs, *scope.outputs]])
                self._taken.update([n.name for n in scope.nodes])
                self._taken.update([t.name for n in scope.nodes for t in n.inputs])
                self._taken.update([t.name for n in scope.nodes for t in n.outputs])
        name, number = hint, self._numbers.get(hint, 0)  # those before are taken
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._numbers[hint] = number
        self._taken.add(name)
        return name
