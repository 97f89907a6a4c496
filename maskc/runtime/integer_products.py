"""8-bit products that ONNX Runtime saturates, by processor.

On x86 with AVX2 and without VNNI its kernels add two products of 8 bits in 16: a sum beyond that is clipped.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import all_nodes, all_tensors

_PRODUCTS = frozenset(
    "ConvInteger DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat QAttention QGemm "
    "QLinearConv QLinearMatMul".split()
)


def saturates(model: ModelProto) -> bool:
    """Whether the model has products of 8-bit data by signed 8-bit weights, and they saturate on this processor."""
    if not _clips() or not any(tensor.data_type == TensorProto.INT8 for tensor in all_tensors(model)):
        return False
    return any(node.op_type in _PRODUCTS or node.op_type == "QuantizeLinear" for node in all_nodes(model))


@lru_cache(1)
def _clips() -> bool:
    """Whether the processor lacks the instructions that add in 32 bits."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return " avx2" in flags and "_vnni" not in flags
