"""Options of reading a model: masks, input sizes, signature."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskc.inspection.option_fields import option

if TYPE_CHECKING:
    from maskc import frontend
    from maskc.frontend.input_sizes import Shapes
    from maskc.frontend.mask_files import Masks
    from passes.sizes.sizes_to_count_at import Sizes


def _shapes(words: Sequence[str]) -> Shapes:
    from maskc.frontend.input_sizes import parse

    return parse(words)


def _at(words: Sequence[str]) -> Sizes:
    from maskc.frontend.input_sizes import parse_at

    return parse_at(words)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of reading a model and counting its FLOPs; `maskc.compile` says what each means."""

    masks: Masks | None = option(
        None,
        "More masks: an .npz or .safetensors file of 1-D arrays of 0 and 1. Keys are `tensor` or `tensor@axis` for "
        "tensors of the ONNX graph; without an axis it is 1 for rank 3 and more and the last one otherwise.",
        metavar="FILE",
        kind=Path | None,
    )
    shapes: Shapes | None = option(
        None,
        "Fix the symbolic sizes of an input; may be repeated. `?` leaves a size as it is, a name renames it. With "
        "commas, as in NAME=?,128, names may contain an x.",
        "--shape",
        metavar="NAME=1x3x224x224",
        kind=list[str] | None,
        parse=_shapes,
    )
    at: Sizes | None = option(
        None,
        "Count FLOPs at these sizes of an input, without fixing them; may be repeated. By default a batch of 1, images "
        "of 224 x 224 and 128 for other open sizes, or the first others that the model accepts.",
        metavar="NAME=1x3x224x224",
        kind=list[str] | None,
        parse=_at,
    )
    signature: str | None = option(
        None,
        "Which signature or function of a SavedModel to read; by default the serving signature.",
        metavar="NAME",
    )

    @property
    def mask_file(self) -> Path | None:
        """The file of the masks; None where there are none, or arrays in memory."""
        return Path(self.masks) if isinstance(self.masks, (str, os.PathLike)) else None

    def read(self, model: frontend.Model, *, stay: bool = False) -> frontend.Source:
        """The model at the input sizes of the options, without the masks. Raises as `frontend.read` does."""
        from maskc import frontend
        from maskc.frontend.input_sizes import fixed

        return fixed(frontend.read(model, stay=stay, signature=self.signature), self.shapes)
