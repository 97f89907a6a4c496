"""Mask layers, and models that are given them."""
