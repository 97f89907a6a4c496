"""What the entries of masks save, which go together, and masks for a model that has none."""
