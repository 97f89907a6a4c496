"""Constant folding: what does not depend on the input is computed once, and becomes an initializer."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from passes.abstract_values.shape_rules import ElementRule, ShapeVectors, settled
from passes.graph.construct import constant, snapshot
from passes.graph.editor import GraphEditor, become, drop_erased, erase, replace_tensor
from passes.graph.name_scopes import distinguish
from passes.graph.subgraphs import bodies, subgraphs, with_bodies
from passes.graph.tensors import SMALL, Array, is_constant, is_standard, numpy_dtype, present, static_shape, values_of
from passes.ops import rules
from passes.ops.concat_split import Concat
from passes.ops.movement import Movement
from passes.ops.quantization import Dequantize
from passes.ops.shape import Constant, Measuring, Reshape, Shape
from passes.simplify import fold_weight_computations
from passes.simplify.dead_code import drop_unused
from passes.weights import quantized
from passes.weights.quantized import Quantized
from passes.weights.streaming import Lazy

Results = list[Array] | list[Array | Lazy] | list[Quantized]  # of a node, but for outputs that are omitted

_COMPARED = 4096  # elements: larger initializers are not looked at for being the same


def fold_constants(graph: gs.Graph, keep: Collection[str] = ()) -> bool:
    """Replace every node whose operands are all initializers by its result; whether any was computed.

    Afterwards no Constant node is left. A result that is larger than all of its operands together, and not small,
    stays a node: the file must not grow, unless nodes after it make less of it again. So does one that the reference
    implementation cannot compute, and one that reads an initializer named in `keep`.
    """
    outputs = {id(t) for t in graph.outputs}
    computed = False
    weights: dict[tuple[object, ...], Quantized] = {}
    for node in graph.nodes:
        stays = bool(keep) and any(t.name in keep for t in node.inputs)
        results = None if stays else _constant_results(node, graph.opset)
        if results is None:
            continue
        if any(id(t) in outputs for t in node.outputs):
            _keep_name(graph, node, results)
            continue
        computed = computed or bool(node.inputs)
        if isinstance(results[0], Quantized):  # exporters give every reader a DequantizeLinear of its own
            results = [weights.setdefault(results[0].key, results[0])]
        for tensor, values in zip([t for t in node.outputs if not t.is_empty()], results, strict=False):
            replace_tensor(tensor, values if isinstance(values, gs.Constant) else constant(tensor.name, values))
        erase(node)
    drop_erased(graph)
    ends = fold_weight_computations.made_of_constants(graph, keep)
    for tensor, values in ends:
        replace_tensor(tensor, constant(tensor.name, values))
    if ends:
        drop_unused(graph)
    return computed or bool(ends)


def _keep_name(graph: gs.Graph, node: gs.Node, results: Results) -> None:
    """Let an Identity write the result: the name of a graph output needs a node that does."""
    value = results[0]
    if len(results) == 1 and not isinstance(value, gs.Constant) and rules(node).passes_on(node) is None:
        become(node, "Identity", [GraphEditor(graph).constant(f"{node.outputs[0].name}_value", value)])


def _constant_results(node: gs.Node, opset: int) -> Results | None:
    """The outputs, but for omitted ones, of a node that reads initializers only; None where it is to stay a node."""
    if not is_standard(node):
        return None
    op = rules(node)
    weight = op.quantized(node) if isinstance(op, Dequantize) else None
    if weight is not None:
        return [weight]
    if not op.foldable:
        return None
    value = op.value(node) if isinstance(op, Constant) else _from_sizes(node, opset)
    if value is not None:
        return [value]
    size = sum(math.prod(shape) for t in node.outputs if (shape := static_shape(t)) is not None)
    weight = _computed_in_few_bits(node, opset) if size > SMALL else None
    if weight is not None:
        return [weight]
    operands = _constant_operands(node)
    if not operands or subgraphs(node) or op.contradiction(node):
        return None
    # an operand with other readers stays for them, and the result would come on top of it
    room = max(SMALL, sum(math.prod(t.shape) for t in operands if len(t.outputs) == 1))
    if size > room:
        return None
    if any(isinstance(t, Quantized) for t in operands):
        result = _still_quantized(node, opset)
        if result is not None or size > SMALL:
            return None if result is None else [result]
    return fold_weight_computations.computed([node], [t for t in node.outputs if not t.is_empty()], opset, room)


def _from_sizes(node: gs.Node, opset: int) -> Array | None:
    """What the node makes of sizes that are static: of those of its input, or of some that a Shape tells."""
    op, vectors = rules(node), ShapeVectors(opset)
    told = [(t, t.inputs[0], shape) for t in node.inputs if t.inputs and isinstance(shape := rules(t.inputs[0]), Shape)]
    if not isinstance(op, ElementRule) or not (told or isinstance(op, Measuring)):
        return None
    for tensor, measuring, shape in told:
        sizes = shape.elements(measuring, vectors)
        if sizes is not None:
            vectors.put(tensor, sizes)
    found = op.elements(node, vectors)
    known = None if found is None else settled(found, numpy_dtype(node.outputs[0]))
    return None if known is None or known.dtype == object else known


def _constant_operands(node: gs.Node) -> list[gs.Constant]:
    """The operands, if all are initializers whose elements numpy has a type for; else none."""
    given = present(node.inputs)
    operands = [t for _, t in given if is_constant(t) and not isinstance(t.dtype, int)]
    return operands if len(operands) == len(given) else []


def _computed_in_few_bits(node: gs.Node, opset: int) -> Quantized | None:
    """The result of arithmetic that takes fewer bits as what it is made of; None for others."""
    if node.op not in quantized.ARITHMETIC or rules(node).contradiction(node):
        return None
    parts: list[quantized.Expression] = []
    for tensor in node.inputs:
        part = _spread(tensor, opset)
        if part is None:  # before others, which may be large, are looked at
            return None
        parts.append(part)
    only = [t for t in node.inputs if isinstance(t, Quantized)]
    if len(only) == 1 and all(is_constant(t) for t in node.inputs):
        found = _still_quantized(node, opset)  # a mask leaves the steps as they are
        if found is not None:
            return found
    return quantized.computed(node, parts)


def _spread(tensor: gs.Tensor, opset: int) -> quantized.Expression | None:
    """An operand of arithmetic that is an initializer, or repeats elements of one; None for others."""
    if is_constant(tensor):
        return None if isinstance(tensor.dtype, int) else quantized.expression_of(tensor)
    producer = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if producer is None or not isinstance(rules(producer), Movement) or len(producer.outputs) > 1:
        return None
    data, *others = producer.inputs
    operands = [values_of(t) for t in others if is_constant(t)]
    part = _spread(data, opset) if len(operands) == len(others) else None

    def move(values: Array) -> Array:
        """The places of a weight, moved. Raises ValueError for what puts in values of its own, as a border does."""
        (one,), (other,) = (
            rules(producer).computed(producer, opset, [v, *operands]) or [] for v in (values, values + 1)
        )
        if not np.array_equal(one + 1, other):
            raise ValueError(producer.op)
        return one

    return None if part is None else quantized.spread(part, move)


def _still_quantized(node: gs.Node, opset: int) -> Quantized | None:
    """The result of a node that reads weights of few bits, with as few bits; None where it is not one exactly."""
    weights = [t for t in node.inputs if isinstance(t, Quantized)]
    if isinstance(rules(node), Concat) and len(weights) == len(node.inputs):
        return quantized.joined(node.outputs[0].name, weights, node.attrs["axis"])
    operands = [None if t.is_empty() else values_of(t) for t in node.inputs]
    (position, weight), *others = ((i, t) for i, t in enumerate(node.inputs) if isinstance(t, Quantized))
    name = node.outputs[0].name
    if others or len(node.outputs) > 1:
        return None

    step = snapshot(node)  # large results are computed again once the graph is another

    def apply(values: Array) -> Array:
        given = [values if i == position else x for i, x in enumerate(operands)]
        (result,) = rules(step).computed(step, opset, given) or []  # else a ValueError
        return result

    try:
        result = apply(weight.values)
        found = weight.moved(name, apply) if isinstance(rules(node), Movement) else weight.holding(name, result)
    except (ValueError, TypeError):
        return None
    return found if found is not None and np.array_equal(found.values, result) else None


def settle_shapes(graph: gs.Graph) -> bool:
    """Put initializers in place of computed shapes where the shapes around them say as much; whether there were any.

    From what is computed inference often knows no more than numbers.
    """
    return _with_sizes(graph, Reshape.settled)


def carry_sizes(graph: gs.Graph) -> None:
    """Let a Reshape say 0 for an open size that stays where it is, and not -1, after which runtimes lose it."""
    _with_sizes(graph, Reshape.carried)


def _with_sizes(graph: gs.Graph, said: Callable[[Reshape, gs.Node], Array | None]) -> bool:
    """Put initializers in place of the sizes of Reshapes of which something else is said; whether there were any."""
    editor, changed = GraphEditor(graph), False
    for node in graph.nodes:
        op = rules(node)
        sizes = said(op, node) if isinstance(op, Reshape) else None
        if sizes is not None:
            node.inputs[1] = editor.constant(f"{node.outputs[0].name}_sizes", sizes)
            changed = True
    return changed


def share_constants(graph: gs.Graph) -> None:
    """Let small initializers of a scope with the same type, shape and bytes be one, and large ones of all bodies.

    Small ones stay where they are read: of operands from outside a body runtimes do not make as much.
    """
    for scope in with_bodies(graph):
        _share(scope.nodes, range(_COMPARED + 1))
    if _share([node for body in bodies(graph) for node in body.nodes], range(_COMPARED + 1, sys.maxsize)):
        distinguish(graph)  # those that are stored outside now


def _share(nodes: Sequence[gs.Node], sizes: range) -> bool:
    """Let initializers of so many elements that these nodes read, and that are the same, be one; whether any are."""
    alike: dict[tuple[str, tuple[int, ...]], list[tuple[gs.Node, int]]] = {}
    for node in nodes:
        if node.attrs.get("training_mode"):
            continue  # ONNX Runtime writes the mean and variance of the batch into those that it reads
        for index, tensor in enumerate(node.inputs):
            if is_constant(tensor) and not isinstance(tensor.dtype, int) and math.prod(tensor.shape) in sizes:
                alike.setdefault((str(tensor.dtype), tuple(tensor.shape)), []).append((node, index))
    shared = False
    for (dtype, _), places in alike.items():
        # zero points of int8 ONNX Runtime converts once each, to uint8
        seen: dict[bytes, gs.Tensor] = {}
        for node, index in places if len(places) > 1 and dtype not in ("object", "int8") else ():
            first = seen.setdefault(values_of(node.inputs[index]).tobytes(), node.inputs[index])
            if first is not node.inputs[index]:
                node.inputs[index], shared = first, True
    return shared
