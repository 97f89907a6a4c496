"""Options of a sweep: levels, configurations, and how candidates are measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskc.compilation.options import CompileOptions
from maskc.compilation.workers import checked_jobs
from maskc.errors import InputError
from maskc.inspection.options import ReadOptions, options_of
from maskc.pruning.data import Given
from maskc.pruning.measure import Quality, check_quality
from maskc.pruning.sweeps import work
from maskc.pruning.sweeps.record import Value

# The options of a compilation that a policy can give.
_POLICY = sorted(options_of(CompileOptions).keys() - options_of(ReadOptions).keys())


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of `maskc.sweep`, which says what they mean. Raises as it does where they cannot be used."""

    reading: ReadOptions = field(default_factory=ReadOptions)
    targets: Sequence[float] = ()
    data: Given | None = None
    masks: Sequence[Path] = ()
    policies: Sequence[Mapping[str, Value]] = ({},)
    quality: Quality | None = None
    lower_is_better: bool = False
    verify: bool = True
    provider: str = "cpu"
    seconds: float = 2.0
    jobs: int | None = None
    ray: str | None = None
    rules: Sequence[Path] = ()

    def __post_init__(self) -> None:
        check_quality(self.quality, self.lower_is_better)
        if self.ray is None or self.jobs is not None:
            checked_jobs(self.jobs)
        for target in self.targets:
            if not 0 < target <= 1:
                raise InputError(f"A target is a share of the model's FLOPs, above 0 and up to 1, and not {target:g}.")
        if self.data is not None and not self.targets:
            raise InputError("Data say which channels go for a target: give --targets, as 0.5,0.25, too.")
        if len(set(self.targets)) < len(self.targets):
            raise InputError("A target is given twice.")
        for policy in self.policies:
            if unknown := [key for key in policy if key not in _POLICY]:
                raise InputError(
                    f"The options of a policy are {', '.join(_POLICY)}, and '{unknown[0]}' is none of them."
                )
            given: Any = policy
            CompileOptions(**given)  # raises where they cannot be used
        if not self.policies:
            raise InputError("There is no configuration to compile: give at least one policy, which may be empty.")
        if not 0 <= self.seconds < math.inf:
            raise InputError(f"The time for measuring must be 0 or more, and not {self.seconds:g} seconds.")
        if self.ray is not None:
            work.check_ray(self.ray)
