"""What the passes raise when a graph cannot be compiled."""


class GraphError(Exception):
    """The graph is not valid: one sentence that names the node or tensor and says what is wrong."""


class SizeError(ValueError):
    """Sizes given for the inputs do not fit the model: one sentence that says which and why."""
