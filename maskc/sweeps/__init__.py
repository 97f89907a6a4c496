"""Sweeps: many pruning levels and ways to compile, measured, and what of it is worth having."""

from maskc.sweeps.record import Point
from maskc.sweeps.run import Sweep, sweep

__all__ = ["Point", "Sweep", "sweep"]
