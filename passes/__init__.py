"""Graph passes that turn a channel-masked ONNX model into the smaller dense model it is.

Imports numpy and onnx only. `shrink` runs them all; `count` is the cost model; `bind` turns graph inputs (masks, say)
into initializers.
"""

from passes.cost import count
from passes.pipeline import Shrunk, bind, shrink

__all__ = ["Shrunk", "bind", "count", "shrink"]
