"""Quality of a pruned model."""
