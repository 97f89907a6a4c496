"""Nodes and tensors: making, naming, editing and evaluating them."""
