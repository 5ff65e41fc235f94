"""Suites: named pools of models with the tasks that belong to them; those that need no network are built here."""

from fusionbench.suites.load import load_suite
from fusionbench.suites.model import ModelPool, ResolvedSuite, Suite, TaskPool
from fusionbench.suites.registration import BuildSuite, Progress, suite

__all__ = ["BuildSuite", "ModelPool", "Progress", "ResolvedSuite", "Suite", "TaskPool", "load_suite", "suite"]
