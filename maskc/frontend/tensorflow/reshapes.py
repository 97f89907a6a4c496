"""Simplification of Reshapes by computed sizes; Dense layers of any rank as one product."""

from __future__ import annotations

from typing import Any

from maskc.frontend.tensorflow.operators.registry import become, constant
from maskc.frontend.tensorflow.size_formulas import Sizes, Values
from passes.abstract_values.polynomial import Polynomial


def simplify(graph: Any) -> None:
    """Change the Reshapes of a converted tf2onnx graph in place, where nothing changes but what is computed."""
    sizes = Sizes(graph)
    for node in [node for node in graph.get_nodes() if node.type == "Reshape"]:
        if not _one_product(graph, node, sizes):
            _number_shape(graph, node, sizes)
    graph.delete_unused_nodes(graph.outputs)


def _number_shape(graph: Any, node: Any, sizes: Sizes) -> None:
    """Give a Reshape numbers in place of sizes that it computes, if at most one of them has to be inferred."""
    if node.inputs[1].is_const():
        return
    wanted, given = sizes.values(node.input[1]), sizes.shape(node.input[0])
    if wanted is None or given is None:
        return
    shape = []
    for axis, size in enumerate(wanted):
        number = None if size is None else size.number
        same = axis < len(given) and size is not None and size == given[axis]
        shape.append(number if number is not None else 0 if same else -1)
    if shape.count(-1) <= 1:
        graph.replace_input(node, node.input[1], constant(graph, shape), 1)


def _one_product(graph: Any, node: Any, sizes: Sizes) -> bool:
    """`Reshape(Reshape(x) · W)`, which TensorFlow does for x of any rank, as the product that ONNX has for it."""
    product = node.inputs[0]
    first = product.inputs[0] if product is not None and product.type == "MatMul" else None
    if first is None or first.type != "Reshape" or graph.get_rank(product.input[1]) != 2:
        return False
    x, weights, shape = first.input[0], product.input[1], sizes.shape(first.input[0])
    rows, columns = (sizes.dimension(weights, axis) for axis in (0, 1))
    merged, wanted = sizes.values(first.input[1]), sizes.values(node.input[1])
    if shape is None or merged is None or wanted is None or len(merged) != 2:
        return False
    result = [*shape[:-1], columns]
    # x keeps its last axis through the first Reshape, and the second restores the axes before it.
    if shape[-1] != rows or merged[1] not in (rows, Polynomial.of(-1)) or not _restores(wanted, result):
        return False
    target = [-1 if size.number is None else size.number for size in result]
    become(graph, node, "MatMul", [x, weights], target, graph.get_dtype(node.output[0]))
    return True


def _restores(wanted: Values, sizes: list[Polynomial]) -> bool:
    """Whether a Reshape gives these sizes, of which it infers one at most, and not the last."""
    if len(wanted) != len(sizes):
        return False
    computed = [
        (size, other) for size, other in zip(wanted, sizes, strict=True) if size not in (None, Polynomial.of(-1))
    ]
    return wanted[-1] == sizes[-1] and len(computed) >= len(sizes) - 1 and all(a == b for a, b in computed)
