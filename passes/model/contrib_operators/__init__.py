"""Operators of ONNX Runtime's own, which its optimiser writes into files: the standard ones that they stand for."""
