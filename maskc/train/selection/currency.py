"""Currency of pruning: FLOPs, or milliseconds as the table of a processor predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maskc.compilation.compile import table
from maskc.compilation.options import CompileOptions
from maskc.errors import InputError
from passes.targets.widths.rates import Rates


@dataclass(frozen=True)
class Currency:
    """FLOPs; or, with rates, time: what is counted and called FLOPs are then nanoseconds by these.

    name: of the figure that users see, which is one `scale`th of what is counted. target: the argument that says how
    far to prune. unit: as in sentences. compiling: for what time, if it is that.
    """

    name: str = "flops"
    target: str = "flops_target"
    unit: str = "FLOPs"
    scale: int = 1
    rates: Rates | None = None
    compiling: CompileOptions | None = None

    def figures(self, count: int | None) -> dict[str, Any]:
        """What users see of a count, by name; nothing where there is none."""
        return {} if count is None else {self.name: count if self.rates is None else count / self.scale}

    def shown(self, count: int) -> str:
        """A count in sentences."""
        return f"{count:,}" if self.rates is None else f"{count / self.scale:,.4g}"

    def said(self, count: int) -> str:
        """The same with its unit."""
        return f"{self.shown(count)} {self.unit}"


def milliseconds(target: str, processor: str | None) -> Currency:
    """Time by the table of a runtime and a processor, by default this one. Raises InputError where there is none."""
    rates = table(options := CompileOptions(target=target, align_for=processor))
    if rates is None or not rates.predicts:
        raise InputError(
            f"How long layers take in {target!r} on this processor is not known: latency_target needs another "
            "target, or a processor in align_for."
        )
    return Currency("ms", "latency_target", "ms of predicted time", 1_000_000, rates, options)
