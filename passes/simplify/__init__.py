"""Rewrites that hold for any model, whether or not it has masks."""
