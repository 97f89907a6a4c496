"""Sweeps: many pruning levels and ways to compile, measured, and what of it is worth having."""

from maskc.frontier.record import Point, Sweep
from maskc.frontier.run import sweep

__all__ = ["Point", "Sweep", "sweep"]
