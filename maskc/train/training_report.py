"""What a training run gave, as a person reads it in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from maskc.train.command import Trained


def show_training(result: Trained, out: Console) -> None:
    """FLOPs and parameters before and after, the channels that each mask keeps, and the last metrics."""
    manifest = result.exported.manifest
    table = Table(box=None, pad_edge=False)
    for title in ("", "Before", "After", "Change"):
        table.add_column(title, justify="right" if title else "left")
    for title, figure in (("FLOPs", "flops"), ("Parameters", "parameters")):
        before, after = manifest[figure]["before"], manifest[figure]["after"]
        table.add_row(title, f"{before:,}", f"{after:,}", f"÷ {before / max(after, 1):.2f}")
    out.print(table)
    kept = [f"{name} {len(mask['kept'])} of {mask['channels']}" for name, mask in manifest["masks"].items()]
    out.print(f"Channels kept: {', '.join(kept)}.", markup=False, soft_wrap=True)
    if result.metrics:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
        out.print(f"After {result.steps:,} updates: {metrics}.", markup=False, soft_wrap=True)
    verification = manifest["verification"]
    verified = "" if verification is None else ", verified against TensorFlow"
    out.print(f"Wrote {result.exported.directory}: the compiled model.onnx{verified}, and what it was made from.",
              markup=False, soft_wrap=True)  # fmt: skip
