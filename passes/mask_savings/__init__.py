"""Savings of mask entries, their coupling, and masks for a model that has none."""
