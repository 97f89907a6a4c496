"""Adapters restore known constants at a consumer's input: price, placement and insertion."""
