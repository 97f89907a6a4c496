"""What layers read, with which weights, and where they are masked."""
