"""The arguments of pruning, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from maskc.errors import InputError
from maskc.train.arguments import check_choice, check_count, is_number, shown
from maskc.train.importance import Reduction, canonical, check_decay
from maskc.train.selection.currency import Currency, milliseconds
from maskc.train.selection.schedules import SCHEDULES

FlopsWeight = float | Literal["auto"]

#: decisions along a ramp, and updates between two where there is no ramp, unless `prune_every` says otherwise
_DECISIONS, _EVERY = 50, 100

_RAMPED = ("linear", "cubic")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "schedule": ("auto", None, *SCHEDULES),
    "tie": ("auto", "none"),
    "update_params": (True, False),
    "loss_reduction": ("auto", "mean", "sum"),
}
#: fields that are whole numbers, with the least that each may be
_COUNTS = {"prune_every": 1, "round_to": 1, "burn_in": 0, "min_channels": 0, "ramp": 0, "seed": 0}


@dataclass(frozen=True)
class Settings:
    """When to prune, by what measure of importance, and how far; see `PruningOptimizer`.

    Raises:
        InputError: if a value is out of range.
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
                ramp = max(1, (updates - self.burn_in) // 2)
            schedule = "cubic" if ramp else None
        every = every or (max(1, ramp // _DECISIONS) if ramp else _EVERY)
        return replace(self, ramp=ramp, schedule=schedule, prune_every=every)

    @property
    def currency(self) -> Currency:
        """What pruning saves. Raises InputError for a target or processor of which nobody knows that."""
        return Currency() if self.latency_target is None else milliseconds(self.target, self.align_for)

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
