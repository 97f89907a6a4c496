"""What each tensor stores, why, and the graph rewritten accordingly."""
