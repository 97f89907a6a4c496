"""Training runs: batches, steps, checkpoints, summaries."""
