"""Shrinking: a smaller Keras model of the same layers from one with masks."""
