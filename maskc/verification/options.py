"""Options of comparing two models: runtime, inputs, tolerances."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maskc.errors import InputError
from maskc.inspection.options import option

#: what runs the models, and where
Provider = Literal["cpu", "cuda", "tensorrt", "openvino", "auto"]

DEFAULT_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of `maskc.verify`, which says what they mean.

    Raises `InputError` when one of them cannot be used.
    """

    provider: str = option(
        "cpu",
        "Where to run: ONNX Runtime on the CPU, CUDA or TensorRT (without fallback), OpenVINO on the CPU, or auto: "
        "CUDA if it is usable, else the CPU.",
        kind=Provider,
    )
    samples: int = option(DEFAULT_SAMPLES, "How many random inputs to compare on.", metavar="N")
    seed: int = option(0, "Seed of the random inputs.", metavar="N")
    rtol: float | None = option(
        None,
        "Relative tolerance, as a share of the largest value of the output. By default 8 ulp × √depth, at most 1e-5, "
        "or 1e-12 if all is float64 and 1e-3 if any is half precision; ten times that against TensorFlow.",
        metavar="F",
    )
    atol: float = option(0.0, "Absolute tolerance.", metavar="F")
    min_reduction: float | None = option(
        None, "Fail when FLOPs before divided by FLOPs after is less than this.", metavar="F"
    )
    dump: Path | None = option(
        None,
        "If the models differ, write the region in which they do, and an input, to this directory.",
        metavar="DIR",
    )
    bench: bool = option(False, "Measure the latency of both, side by side, on the provider.", "--bench")

    def __post_init__(self) -> None:
        for what, number in (("number of samples", self.samples), ("seed", self.seed)):
            if not 0 <= number <= sys.maxsize:
                raise InputError(f"The {what} must not be negative, nor above {sys.maxsize}.")
        for name, value in (("rtol", self.rtol), ("atol", self.atol), ("min-reduction", self.min_reduction)):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise InputError(f"The value of {name} must be a number that is not negative.")
        if self.dump is not None and self.dump.exists() and not self.dump.is_dir():
            raise InputError(f"{self.dump} is not a directory, and nothing can be dumped there.")
