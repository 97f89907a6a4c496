"""Runtimes that execute models: ONNX Runtime and OpenVINO."""
