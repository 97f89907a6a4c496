"""Sums of products, written so that channels can be followed and removed."""
