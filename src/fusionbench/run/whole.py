"""Run a method of the kind `whole`: lend it models, tasks and a context, and keep what it leaves."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusionbench.errors import ConfigError
from fusionbench.merge import STATISTICS, Progress
from fusionbench.methods._context import Context, Scores
from fusionbench.methods._statistics import collect_all, report_missing, report_stored
from fusionbench.mixing import Fused
from fusionbench.mixing.build import family_of
from fusionbench.records import DataUse
from fusionbench.registry import methods
from fusionbench.run.setting import Setting
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, evaluate
from fusionbench.training import Loop
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.safetensors import SafetensorsSource, open_safetensors
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import SAFETENSORS, LazyWeights, Weights, as_bytes
from fusionbench.weights.writer import CheckpointWriter

ARTEFACTS, TRAINING = "artefacts", "training"


@dataclass(slots=True)
class Left:
    """What a method told the report: data that it adapted or selected on, and notes."""

    used: dict[str, DataUse] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note_use(self, how: str, *, split: str, tasks: tuple[str, ...], count: int | None = None) -> None:
        """Remember that data were looked at; `how` is "adapted" or "selected"."""
        self.used[how] = DataUse(split=split, tasks=tasks, count=count)


def fuse_whole(setting: Setting, folder: Path, progress: Progress) -> tuple[Fused, Left]:
    """Return the fused model and what its method left; artefacts and checkpoints are in the run's folder.

    Raises:
        FusionBenchError: where the method cannot run on this setting.
    """
    recipe = setting.recipe
    tasks = _own_tasks(setting)
    left = Left()
    context = _context(setting, tasks, folder, left, progress)
    function: Callable[..., Fused] = methods[recipe.method.name].load()
    return function(setting.pool, tasks, context, **recipe.method.params), left


def with_collected(setting: Setting, folder: Path, progress: Progress) -> tuple[Setting, Left]:
    """Return the setting with the statistics that its method weighs by: stored, or collected into the folder.

    Raises:
        FusionBenchError: where they cannot be collected on this setting.
    """
    method, left = setting.recipe.method, Left()
    collect = getattr(methods[method.name].load(), "collect", None)
    if collect is None:
        return setting, left
    pool = setting.pool
    if pool.statistics:
        context = _context(setting, {}, folder, left, progress)
        report_stored(pool, context)
    else:
        tasks = _own_tasks(setting)
        context = _context(setting, tasks, folder, left, progress)
        collect_all(pool, tasks, context, collect, method=method.name, values=method.params)
        kept = folder / ARTEFACTS / STATISTICS
        pool = replace(pool, statistics={name: open_source(kept / name) for name in pool.experts})
    report_missing(pool, context)
    write_left(folder, left)
    return replace(setting, pool=pool), left


def _own_tasks(setting: Setting) -> dict[str, Task]:
    """Return the tasks that the experts were trained on.

    Raises:
        ConfigError: where there is no suite to take them from.
    """
    if setting.suite is None:
        raise ConfigError(f"{setting.recipe.method.name} looks at data: add a suite, such as suite=mini/clip.")
    own = list(dict.fromkeys(task for task in setting.pool.tasks.values() if task is not None))
    return open_tasks(setting.suite.suite, own, base=setting.pool.reference)


def _context(setting: Setting, tasks: Mapping[str, Task], folder: Path, left: Left, progress: Progress) -> Context:
    runtime = setting.recipe.runtime
    loop = Loop(folder / TRAINING, device="cpu" if runtime.device == "cpu" else "auto", progress=progress)
    artefacts = folder / ARTEFACTS

    def score(fused: Fused) -> Scores:
        found = {name: evaluate(fused, task, "validation").scores for name, task in tasks.items()}
        return {name: next(iter(scores.values())).value for name, scores in found.items()}

    return Context(
        seed=setting.recipe.seed,
        device=loop.place,
        memory=runtime.memory,
        family=family_of(setting.pool),
        loop=loop,
        save=lambda name, tensors, text: save_artefact(artefacts, name, tensors, text),
        load=lambda name: load_artefact(artefacts, name),
        evaluate=score,
        used=left.note_use,
        note=left.notes.append,
    )


def save_artefact(folder: Path, name: str, tensors: Weights, text: Mapping[str, str]) -> None:
    """Write tensors as `<folder>/<name>/model.safetensors`, whole or not at all, in the place of an earlier one."""
    specs = [TensorSpec(key, SAFETENSORS[t.dtype], tuple(t.shape)) for key, t in tensors.items()]
    place = folder / name
    if place.exists():
        (place / "model.safetensors").unlink(missing_ok=True)
        place.rmdir()
    with CheckpointWriter(place, specs, metadata=dict(text)) as writer:
        for key, tensor in tensors.items():
            writer.write(key, as_bytes(tensor))


def load_artefact(folder: Path, name: str) -> Weights | None:
    """Return what `save_artefact` wrote, or None."""
    if not (folder / name).exists():
        return None
    source: SafetensorsSource | None = open_safetensors(name, folder / name)
    return None if source is None else LazyWeights(source)


def describe_left(left: Left) -> dict[str, Any]:
    """Return what the report says of the data: its keys adapted_on and selected_on."""
    return {"adapted_on": left.used.get("adapted"), "selected_on": left.used.get("selected")}


def write_left(folder: Path, left: Left) -> None:
    """Keep what a method told the report, for a run that is taken up again after its model was written."""
    document = {"used": {key: use.model_dump() for key, use in left.used.items()}, "notes": left.notes}
    (folder / ARTEFACTS).mkdir(parents=True, exist_ok=True)
    (folder / ARTEFACTS / "left.json").write_text(json.dumps(document, indent=1) + "\n")


def read_left(folder: Path) -> Left:
    """Return what `write_left` kept; nothing where there is none."""
    file = folder / ARTEFACTS / "left.json"
    if not file.is_file():
        return Left()
    document = json.loads(file.read_text())
    return Left({key: DataUse.model_validate(use) for key, use in document["used"].items()}, document["notes"])
