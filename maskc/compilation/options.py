"""Options of compiling a model: target, adapters, alignment."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal, cast, get_args

from maskc.errors import InputError
from maskc.inspection.options import ReadOptions, option
from maskc.verification.options import VerifyOptions

if TYPE_CHECKING:
    from passes.adapters.price import Policy

#: no channel kept for its kernels' speed, those that a table of rates says, or those that measuring here says; a number
#: rounds every width up to a multiple of it
Align = Literal["none", "auto", "measure"] | int

_WORDS: tuple[str, ...] = get_args(get_args(Align)[0])

# The targets that layers are timed for here.
_MEASURED = ("any", "onnxruntime")

#: how long `measure` times layers, in seconds
SECONDS = 30.0

# Random samples that a verified compilation runs; `maskc verify` takes more.
VERIFY_SAMPLES = 3

# How a compiled model is compared with its source: as fast as will do before it is written.
VERIFY = VerifyOptions(samples=VERIFY_SAMPLES)


def parse_align(word: str) -> Align:
    """The value of `--align`. Raises `InputError` for anything but the words and whole numbers from 2 on."""
    return _checked(int(word) if word.isascii() and word.isdigit() else cast("Align", word))


@dataclass(frozen=True, kw_only=True)
class CompileOptions(ReadOptions):
    """The options of `maskc.compile`, which says what they mean; `verify` is None where nothing is to be verified.

    Raises `InputError` when one of them cannot be used.
    """

    target: str = option(
        "any",
        "The runtime to optimize for: onnxruntime, openvino, cuda or tensorrt; any weighs ONNX Runtime and OpenVINO "
        "against each other.",
        metavar="RUNTIME",
    )
    adapters: Policy = option(
        "auto",
        "Whether to restore constant channels at the operators that need them, with a Pad, Gather or Concat: where "
        "that is cheaper than computing them, wherever it saves FLOPs, or never.",
        kind=Literal["auto", "always", "never"],
    )
    align: Align = option(
        "auto",
        "Keep a few removable channels where that channel count suits the kernels: none, up to multiples of N, by a "
        "table for this processor (auto), or by timing each layer here (measure).",
        metavar="none|N|auto|measure",
        kind=str,
        parse=parse_align,
    )
    align_for: str | None = option(
        None,
        "The processor that --align auto is for; by default this one.",
        metavar="avx2|avx512|xeon|zen4|cuda",
    )
    align_seconds: float = option(
        SECONDS, "How long --align measure may time layers; the times are cached.", metavar="SECONDS"
    )
    verify: VerifyOptions | None = VERIFY

    def __post_init__(self) -> None:
        from passes.adapters.price import POLICIES
        from passes.errors.arguments import fits, shown
        from passes.targets import registry

        if self.adapters not in POLICIES:
            raise InputError(f"The value of adapters must be one of {', '.join(POLICIES)}, and not {self.adapters!r}.")
        object.__setattr__(self, "align", _checked(self.align))
        if self.target not in registry.names():
            raise InputError(f"The target must be one of {', '.join(registry.names())}, and not {self.target!r}.")
        known = registry.processors(self.target)
        if self.align_for is not None and self.align_for not in known:
            raise InputError(f"There is no table of widths for '{self.align_for}'; there are: {', '.join(known)}.")
        if self.align == "measure" and self.target not in _MEASURED:
            raise InputError(
                f"Layers are timed in ONNX Runtime on this CPU, and the target is '{self.target}': give another align."
            )
        if self.align_for is not None and self.align != "auto":
            raise InputError(
                f"A processor ('{self.align_for}') is named for align 'auto', and align is '{self.align}'."
            )
        if not (fits(float, self.align_seconds) and self.align_seconds > 0):
            raise InputError(f"The seconds to measure for must be more than 0, and not {shown(self.align_seconds)}.")


def _checked(align: Align) -> Align:
    """`align`, if it is a word or a whole number from 2 on. Raises `InputError` if not."""
    number = isinstance(align, Integral) and not isinstance(align, bool)  # numpy's as well
    if (number and cast("int", align) < 2) or (not number and align not in _WORDS):
        raise InputError(
            f"The value of align must be {', '.join(_WORDS)} or a whole number from 2 on, and not '{align}'."
        )
    return int(align) if number else align
