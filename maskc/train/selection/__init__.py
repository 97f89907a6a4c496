"""Which mask entries are removed, and when."""
