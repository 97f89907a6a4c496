"""How good a pruned model is."""
