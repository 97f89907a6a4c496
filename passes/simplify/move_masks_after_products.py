"""A mask that an exporter multiplied into a factor of a product stands behind the product again.

TensorFlow makes one constant of the 1/6 in a HardSwish, x · (clip(x + 3) · 1/6), and of the mask behind it, and moves a
mask behind a Swish into it, x · (mask · sigmoid(x)). The zeros are known either way; but a factor that differs among
channels belongs to no activation, weights cannot take it, and a mask that is not removed is one more operator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.construct import constant, node, variable
from passes.graph.names import Names
from passes.graph.subgraphs import seen_outside
from passes.graph.tensors import Mask, is_float, shape_of
from passes.ops import rules


@dataclass(frozen=True)
class _Factored:
    """A scaling by zeros and one other number, in front of a product: `mask` is to stand behind that."""

    scaling: gs.Node
    data: gs.Tensor
    number: float
    mask: Mask


def put_masks_behind(graph: gs.Graph, keep: Collection[str] = ()) -> None:
    """Let scalings in front of a product have one number for all channels, and mask what comes out of it.

    Only where both are equally large, so that no more is masked than before. Scalings by an initializer that is named
    in `keep` stay.
    """
    names, shared = Names(graph), seen_outside(graph)
    own = {id(n) for n in graph.nodes}
    nodes = []
    for product in graph.nodes:
        nodes.append(product)
        found = next(_scalings(product, own, shared, keep), None) if rules(product).multiplies(product) else None
        if found is None:
            continue
        output = product.outputs[0]
        if found.number == 1:
            scaled = found.scaling.outputs[0]
            product.inputs = [found.data if tensor is scaled else tensor for tensor in product.inputs]
            found.scaling.inputs.clear()
            found.scaling.outputs.clear()
        else:
            number = np.asarray(found.number, output.dtype)
            found.scaling.op, found.scaling.attrs = "Mul", {}
            found.scaling.inputs = [found.data, constant(names.fresh(f"{output.name}_factor"), number)]
        whole = variable(names.fresh(f"{output.name}_whole"), output.dtype, output.shape)
        mask = constant(names.fresh(f"{output.name}_mask"), found.mask.astype(output.dtype))
        product.outputs = [whole]
        nodes.append(node("Mul", names.fresh(f"{output.name}_masked"), {}, [whole, mask], [output]))
    graph.nodes = [n for n in nodes if n.outputs]


def _scalings(product: gs.Node, own: set[int], shared: set[str], keep: Collection[str]) -> Iterator[_Factored]:
    """The operands of the product that are masked by what scales them, and that nothing else reads."""
    for operand in product.inputs:
        before = operand.inputs[0] if len(operand.inputs) == 1 and len(operand.outputs) == 1 else None
        if before is None or id(before) not in own or operand.name in shared:
            continue
        shape = shape_of(operand)
        if not shape or None in shape or shape != shape_of(product.outputs[0]) or not is_float(operand):
            continue
        affine = rules(before).affine(before)
        if affine is None or affine.axis is None or affine.shift.any() or any(t.name in keep for t in before.inputs):
            continue
        mask = affine.scale != 0
        numbers = np.unique(affine.scale[mask])
        if mask.all() or numbers.size != 1 or not np.isfinite(numbers[0]):
            continue
        if shape_of(affine.data) == shape:
            yield _Factored(before, affine.data, float(numbers[0]), mask.reshape(-1, *[1] * (affine.axis - 1)))
