"""Attention heads: projections, and channels that only both axes together show to be zero."""
