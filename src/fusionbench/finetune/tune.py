"""Fine-tuning: the fused part of a model on one task, or on several at once; heads that are there stay as they are."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError, OutputError
from fusionbench.families import load_module
from fusionbench.families.base import Batch, Family
from fusionbench.finetune.adapters import adapt, settled, write_adapter
from fusionbench.finetune.folder import write_expert
from fusionbench.finetune.heads import TrainedHead, with_heads
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.tasks import evaluate
from fusionbench.tasks.base import Output, Predictor, Split, Task
from fusionbench.training import Loop, Progress, step_of, tensors_of
from fusionbench.weights.companions import RECORD
from fusionbench.weights.headers import Source
from fusionbench.weights.partial import written_to
from fusionbench.weights.sources import open_source

JOB = "job.json"


def finetune(
    base: str | Path,
    tasks: Mapping[str, Task],
    out: Path,
    recipe: FinetuneRecipe,
    *,
    tuning: Tuning = "full",
    device: Literal["cpu", "auto"] = "cpu",
    checkpoint_every: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on one task, or on several together, and write it as a folder.

    Only the family's tower is trained (CLIP: the vision tower); heads, projections and everything else keep the base's
    bits. A single task whose head comes with its expert, and is not there yet, gets a new head, which is trained with
    the tower and written beside it. Several tasks are trained by the sum of their losses, one batch of each a step
    (traditional multi-task learning, as in arXiv:2406.03280), with the heads that they have.

    Args:
        base: a folder, a file or a hub id.
        tasks: by name; all of the base's family.
        out: the expert's folder; where it holds the finished model of the same call, nothing is done. An unfinished
            training is kept beside it, in `<out>.training`, and the same call goes on with it.
        recipe: rates, steps, batch, seed.
        tuning: "full" trains all of the tower; "lora", "l_lora" and "ia3" train an adapter on it, see
            `finetune.adapters.adapt`, and write that alone, in PEFT's format.
        device: "cpu", or "auto" for the first accelerator.
        checkpoint_every: steps between checkpoints; 0 is never.
        progress: told after each step.

    Returns:
        The record that is written as `fusionbench.json`: tasks, recipe, base, scores on validation and test.

    Raises:
        OutputError: where `out` is there and holds anything else.
        ConfigError: where no task is given, `<out>.training` belongs to another recipe, or the adapter that the recipe
            asks for does not fit the tuning or the model.
        MissingHead: where one of several tasks has no head.
        Interrupted: on Ctrl-C; the last checkpoint is kept.
    """
    if tuning not in get_args(Tuning):
        raise ConfigError(f"There is no tuning {tuning!r}. Choose {', '.join(get_args(Tuning))}.")
    if not tasks:
        raise ConfigError("There is no task to fine-tune on. Name at least one.")
    recipe = settled(recipe, tuning)
    source = open_source(base)
    family = next(iter(tasks.values())).family
    record = {
        "schema": 1,
        "base": source.fingerprint(),
        "family": family.name,
        "tuning": tuning,
        "tasks": {name: task.version for name, task in tasks.items()},
        "recipe": recipe.model_dump(mode="json"),
    }
    if out.exists():
        return _finished(out, record)
    module = load_module(family, source).float()
    adapted = adapt(module, family, source, tuning, recipe.adapter, seed=recipe.seed) if recipe.adapter else None
    if adapted is None:
        _free_the_tower(module, family, source)
    work = out.with_name(out.name + ".training")
    with written_to(work):
        _claim(work, record)
    loop = Loop(work, device=device, precision=recipe.precision, checkpoint_every=checkpoint_every, progress=progress)
    tasks, head = with_heads(tasks, recipe.seed, loop.place)
    _train(module.to(loop.place), tasks, recipe, loop, out.name, head)
    record["scores"] = {
        name: {split: score(module, task, split) for split in ("validation", "test")} for name, task in tasks.items()
    }
    if adapted is None:
        write_expert(out, module, source, family, record, work / out.name, head)
    else:
        write_adapter(out, adapted, str(base), family, record, work / out.name, head)
    shutil.rmtree(work)
    return record


def _free_the_tower(module: nn.Module, family: Family, source: Source) -> None:
    """Let the family's tower, and nothing else, ask for gradients."""
    own = family.names(source.specs)
    tower = {name for name in own.values() if name.startswith(family.tower)}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in tower)


def _train(
    module: nn.Module,
    tasks: Mapping[str, Task],
    recipe: FinetuneRecipe,
    loop: Loop,
    name: str,
    head: TrainedHead | None = None,
) -> None:
    """Train in place what asks for gradients, and a new head with it; both are left in eval mode."""
    trained = nn.ModuleDict({"tower": module, **({"head": head.module} if head else {})})
    predictors = {name: task.bind(module) for name, task in tasks.items()}

    def loss(batches: Mapping[str, Batch]) -> Tensor:
        return torch.stack([task.loss(predictors[name], batches[name]) for name, task in tasks.items()]).sum()

    def validate() -> dict[str, float]:
        trained.eval()
        scores = {name: score(module, task, "validation") for name, task in tasks.items()}
        _to_train_mode(trained, several=len(tasks) > 1)
        first = [next(iter(score.values())) for score in scores.values()]
        return {"validation": sum(first) / len(first)}

    optimizer = torch.optim.AdamW(
        [parameter for parameter in trained.parameters() if parameter.requires_grad],
        recipe.learning_rate,
        recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    _to_train_mode(trained, several=len(tasks) > 1)
    loop.run(
        name, recipe.course(), step_of(loss), _batches(tasks, recipe), tensors_of(trained), optimizer, validate=validate
    )
    trained.eval()


def _to_train_mode(trained: nn.Module, *, several: bool) -> None:
    """Put a module into train mode; of several tasks, BatchNorm layers keep the base's statistics.

    A batch of one task would be normalised by that task's statistics, while evaluation has one mean for all.
    """
    trained.train()
    for layer in trained.modules() if several else ():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            layer.eval()


def _batches(tasks: Mapping[str, Task], recipe: FinetuneRecipe) -> Callable[[int], Iterator[dict[str, Batch]]]:
    """Return endless batches of all tasks, each task in an order of its own."""

    def batches(start: int) -> Iterator[dict[str, Batch]]:
        drawn = {
            name: task.batches("train", size=recipe.batch, seed=recipe.seed, start=start * recipe.batch)
            for name, task in tasks.items()
        }
        while True:
            yield {name: next(of_task) for name, of_task in drawn.items()}

    return batches


class _Trained:
    """A module in training as what `evaluate` asks."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.place = next(module.parameters()).device

    def for_task(self, task: Task) -> Predictor:
        predict = task.bind(self.module)

        def moved(batch: Batch) -> Output:
            return predict(
                {key: item.to(self.place) if isinstance(item, Tensor) else item for key, item in batch.items()}
            )

        return moved


def score(module: nn.Module, task: Task, split: Split) -> dict[str, float]:
    """Return a module's metrics on a split of a task, by name."""
    return {name: score.value for name, score in evaluate(_Trained(module), task, split).scores.items()}


def _finished(out: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a folder that an equal call has made.

    Raises:
        OutputError: where it is another's.
    """
    place = out / RECORD
    record: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {}
    if any(record.get(key) != value for key, value in asked.items()):
        raise OutputError(f"{out} exists; nothing is written over. Choose another folder or remove it.")
    return record


def _claim(work: Path, record: Mapping[str, Any]) -> None:
    """Note what the training in a folder is, or see that it is the same.

    Raises:
        ConfigError: where it is another.
    """
    job = work / JOB
    if not job.is_file():
        work.mkdir(parents=True, exist_ok=True)
        partial = work / (JOB + ".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(partial, job)
        return
    before = json.loads(job.read_text())
    changed = [key for key in record if record[key] != before.get(key)]
    if changed:
        raise ConfigError(
            f"{work} holds an unfinished training with another {', '.join(changed)}. Give the same to go on, or remove "
            "that folder to start again."
        )
