"""From a Keras model with masks to the smaller Keras model: the same layers with fewer channels."""
