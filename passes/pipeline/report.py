"""Report of a compilation as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from passes.planning.masked_axes import Held, MaskedAxis
from passes.sizes.cost_values import Cost
from passes.targets.widths.channel_multiples import Width


@dataclass(frozen=True)
class Report:
    """What `passes.shrink` did: costs before and after, masked axes, what was kept and why.

    `widths` are the layers with channels that are kept because that channel count runs faster. `seconds` is the
    time of each pass. `sizes` are the numbers of nodes and of elements of initializers: first of the `source`, then
    after each pass that may change them. `speedup` is the estimated time with the fewest channels over that with
    those of `widths`; None without an estimate.
    """

    before: Cost
    after: Cost
    masked: tuple[MaskedAxis, ...]
    held: tuple[Held, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    widths: tuple[Width, ...] = ()
    speedup: float | None = None
