"""Run a recipe: load, fuse, write, evaluate, record. The one place where models, methods and tasks meet."""

from fusionbench.run.evaluation import evaluate_model
from fusionbench.run.execution import RunResult, run
from fusionbench.run.setting import Setting, resolve

__all__ = ["RunResult", "Setting", "evaluate_model", "resolve", "run"]
