"""A mask that an exporter multiplied into a factor of a product is moved after the product again.

TensorFlow makes one constant of the 1/6 in a HardSwish, x · (clip(x + 3) · 1/6), and of the mask after it, and moves a
mask after a Swish into it, x · (mask · sigmoid(x)). The zeros are known either way; but a factor that differs among
channels belongs to no activation, weights cannot take it, and a mask that is not removed is one more operator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become, erase_keeping_input
from passes.graph.tensors import Mask, is_float, numpy_dtype, shape_of
from passes.ops import rules, traits
from passes.ops.arithmetic import is_product
from passes.rewriting.weight_scaling import AffineFolding


@dataclass(frozen=True)
class _Factored:
    """A scaling by zeros and one other number, before a product: `mask` is to come after that."""

    scaling: gs.Node
    data: gs.Tensor
    number: float
    mask: Mask


def move_masks(graph: gs.Graph, keep: Collection[str] = ()) -> None:
    """Let scalings before a product have one number for all channels, and mask what comes out of it.

    Only where both are equally large, so that no more is masked than before, and where no weights take the mask as it
    is. Scalings by an initializer that is named in `keep` stay.
    """
    editor = GraphEditor(graph)
    for product in graph.nodes:
        found = next(_scalings(product, editor, keep), None) if is_product(product) else None
        if found is None:
            continue
        output = product.outputs[0]
        if found.number == 1:
            erase_keeping_input(found.scaling, found.data)
        else:
            number = editor.constant(f"{output.name}_factor", np.asarray(found.number, numpy_dtype(output)))
            become(found.scaling, "Mul", [found.data, number])
        whole = editor.variable(f"{output.name}_whole", output.dtype, output.shape)
        mask = editor.constant(f"{output.name}_mask", found.mask.astype(numpy_dtype(output)))
        product.outputs = [whole]
        editor.emit("Mul", [whole, mask], output, f"{output.name}_masked", after=product)
    editor.finish()


def _scalings(product: gs.Node, editor: GraphEditor, keep: Collection[str]) -> Iterator[_Factored]:
    """The operands of the product that are masked by what scales them, and that nothing else reads."""
    for operand in product.inputs:
        before = editor.sole_producer(operand)
        if before is None:
            continue
        shape = shape_of(operand)
        if not shape or None in shape or shape != shape_of(product.outputs[0]) or not is_float(operand):
            continue
        affine = traits.affine(before)
        if affine is None or affine.axis is None or affine.shift.any() or any(t.name in keep for t in before.inputs):
            continue
        mask = affine.scale != 0
        numbers = np.unique(affine.scale[mask])
        if mask.all() or numbers.size != 1 or not np.isfinite(numbers[0]):
            continue
        if shape_of(affine.data) == shape and not _is_weighted(affine.data, editor):
            yield _Factored(before, affine.data, float(numbers[0]), mask.reshape(-1, *[1] * (affine.axis - 1)))


def _is_weighted(tensor: gs.Tensor, editor: GraphEditor) -> bool:
    """Whether a contraction makes the tensor, scaled and shifted or not, which may take a scale into its weights."""
    producer = editor.sole_producer(tensor)
    if producer is None:
        return False
    affine, op = traits.affine(producer), rules(producer)
    if affine is not None:
        return _is_weighted(affine.data, editor)
    return isinstance(op, AffineFolding) and op.cost(producer)[1] > 0
