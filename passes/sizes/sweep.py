"""Symbolic shape inference: one sweep over a graph in order, by the operators' own rules."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from operator import is_

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import (
    LONGEST,
    ElementRule,
    Elements,
    OutputSizesRule,
    ReadRule,
    ShapeVectors,
    SizeRule,
    settled,
)
from passes.errors import GraphError
from passes.graph.subgraphs import captured, subgraphs, with_bodies
from passes.graph.tensors import Dim, numpy_dtype, rank_of, static_shape
from passes.model.declarations import is_made_up
from passes.ops import rules
from passes.ops.base import rules_of
from passes.ops.control_flow import Rounds
from passes.sizes import onnx_inference
from passes.sizes.loop_states import state_shapes
from passes.sizes.onnx_inference import made_up_names, refine

_UNKNOWN_RANK = 99  # of so many sizes nothing is known where a rank is not


class Sweep:
    """Sizes of a graph's tensors, refined wherever nodes are new or their operands have changed.

    `fits`: whether the operands of all nodes are known to fit each other. `vectors`: what is known of elements.
    """

    def __init__(
        self, graph: gs.Graph, model: onnx.ModelProto, *, seeded: bool = False, gives_up: bool = False
    ) -> None:
        """seeded: onnx infers what it can of the whole graph first. gives_up: as for `onnx_inference.infer`."""
        self.fits = True
        self._graph, self._model, self._seeded = graph, model, seeded
        self.vectors = ShapeVectors(graph.opset)
        self._given = {dim for t in graph.inputs for dim in t.shape or () if isinstance(dim, str)}
        shapes = (t.shape or () for scope in with_bodies(graph) for n in scope.nodes for t in n.outputs)
        self._names = made_up_names(self._given.union(str(dim) for shape in shapes for dim in shape))
        self._seen: dict[int, tuple[gs.Node, list[gs.Tensor]]] = {}
        if seeded:
            onnx_inference.forget_shapes(graph)
            self.fits = onnx_inference.infer(graph.nodes, model, self._names, gives_up=gives_up)

    def run(self) -> None:
        """Refine all that can be."""
        self._changed: set[int] = set()
        self._sweep(self._graph.nodes)
        lacking = inf
        # inference of a body may forget what was told of it, so that the same would be told without end
        while (now := self._lacking()) < lacking and self._look_back():
            lacking = now
            self._sweep(self._graph.nodes)

    def _lacking(self) -> float:
        """How many sizes of tensors are not known; more than all sizes of a tensor where its rank is not."""
        shapes = [t.shape for node in self._graph.nodes for t in node.outputs if t.name]
        return sum(_UNKNOWN_RANK if shape is None else sum(map(self._lacks, shape)) for shape in shapes)

    def _look_back(self) -> bool:
        """Refine operands of unknown rank or size by what reads them; whether there were any."""
        self._changed = set()
        lacking = {id(t) for node in self._graph.nodes for t in node.outputs if t.name and not self._is_sized(t)}
        for node in reversed(self._graph.nodes) if lacking else ():
            op = rules(node) if any(id(t) in lacking for t in node.inputs) else None
            if not isinstance(op, ReadRule):
                continue
            for index, dims in op.read_sizes(node):
                tensor = node.inputs[index]
                before = [None] * len(dims) if tensor.shape is None else tensor.shape
                if id(tensor) in lacking and len(before) == len(dims):
                    self._refine(
                        tensor,
                        [d if self._lacks(b) and not self._lacks(d) else b for b, d in zip(before, dims, strict=True)],
                    )
        return bool(self._changed)

    def _sweep(self, nodes: Sequence[gs.Node]) -> None:
        for node in nodes:
            if self._is_pending(node):
                self._visit(node)

    def _is_pending(self, node: gs.Node) -> bool:
        seen = self._seen.get(id(node))
        if seen is not None and len(seen[1]) == len(node.inputs) and all(map(is_, seen[1], node.inputs)):
            return bool(subgraphs(node)) or any(id(t) in self._changed for t in node.inputs)
        self._seen[id(node)] = node, [*node.inputs]
        return True

    def _visit(self, node: gs.Node) -> None:
        op = rules(node)
        open_before = not all(map(self._is_finished, node.outputs))
        bodies = subgraphs(node)
        read = [*node.inputs, *captured(node)] if bodies else node.inputs
        changed = any(id(t) in self._changed for t in read)
        try:
            if open_before or changed:
                dims = op.sizes(node, self.vectors) if isinstance(op, SizeRule) else None
                if bodies:
                    if changed or not self._seeded:
                        self._infer_bodies(node)
                elif dims is None or node.outputs[0].dtype is None or not all(map(self._is_finished, node.outputs[1:])):
                    self._infer(node)
                self._refine(node.outputs[0], dims)
                self._refine_all(node)
            for body in bodies:
                self._sweep(body.nodes)
            for tensor, dims in state_shapes(node, op) if isinstance(op, Rounds) else ():
                self._refine(tensor, dims)
            self._follow(node, op)
        except (GraphError, ValueError):  # a branch that is not taken may contradict itself
            self.fits = False

    def _is_finished(self, tensor: gs.Tensor) -> bool:
        return not tensor.name or (tensor.dtype is not None and self._is_sized(tensor))

    def _is_sized(self, tensor: gs.Tensor) -> bool:
        return tensor.shape is not None and not any(map(self._lacks, tensor.shape))

    def _lacks(self, dim: Dim) -> bool:
        return is_made_up(dim, self._given)

    def _refine(self, tensor: gs.Tensor, dims: Sequence[int | str | None] | None) -> None:
        if refine(tensor, dims):
            self._changed.add(id(tensor))
        if isinstance(tensor, gs.Variable) and None in (tensor.shape or ()):
            tensor.shape = [next(self._names) if dim is None else dim for dim in tensor.shape or ()]

    def _refine_all(self, node: gs.Node) -> None:
        """Write what the operator says of all its outputs, also where its form follows from that, or onnx is wrong."""
        op = rules_of(node.domain, str(node.op))
        told = op.output_sizes(node) if isinstance(op, OutputSizesRule) else ()
        for tensor, dims in zip(node.outputs, told, strict=False):
            if isinstance(tensor, gs.Variable) and tensor.name:
                before, tensor.dtype = tensor.shape or (), tensor.dtype or node.inputs[0].dtype
                if len(before) == len(dims):
                    tensor.shape = [old if new is None else new for old, new in zip(before, dims, strict=True)]
                    self._changed.update([id(tensor)] if tensor.shape != before else ())
                self._refine(tensor, dims)

    def _infer(self, node: gs.Node) -> None:
        operands = {t.name: x for t in node.inputs if t.name and (x := self.vectors.of(t)) is not None}
        values = {name: x for name, x in operands.items() if x.dtype != object}
        found = onnx_inference.infer_node(node, self._graph.opset, values)
        for tensor in node.outputs:
            if tensor.name in found and isinstance(tensor, gs.Variable):
                tensor.dtype, dims = found[tensor.name]
                self._refine(tensor, dims)

    def _infer_bodies(self, node: gs.Node) -> None:
        before = [t.shape for t in node.outputs]
        if not onnx_inference.infer([node], self._model, self._names):
            self.fits = False
        self._changed.update(id(t) for t, shape in zip(node.outputs, before, strict=True) if t.shape != shape)

    def _follow(self, node: gs.Node, op: object) -> None:
        """Note the elements of a vector or number that the node writes."""
        if not node.outputs or not _is_vector(node.outputs[0]):
            return
        vector = node.outputs[0]
        elements = self._elements(node, op)
        if elements is None or elements.ndim != rank_of(vector):
            return
        if self.vectors.put(vector, settled(elements, numpy_dtype(vector))):
            self._changed.add(id(vector))

    def _elements(self, node: gs.Node, op: object) -> Elements | None:
        """The elements of output 0: computed where all operands are known, else by the operator's rule."""
        operands = [self.vectors.of(t) if t.name else None for t in node.inputs]
        static = all(x is not None and x.dtype != object for x, t in zip(operands, node.inputs, strict=True) if t.name)
        if static and operands and getattr(op, "foldable", False) and not subgraphs(node):
            results = rules(node).computed(node, self._graph.opset, operands)
            return None if results is None else np.asarray(results[0])
        return op.elements(node, self.vectors) if isinstance(op, ElementRule) else None


def _is_vector(tensor: gs.Tensor) -> bool:
    """Whether a tensor may be a part of a shape: a vector or number of a type that numpy has, and not a long one."""
    shape = static_shape(tensor)
    if shape is None or tensor.dtype is None or isinstance(tensor.dtype, int):
        return False
    return len(shape) <= 1 and prod(shape) <= LONGEST
