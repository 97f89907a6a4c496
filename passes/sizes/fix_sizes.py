"""A model with sizes of its inputs fixed, and those of its outputs that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from passes.errors.arguments import typed
from passes.graph.tensors import Dim
from passes.model.declarations import redeclare, redeclared
from passes.model.inputs import fix_inputs
from passes.sizes.prepare import shaped


@typed
def fix_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> onnx.ModelProto:
    """A copy of the model in which these inputs have these sizes.

    shapes: by input name, one entry per dimension: an int fixes it, a string names a symbolic one, None leaves
    it as it is. A symbolic size that several inputs share is fixed in all of them, and the outputs get the sizes that
    follow. The model is left as it is.

    Raises SizeError, in one sentence, for a name that is not that of an input, another number of dimensions, a size
    below 1 or beyond 64 bits, and sizes that contradict the model or each other; GraphError when they contradict each
    other further on.

    >>> fixed = fix_sizes(model, {"image": (1, 3, 224, 224), "tokens": (None, 128)})  # doctest: +SKIP
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fix_inputs(fixed, shapes)
    outputs = fixed.graph.output
    for dim in (d for v in outputs for d in v.type.tensor_type.shape.dim):
        if dim.dim_value < 0:  # some exporters write -1 for what is not known
            dim.ClearField("dim_value")
    found = {tensor.name: tensor.shape for tensor in shaped(fixed).outputs}
    redeclare(fixed.graph, redeclared(fixed, found))
    for value in outputs:
        for dim, size in zip(value.type.tensor_type.shape.dim, found.get(value.name) or (), strict=False):
            if not dim.HasField("dim_value") and isinstance(size, int):
                dim.dim_value = size
    return fixed
