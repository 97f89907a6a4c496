"""Graph passes that turn a channel-masked ONNX model into the smaller dense model it is.

Imports numpy and onnx only. `shrink` runs them all; `count` is the cost model and `flops_by_mask` its derivative;
`bind` turns graph inputs (masks, say) into initializers, and `fix_sizes` gives symbolic input sizes a value.
"""

from passes.bind import bind
from passes.cost import count
from passes.pipeline import Shrunk, shrink
from passes.policy import Policy
from passes.sensitivity import flops_by_mask
from passes.sizes import fix_sizes

__all__ = ["Policy", "Shrunk", "bind", "count", "fix_sizes", "flops_by_mask", "shrink"]
