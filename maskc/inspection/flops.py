"""FLOPs of a model as it stands."""

from __future__ import annotations

import passes
from maskc import frontend
from maskc.errors import InputError
from maskc.frontend import Source
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.frontend.mask_files import Masks, apply_masks
from passes.cost.counts import Cost
from passes.errors import GraphError


def count(source: Source) -> Cost:
    """Count a model, with graph errors told as errors of the input."""
    try:
        return passes.count(source.model)
    except GraphError as error:
        raise InputError(f"{source.name}: {error}") from error


def flops(
    model: frontend.Model,
    masks: Masks | None = None,
    *,
    signature: str | None = None,
    shapes: Shapes | None = None,
) -> Cost:
    """Count a model as it stands: FLOPs, MACs and parameters, and the share of each node.

    FLOPs and MACs are for one example; sizes that are not known count as 1, and `shapes` fixes them and `signature` is
    that of a SavedModel as for `compile`. With `masks`, the count is that of the model compiled with them, with `align`
    `none`. Raises as `compile` does.

    Example:
        >>> flops("model.onnx").macs > 0
        True
    """
    source = fixed(frontend.read(model, signature=signature), shapes)
    if masks is None:
        return count(source)
    target = apply_masks(source.model, masks)
    try:
        return passes.shrink(target).report.after
    except GraphError as error:
        raise InputError(f"{source.name}: {error}") from error
