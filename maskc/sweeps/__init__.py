"""Sweeps: many pruning levels and ways to compile, measured, and which of them are on the Pareto frontier."""

from maskc.sweeps.record import Point
from maskc.sweeps.run import Sweep, sweep

__all__ = ["Point", "Sweep", "sweep"]
