"""Records and features, and what is wrong with them."""
