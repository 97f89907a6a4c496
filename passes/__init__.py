"""Graph passes that turn a channel-masked ONNX model into the equivalent smaller dense model.

`shrink` runs them all, and `report_with` says what another policy would leave. `count` counts FLOPs and says at
which sizes, `flops_by_mask` says exactly what each mask entry saves, and `cost_model` says it of all groups of
entries at once. `bind` turns graph inputs (masks, say) into initializers, and `fix_sizes` gives symbolic input
sizes a value. `find_mask` and its relatives say of one tensor what to compute. `register` adds rules for operators
of one's own, derived from `Op`, `Linked` or `Elementwise`.
"""

from passes.adapters.price import Policy
from passes.analysis.find_mask import Analysis, analyse, find_input_mask, find_mask, find_output_mask, pruned_shape
from passes.mask_savings.cost_model import CostModel, cost_model
from passes.mask_savings.coupled_entries import Coupling, coupled, coupling
from passes.mask_savings.flops_saved import flops_by_group, flops_by_mask
from passes.model.inputs import bind
from passes.ops import ConstantSlices, Demand, Elementwise, Link, Linked, Op, register
from passes.pipeline.alternatives import report_with
from passes.pipeline.order import Shrunk, shrink
from passes.sizes.fix_sizes import fix_sizes
from passes.sizes.sum_over_nodes import count

__all__ = [
    "Analysis",
    "ConstantSlices",
    "CostModel",
    "Coupling",
    "Demand",
    "Elementwise",
    "Link",
    "Linked",
    "Op",
    "Policy",
    "Shrunk",
    "analyse",
    "bind",
    "cost_model",
    "count",
    "coupled",
    "coupling",
    "find_input_mask",
    "find_mask",
    "find_output_mask",
    "fix_sizes",
    "flops_by_group",
    "flops_by_mask",
    "pruned_shape",
    "register",
    "report_with",
    "shrink",
]
