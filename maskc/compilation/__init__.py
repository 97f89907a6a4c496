"""What `maskc compile` does."""
