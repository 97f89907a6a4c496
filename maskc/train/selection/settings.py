"""The arguments of pruning, checked: their currency (FLOPs or predicted time), and the schedules towards a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from maskc.compilation.compile import table
from maskc.compilation.options import CompileOptions
from maskc.errors import InputError
from maskc.train.arguments import check_choice, check_count, is_number
from maskc.train.importance import Reduction, canonical, check_decay
from passes.errors.arguments import shown
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
        whole = self.rates is None and count < 10**15
        return f"{count:,}" if whole else f"{count / self.scale:,.4g}"

    def said(self, count: int) -> str:
        """The same with its unit."""
        return f"{self.shown(count)} {self.unit}"


#: The share of the way from all FLOPs to the target, by the share of the ramp that is over: both from 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-shot": lambda over: 1.0,
    "linear": lambda over: over,
    # Zhu & Gupta 2017 (arXiv 1710.01878), of FLOPs where theirs is of weights: fast at first, when much can be removed.
    "cubic": lambda over: 1 - (1 - over) ** 3,
}


def goal(schedule: str, step: int, burn_in: int, ramp: int, full: int, target: int) -> int:
    """Returns the FLOPs that a schedule asks for after update `step`: from `full` to `target` in `ramp` updates."""
    over = min(1.0, (step - burn_in) / ramp) if ramp else 1.0
    share = SCHEDULES[schedule](over)
    return target if share >= 1 else int(full - share * (full - target))


FlopsWeight = float | Literal["auto"]

#: decisions along a ramp, and updates between two where there is no ramp, unless `prune_every` says otherwise
_DECISIONS, _EVERY = 50, 100

_RAMPED = ("linear", "cubic")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "schedule": ("auto", None, *SCHEDULES),
    "tie": ("auto", "none"),
    "loss_reduction": ("auto", "mean", "sum"),
}
#: fields that are whole numbers, with the least that each may be
_COUNTS = {"prune_every": 1, "round_to": 1, "burn_in": 0, "min_channels": 0, "ramp": 0, "seed": 0}


@dataclass(frozen=True)
class Settings:
    """When to prune, by what measure of importance, and how far; see `PruningOptimizer`.

    Raises InputError if a value is out of range.
    """

    prune_every: int | None
    burn_in: int
    decay: float
    flops_target: float | None
    flops_weight: FlopsWeight
    update_params: bool
    method: str
    schedule: str | None
    ramp: int
    tie: Literal["auto", "none"]
    min_channels: int
    seed: int
    loss_reduction: Reduction | Literal["auto"]
    sizes: Any = None
    flops_before: int | None = None
    round_to: int = 1
    latency_target: float | None = None
    target: str = "any"
    align_for: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", canonical(self.method))
        if isinstance(self.flops_weight, str):
            object.__setattr__(self, "flops_weight", self.flops_weight.lower())
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name, least in _COUNTS.items():
            if name != "prune_every" or self.prune_every is not None:
                check_count(name, getattr(self, name), least)
        check_decay(self.decay)
        if self.schedule in _RAMPED and not self.ramp:
            raise InputError(f"The schedule {self.schedule!r} needs ramp, the number of updates until the target.")
        if self.ramp and self.schedule not in ("auto", *_RAMPED):
            raise InputError('ramp goes with schedule="linear" or "cubic" only.')
        if self.flops_before is not None and not (_is_flops(self.flops_before) and self.flops_before):
            raise InputError(f"flops_before must be a number of FLOPs, not {shown(self.flops_before)}.")
        for name, of in (("flops_target", "FLOPs"), ("latency_target", "milliseconds")):
            if (to := getattr(self, name)) is not None and not _is_flops(to):
                raise InputError(f"{name} must be a number of {of}, or a fraction of them up to 1, not {shown(to)}.")
        if self.latency_target is None and (str(self.target) != "any" or self.align_for is not None):
            raise InputError("target and align_for say where latency_target holds: give that, too.")
        if self.latency_target is not None and self.flops_target is not None:
            raise InputError("Give flops_target or latency_target, and not both.")
        if (rates := self.currency.rates) is not None:
            object.__setattr__(self, "align_for", rates.name)  # a run is to go on by these elsewhere, too
        check_weight(self.flops_weight)

    def planned(self, updates: int) -> Settings:
        """Returns the same with what is left open decided, for so many updates to come; 0 if nobody knows."""
        ramp, schedule, every = self.ramp, self.schedule, self.prune_every
        if schedule == "auto":
            if not ramp and every is None and updates:
                ramp = self.ending(updates).ramp
            schedule = "cubic" if ramp else None
        every = every or (max(1, ramp // _DECISIONS) if ramp else _EVERY)
        return replace(self, ramp=ramp, schedule=schedule, prune_every=every)

    def ending(self, updates: int) -> Settings:
        """Returns the same with a ramp over half of the updates from the burn-in to the one of this number."""
        return replace(self, ramp=max(1, (updates - self.burn_in) // 2))

    @property
    def currency(self) -> Currency:
        """What pruning saves. Raises InputError for a target or processor of which nobody knows that."""
        if self.latency_target is None:
            return Currency()
        rates = table(options := CompileOptions(target=self.target, align_for=self.align_for))
        if rates is None or not rates.predicts:
            raise InputError(
                f"How long layers take in {self.target!r} on this processor is not known: latency_target needs another "
                "target, or a processor in align_for."
            )
        return Currency("ms", "latency_target", "ms of predicted time", 1_000_000, rates, options)

    @property
    def every(self) -> int:
        """Updates between two decisions, as planned."""
        return self.prune_every or _EVERY


def check_weight(value: Any) -> None:
    """Raises InputError if a value is no weight of FLOPs."""
    if not (isinstance(value, str) and value == "auto") and not _is_flops(value):
        raise InputError(f'flops_weight must be "auto" or a number that is not negative, not {shown(value)}.')


def _is_flops(value: Any) -> bool:
    return is_number(value) and value >= 0
