"""Many recipes: expanded from overrides, run one after the other or anywhere else."""

from fusionbench.sweep.local import Outcome, run_all

__all__ = ["Outcome", "run_all"]
