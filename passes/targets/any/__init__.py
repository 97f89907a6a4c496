"""Any runtime: what is good for ONNX Runtime and for OpenVINO, never the best of one at the cost of the other."""
