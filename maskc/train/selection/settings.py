"""The arguments of pruning, checked, and how far a schedule wants pruning to have come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from maskc.errors import InputError
from maskc.train.importance import Reduction, canonical, check_decay, is_number

FlopsWeight = float | Literal["auto"]

#: The share of the way from all FLOPs to the target, by the share of the ramp that is over: both from 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-shot": lambda over: 1.0,
    "linear": lambda over: over,
    # Zhu & Gupta 2017 (arXiv 1710.01878), of FLOPs where theirs is of weights: fast at first, when much can be removed.
    "cubic": lambda over: 1 - (1 - over) ** 3,
}


@dataclass(frozen=True)
class Settings:
    """When to prune, by what measure of importance, and how far; see `PruningOptimizer`.

    Raises:
        InputError: if a value is out of range.
    """

    prune_every: int
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", canonical(self.method))
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be None or one of {', '.join(SCHEDULES)}, not {self.schedule!r}.")
        if self.schedule in ("linear", "cubic") and self.ramp == 0:
            raise InputError(f"The schedule {self.schedule!r} needs ramp, the number of updates until the target.")
        if self.ramp and self.schedule not in ("linear", "cubic"):
            raise InputError('ramp goes with schedule="linear" or "cubic" only.')
        if self.tie not in ("auto", "none"):
            raise InputError(f'tie must be "auto" or "none", not {self.tie!r}.')
        if not isinstance(self.update_params, bool):
            raise InputError(f"update_params must be True or False, not {self.update_params!r}.")
        ones, zeros = ("prune_every", "round_to"), ("burn_in", "min_channels", "ramp", "seed")
        for name, least in [(name, 1) for name in ones] + [(name, 0) for name in zeros]:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        before = self.flops_before
        if before is not None and (not is_number(before) or before <= 0):
            raise InputError(f"flops_before must be a number of FLOPs, not {before!r}.")
        check_decay(self.decay)
        target = self.flops_target
        if target is not None and (not is_number(target) or target < 0):
            raise InputError(f"flops_target must be a number of FLOPs, or a fraction of them up to 1, not {target!r}.")
        if isinstance(self.flops_weight, str):
            object.__setattr__(self, "flops_weight", self.flops_weight.lower())
        if self.flops_weight != "auto" and (not is_number(self.flops_weight) or self.flops_weight < 0):
            raise InputError(
                f'flops_weight must be "auto" or a number that is not negative, not {self.flops_weight!r}.'
            )
        if self.loss_reduction not in ("auto", "mean", "sum"):
            raise InputError(f'loss_reduction must be "auto", "mean" or "sum", not {self.loss_reduction!r}.')


def goal(schedule: str, step: int, burn_in: int, ramp: int, full: int, target: int) -> int:
    """Returns the FLOPs that a schedule asks for after update `step`: from `full` to `target` in `ramp` updates."""
    over = min(1.0, (step - burn_in) / ramp) if ramp else 1.0
    share = SCHEDULES[schedule](over)
    return target if share >= 1 else int(full - share * (full - target))
