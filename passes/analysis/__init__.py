"""The sweeps over all nodes: constants forward, reads backward, and what they say of one tensor."""
