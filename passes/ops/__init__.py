"""The rules of each operator, one file per family, found through one table."""

from passes.ops import (  # noqa: F401  (importing a family registers it)
    along,
    attention,
    blocks,
    contraction,
    control,
    convolution,
    einsum,
    elementwise,
    indexed,
    integers,
    joined,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    shape,
    statistics,
)
from passes.ops.base import Demand, Known, Link, Linked, Op, joined_nodes, register, rules
from passes.ops.elementwise import Elementwise

__all__ = ["Demand", "Elementwise", "Known", "Link", "Linked", "Op", "joined_nodes", "register", "rules"]
