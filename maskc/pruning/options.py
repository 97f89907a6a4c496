"""Options of pruning a trained model: the target, how long to train, and what compile takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maskc.compilation.options import CompileOptions
from maskc.errors import InputError
from maskc.inspection.options import option
from maskc.pruning.measure import Quality, check_quality


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
