"""Detection of the processor: name, instruction set, table of widths."""

from __future__ import annotations

import contextlib
import platform
from functools import cache
from pathlib import Path
from typing import cast


def table_name() -> str:
    """The name of the table for this processor; "" where there is none."""
    found = instruction_set()
    if found != "avx512":
        return found
    cpu = cpu_info()
    if cpu.get("vendor_id") == "GenuineIntel":
        return "xeon"
    # Zen 4, which computes AVX-512 by halves, is the only one of its family that has it
    return "zen4" if (cpu.get("vendor_id"), cpu.get("cpu family")) == ("AuthenticAMD", "25") else found


def cpu_info() -> dict[str, str]:
    """The system's description of the first core, by name; empty where there is none."""
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


@cache
def clips_products() -> bool:
    """Whether ONNX Runtime adds two products of 8 bits in 16, and clips the sum: by AVX2, without VNNI."""
    flags = cpu_info().get("flags", "")
    return "avx2" in flags and "_vnni" not in flags


def processor() -> str:
    """The processor's own name, where the system tells it."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()
