"""What sizes that are not static usually are, for estimates of time."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.tensors import shape_of

#: height or width of an image where nothing is known of them
USUAL = 32


def usual_sizes(tensor: gs.Tensor) -> tuple[int, ...]:
    """The sizes of a tensor, with 1 for a batch that is not static and `USUAL` for any other such size."""
    shape = shape_of(tensor) or ()
    return tuple(d if isinstance(d, int) else USUAL if axis else 1 for axis, d in enumerate(shape))
