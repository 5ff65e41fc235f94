"""The rows that every table is read against; the runner makes them, there is nothing to compute."""

from fusionbench.methods._method import merge_method


@merge_method("pretrained", paper="", kind="reference", category="reference", version=1)
def pretrained() -> None:
    """The base as it is, evaluated on every task."""


@merge_method("individual", paper="", kind="reference", category="reference", version=1)
def individual() -> None:
    """Each expert on its own task: what a merge tries to reach."""


@merge_method("traditional_mtl", paper="", kind="reference", category="reference", version=1)
def traditional_mtl() -> None:
    """One model trained on all tasks together, where the suite has one."""
