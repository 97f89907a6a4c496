"""Flat outputs, which hardly move with the inputs or some weights: tensors inside the models are compared as well."""
