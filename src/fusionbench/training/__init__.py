"""Training: one loop, the course of its steps, and what it keeps on disk."""

from fusionbench.training.checkpoint import Point, read_curve
from fusionbench.training.loop import Loop, Outcome, Progress
from fusionbench.training.processes import ALONE, Processes, joined
from fusionbench.training.schedule import Schedule, Steps
from fusionbench.training.step import Metrics, State, Step, step_of, tensors_of
from fusionbench.training.tracking import Tracking, tracking_of

__all__ = [
    "ALONE",
    "Loop",
    "Metrics",
    "Outcome",
    "Point",
    "Processes",
    "Progress",
    "Schedule",
    "State",
    "Step",
    "Steps",
    "Tracking",
    "joined",
    "read_curve",
    "step_of",
    "tensors_of",
    "tracking_of",
]
