"""Boundaries and claims by which two models are the same function, region by region: what `recheck` then proves."""
