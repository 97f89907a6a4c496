"""Tensors and nodes of a graph, made without the detours that onnx-graphsurgeon's own constructors take.

These look up each attribute that they set, and fail to find it, before they set it: five times the work, and models
have thousands of tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import SynchronizedList

from passes.graph.tensors import Array, Dim, Dtype


def variable(
    name: str, dtype: Dtype | None = None, shape: Sequence[Dim] | None = None, kind: str = "tensor_type"
) -> gs.Variable:
    """As `gs.Variable`."""
    tensor = gs.Variable.__new__(gs.Variable)
    vars(tensor).update(name=name, dtype=dtype, shape=shape, type=kind, **_neighbours(tensor))
    return tensor


def omitted() -> gs.Variable:
    """An operand that is left out."""
    return variable("")


def constant(name: str, values: Array | LazyValues) -> gs.Constant:
    """As `gs.Constant`."""
    tensor = gs.Constant.__new__(gs.Constant)
    vars(tensor).update(name=name, _values=values, data_location=None, _export_dtype=None, **_neighbours(tensor))
    return tensor


def node(
    op: str,
    name: str,
    attrs: Mapping[str, Any],
    inputs: Sequence[gs.Tensor],
    outputs: Sequence[gs.Tensor],
    domain: str | None = None,
) -> gs.Node:
    """As `gs.Node`."""
    made = gs.Node.__new__(gs.Node)
    around = _neighbours(made)
    vars(made).update(op=op, name=name, attrs=dict(attrs), domain=domain, **around)
    list.extend(around["inputs"], inputs)
    list.extend(around["outputs"], outputs)
    for tensor in inputs:
        list.append(tensor.outputs, made)
    for tensor in outputs:
        list.append(tensor.inputs, made)
    return made


def snapshot(node: gs.Node) -> gs.Node:
    """The node as it is now: its tensors do not count it among their producers and consumers."""
    made = gs.Node.__new__(gs.Node)
    around = _neighbours(made)
    vars(made).update(op=node.op, name=node.name, attrs=dict(node.attrs), domain=node.domain, **around)
    list.extend(around["inputs"], node.inputs)
    list.extend(around["outputs"], node.outputs)
    return made


def copied(graph: gs.Graph) -> gs.Graph:
    """A graph of the same nodes, without subgraphs, on tensors of its own, which share the values of constants."""
    tensors: dict[int, gs.Tensor] = {}

    def own(tensor: gs.Tensor) -> gs.Tensor:
        made = tensors.get(id(tensor))
        if made is None:
            made = object.__new__(type(tensor))
            tensors[id(tensor)] = made
            vars(made).update(vars(tensor), **_neighbours(made))
        return made

    inputs, outputs = ([own(t) for t in ends] for ends in (graph.inputs, graph.outputs))
    made = gs.Graph((), inputs, outputs, graph.name, graph.doc_string, graph.opset)
    made.nodes = [
        node(n.op, n.name, n.attrs, [own(t) for t in n.inputs], [own(t) for t in n.outputs], n.domain)
        for n in graph.nodes
    ]
    return made


def take_apart(graph: gs.Graph) -> None:
    """Leave nothing of a graph that nobody reads any more: else its cycles wait for a search, which visits all of them.

    Of subgraphs all is left.
    """
    for node in graph.nodes:
        for tensor in (*node.inputs, *node.outputs):
            vars(tensor).clear()
        vars(node).clear()
    for tensor in (*graph.inputs, *graph.outputs):
        vars(tensor).clear()
    graph.nodes.clear()


class _Neighbours(SynchronizedList[Any]):
    """What comes before or after a tensor or node, which it does not keep alive: that would be a cycle of its own."""

    __slots__ = ("owner",)
    __init__ = list.__init__  # a graph has thousands of them

    owner: weakref.ref[gs.Tensor | gs.Node]

    @property
    def parent_obj(self) -> gs.Tensor | gs.Node | None:
        """The tensor or node, which the neighbours are told of."""
        return self.owner()


class _Before(_Neighbours):
    __slots__ = ()
    field_name = "outputs"


class _After(_Neighbours):
    __slots__ = ()
    field_name = "inputs"


def _neighbours(owner: gs.Tensor | gs.Node) -> dict[str, _Neighbours]:
    """The lists of what comes before a tensor or node and after it, empty; they tell the other side of changes."""
    before, after = _Before(), _After()
    before.owner = after.owner = weakref.ref(owner)
    return {"inputs": before, "outputs": after}
