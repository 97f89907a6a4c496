"""TensorFlow and Keras models as ONNX graphs."""
