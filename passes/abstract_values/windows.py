"""Windows of convolutions and poolings, which slide over axes of static or symbolic size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from passes.abstract_values.polynomial import Polynomial, minimum, shifted_quotient
from passes.abstract_values.shape_rules import Shape
from passes.graph.tensors import Dim, Index


@dataclass(frozen=True)
class Window:
    """How an operator slides over one spatial axis; `auto` is the ONNX attribute `auto_pad`."""

    size: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    auto: str = "NOTSET"

    @property
    def reach(self) -> int:
        """From the first element that a window covers to its last one."""
        return (self.size - 1) * self.dilation

    @property
    def same(self) -> bool:
        """Whether the padding is chosen so that as many positions come out as go in, over the stride."""
        return self.auto in ("SAME_UPPER", "SAME_LOWER")

    @property
    def before_range(self) -> tuple[int, int]:
        """The least and the most padding before the axis, whatever its size."""
        return (0, self.reach) if self.same else (self.before, self.before)

    @property
    def pads(self) -> bool:
        """Whether a window may see padding."""
        return self.reach > 0 if self.same else (self.before, self.after) != (0, 0)

    @property
    def shift(self) -> int:
        """The number of positions over `n` elements is `(n + shift) // stride`."""
        return self.stride - 1 if self.same else self.before + self.after - self.reach - 1 + self.stride

    def outs(self, sizes: Index) -> Index:
        """Numbers of positions over axes of these sizes: int64, like `sizes`; 0 or less where there is no window."""
        return (sizes + self.shift) // self.stride

    def befores(self, sizes: Index) -> Index:
        """Padding before axes of these sizes."""
        if not self.same:
            return np.full(sizes.shape, self.before)
        total = np.maximum((self.outs(sizes) - 1) * self.stride + self.reach + 1 - sizes, 0)
        return np.asarray(total // 2 if self.auto == "SAME_UPPER" else total - total // 2)


def spatial_windows(kernel: tuple[int, ...], attrs: dict[str, object]) -> list[Window] | None:
    """The windows of a Conv or pooling operator by its attributes, None if they are not understood."""
    rank = len(kernel)
    strides, dilations = _ints(attrs, "strides", 1, rank), _ints(attrs, "dilations", 1, rank)
    auto = attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    pads = _ints(attrs, "pads", 0, 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
    fits = (len(strides), len(dilations), len(pads)) == (rank, rank, 2 * rank)
    if not fits or attrs.get("ceil_mode", 0) or min(pads, default=0) < 0:
        return None
    return [Window(kernel[a], strides[a], dilations[a], pads[a], pads[a + rank], auto) for a in range(rank)]


def kernel_windows(weights: Shape, attrs: dict[str, object]) -> list[Window] | None:
    """The windows of a convolution with weights [.., .., *kernel], None if they are not understood."""
    kernel = [size for size in weights[2:] if isinstance(size, int)]  # weights may be computed, of sizes not known
    return spatial_windows(tuple(kernel), attrs) if kernel and len(kernel) == len(weights) - 2 else None


def windows_rounded_up(kernel: tuple[int, ...], attrs: dict[str, object]) -> list[Window] | None:
    """Windows with as many positions as there are with `ceil_mode`: as if more was padded, where that is so.

    None where they are not understood, or the last one may lie in the padding alone, which does not count.
    """
    windows = _rounded_up(kernel, attrs)
    return None if windows is None or any(map(_may_begin_behind, windows)) else windows


def _rounded_up(kernel: tuple[int, ...], attrs: dict[str, object]) -> list[Window] | None:
    windows = spatial_windows(kernel, {**attrs, "ceil_mode": 0})
    return None if windows is None else [replace(w, after=w.after + w.stride - 1) for w in windows]


def _may_begin_behind(window: Window) -> bool:
    return window.after > window.reach


def positions(shape: Shape | None, windows: list[Window] | None, channels: Dim) -> Shape | None:
    """The sizes of [batch, channels, *positions] after windows over a tensor [batch, ..., *spatial].

    None where a window is larger than what it slides over.
    """
    if shape is None or windows is None or len(shape) != len(windows) + 2:
        return None
    return [shape[0], channels, *map(_positions, shape[2:], windows)]


def positions_rounded_up(
    shape: Shape | None, kernel: tuple[int, ...], attrs: dict[str, object], channels: Dim
) -> Shape | None:
    """As `positions`, with `ceil_mode`: of windows over all that is padded, those that begin before or in the data."""
    windows = _rounded_up(kernel, attrs)
    found = positions(shape, windows, channels)
    if shape is None or windows is None or found is None:
        return None
    begun = [_positions(size, Window(1, w.stride, before=w.before)) for size, w in zip(shape[2:], windows, strict=True)]
    pairs = zip(found[2:], begun, windows, strict=True)
    return [*found[:2], *(_smaller(one, two) if _may_begin_behind(w) else one for one, two, w in pairs)]


def _smaller(one: Dim, other: Dim) -> Dim:
    return None if one is None or other is None else minimum(Polynomial.of(one), Polynomial.of(other)).dim


def _positions(size: Dim, window: Window) -> Dim:
    if size is None:
        return None
    count = shifted_quotient(size, window.shift, window.stride)
    return count if isinstance(count, str) or count > 0 else None


def _ints(attrs: dict[str, object], name: str, default: int, count: int) -> list[int]:
    value = attrs.get(name)
    return [int(v) for v in value] if isinstance(value, (list, tuple)) and len(value) else [default] * count
