"""Adapters restore known constants at a consumer's input: price and insertion."""
