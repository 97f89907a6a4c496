"""The pruning optimizer, and pruning as functions."""
