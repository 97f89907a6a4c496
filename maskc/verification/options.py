"""How a compiled model is compared with its reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskc.errors import InputError

DEFAULT_SAMPLES = 16


@dataclass(frozen=True)
class VerifyOptions:
    """The options of `maskc.verify`.

    `provider` is what the models run in, and `samples` random inputs are drawn from `seed`. `rtol` (None: by type and
    depth, see `tolerance`) and `atol` are the errors allowed, and `min_reduction` is the reduction asked for. `exact`:
    compare in double precision, None: as far as that takes a few seconds and no tolerance is given. `bisect`: look for
    the first difference inside models that are not equivalent, and write what shows it to the directory `dump`.
    `bench`: measure latency. Raises `InputError` when one of them cannot be used.
    """

    provider: str = "cpu"
    samples: int = DEFAULT_SAMPLES
    seed: int = 0
    rtol: float | None = None
    atol: float = 0.0
    min_reduction: float | None = None
    exact: bool | None = None
    bisect: bool = True
    dump: Path | None = None
    bench: bool = False

    def __post_init__(self) -> None:
        for what, number in (("number of samples", self.samples), ("seed", self.seed)):
            if number < 0:
                raise InputError(f"The {what} must not be negative.")
        for name, value in (("rtol", self.rtol), ("atol", self.atol), ("min-reduction", self.min_reduction)):
            if value is not None and not (value >= 0 and np.isfinite(value)):
                raise InputError(f"The value of {name} must be a number that is not negative.")
        if self.dump is not None and self.dump.exists() and not self.dump.is_dir():
            raise InputError(f"{self.dump} is not a directory, and nothing can be dumped there.")
