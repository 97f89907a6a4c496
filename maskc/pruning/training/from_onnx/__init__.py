"""ONNX graphs as differentiable TensorFlow, for training a file without the code that made it.

The rules are our own: onnx2tf and its kind convert layouts and rename what they make, and onnx2keras or
jaxonnxruntime lack operators of published files, so that trained values would not find their way back into the file.
"""
