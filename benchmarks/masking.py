"""Masks that are multiplications in a graph, and the same function with zeros in its weights instead.

Other tools look for zeros in weights, or are told which channels of which tensor go. A mask is moved up through what
keeps zeros to the filters, biases and scales that make its channels; one that cannot be moved stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.graph.tensors import rank_of, values_of


@dataclass(frozen=True)
class Mask:
    """The slices of a tensor along an axis that a mask makes zero."""

    tensor: str
    axis: int
    gone: tuple[int, ...]


@dataclass(frozen=True)
class Edit:
    """An operand of a node that becomes zero at some indices of an axis."""

    node: gs.Node
    operand: int
    axis: int


Edits = list[Edit] | None  # None: the slices cannot be made zero


def into_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Mask]]:
    """The model with masks in its weights, and what is masked in it. Shape inference must find its tensors' shapes."""
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    for node in graph.nodes:
        if node.op == "Constant" and "value" in node.attrs:
            (stored,) = node.outputs
            node.outputs.clear()
            stored.to_constant(node.attrs["value"].values)
    masks = []
    for node in [node for node in graph.nodes if node.op == "Mul" and _is_mask(node.inputs[1])]:
        before, after = node.inputs[0], node.outputs[0]
        axis = _axis(node)
        gone = np.flatnonzero(values_of(node.inputs[1]).reshape(-1) == 0)
        edits = _zeroed(before, axis, gone)
        if edits is None or after in graph.outputs:
            masks.append(Mask(after.name, axis, tuple(gone.tolist())))
            continue
        for edit in edits:
            _apply(edit, gone)
        for reader in list(after.outputs):
            reader.inputs = [before if tensor is after else tensor for tensor in reader.inputs]
        masks.append(Mask(before.name, axis, tuple(gone.tolist())))
    moved = gs.export_onnx(graph.cleanup())
    moved.ir_version = model.ir_version
    return moved, masks


def _is_mask(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and set(np.unique(values_of(tensor))) == {0.0, 1.0}


def _axis(mask: gs.Node) -> int:
    """The axis of the data along which a mask lies."""
    shape = values_of(mask.inputs[1]).shape
    return int(rank_of(mask.outputs[0]) - len(shape) + np.argmax(shape))


def _apply(edit: Edit, gone: np.ndarray) -> None:
    old = edit.node.inputs[edit.operand]
    values = values_of(old).copy()
    values[(slice(None),) * edit.axis + (gone,)] = 0
    name = old.name if old.name.endswith("/zeros") else f"{old.name}/{edit.node.outputs[0].name}/zeros"
    edit.node.inputs[edit.operand] = gs.Constant(name, values)


def _zeroed(tensor: gs.Tensor, axis: int, gone: np.ndarray) -> Edits:
    """What to change so that the slices of the tensor are zero."""
    if not tensor.inputs:
        return None
    rule = RULES.get(tensor.inputs[0].op)
    return rule(tensor.inputs[0], axis, gone) if rule else None


def _passes(node: gs.Node, axis: int, gone: np.ndarray) -> Edits:
    return _zeroed(node.inputs[0], axis, gone)


def _product(node: gs.Node, axis: int, gone: np.ndarray) -> Edits:
    """One factor is enough; a mask that covers the slices is enough as it is."""
    if _is_mask(node.inputs[1]) and _axis(node) == axis and not values_of(node.inputs[1]).reshape(-1)[gone].any():
        return []
    found = (_zeroed(operand, axis, gone) for operand in node.inputs)
    return next((edits for edits in found if edits is not None), None)


def _sum(node: gs.Node, axis: int, gone: np.ndarray) -> Edits:
    edits: list[Edit] = []
    for number, operand in enumerate(node.inputs):
        if isinstance(operand, gs.Constant):
            values = values_of(operand)
            own = axis - rank_of(node.outputs[0]) + values.ndim
            along = own >= 0 and values.shape[own] > 1
            found: Edits = [Edit(node, number, own)] if along else [] if not values.any() else None
        else:
            found = _zeroed(operand, axis, gone)
        if found is None:
            return None
        edits += found
    return edits


def _norm(node: gs.Node, axis: int, gone: np.ndarray) -> Edits:
    """Scale and shift; the convolution in front as well where that is possible, for tools that look at filters only."""
    return [Edit(node, 1, 0), Edit(node, 2, 0), *(_zeroed(node.inputs[0], axis, gone) or [])]


def _weights(axis_of_outputs: Callable[[gs.Node], int], channels: Callable[[int], int]) -> Callable[..., Edits]:
    """A contraction: its weights have the output's channels along one axis, its bias along the last."""

    def rule(node: gs.Node, axis: int, gone: np.ndarray) -> Edits:
        operands: Sequence[gs.Tensor] = node.inputs[1:]
        if axis != channels(rank_of(node.outputs[0])) or not all(isinstance(o, gs.Constant) for o in operands):
            return None
        if node.op == "MatMul" and rank_of(operands[0]) != 2:
            return None
        biases = [Edit(node, number, rank_of(o) - 1) for number, o in enumerate(operands[1:], 2)]
        return [Edit(node, 1, axis_of_outputs(node)), *biases]

    return rule


RULES: dict[str, Callable[[gs.Node, int, np.ndarray], Edits]] = {
    **dict.fromkeys(("Identity", "Relu", "LeakyRelu", "Clip", "Tanh", "Erf", "Gelu", "HardSwish"), _passes),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool"), _passes),
    "Mul": _product,
    "Add": _sum,
    "BatchNormalization": _norm,
    "Conv": _weights(lambda node: 0, lambda rank: 1),
    "ConvTranspose": _weights(lambda node: 1, lambda rank: 1),
    "MatMul": _weights(lambda node: 1, lambda rank: rank - 1),
    "Gemm": _weights(lambda node: 0 if node.attrs.get("transB") else 1, lambda rank: rank - 1),
}
