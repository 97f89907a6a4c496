"""How a model is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from maskc.compilation.align import SECONDS, Align, Widths
from maskc.errors import InputError
from maskc.frontend.input_sizes import Shapes
from maskc.frontend.mask_files import Masks
from maskc.verification.options import VerifyOptions
from passes.adapters.placement import POLICIES, Policy

# Random samples that a verified compilation runs; `maskc verify` takes more.
VERIFY_SAMPLES = 5

# How a compiled model is compared with its source: as fast as will do before it is written.
VERIFY = VerifyOptions(samples=VERIFY_SAMPLES, exact=False, bisect=False)


@dataclass(frozen=True)
class CompileOptions:
    """The options of `maskc.compile`, which says what they mean; `verify` is None where nothing is to be verified.

    Raises `InputError` when one of them cannot be used.
    """

    masks: Masks | None = None
    shapes: Shapes | None = None
    adapters: Policy = "auto"
    align: Align = "auto"
    align_for: str | None = None
    align_seconds: float = SECONDS
    verify: VerifyOptions | None = VERIFY

    def __post_init__(self) -> None:
        if self.adapters not in POLICIES:
            raise InputError(f"The value of adapters must be one of {', '.join(POLICIES)}, and not '{self.adapters}'.")
        _ = self.widths  # raises where they cannot be used

    @property
    def widths(self) -> Widths:
        """How widths are chosen."""
        return Widths(self.align, self.align_for, self.align_seconds)
