"""What `maskc check` does: FLOPs against a committed baseline."""
