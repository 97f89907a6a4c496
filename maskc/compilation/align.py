"""Widths that run faster: what `--align` does with the passes."""

from __future__ import annotations

from onnx import ModelProto

import passes
from maskc.compilation.layer_timing import fastest
from maskc.compilation.options import TABLES, CompileOptions
from maskc.compilation.processor import table_name
from passes.pipeline.order import Shrunk
from passes.pipeline.trace import Watch
from passes.targets.onnxruntime.kernel_rates import RATES, Lines, Rates
from passes.weights.external_file import Store

NO_RATES = (
    "There is no table of rates for this processor, so no channel stays for its width. `--align measure` times the "
    "layers here, and `--align-for` names another processor."
)


def shrink(model: ModelProto, options: CompileOptions, watch: Watch, store: Store | None) -> Shrunk:
    """Run the passes with the widths of the options."""
    if options.align == "measure":
        return fastest(model, options.adapters, watch, RATES.get(table_name()), options.align_seconds, store)
    align = options.align if isinstance(options.align, int) else _table(options) if options.align == "auto" else None
    return passes.shrink(model, options.adapters, watch=watch, store=store, align=align)


def notes(options: CompileOptions) -> tuple[str, ...]:
    """What to know about how widths were chosen."""
    return (NO_RATES,) if options.align == "auto" and _table(options) is None else ()


def _table(options: CompileOptions) -> Rates | Lines | None:
    """What `auto` goes by; None for processors of which nothing is known."""
    return TABLES.get(options.align_for or table_name())
