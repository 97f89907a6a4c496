"""Make the graph store what the layout says: slice weights, put constants back at doors, patch operands."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.constant_maps import ConstantMap
from passes.adapters.insertion import Adapters
from passes.graph import construct
from passes.graph.names import Names
from passes.graph.subgraphs import captured, replace_captured
from passes.graph.tensors import SMALL, Array, Dim, Mask, all_set, any_set, is_constant, present, shape_of, size_of
from passes.ops import rules
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan
from passes.weights.quantized import Quantized
from passes.weights.streaming import Lazy, Picked, moved


def apply(graph: gs.Graph, facts: Facts, layout: StoragePlan) -> None:
    """Rewrite the graph in place. Afterwards every tensor stores exactly what the layout says."""
    Rewriter(graph, facts, layout).run()


class Rewriter:
    """What an operator's `lower` may ask for while its node is rewritten."""

    def __init__(self, graph: gs.Graph, facts: Facts, layout: StoragePlan) -> None:
        self.graph = graph
        self.facts = facts
        self.layout = layout
        self.opset: int = graph.opset
        self._names = Names(graph)
        self._shapes: dict[str, tuple[Dim, ...]] = {}
        self._slices: dict[tuple[str, tuple[tuple[int, bytes], ...]], gs.Constant] = {}
        self._origins: dict[str, gs.Constant] = {}
        self._nodes: list[gs.Node] = []
        self._index = -1
        #: the node being rewritten as it was: the same attributes, inputs and outputs, before adapters and slicing
        self.before: gs.Node = SimpleNamespace()
        self._behind: list[gs.Node] = []
        self._adapters = Adapters(self._names, graph, self._nodes.append)

    def run(self) -> None:
        """Rewrite node by node, in order, then the graph outputs."""
        nodes = list(self.graph.nodes)
        for tensor in self.graph.tensors().values():
            self._shapes[tensor.name] = shape_of(tensor) or ()
        for index, node in enumerate(nodes):
            if index not in self.layout.computed:
                continue
            self._index = index
            self.before = SimpleNamespace(
                op=node.op,
                name=node.name,
                domain=node.domain,
                attrs=dict(node.attrs),
                inputs=list(node.inputs),
                outputs=list(node.outputs),
            )
            self._fit_inputs(node)
            self._fit_captured(node)
            self._behind = []
            rules(node).lower(node, self)
            self._nodes += [node, *self._behind]
        self._finish_outputs()
        dropped = [n for i, n in enumerate(nodes) if i not in self.layout.computed]
        for node in dropped:
            node.inputs.clear()
            node.outputs.clear()
        self._share_origins()
        self.graph.nodes = self._nodes
        # only now: until here the rules are told the shapes that the tensors had
        for node in self._nodes:
            for tensor in node.outputs:
                if tensor.name in self._shapes and not any(tensor is t for t in self.graph.outputs):
                    tensor.shape = self._stored_shape(tensor)

    # -- what is stored and seen -----------------------------------------------------------------------------------

    def shape(self, tensor: gs.Tensor) -> tuple[Dim, ...]:
        """The shape that the tensor had before anything was removed."""
        return self._shapes.get(tensor.name, shape_of(tensor) or ())

    def stored(self, tensor: gs.Tensor, axis: int) -> Mask | None:
        """Slices that are stored along the axis, None if all are."""
        return self.layout.stored.get((tensor.name, axis))

    def is_whole(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether all slices along the axis are stored."""
        return self.stored(tensor, axis) is None

    def stored_count(self, tensor: gs.Tensor, axis: int) -> int | None:
        """How many slices are stored along the axis, None where that is not static."""
        stored = self.stored(tensor, axis)
        if stored is not None:
            return int(stored.sum())
        shape = self.shape(tensor)
        dim = shape[axis] if axis < len(shape) else None
        return dim if isinstance(dim, int) else None

    def required(self, node: gs.Node, index: int, axis: int) -> Mask | None:
        """Slices that the node being rewritten sees of input `index` along the axis, None if it sees all."""
        return self.layout.required.get((self._index, index, axis))

    def seen(self, node: gs.Node, index: int, axis: int) -> Mask | None:
        """The name of `required` before version 0.2, for one version more."""
        warnings.warn("`rewriter.seen` is called `rewriter.required` now.", FutureWarning, stacklevel=2)
        return self.required(node, index, axis)

    # -- changes ---------------------------------------------------------------------------------------------------

    def constant(self, hint: str, values: Array) -> gs.Constant:
        """A new initializer."""
        return construct.constant(self._names.fresh(hint), np.asarray(values, order="C"))

    def unread(self, hint: str, values: Lazy) -> gs.Constant:
        """A new initializer whose values are not in memory."""
        return construct.constant(self._names.fresh(hint), values)

    def slice(self, tensor: gs.Constant, axes: Mapping[int, Mask | None]) -> gs.Constant:
        """The initializer cut to these slices per axis (None: whole); the same cut is made once."""
        cuts = {a: m for a, m in sorted(axes.items()) if m is not None and not all_set(m)}
        if not cuts:
            return tensor
        key = tensor.name, tuple((a, m.tobytes()) for a, m in cuts.items())
        if key not in self._slices:
            self._slices[key] = self.moved(tensor, Picked({a: np.flatnonzero(m) for a, m in cuts.items()}))
            self._origins[tensor.name] = tensor
        return self._slices[key]

    def moved(self, tensor: gs.Constant, move: Callable[[Array], Array]) -> gs.Constant:
        """A new initializer with elements of this one, in as many bits."""
        if isinstance(tensor, Quantized):
            found = tensor.moved(self._names.fresh(tensor.name), move)
            if found is not None:
                return found
        return construct.constant(self._names.fresh(tensor.name), moved(tensor, move))

    def shifted(self, tensor: gs.Constant, shift: Array, values: Array) -> gs.Constant:
        """A new initializer with `values`, which are those of this one and `shift` added: in its steps if they fit."""
        if isinstance(tensor, Quantized):
            old = np.asarray(tensor.values, np.float64)
            rounding = 4 * np.finfo(np.float32).eps * (np.abs(old) + np.abs(shift))
            found = tensor.holding(self._names.fresh(tensor.name), values, rounding)
            if found is not None:
                return found
        return self.constant("bias", values)

    def _share_origins(self) -> None:
        """Where the cuts of one initializer take more room than it, keep it and let each be gathered from it.

        ONNX Runtime does that once, when it loads the model; the file stays as small as it was.
        """
        sizes: dict[str, int] = defaultdict(int)
        for (name, _), cut in self._slices.items():
            widened = isinstance(self._origins[name], Quantized) and not isinstance(cut, Quantized)
            sizes[name] += int(np.prod(cut.shape)) * (8 if widened else 1) if cut.outputs else 0
        gathers: list[gs.Node] = []
        for (name, cuts), cut in self._slices.items():
            whole = self._origins[name]  # what still reads it all keeps it
            if sizes[name] <= max(0 if whole.outputs else int(np.prod(whole.shape)), SMALL):
                continue
            current: gs.Tensor = self._origins[name]
            for axis, packed in cuts:
                index = self.constant("channels", np.flatnonzero(np.frombuffer(packed, bool)))
                output = gs.Variable(self._names.fresh(f"{name}_cut"), cut.dtype)
                node = gs.Node("Gather", self._names.fresh(f"{name}_gather"), {"axis": axis})
                node.inputs, node.outputs = [current, index], [output]
                gathers.append(node)
                current = output
            current.shape = list(cut.shape)
            for consumer in list(cut.outputs):
                consumer.inputs = [current if t is cut else t for t in consumer.inputs]
        self._nodes = gathers + self._nodes

    def set_input(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Replace (or append) one input."""
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        if node.inputs[index] is not tensor:
            node.inputs[index] = tensor

    def set_inputs(self, node: gs.Node, tensors: list[gs.Tensor]) -> None:
        """Replace all inputs."""
        node.inputs = list(tensors)

    def set_outputs(self, node: gs.Node, tensors: list[gs.Tensor]) -> None:
        """Replace all outputs."""
        node.outputs = list(tensors)

    def emit(self, op: str, inputs: list[gs.Tensor], like: gs.Tensor, **attrs: object) -> gs.Tensor:
        """A new node ahead of the one being rewritten; its output has the element type of `like`."""
        output = gs.Variable(self._names.fresh(f"{self.before.outputs[0].name}_{op.lower()}"), like.dtype)
        self._nodes.append(gs.Node(op, self._names.fresh(f"{self.before.name}_{op.lower()}"), attrs, inputs, [output]))
        return output

    def cast(self, tensor: gs.Tensor, dtype: np.dtype[np.generic]) -> gs.Tensor:
        """The tensor as numbers of another type, ahead of the node being rewritten."""
        result = self.emit("Cast", [tensor], tensor, to=onnx.helper.np_dtype_to_tensor_dtype(dtype))
        result.dtype = dtype
        return result

    def reduce(self, op: str, tensor: gs.Tensor, axis: int) -> gs.Tensor:
        """A reduction over one axis, which stays with size 1, ahead of the node being rewritten."""
        as_input = self.opset >= (13 if op == "ReduceSum" else 18)
        if as_input:
            return self.emit(op, [tensor, self.constant("axes", np.asarray([axis], np.int64))], tensor, keepdims=1)
        return self.emit(op, [tensor], tensor, axes=[axis], keepdims=1)

    def become(self, node: gs.Node, op: str, inputs: list[gs.Tensor], **attrs: object) -> None:
        """Let the node being rewritten be this operator of the standard, with its outputs as they are."""
        node.op, node.domain, node.attrs = op, None, dict(attrs)
        node.inputs = list(inputs)

    def replace_by_input(self, node: gs.Node) -> None:
        """The node does nothing any more: an Identity, which the clean-up takes away."""
        node.op, node.attrs = "Identity", {}
        node.inputs = [node.inputs[0]]

    def expanded(self, constant_map: ConstantMap, axis: int) -> gs.Tensor:
        """Maps of channels along the axis as a tensor, of size 1 where they do not vary."""
        return self._adapters.expand(constant_map, axis)

    def add_behind(self, node: gs.Node, values: Array | gs.Tensor) -> None:
        """Add a constant (broadcast against the output) to output 0 of the node."""
        self.behind(node, "Add", values if isinstance(values, gs.Tensor) else self.constant("shift", values))

    def behind(self, node: gs.Node, op: str, second: gs.Tensor) -> None:
        """Put an operator of output 0 of the node and a second operand behind it; the last one put comes first."""
        before = self._interpose(node)
        added = gs.Node(op, self._names.fresh(f"{before.name}_{op.lower()}"), inputs=[before, second])
        added.outputs = [self._own_output]
        self._behind.insert(0, added)

    def override(self, node: gs.Node, changed: Mask, values: Array) -> None:
        """Replace elements of output 0, a vector: where `changed`, `values` stand."""
        before = self._interpose(node)
        select = gs.Node("Where", self._names.fresh(f"{before.name}_sizes"))
        select.inputs = [self.constant("changed", changed), self.constant("sizes", values), before]
        select.outputs = [self._own_output]
        self._behind.append(select)

    def _interpose(self, node: gs.Node) -> gs.Variable:
        self._own_output = node.outputs[0]
        shape = self._stored_shape(self._own_output)
        before = gs.Variable(self._names.fresh(self._own_output.name), self._own_output.dtype, shape)
        node.outputs[0] = before
        return before

    def set_shape_operand(self, node: gs.Node, index: int, *, one_is_inferred: bool) -> None:
        """Give the operand that names the output's sizes the stored ones; `one_is_inferred`: -1 stands for any size."""
        output = node.outputs[0]
        shape = self.shape(output)
        if all(self.is_whole(output, a) for a in range(len(shape))):
            return
        counts = [self.stored_count(output, a) for a in range(len(shape))]
        operand = node.inputs[index]
        unknown = [a for a, c in enumerate(counts) if c is None]
        if one_is_inferred and len(unknown) <= 1:
            target = np.asarray([-1 if c is None else c for c in counts], np.int64)
            self.set_input(node, index, self.constant("shape", target))
            return
        changed = np.asarray([not self.is_whole(output, a) for a in range(len(shape))])
        sizes = np.asarray([c if ch else 0 for c, ch in zip(counts, changed, strict=True)], np.int64)
        if is_constant(operand):
            new = np.asarray(operand.values).astype(np.int64).copy()
            padded = np.ones(len(shape), np.int64)
            padded[len(shape) - len(new) :] = new
            self.set_input(node, index, self.constant("shape", np.where(changed, sizes, padded)))
            return
        patched = gs.Variable(self._names.fresh(f"{operand.name}_stored"), np.int64, [len(shape)])
        select = gs.Node("Where", self._names.fresh(f"{operand.name}_sizes"), outputs=[patched])
        select.inputs = [self.constant("changed", changed), self.constant("sizes", sizes), operand]
        self._nodes.append(select)
        self.set_input(node, index, patched)

    # -- doors -----------------------------------------------------------------------------------------------------

    def _fit_inputs(self, node: gs.Node) -> None:
        """Deliver at every input what the node must see of it."""
        for index, tensor in present(node.inputs):
            rank = len(self.shape(tensor))
            needs = {a: self.layout.required.get((self._index, index, a)) for a in range(rank)}
            if is_constant(tensor):
                if any(n is not None for n in needs.values()):
                    self.set_input(node, index, self.slice(tensor, needs))
                continue
            if any(n is not None and not any_set(n) for n in needs.values()):
                continue  # an operand that is left out
            delivered = self._deliver(tensor, needs, self._may_broadcast(node, index))
            if delivered is not tensor:
                self.set_input(node, index, delivered)

    def _fit_captured(self, node: gs.Node) -> None:
        """Let the subgraphs of the node read whole tensors."""
        for tensor in captured(node):
            if not is_constant(tensor):
                delivered = self._deliver(tensor, {}, False)
                if delivered is not tensor:
                    replace_captured(node, tensor, delivered)

    def _may_broadcast(self, node: gs.Node, index: int) -> bool:
        """Whether another operand, computed, has the shape of the output: a constant operand need not be expanded."""
        if not rules(node).broadcasts(node, index) or self.before.outputs[0].shape is None:
            return False
        shape = self.shape(node.outputs[0])
        return any(
            i != index and not is_constant(t) and self.shape(t) == shape and None not in shape and not self._vanished(t)
            for i, t in enumerate(self.before.inputs)
        )

    def _vanished(self, tensor: gs.Tensor) -> bool:
        masks = (self.stored(tensor, a) for a in range(len(self.shape(tensor))))
        return any(m is not None and not any_set(m) for m in masks)

    def _deliver(self, tensor: gs.Tensor, needs: Mapping[int, Mask | None], broadcast: bool) -> gs.Tensor:
        shape = self.shape(tensor)
        if not any(_differ(self.stored(tensor, a), needs.get(a)) for a in range(len(shape))):
            return tensor
        whole = {a: np.ones(d, bool) for a, d in enumerate(shape) if isinstance(d, int)}
        wanted = {a: w if (n := needs.get(a)) is None else n for a, w in whole.items()}
        if self._vanished(tensor):
            axis = next(a for a in whole if (m := self.stored(tensor, a)) is not None and not m.any())
            made = self._adapters.create(tensor, shape, axis, wanted, self._fill(tensor, axis), broadcast)
            if not is_constant(made):
                made.shape = [int(wanted[a].sum()) if a in wanted else d for a, d in enumerate(shape)]
            return made
        current, sizes = tensor, self._stored_shape(tensor) or []
        for axis, want in wanted.items():
            have = self.stored(tensor, axis)
            have = whole[axis] if have is None else have
            if any_set(have != want):
                fill = self._fill(tensor, axis)
                if isinstance(fill, ConstantMap):  # an axis before this one is as it is wanted, one behind it as stored
                    held = {a: wanted[a] if a < axis else self.stored(tensor, a) for a in wanted if a != axis}
                    fill = fill.cut(axis, held)
                dependence = self.facts.dependence.get((tensor.name, axis))
                if dependence is not None and (dependence.mask & want & ~have).any():
                    current = self._adapters.follow(current, len(shape), axis, have, want, fill, dependence)
                else:
                    current = self._adapters.fit(current, len(shape), axis, have, want, fill)
                sizes = [int(want.sum()) if a == axis else d for a, d in enumerate(sizes)]
                current.shape = sizes
        return current

    def _fill(self, tensor: gs.Tensor, axis: int) -> Array | ConstantMap:
        """The constants along the axis, as maps where they are uneven; 0 where nothing is known, which nobody reads."""
        maps = self.facts.maps(tensor, axis) if axis in self.facts.constant_map.get(tensor.name, {}) else None
        if maps is not None:
            return ConstantMap(maps.mask, maps.cleared().astype(tensor.dtype or np.float32), maps.index)
        known = self.facts.known(tensor, axis)
        dtype = tensor.dtype or np.float32
        if known is None:
            return np.zeros(size_of(tensor, axis) or 0, dtype)
        return np.where(known.mask, known.value, 0).astype(dtype)

    def _finish_outputs(self) -> None:
        """Give the caller whole tensors under their own names."""
        inputs = {t.name for t in self.graph.inputs}
        for position, tensor in enumerate(list(self.graph.outputs)):
            if is_constant(tensor) or tensor.name in inputs:
                continue
            delivered = self._deliver(tensor, {}, False)
            if delivered is tensor:
                continue
            if is_constant(delivered):
                constant, delivered = delivered, gs.Variable(self._names.fresh(tensor.name))
                name = self._names.fresh(f"{tensor.name}_copy")
                self._nodes.append(gs.Node("Identity", name, inputs=[constant], outputs=[delivered]))
            # what holds the name now is an inner tensor; the delivered one is what the caller asks for
            name, dtype, shape = tensor.name, tensor.dtype, tensor.shape
            inner = self._names.fresh(name)
            self._rename(tensor, inner)
            delivered.name, delivered.dtype, delivered.shape = name, dtype, shape
            self._shapes[name] = tuple(shape or ())
            self.graph.outputs[position] = delivered

    def _rename(self, tensor: gs.Tensor, name: str) -> None:
        old = tensor.name
        tensor.name = name
        self._shapes[name] = self._shapes.get(old, ())
        for key in [k for k in self.layout.stored if k[0] == old]:
            self.layout.stored[name, key[1]] = self.layout.stored.pop(key)

    def _stored_shape(self, tensor: gs.Tensor) -> list[Dim] | None:
        if tensor.shape is None:
            return None
        return [d if (c := self.stored_count(tensor, a)) is None else c for a, d in enumerate(self.shape(tensor))]


def _differ(stored: Mask | None, need: Mask | None) -> bool:
    """Whether other slices are stored than are needed; None: all."""
    if stored is None:
        return need is not None and not all_set(need)
    return not all_set(stored) if need is None else any_set(stored != need)
