"""Pruning decisions: mask entries to remove, and the schedule of their removal."""
