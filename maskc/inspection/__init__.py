"""Models as they stand, neither compiled nor run: what they cost, and what two of them differ in."""
