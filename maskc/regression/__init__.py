"""Regression check of FLOPs against a committed baseline."""
