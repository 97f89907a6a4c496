"""Options of pruning a trained model, and of sweeps: targets, how long to train, how candidates are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskc.compilation.options import CompileOptions
from maskc.errors import InputError
from maskc.inspection.options import ReadOptions, option, options_of
from maskc.pruning.measure import Quality, check_quality
from maskc.verification.options import Provider

if TYPE_CHECKING:
    from maskc.pruning.data import Given

# The options of a compilation that a policy can give.
_POLICY = sorted(options_of(CompileOptions).keys() - options_of(ReadOptions).keys())


def _share(what: str) -> str:
    return f"The share of the model's {what} to leave, above 0 and below 1."


@dataclass(frozen=True, kw_only=True)
class PruneOptions(CompileOptions):
    """The options of `maskc.prune`, which says what they mean.

    Raises `InputError` when one of them cannot be used, or two contradict.
    """

    flops: float | None = option(None, f"{_share('FLOPs')} By default 0.5, without another target.", metavar="SHARE")
    params: float | None = option(None, _share("weights"), metavar="SHARE")
    size: float | None = option(None, _share("bytes"), metavar="SHARE")
    speedup: float | None = option(
        None, "How many times as fast the result is to be, measured here in the runtime of --target.", metavar="N"
    )
    ms: float | None = option(None, "The milliseconds that the result may take, measured so.", metavar="MS")
    max_drop: float | None = option(
        None,
        "How much the quality may drop: the fewest FLOPs that keep to it are sought. With --quality, in its unit, else "
        "as the share of predictions that change and of the outputs' variance that is lost.",
        metavar="F",
    )
    quality: Quality | None = option(
        None,
        "A command that measures quality: it has {model} in it, where the path of an .onnx file goes, and prints a "
        "number last. By default predictions on data that are held out are compared with the source's.",
        metavar="COMMAND",
        kind=str,
    )
    lower_is_better: bool = option(False, "Lower quality is better, as for a loss or an error.", "--lower-is-better")
    epochs: float | None = option(None, "How often training goes through the data; 0 for no training.", metavar="N")
    minutes: float | None = option(
        None,
        "How long to train at most, in TensorFlow. Nothing is trained without this or --epochs.",
        metavar="M",
    )
    loss: str | Callable[..., Any] | None = option(
        None,
        "What training makes small, for each example, of outputs and batch by name: loader.py:function, in TensorFlow. "
        "By default the difference from the source's outputs.",
        metavar="FILE.py:FUNCTION",
        kind=str,
    )
    seed: int = option(0, "Seed of what is drawn.", metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quality(self.quality, self.lower_is_better)
        for name in ("flops", "params", "size"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise InputError(f"--{name} is a share of the model's, above 0 and below 1, and not {share:g}.")
        for name, least in (("speedup", 1.0), ("ms", 0.0)):
            value = getattr(self, name)
            if value is not None and not (value > least and math.isfinite(value)):
                raise InputError(f"--{name} must be a number above {least:g}, and not {value:g}.")
        for name in ("max_drop", "epochs", "minutes"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise InputError(f"--{name.replace('_', '-')} must be a number from 0 on, and not {value:g}.")
        from passes.targets import registry  # not when the command line is read, which takes half of its time

        if self.timed and not registry.kind(self.target).CPU:
            raise InputError(
                f"--{self.target_of[0]} is timed on the CPU, and the target is '{self.target}': give --flops, --params "
                "or --size."
            )
        if self.loss is not None and not self.trains:
            raise InputError("--loss is for training: give --epochs or --minutes above 0, or leave it out.")
        if self.quality is None and self.max_drop is not None and self.max_drop >= 1:
            raise InputError(
                f"--max-drop is a share of predictions and variance, without --quality, and {self.max_drop:g} is all."
            )
        if self.seed < 0:
            raise InputError("The seed must not be negative.")
        if len(self.targets) > 1:
            given = " and ".join(f"--{name.replace('_', '-')}" for name in self.targets)
            raise InputError(f"Give one target, and not {given}.")

    @property
    def targets(self) -> dict[str, float]:
        """The targets that are given, by name."""
        names = ("flops", "params", "size", "speedup", "ms", "max_drop")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def target_of(self) -> tuple[str, float]:
        """The target and its value."""
        return next(iter(self.targets.items()), ("flops", 0.5))

    @property
    def timed(self) -> bool:
        """Whether the target is a time."""
        return self.target_of[0] in ("speedup", "ms")

    @property
    def trains(self) -> bool:
        """Whether training is asked for."""
        return bool(self.epochs or self.minutes) and self.epochs != 0 and self.minutes != 0


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of `maskc.sweep`, which says what they mean. Raises as it does where they cannot be used."""

    targets: Sequence[float] = option(
        (),
        "Fractions of the model's FLOPs to keep: pruned by --data, or by weight magnitude, which harms more.",
        metavar="0.5,0.25",
        kind=str,
    )
    data: Given | None = option(
        None, "Inputs to prune by, as for maskc prune.", metavar="FILE|DIR|FILE.py:FUNCTION", kind=str
    )
    masks: Sequence[Path] = option(
        (),
        "A mask file, as for compile, used as one sparsity level; may be repeated.",
        metavar="FILE",
        kind=list[Path] | None,
    )
    quality: Quality | None = option(
        None,
        "A command that measures quality: it has {model} in it and prints a number last.",
        metavar="COMMAND",
        kind=str,
    )
    lower_is_better: bool = option(False, "Lower quality is better, as for a loss or an error.", "--lower-is-better")
    provider: str = option("cpu", "Where latency is measured.", kind=Provider)
    seconds: float = option(2.0, "How long to measure the latency of each model; 0 to skip.", metavar="S")
    ray: str | None = option(
        None,
        "Compile on the Ray cluster at this address; `auto` finds a running one. Needs maskc[ray].",
        metavar="ADDRESS",
    )
    policies: Sequence[Mapping[str, Any]] = ({},)
    reading: ReadOptions = field(default_factory=ReadOptions)
    verify: bool = True
    jobs: int | None = None
    rules: Sequence[Path] = ()

    def __post_init__(self) -> None:
        from maskc.compilation.workers import checked_jobs  # not when the command line is read, as above

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
            CompileOptions(**policy)  # raises where they cannot be used
        if not self.policies:
            raise InputError("There is no configuration to compile: give at least one policy, which may be empty.")
        if not 0 <= self.seconds < math.inf:
            raise InputError(f"The time for measuring must be 0 or more, and not {self.seconds:g} seconds.")
