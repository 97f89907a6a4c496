"""What the time of a convolution depends on beside its numbers of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass


Blocks = Literal["never", "always", "whole"]


@dataclass(frozen=True)
class Work:
    """A convolution as its kernels see it: what its time depends on beside its numbers of channels.

    `kernel`, `strides` and `dilations` are those of its window, `places` the sizes of its output behind the channels
    and `batch` that in front of them (a size that is not static is a usual one). `groups` is 1, or the number of groups
    before any goes; `depthwise` where each reads and writes one channel. `blocks` says whether it is of a form for
    which there are kernels that hold channels in blocks: two spatial axes, single precision, weights that are stored.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    places: tuple[int, ...]
    batch: int = 1
    groups: int = 1
    depthwise: bool = False
    blocks: bool = True

    @property
    def taps(self) -> int:
        """Weights of the window, for one channel read and one written."""
        return math.prod(self.kernel)
