"""Models in double precision: ONNX's reference evaluator, with operators of which it has none or a slow one."""
