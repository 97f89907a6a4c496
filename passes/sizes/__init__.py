"""Sizes of tensors, as integer polynomials over the open sizes of a model's inputs, and FLOPs at values of these."""
