"""TensorRT on an NVIDIA GPU, by way of ONNX Runtime, for the order of passes."""

from __future__ import annotations

from passes.targets.cuda.target import TABLES as CUDA
from passes.targets.onnxruntime.target import OnnxRuntime

#: the same tensor cores; not measured
TABLES = CUDA

CPU = ""
make = OnnxRuntime
