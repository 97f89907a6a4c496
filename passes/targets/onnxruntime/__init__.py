"""ONNX Runtime on a CPU: its fusions, its kernels' rates, its blocked layout, its faults."""
