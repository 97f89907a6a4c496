"""Running models in ONNX Runtime and OpenVINO."""
