"""Sizes of tensors as integer polynomials over the open sizes of a model's inputs."""
