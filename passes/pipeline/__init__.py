"""The order of passes."""
