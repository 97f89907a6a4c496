"""FLOPs, MACs and parameters."""
