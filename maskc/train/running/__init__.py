"""A training run: batches, steps, checkpoints, summaries."""
