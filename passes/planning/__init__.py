"""Storage plans: the slices that each tensor stores, the reasons, and the graph rewritten accordingly."""
