"""Pruning of a trained file by data: which channels to remove, and the weights that make up for them."""
