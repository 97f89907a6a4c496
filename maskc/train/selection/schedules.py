"""Schedules of pruning: how far each wants the FLOPs to have come down after so many updates."""

from __future__ import annotations

from collections.abc import Callable

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
