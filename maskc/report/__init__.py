"""Presentation of results in the terminal and as pages."""
