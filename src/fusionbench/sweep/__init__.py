"""Many recipes: run one after another, or drawn by a search."""

from fusionbench.sweep.launch import run_all, run_as_finished
from fusionbench.sweep.local import Outcome
from fusionbench.sweep.search import Found, search

__all__ = ["Found", "Outcome", "run_all", "run_as_finished", "search"]
