"""Which channels go: what their loss costs, and how many of them a target takes."""
