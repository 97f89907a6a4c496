"""Sweeps over sparsity levels and configurations, with their Pareto frontier."""

from maskc.sweeps.record import Point
from maskc.sweeps.run import Sweep, sweep

__all__ = ["Point", "Sweep", "sweep"]
