"""Results of commands, as plain values and as JSON."""
