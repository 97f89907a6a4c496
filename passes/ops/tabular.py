"""Features of tables, scaled one by one or by example, as converters from scikit-learn write it (ai.onnx.ml)."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.ops.base import UNKNOWN, Op, register


@register("Imputer", "Normalizer", "Scaler", domain="ai.onnx.ml")
class ScaledFeatures(Op):
    """What each feature is scaled by stands in attributes, and all of them are kept."""

    flops_per_element = 2
    like = "Identity"

    def form(self, node: gs.Node) -> Op:
        """Of integers and double precision the results have another type."""
        return self if node.inputs[0].dtype == np.float32 else UNKNOWN
