"""Training data: records, feature specifications, parsing."""
