"""Nodes and tensors: their construction, and the producers and consumers that they know."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import SynchronizedList

from passes.graph.tensors import Array, Dim, Dtype

_Part = TypeVar("_Part", gs.Variable, gs.Constant, gs.Node, gs.Tensor)


def variable(
    name: str, dtype: Dtype | None = None, shape: Sequence[Dim] | None = None, kind: str = "tensor_type"
) -> gs.Variable:
    """As `gs.Variable`."""
    return filled_at_once(gs.Variable.__new__(gs.Variable), name=name, dtype=dtype, shape=shape, type=kind)


def omitted() -> gs.Variable:
    """An operand that is left out."""
    return variable("")


def constant(name: str, values: Array | LazyValues) -> gs.Constant:
    """As `gs.Constant`."""
    made = gs.Constant.__new__(gs.Constant)
    return filled_at_once(made, name=name, _values=values, data_location=None, _export_dtype=None)


def node(
    op: str,
    name: str,
    attrs: Mapping[str, Any],
    inputs: Sequence[gs.Tensor],
    outputs: Sequence[gs.Tensor],
    domain: str | None = None,
    said: onnx.NodeProto | None = None,
) -> gs.Node:
    """As `gs.Node`. said: what the model says of it that is nothing to compute with."""
    made = filled_at_once(gs.Node.__new__(gs.Node), op=op, name=name, attrs=dict(attrs), domain=domain, said=said)
    list.extend(made.inputs, inputs)
    list.extend(made.outputs, outputs)
    for tensor in inputs:
        list.append(tensor.outputs, made)
    for tensor in outputs:
        list.append(tensor.inputs, made)
    return made


def said_of(node: gs.Node) -> onnx.NodeProto | None:
    """What the model says of the node that is nothing to compute with."""
    found: onnx.NodeProto | None = vars(node).get("said")
    return found


def snapshot(node: gs.Node) -> gs.Node:
    """The node as it is now: its tensors do not count it among their producers and consumers."""
    fields = {name: getattr(node, name) for name in ("op", "name", "domain")}
    made = filled_at_once(gs.Node.__new__(gs.Node), attrs=dict(node.attrs), **fields)
    list.extend(made.inputs, node.inputs)
    list.extend(made.outputs, node.outputs)
    return made


class Composed(gs.Constant):
    """A constant that is computed of others when it is read."""

    def copied(self, own: Callable[[gs.Constant], gs.Constant]) -> Composed:
        """The same of copies of these others, which `own` makes."""
        raise NotImplementedError


def copied(graph: gs.Graph) -> gs.Graph:
    """A graph of the same nodes, without subgraphs, on tensors of its own, which share the values of constants."""
    tensors: dict[int, gs.Tensor] = {}

    def own(tensor: Any) -> Any:
        if id(tensor) not in tensors:
            composed = isinstance(tensor, Composed)
            made = tensor.copied(own) if composed else filled_at_once(object.__new__(type(tensor)), **vars(tensor))
            tensors[id(tensor)] = made
        return tensors[id(tensor)]

    inputs, outputs = ([own(t) for t in ends] for ends in (graph.inputs, graph.outputs))
    made = gs.Graph((), inputs, outputs, graph.name, graph.doc_string, graph.opset)
    made.nodes = [
        node(n.op, n.name, n.attrs, [own(t) for t in n.inputs], [own(t) for t in n.outputs], n.domain, said_of(n))
        for n in graph.nodes
    ]
    return made


def take_apart(graph: gs.Graph) -> None:
    """Free a graph that nobody reads any more, subgraphs excepted.

    Nodes and tensors refer to each other, and so keep their weights until the garbage collector finds the cycle.
    """
    for node in graph.nodes:
        for tensor in (*node.inputs, *node.outputs):
            vars(tensor).clear()
        vars(node).clear()
    for tensor in (*graph.inputs, *graph.outputs):
        vars(tensor).clear()
    graph.nodes.clear()


def filled_at_once(part: _Part, /, **fields: object) -> _Part:
    """A new tensor or node with these fields, and no producers and consumers.

    Setting them one by one, as its own constructor does, takes five times as long, since that looks each of them up
    first: a tenth of a default compile.
    """
    before, after = _Neighbours(), _Neighbours()
    before.owner = after.owner = weakref.ref(part)
    before.field_name, after.field_name = "outputs", "inputs"
    vars(part).update({**fields, "inputs": before, "outputs": after})
    return part


class _Neighbours(SynchronizedList[Any]):
    """Producers or consumers of a tensor or node, which they do not keep alive.

    field_name: the list of theirs in which it stands.
    """

    __slots__ = ("field_name", "owner")
    __init__ = list.__init__  # a graph has thousands of them

    owner: weakref.ref[gs.Tensor | gs.Node]
    field_name: str

    @property
    def parent_obj(self) -> gs.Tensor | gs.Node | None:
        """The tensor or node, which the neighbours are told of."""
        return self.owner()

    def _remove_from_elem(self, elem: gs.Tensor | gs.Node) -> None:
        """Itself, and not what is equal to it, as a node of another branch may be."""
        own, there = self.owner(), getattr(elem, self.field_name)
        list.__delitem__(there, next(index for index, other in enumerate(there) if other is own))
