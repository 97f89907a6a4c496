"""Models that come with the trainer."""
