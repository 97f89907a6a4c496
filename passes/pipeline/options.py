"""Options of a compilation, one value from `passes.shrink` down to the planner."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from passes.errors.arguments import check_fields
from passes.planning.planner import PlanOptions
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets import registry
from passes.targets.base import Target
from passes.targets.widths.channel_multiples import Align


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions(PlanOptions):
    """How a model is compiled; `PlanOptions` has the options of its plan.

    align: widths are rounded up to multiples of this number, or as rates say that it runs faster, where there are
    channels to keep; None keeps no channel for that. target: the name of the runtime to compile for, a folder of
    `passes/targets`; its forms are written, and its faults avoided. at: sizes of inputs to count FLOPs at, as for
    `passes.count`; the result takes any that the model takes. explains: whether to say what is masked, and why what
    stays does. keeps_analysis: whether `report_with` is to find the analysis, and need not repeat it. given: names of
    nodes that are masks beside the file, without which it runs.
    """

    align: Align | None = None
    target: str = registry.DEFAULT
    at: Sizes | None = None
    explains: bool = True
    keeps_analysis: bool = False
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.align, np.integer):
            object.__setattr__(self, "align", int(self.align))
        if self.align != "all" if isinstance(self.align, str) else isinstance(self.align, int) and self.align < 1:
            raise ValueError(f"align must be a whole number from 1 on, or 'all', and not {self.align!r}.")

    def changed(self, **changes: Any) -> ShrinkOptions:
        """These options with other values of some. Raises TypeError for the name of one that there is not."""
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise TypeError(f"There is no option '{name}'; there are {', '.join(sorted(names))}.")
        return replace(self, **changes)

    @property
    def runtime(self) -> Target:
        """The target itself."""
        return registry.kind(self.target).make(self.align)
