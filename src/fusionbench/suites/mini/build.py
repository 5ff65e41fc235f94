"""The building of a suite: data, base, experts, a model of all tasks, manifest; each part is kept when it is whole."""

import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fusionbench.families import family_for, load_module
from fusionbench.finetune.tune import score
from fusionbench.suites.building import stage
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini.assembly import MANIFEST, MiniRecipe, Parts, digest
from fusionbench.suites.model import Suite
from fusionbench.suites.registration import Progress
from fusionbench.suites.tasks import open_tasks
from fusionbench.suites.tuning import MTL
from fusionbench.suites.workers import Job, Work, one_thread, run_beside, run_here
from fusionbench.training import Loop
from fusionbench.training.checkpoint import CURVE
from fusionbench.weights.companions import RECORD
from fusionbench.weights.sources import open_source

FEW_STEPS = 1000
"""Fine-tunings of so few steps in all are over before a process has started."""
PROCESSES = 2
CHECKPOINT_EVERY = 500


def build(
    folder: Path,
    parts: Parts,
    recipe: MiniRecipe,
    *,
    seed: int,
    progress: Progress | None,
    about: Mapping[str, Any],
) -> None:
    """Fill a folder with a suite; what is there already is not made again.

    Args:
        folder: the working folder.
        parts: what the suite is made of.
        recipe: of the size.
        seed: of data, weights and batches.
        progress: told what goes on.
        about: name, version and size, for the manifest.
    """
    data = folder / "data"
    stage(data, lambda place: parts.data(place, recipe, seed, progress))
    (folder / "suite.yaml").write_text(_describe(str(about["name"]), parts, data).to_yaml())
    stage(folder / "base", lambda place: _pretrain(place, data, parts, recipe, seed, progress))
    suite = load_suite(folder / "suite.yaml").suite
    for jobs in _rounds(suite, parts, recipe, seed):
        _tune(Work(suite=suite, out=folder / "experts", jobs=jobs), progress)
    recorded = {**about, "seed": seed, "recipe": recipe.model_dump(mode="json")}
    _write_manifest(folder, suite, recorded, parts.digests(data), parts.notes(data))
    shutil.rmtree(folder / "training", ignore_errors=True)
    for lock in folder.glob("experts/*.lock"):
        lock.unlink()


def _describe(name: str, parts: Parts, data: Path) -> Suite:
    """Return the suite with paths relative to its own folder."""
    tasks = {task: dict(description) for task, description in parts.describe(data).items()}
    places = {task: f"./experts/{task}" for task in tasks if task not in parts.unseen}
    adapters = {task: {"model": "./base", "adapter": place} for task, place in places.items()}
    pool = {
        "base": "./base",
        "experts": places if parts.tuning == "full" else adapters,
        "family": parts.family,
        "mtl": f"./experts/{MTL}",
    }
    unseen = {"unseen": list(parts.unseen)} if parts.unseen else {}
    return Suite.read({"name": name, "pool": pool, "tasks": tasks, **unseen}, f"The suite {name}")


def _pretrain(place: Path, data: Path, parts: Parts, recipe: MiniRecipe, seed: int, progress: Progress | None) -> None:
    training = place.parent / "training"
    loop = Loop(training, checkpoint_every=CHECKPOINT_EVERY, log_every=50, progress=progress)
    with one_thread():
        parts.pretrain(place, data, recipe, seed, loop)
    curve = training / "pretraining" / CURVE
    if curve.is_file():
        shutil.copyfile(curve, place / CURVE)


def _rounds(suite: Suite, parts: Parts, recipe: MiniRecipe, seed: int) -> list[tuple[Job, ...]]:
    """Return what is trained side by side: the model of all tasks first, or after the experts that bring its heads."""
    single, every = (settings.model_copy(update={"seed": seed}) for settings in (recipe.experts, recipe.mtl))
    experts = tuple(Job(name=name, tasks=(name,), recipe=single, tuning=parts.tuning) for name in suite.seen)
    mtl = Job(name=MTL, tasks=suite.seen, recipe=every, tuning=parts.tuning)
    return [experts, (mtl,)] if parts.trained_heads else [(mtl, *experts)]


def _tune(work: Work, progress: Progress | None) -> None:
    if work.steps <= FEW_STEPS:
        run_here(work, progress)
    else:
        run_beside(work, min(PROCESSES, os.cpu_count() or 1), progress)


def _write_manifest(
    folder: Path, suite: Suite, about: Mapping[str, Any], arrays: Mapping[str, Any], notes: Any
) -> None:
    """Write what was built of what, with the scores of the models on their test splits."""
    base = open_source(str(suite.pool.base))
    module = load_module(family_for(base.config, suite.pool.family), base)
    opened = open_tasks(suite, base=base)
    records = {name: json.loads((folder / "experts" / name / RECORD).read_text()) for name in (*suite.seen, MTL)}
    with one_thread():
        pretrained = {name: score(module, task, "test") for name, task in opened.items()}
    manifest = {
        **about,
        "build": f"{about['size']}-{about['seed']}-{digest({**about, 'arrays': arrays})[:16]}",
        "arrays": arrays,
        "scores": {
            "pretrained": pretrained,
            "individual": {name: records[name]["scores"][name]["test"] for name in suite.seen},
            "traditional_mtl": {name: records[MTL]["scores"][name]["test"] for name in suite.seen},
        },
        "notes": list(notes),
        "made_with": {package: version(package) for package in ("torch", "transformers", "numpy")},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
