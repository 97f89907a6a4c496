"""Training of a pruned graph towards its source."""
