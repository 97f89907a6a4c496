"""Widths of layers: channels that are kept because kernels are faster with rounder channel counts."""
