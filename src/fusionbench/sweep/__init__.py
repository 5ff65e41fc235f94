"""Many recipes: run one after another, or drawn by a search."""

from fusionbench.sweep.local import Outcome, run_all
from fusionbench.sweep.search import Found, search

__all__ = ["Found", "Outcome", "run_all", "search"]
