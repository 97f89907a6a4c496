"""The rules of each operator, one file per family, found through one table."""

from passes.abstract_values.slices import ConstantSlices, Demand, Link
from passes.ops import (  # noqa: F401  (importing a family registers it)
    activations,
    arithmetic,
    batch_normalization,
    concat_split,
    control_flow,
    elementwise,
    gather_scatter,
    grid_sample,
    group_normalization,
    movement,
    normalization,
    pad,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    slice_gather,
    softmax_like,
    space_to_depth,
    tabular,
)
from passes.ops.attention import fused, rotary  # noqa: F401
from passes.ops.base import UNKNOWN, Linked, Op, register, rules
from passes.ops.contractions import einsum, integer, matmul  # noqa: F401
from passes.ops.convolutions import conv, conv_transpose, deform_conv, integer_conv  # noqa: F401
from passes.ops.elementwise import Elementwise

__all__ = ["UNKNOWN", "ConstantSlices", "Demand", "Elementwise", "Link", "Linked", "Op", "register", "rules"]
