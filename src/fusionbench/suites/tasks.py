"""From a suite's description of its tasks to tasks that can be run."""

from collections.abc import Iterable

from pydantic import ValidationError

from fusionbench.config.wording import worded
from fusionbench.errors import ConfigError
from fusionbench.families import HasHead, family_for
from fusionbench.registry import suggestion
from fusionbench.suites.model import Suite
from fusionbench.tasks import Task, TaskSpec, build_task
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source


def open_tasks(
    suite: Suite, names: Iterable[str] | None = None, *, base: Source | None = None, heads: bool = True
) -> dict[str, Task]:
    """Return tasks of a suite by name, ready to run.

    A head that was trained with an expert is that which the task names, else that which its expert names, else the
    expert itself.

    Args:
        suite: with a base, which makes the heads of tasks whose heads are made of texts.
        names: which, in which order; None takes the seen ones, then the unseen.
        base: the suite's base where it is open already.
        heads: False leaves tasks without the heads that come with experts, for training these.

    Raises:
        ConfigError: where a name is not known, a description is wrong, or the suite has no base.
        CheckpointError: where the base cannot be opened.
        MissingData: where a task's data are not there.
    """
    wanted = (*suite.seen, *suite.unseen) if names is None else tuple(names)
    known = suite.tasks.tasks
    for name in wanted:
        if name not in known:
            raise ConfigError(f"The suite {suite.name} has no task {name!r}. {suggestion(name, list(known))}")
    specs = {name: task_spec(suite, name) for name in wanted}
    if base is None and suite.pool.base is None:
        raise ConfigError(f"The suite {suite.name} has no base, which makes the heads of its tasks. Add pool.base.")
    source = base if base is not None else open_source(str(suite.pool.base))
    family = family_for(source.config, suite.pool.family)
    if isinstance(family, HasHead):
        specs = {name: _with_head(suite, name, spec, heads) for name, spec in specs.items()}
    return {name: build_task(name, spec, family, source) for name, spec in specs.items()}


def _with_head(suite: Suite, name: str, spec: TaskSpec, heads: bool) -> TaskSpec:
    """Return a description that says where its task's head is, or that there is none."""
    known = suite.tasks.tasks
    own = [expert for key, expert in suite.pool.experts.items() if suite.pool.task_of(key, known) == name]
    found = spec.head or next((expert.head or expert.adapter or expert.model for expert in own), None)
    return spec.model_copy(update={"head": found if heads else None})


def task_spec(suite: Suite, name: str) -> TaskSpec:
    """Return the checked description of a task.

    Raises:
        ConfigError: naming every wrong key and value.
    """
    document = suite.tasks.tasks[name]
    try:
        return TaskSpec.model_validate(document)
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in worded(TaskSpec, error, document))
        raise ConfigError(f"The task {name} of the suite {suite.name} is wrong:\n{problems}") from None
