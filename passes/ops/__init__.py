"""The rules of each operator, one file per family, found through one table."""

from passes.abstract_values.slices import ConstantSlices, Demand, Link
from passes.ops import (  # noqa: F401  (importing a family registers it)
    attention,
    control_flow,
    convolution,
    einsum,
    elementwise,
    gather_scatter,
    grid_sample,
    group_normalization,
    integer_matmul,
    matmul,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    softmax_like,
    space_to_depth,
)
from passes.ops.base import Linked, Op, joined_nodes, register, rules
from passes.ops.elementwise import Elementwise
from passes.targets.onnxruntime import fusions  # noqa: F401

__all__ = ["ConstantSlices", "Demand", "Elementwise", "Link", "Linked", "Op", "joined_nodes", "register", "rules"]
