"""Shrinking rules of Keras layers, one file for each family."""
