"""`maskc prune` and `maskc sweep`."""
