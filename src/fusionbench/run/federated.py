"""Rounds of a pool: each model learns on data of its own, then their layers change places, or they are averaged."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusionbench.config import MethodConfig, RuntimeConfig
from fusionbench.errors import ConfigError, OutputError
from fusionbench.finetune.claiming import claim, finished, release
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.merge import Pool, tower_of
from fusionbench.methods.averages import simple_average
from fusionbench.mixing import FusedWeights
from fusionbench.mixing.blueprint import read_blueprint
from fusionbench.run.folder import MODEL, RECIPE
from fusionbench.run.whole import Bench, fuse_whole
from fusionbench.suites.model import Suite
from fusionbench.suites.registration import Progress
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, evaluate
from fusionbench.tasks.base import Split
from fusionbench.weights.checks import fit
from fusionbench.weights.companions import RECORD
from fusionbench.weights.headers import Source
from fusionbench.weights.partial import whole_folder, written_to
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

AVERAGE = "average"


@dataclass(frozen=True, slots=True)
class Rounds:
    """How a pool is trained.

    Attributes:
        count: rounds of training and aggregation.
        averaged: the first so many aggregate by averaging (FedAvg), the others by recombination.
    """

    count: int = 1
    averaged: int = 0


def train_in_rounds(
    models: Mapping[str, Path],
    suite: Suite,
    out: Path,
    recipe: FinetuneRecipe,
    rounds: Rounds,
    checkpoint_every: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train each model of a pool on its own task, aggregate, and do so again (FedMR, arXiv:2305.10730, algorithm 1).

    Each model is trained for `recipe.steps` a round, in an order of the data of that round's own. Then layers are
    recombined, by permutations of (seed, round), or, in the first rounds, all models become their average. Recombining
    leaves the average as it is: that is the pool's global model, which is scored each round.

    Args:
        models: folders of plain models of one architecture, by the name of an expert or a task of the suite.
        suite: has the task of each.
        out: gets `model/<name>`, the pool after the last round, `average`, its global model, and the record, with the
            scores of each round. An unfinished training is kept in `<out>.training`, and the same call goes on.
        recipe: of each model's training in a round.
        rounds: how many, and how they aggregate.
        checkpoint_every: steps between checkpoints; 0 is never.
        progress: told after each step.

    Returns:
        The record: rounds, recipe, digests of the models, scores of the average on test.

    Raises:
        ConfigError: where a model has no task, or is no plain one, or the rounds do not fit.
        IncompatibleModels: where the models are not of one form.
        OutputError: where `out` is there and holds anything else.
        Interrupted: on Ctrl-C.
    """
    if rounds.averaged > rounds.count:
        raise ConfigError(f"averaged={rounds.averaged}: there are {rounds.count} rounds. Lower it, or raise rounds.")
    if (out / RECIPE).is_file():
        raise OutputError(f"{out} is the folder of a run, which --force would empty. Choose another folder.")
    tasks = _own_tasks(models, suite)
    record: dict[str, Any] = {
        "schema": 1,
        "models": {name: source.fingerprint() for name, source in _opened(models).items()},
        "tasks": {name: task.name for name, task in tasks.items()},
        "recipe": recipe.model_dump(mode="json"),
        "rounds": asdict(rounds),
    }
    work = out.with_name(out.name + ".training")
    if out.exists():
        return finished(out, work, record)
    with written_to(work):
        claim(work, record)
    curve = []
    for number in range(1, rounds.count + 1):
        place = work / f"round-{number}"
        seeded = recipe.model_copy(update={"seed": recipe.seed + number - 1})
        if not (place / RECORD).is_file():
            starts = models if number == 1 else {name: work / f"round-{number - 1}" / MODEL / name for name in models}
            for name, folder in starts.items():
                own, trained = {name: tasks[name]}, place / "trained" / name
                finetune(folder, own, trained, seeded, checkpoint_every=checkpoint_every, progress=progress)
            _aggregate(place, list(models), tasks, seeded.seed, recombined=number > rounds.averaged)
            for part in (MODEL, AVERAGE):
                shutil.rmtree(work / f"round-{number - 1}" / part, ignore_errors=True)
        curve.append({"round": number, **json.loads((place / RECORD).read_text())})
    record["curve"] = curve
    _write(out, work / f"round-{rounds.count}", record, tasks)
    release(work)
    return record


def _opened(models: Mapping[str, Path]) -> dict[str, Source]:
    """Return the models of a pool, between which layers can change places.

    Raises:
        ConfigError: where one has replaced modules.
        IncompatibleModels: where they are not of one form.
    """
    opened = {name: open_source(folder) for name, folder in models.items()}
    mixtures = [name for name, source in opened.items() if read_blueprint(source.folder) is not None]
    if mixtures:
        raise ConfigError(f"{', '.join(mixtures)}: layers change places between plain models only.")
    first = next(iter(opened.values()))
    fit(first, opened, tower=tower_of(first))
    return opened


def _write(out: Path, last: Path, record: dict[str, Any], tasks: Mapping[str, Task]) -> None:
    """Write what the last round left, and into the record and beside it the scores of its average."""
    splits: tuple[Split, ...] = ("validation", "test")
    scores = {split: _scores(last / AVERAGE, tasks, split) for split in splits}
    record["scores"] = {task.name: {split: scores[split][task.name] for split in splits} for task in tasks.values()}
    with whole_folder(out) as made:
        for part in (MODEL, AVERAGE):
            shutil.copytree(last / part, made / part)
        (made / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _own_tasks(models: Mapping[str, Path], suite: Suite) -> dict[str, Task]:
    """Return the task of each model: that of the expert of its name, or the one of its name."""
    known, wanted = suite.tasks.tasks, dict[str, str]()
    for name in models:
        task = suite.pool.task_of(name, known) if name in suite.pool.experts else name
        if task is None or task not in known:
            raise ConfigError(
                f"{name}: the suite {suite.name} has neither an expert nor a task of that name to train it on. It has "
                f"{', '.join(known)}."
            )
        wanted[name] = task
    opened = open_tasks(suite, dict.fromkeys(wanted.values()))
    return {name: opened[task] for name, task in wanted.items()}


def _aggregate(place: Path, names: list[str], tasks: Mapping[str, Task], seed: int, *, recombined: bool) -> None:
    """Write the pool and its average after a round, then the round's record, by which it is known to be done."""
    experts: dict[str, Source] = {name: open_source(place / "trained" / name) for name in names}
    for part in (AVERAGE, MODEL):
        shutil.rmtree(place / part, ignore_errors=True)
    first = next(iter(experts.values()))
    family = next(iter(tasks.values())).family
    models = [LazyWeights(source) for source in experts.values()]
    mean = {
        name: simple_average([model[name].float() for model in models])
        for name, spec in first.specs.items()
        if spec.is_float
    }
    FusedWeights(mean, family, first).cast("base").save(place / AVERAGE)
    if recombined:
        pool = Pool(None, experts, tower=tower_of(first))
        bench = Bench(pool, MethodConfig.model_validate("recombination"), seed, RuntimeConfig(), dict, place)
        fuse_whole(bench)[0].save(place / MODEL)
    else:
        for name in names:
            shutil.copytree(place / AVERAGE, place / MODEL / name)
    how = "recombination" if recombined else "average"
    about = {"aggregation": how, "validation": _scores(place / AVERAGE, tasks, "validation")}
    (place / RECORD).write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(place / "trained")


def _scores(folder: Path, tasks: Mapping[str, Task], split: Split) -> dict[str, dict[str, float]]:
    """Return the metrics of a model on each task."""
    source = open_source(folder)
    fused = FusedWeights(LazyWeights(source), next(iter(tasks.values())).family, source)
    return {
        task.name: {name: one.value for name, one in evaluate(fused, task, split).scores.items()}
        for task in tasks.values()
    }
