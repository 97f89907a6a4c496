"""ONNX Runtime on an NVIDIA GPU, for the order of passes: its fusions and faults are those of ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

from passes.targets.any.target import TABLES as ANY
from passes.targets.onnxruntime.target import OnnxRuntime

#: tensor cores want 4 elements of TF32 (what float32 is multiplied as), 8 of half precision, 16 of int8 (NVIDIA, Deep
#: Learning Performance, Matrix Multiplication Background). Which adapters and forms pay is decided as for CPUs: by
#: FLOPs alone, a GPU had up to three times as many operators to launch
TABLES = {"cuda": replace(ANY["zen4"], name="cuda", bytes_per_piece=16)}

CPU = ""
make = OnnxRuntime
