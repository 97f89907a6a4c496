"""Activations that an exporter decomposed become operators again."""
