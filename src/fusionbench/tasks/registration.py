"""How a kind of task is made known."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from fusionbench.families import Family
from fusionbench.registry import Entry
from fusionbench.tasks.base import Task
from fusionbench.weights.headers import Source

if TYPE_CHECKING:
    from fusionbench.tasks.spec import TaskSpec

Builder = Callable[[str, "TaskSpec", Family, Source | nn.Module], Task]
"""From a task's name, its description, the pool's family and base to the task."""
B = TypeVar("B", bound=Builder)


def task(kind: str, *, version: int = 1) -> Callable[[B], B]:
    """Register a function as the builder of a kind of task, which a YAML task names as `kind:`.

    The entry is left on the function as `.entry` and goes into the index when that is written next; a builder of
    another package is named by an entry point of the group `fusionbench.task`.
    """

    def register(builder: B) -> B:
        summary = (inspect.getdoc(builder) or "").partition("\n")[0]
        location = f"{builder.__module__}:{builder.__qualname__}"
        builder.entry = Entry(kind, summary, location, version=version, kind="task")  # type: ignore[attr-defined]
        return builder

    return register
