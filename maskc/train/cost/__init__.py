"""FLOPs of a Keras model as a function of its masks."""
