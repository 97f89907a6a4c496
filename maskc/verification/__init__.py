"""`maskc verify`: data to compare on, tolerances, errors of outputs, the first difference of two models."""
