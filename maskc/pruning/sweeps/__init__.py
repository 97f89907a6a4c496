"""Sweeps over sparsity levels and configurations, with their Pareto frontier."""

from maskc.pruning.sweeps.record import Point
from maskc.pruning.sweeps.run import Sweep, sweep

__all__ = ["Point", "Sweep", "sweep"]
