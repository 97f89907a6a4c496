"""What sizes that are not static usually are, for estimates of time."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.graph.tensors import shape_of

#: height or width of an image where nothing is known of them
USUAL = 32


def usual_sizes(tensor: gs.Tensor, multiples: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """The sizes of a tensor, with 1 for a batch that is not static and `USUAL` for any other such size.

    `multiples`: what is known of such sizes for one example, by their names.
    """
    shape, known = shape_of(tensor) or (), multiples or {}
    return tuple(d if isinstance(d, int) else known.get(d or "", USUAL if axis else 1) for axis, d in enumerate(shape))
