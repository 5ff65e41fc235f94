"""Fine-tune experts of a suite: the function behind `fusionbench finetune` and behind the suites built here."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

from fusionbench.config.runtime import TrackerName
from fusionbench.errors import ConfigError, OutputError
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.finetune.start import Start
from fusionbench.finetune.tune import finetune
from fusionbench.suites.model import Suite
from fusionbench.suites.registration import Progress
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks.base import Split
from fusionbench.tasks.evaluation import check_readable
from fusionbench.training import ALONE, Processes, tracking_of

MTL, TRACKERS = "mtl", "trackers"
RUN_RECIPE = "recipe.yaml"
"""By this file a run's folder is known."""


def finetune_suite(
    suite: Suite,
    out: Path,
    recipe: FinetuneRecipe,
    *,
    tasks: Iterable[str] | None = None,
    mtl: bool = False,
    tuning: Tuning = "full",
    device: str = "cpu",
    checkpoint_every: int = 0,
    progress: Progress | None = None,
    init: str | None = None,
    start: Callable[[], Start] | None = None,
    teacher: str | None = None,
    trackers: tuple[TrackerName, ...] = (),
    processes: Processes = ALONE,
) -> dict[str, dict[str, Any]]:
    """Fine-tune the suite's base: one expert a task, or one model on all of them.

    Args:
        suite: its base and its tasks are used; of its experts only the trained heads, and these for `mtl` alone.
        out: takes a folder for each expert, named after its task, or one named "mtl".
        recipe: rates, steps, batch, seed.
        tasks: which, in which order; None takes the suite's seen and unseen ones.
        mtl: train one model on all tasks together, by the sum of their losses.
        tuning: "full".
        device: "cpu", "auto" for the first accelerator, "cuda:1" …
        checkpoint_every: steps between checkpoints; 0 is never.
        progress: told after each step.
        init: a model that is trained in the base's place, with the heads that the suite has.
        start: opens it, where it is no plain checkpoint.
        teacher: a plain model whose logits are the target: "base", an expert's name, or a reference.
        trackers: who is sent the curves besides; what they write is in `out`, under "trackers".
        processes: that divide each batch; the main one writes.

    Returns:
        The record of each model, by the name of its folder.

    Raises:
        ConfigError: where a task is not known, or its labels are others.
        MissingData: where a task lacks one of the three splits, all of which are read; nothing is trained then.
        OutputError: where a folder is there already.
        Interrupted: on Ctrl-C; the last checkpoint is kept.
    """
    if suite.pool.base is None:
        raise ConfigError(f"The suite {suite.name} has no base to fine-tune. Add pool.base.")
    if (out / RUN_RECIPE).is_file():
        raise OutputError(f"{out} is the folder of a run, which --force would empty. Choose another folder.")
    taught = None if teacher is None else _reference_of(suite, teacher)
    tracking = tracking_of(trackers, out / TRACKERS)
    opened = open_tasks(suite, tasks, heads=mtl or init is not None)
    if not opened:
        raise ConfigError(f"The suite {suite.name} says of no task that it is seen or unseen. Name some: tasks=[NAME].")
    check_readable(opened.values(), *get_args(Split))
    groups = {MTL: opened} if mtl else {name: {name: task} for name, task in opened.items()}
    return {
        name: finetune(
            init or suite.pool.base,
            group,
            out / name,
            recipe,
            tuning=tuning,
            device=device,
            checkpoint_every=checkpoint_every,
            progress=progress,
            start=start() if start is not None else None,
            teacher=taught,
            tracking=tracking,
            processes=processes,
        )
        for name, group in groups.items()
    }


def _reference_of(suite: Suite, name: str) -> str:
    """Return the reference of a model that is named as the suite names it, or is a reference already.

    Raises:
        ConfigError: where the expert is an adapter.
    """
    if name == "base" and suite.pool.base is not None:
        return suite.pool.base
    expert = suite.pool.experts.get(name)
    if expert is None:
        return name
    if expert.adapter is not None:
        raise ConfigError(
            f"teacher: the expert {name} of {suite.name} is an adapter. Merge it first, and name the folder."
        )
    return expert.model
