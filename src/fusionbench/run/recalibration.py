"""BatchNorm statistics of a merged model, estimated anew on unlabelled inputs: `batch_norm=recalibrate`.

The statistics of experts are those of their own activations; a merged network has others, whatever mean is taken of
them. Here the merged model runs on inputs of all tasks, mixed, and each layer takes the mean of what it sees.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, reestimate
from fusionbench.merge import Progress, silent
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.mixing.build import family_of
from fusionbench.registry import methods
from fusionbench.run.folder import MODEL
from fusionbench.run.setting import Setting
from fusionbench.run.whole import ARTEFACTS, Left, load_artefact, own_tasks, save_artefact, write_left
from fusionbench.tasks import Task
from fusionbench.weights.lock import renew_outputs
from fusionbench.weights.partial import PARTIAL, settle, written_to
from fusionbench.weights.tensors import TORCH, Weights, as_bytes

ARTEFACT = "batch_norm"
INPUTS = 512
"""Validation inputs of each task that are looked at, or all where there are fewer."""
BATCH = 64
"""Inputs, of all tasks together, whose mean and variance are taken at once."""
STATISTICS = ("running_mean", "running_var")


def recalibrated(setting: Setting, fused: Fused, folder: Path, left: Left, progress: Progress = silent) -> Fused:
    """Return a fused model with BatchNorm statistics of its own where the recipe asks for them, else as it is.

    What was estimated is kept as the artefact `batch_norm` and put into the model that the run has written. Reference
    rows are trained models and keep their statistics.

    Args:
        setting: recipe, pool, suite.
        fused: the merged model; its module is changed in place.
        folder: the run's.
        left: gets a note, and the data that were looked at.
        progress: told what is being done.

    Raises:
        ConfigError: where there is no single merged model, or no suite to take inputs from.
        MissingData: where a task has no validation split.
    """
    recipe = setting.recipe
    if recipe.batch_norm != "recalibrate" or methods[recipe.method.name].kind == "reference":
        return fused
    if not isinstance(fused, FusedWeights) or setting.suite is None:
        raise ConfigError(
            f"batch_norm=recalibrate needs one merged model and a suite with tasks; {recipe.method.name} gives a "
            f"{type(fused).__name__}. Choose batch_norm=average."
        )
    reference = setting.pool.reference
    inside = family_of(setting.pool).names(reference.specs)
    names = {own: name for name, own in inside.items() if own.endswith(STATISTICS)}
    if not names:
        left.notes.append("batch_norm=recalibrate: the models have no BatchNorm layer, nothing was estimated")
        return fused
    found = load_artefact(folder / ARTEFACTS, ARTEFACT)
    tasks = own_tasks(setting.suite.suite, setting.pool) if found is None else {}
    if found is None:
        progress("recalibrating", 0, 1)
        found = {names[own]: tensor for own, tensor in estimate(fused.module, tasks, seed=recipe.seed).items()}
        _report(left, tasks)
        write_left(folder, left)
        save_artefact(folder / ARTEFACTS, ARTEFACT, found, {})
    state = fused.module.state_dict()
    for own, name in names.items():
        state[own].copy_(found[name])
    if (folder / MODEL).is_dir():
        _put_into_files(folder / MODEL, found)
    return fused


def estimate(module: nn.Module, tasks: Mapping[str, Task], *, seed: int) -> dict[str, Tensor]:
    """Return means and variances of the BatchNorm layers' inputs, by the module's names; the module gets them too.

    Batches mix inputs of all tasks in equal parts, in an order of the seed; see `fusionbench.families.reestimate`.

    Args:
        module: in eval mode; ends so.
        tasks: those of the pool, of one family; their validation split is read without labels.
        seed: of the order.

    Raises:
        ConfigError: where there are no tasks.
        MissingData: where a task has no validation split.
    """
    if not tasks:
        raise ConfigError("batch_norm=recalibrate looks at inputs, and no expert says which task it was trained on.")
    share = math.ceil(BATCH / len(tasks))
    count = min(INPUTS, *(task.size("validation") for task in tasks.values()))
    drawn = [task.batches("validation", size=share, seed=seed, labels=False) for task in tasks.values()]
    family = next(iter(tasks.values())).family
    reestimate(module, family, _mixed(drawn, math.ceil(count / share), next(module.parameters()).device))
    state = module.state_dict()
    return {name: tensor.cpu().clone() for name, tensor in state.items() if name.endswith(STATISTICS)}


def _mixed(drawn: Sequence[Iterator[Batch]], count: int, place: torch.device) -> Iterator[Batch]:
    for _ in range(count):
        batches = [next(of_task) for of_task in drawn]
        yield {key: torch.cat([one[key] for one in batches]).to(place) for key in batches[0]}


def _report(left: Left, tasks: Mapping[str, Task]) -> None:
    each = {name: min(INPUTS, task.size("validation")) for name, task in tasks.items()}
    count = min(each.values()) * len(each)
    note = (
        f"BatchNorm statistics were estimated anew on {count} unlabelled validation inputs of {', '.join(each)}, mixed"
    )
    if note not in left.notes:
        left.notes.append(note)
    if "adapted" not in left.used:
        left.note_use("adapted", split="validation", tasks=tuple(each), count=count)


def _put_into_files(folder: Path, statistics: Weights) -> None:
    """Overwrite statistics in a written model, each file at once; everything else keeps its bits."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            held = json.loads(file.read(length))
        inside = {name: held[name] for name in statistics if name in held}
        if not inside:
            continue
        partial = path.with_name(path.name + PARTIAL)
        with written_to(folder):
            shutil.copyfile(path, partial)
            with partial.open("r+b") as file:
                for name, entry in inside.items():
                    file.seek(8 + length + entry["data_offsets"][0])
                    file.write(as_bytes(statistics[name].to(TORCH[entry["dtype"]])))
            settle(partial, path)
    renew_outputs(folder)
