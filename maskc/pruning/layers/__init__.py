"""Layers as least squares, and the places of masks."""
