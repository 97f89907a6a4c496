"""Conversion of Einsum of two operands to one matrix product."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskc.frontend.tensorflow.operators.registry import constant, converts, make, replace


@converts("Einsum")
def einsum(graph: Any, node: Any) -> None:
    """Transposes and merges axes until a MatMul does it; an Einsum that is more than that stays one."""
    equation = node.get_attr_value("equation").decode().replace(" ", "")
    labels = _labels(equation, [graph.get_rank(name) for name in node.input], graph.get_rank(node.output[0]))
    if labels is None or not _as_product(graph, node, *labels):
        node.set_attr("equation", equation)


def _labels(equation: str, ranks: Sequence[int | None], rank: int | None) -> tuple[str, str, str] | None:
    """The labels of both operands and the result, each once, without an ellipsis; None if they are not so."""
    left, arrow, right = equation.partition("->")
    terms = [*left.split(","), right]
    if not arrow or len(terms) != 3:
        return None
    if any("..." in term for term in terms):
        # An ellipsis stands for the last of the broadcast axes; capitals are taken for them.
        spread = [
            None if size is None else size - len(term.replace("...", "")) if "..." in term else 0
            for term, size in zip(terms, (*ranks, rank), strict=True)
        ]
        widest = max((count for count in spread if count is not None), default=0)
        free = [letter for letter in string.ascii_uppercase if letter not in equation][:widest]
        if None in spread or len(free) < widest:
            return None
        terms = [term.replace("...", "".join(free[widest - (n or 0) :])) for term, n in zip(terms, spread, strict=True)]
    if any(len(set(term)) != len(term) for term in terms):
        return None
    return terms[0], terms[1], terms[2]


def _axes(a: str, b: str, out: str) -> tuple[list[str], list[str], list[str], list[str]] | None:
    """The labels of the batch, of rows, which are kept of a, of columns, which are kept of b, and of what is summed.

    None if a label is summed in one operand alone.
    """
    batch = [label for label in out if label in a and label in b]
    summed = [label for label in a if label in b and label not in out]
    rows, columns = ([label for label in out if label in term and label not in batch] for term in (a, b))
    complete = {*batch, *rows, *columns} == set(out)
    alone = {*a} - {*batch, *summed, *rows} | {*b} - {*batch, *summed, *columns}
    return (batch, rows, columns, summed) if complete and not alone else None


def _sizes(graph: Any, operands: Sequence[tuple[str, str]]) -> dict[str, int] | None:
    """Sizes by label, −1 where unknown; None for a broadcast, which a product that merges axes would not do."""
    sizes: dict[str, int] = {}
    for name, term in operands:
        for label, size in zip(term, graph.get_shape(name) or [-1] * len(term), strict=True):
            other = sizes.get(label, -1)
            if size == 1 and other > 1:
                return None
            sizes[label] = size if size != -1 else other
    return sizes


def _as_product(graph: Any, node: Any, a: str, b: str, out: str) -> bool:
    """Replace the node; False if a label is summed in one operand alone or too many sizes are unknown."""
    axes = _axes(a, b, out)
    if axes is None:
        return False
    shared, rows, columns, summed = axes
    operands = [(node.input[0], a), (node.input[1], b)]
    if list(out) == shared + columns + rows != shared + rows + columns:
        operands, rows, columns = operands[::-1], columns, rows
    sizes = _sizes(graph, operands)
    if sizes is None:
        return False
    batch = [[label] for label in shared]
    # Without batch axes the rows need not be merged: MatMul takes any number of leading axes.
    kept_rows = [rows] if batch and len(rows) != 1 else [[label] for label in rows]
    sides = [[*batch, *kept_rows, summed], [*batch, summed, columns]]
    result = [*batch, *kept_rows, columns]
    shapes = [shape for groups in sides if (shape := _reshaped(groups, sizes)) is not None]
    split = _reshaped(result, sizes, split=True)
    if len(shapes) != 2 or split is None:
        return False
    factors = [
        _arranged(graph, *operand, groups, shape, sizes)
        for operand, groups, shape in zip(operands, sides, shapes, strict=True)
    ]
    product = make(graph, "MatMul", factors, [_size(group, sizes) for group in result], graph.get_dtype(node.output[0]))
    replace(graph, node, _split(graph, product, result, split, out, sizes))
    return True


def _split(
    graph: Any, product: str, groups: Sequence[Sequence[str]], shape: list[int], out: str, sizes: dict[str, int]
) -> str:
    """The product with each merged axis split into those of its group, in the order of the result's labels."""
    order, dtype = [label for group in groups for label in group], graph.get_dtype(product)
    if any(len(group) != 1 for group in groups):
        product = make(graph, "Reshape", [product, constant(graph, shape)], [sizes[label] for label in order], dtype)
    if order != list(out):
        permutation = [order.index(label) for label in out]
        product = make(graph, "Transpose", [product], [sizes[label] for label in out], dtype, perm=permutation)
    return product


def _size(group: Sequence[str], sizes: dict[str, int]) -> int:
    factors = [sizes[label] for label in group]
    return -1 if -1 in factors else int(np.prod(factors, dtype=np.int64))


def _reshaped(groups: Sequence[Sequence[str]], sizes: dict[str, int], split: bool = False) -> list[int] | None:
    """The operand of a Reshape that merges every group, or splits it again; None if two of its sizes are unknown.

    A size is copied (0) as long as axes before it are not merged.
    """
    shape: list[int] = []
    aligned = True
    for group in groups:
        aligned = aligned and len(group) == 1
        parts = [sizes[label] for label in group] if split else [_size(group, sizes)]
        shape += [0 if aligned and size == -1 else size for size in parts]
    return shape if shape.count(-1) <= 1 else None


def _arranged(
    graph: Any, name: str, term: str, groups: Sequence[Sequence[str]], shape: list[int], sizes: dict[str, int]
) -> str:
    """The operand with its axes in the order of the groups, each group merged into one axis."""
    order = [label for group in groups for label in group]
    permutation = [term.index(label) for label in order]
    merges = any(len(group) != 1 for group in groups)
    source = graph.get_node_by_output(name)
    if source is not None and source.is_const():
        value = source.get_tensor_value(as_list=False).transpose(permutation)
        return constant(graph, value.reshape(shape) if merges else value, graph.get_dtype(name))
    dtype = graph.get_dtype(name)
    if order != list(term):
        name = make(graph, "Transpose", [name], [sizes[label] for label in order], dtype, perm=permutation)
    if merges:
        name = make(graph, "Reshape", [name, constant(graph, shape)], [_size(group, sizes) for group in groups], dtype)
    return name
