"""Widths that run faster: what `--align` says, and for which processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from onnx import ModelProto

import passes
from maskc.compilation.processor import table_name
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
