"""Compilation of files and of models in memory, as `maskc compile` does it."""
