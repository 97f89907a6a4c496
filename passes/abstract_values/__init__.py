"""What can be known of a slice before a model runs: the abstract domains of the analysis."""
