"""Sweeps: many pruning levels and ways to compile, measured, and what of it is worth having."""

from maskc.sweeps.record import Point, Sweep
from maskc.sweeps.run import sweep

__all__ = ["Point", "Sweep", "sweep"]
