"""Analyses of checkpoints and of runs: how deltas lie to one another, what experts do on each other's tasks."""

from fusionbench.report.analysis.geometry import Geometry, geometry
from fusionbench.report.analysis.overlap import Overlap, overlap
from fusionbench.report.analysis.square import Square

__all__ = ["Geometry", "Overlap", "Square", "geometry", "overlap"]
