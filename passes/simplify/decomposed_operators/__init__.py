"""Activations and normalisations that an exporter decomposed are fused into operators again, one file for each kind."""
