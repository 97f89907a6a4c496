"""Proof by regions: two models are cut at tensors that correspond, and each piece is compared on its own."""
