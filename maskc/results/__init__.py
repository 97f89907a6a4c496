"""What a command found, as plain values and as JSON."""
