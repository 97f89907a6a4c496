"""Widths that run faster: what `--align` says, and for which processor."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from onnx import ModelProto

import passes
from maskc.errors import InputError
from passes.adapters.placement import Policy
from passes.pipeline.order import Shrunk
from passes.pipeline.trace import Watch
from passes.targets.onnxruntime.kernel_rates import LINES, RATES, Lines, Rates
from passes.weights.external_file import Store

#: no channel for the sake of a width, those that a table of rates says, or those that measuring here says; a number
#: rounds every width up to a multiple of it
Align = Literal["none", "auto", "measure"] | int

WORDS: tuple[str, ...] = get_args(get_args(Align)[0])

_TABLES: dict[str, Rates | Lines] = {**RATES, **LINES}

#: how long `measure` times layers, in seconds
SECONDS = 30.0

NO_RATES = (
    "There is no table of rates for this processor, so no channel stays for its width. `--align measure` times the "
    "layers here, and `--align-for` names another processor."
)


def parse(word: str) -> Align:
    """What was given to `--align`. Raises `InputError` for anything but the words and whole numbers from 2 on."""
    return check(int(word) if word.isascii() and word.isdigit() else cast("Align", word))


def check(align: Align) -> Align:
    """`align`, if it is a word or a whole number from 2 on. Raises `InputError` if not."""
    number = isinstance(align, int) and not isinstance(align, bool)
    if (number and cast("int", align) < 2) or (not number and align not in WORDS):
        raise InputError(
            f"The value of align must be {', '.join(WORDS)} or a whole number from 2 on, and not '{align}'."
        )
    return align


@dataclass(frozen=True)
class Widths:
    """How widths are chosen: `align` of `maskc.compile`, the processor that `auto` is for, and seconds of `measure`.

    Raises `InputError` when one of them cannot be used.
    """

    align: Align = "auto"
    target: str | None = None
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        check(self.align)
        if self.target is not None and self.target not in _TABLES:
            raise InputError(f"There is no table of widths for '{self.target}'; there are: {', '.join(_TABLES)}.")
        if self.target is not None and self.align != "auto":
            raise InputError(f"A processor ('{self.target}') is named for align 'auto', and align is '{self.align}'.")
        if not self.seconds > 0:
            raise InputError(f"The seconds to measure for must be more than 0, and not {self.seconds:g}.")

    def shrink(self, model: ModelProto, adapters: Policy, watch: Watch, store: Store | None) -> Shrunk:
        """Run the passes with these widths."""
        if self.align == "measure":
            from maskc.compilation.layer_timing import fastest

            return fastest(model, adapters, watch, RATES.get(table_name()), self.seconds, store)
        align = self.align if isinstance(self.align, int) else self._table() if self.align == "auto" else None
        return passes.shrink(model, adapters, watch=watch, store=store, align=align)

    def notes(self) -> tuple[str, ...]:
        """What to know about how widths were chosen."""
        return (NO_RATES,) if self.align == "auto" and self._table() is None else ()

    def _table(self) -> Rates | Lines | None:
        """What `auto` goes by; None for processors of which nothing is known."""
        return _TABLES.get(self.target or table_name())


def table_name() -> str:
    """The name of the table for this processor; "" where there is none."""
    found = instruction_set()
    return "zen4" if found == "avx512" and _halves() else found


def _halves() -> bool:
    """Whether this is AMD's Zen 4, which computes AVX-512 by halves: the only one of its family that has it."""
    return (cpu_info().get("vendor_id"), cpu_info().get("cpu family")) == ("AuthenticAMD", "25")


def cpu_info() -> dict[str, str]:
    """What the system says of the first core, by name; nothing where it does not say."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def instruction_set() -> str:
    """The widest instruction set of this processor that ONNX Runtime has kernels of its own for; "" for others."""
    import numpy as np

    config = cast("dict[str, dict[str, list[str]]]", np.show_config(mode="dicts"))
    simd = config.get("SIMD Extensions", {})
    found = {name.upper() for kind in ("baseline", "found") for name in simd.get(kind, [])}
    if any(name.startswith(("AVX512", "X86_V4")) for name in found):
        return "avx512"
    return "avx2" if found & {"AVX2", "X86_V3"} else ""
