"""ONNX Runtime on an NVIDIA GPU, for the order of passes: its fusions and faults are those of ONNX Runtime."""

from __future__ import annotations

from passes.targets.onnxruntime.target import OnnxRuntime
from passes.targets.widths.rates import Lines

#: tensor cores want 4 elements of TF32 (what float32 is multiplied as), 8 of half precision, 16 of int8 (NVIDIA, Deep
#: Learning Performance, Matrix Multiplication Background); not measured
TABLES = {"cuda": Lines("cuda", 16)}

make = OnnxRuntime
