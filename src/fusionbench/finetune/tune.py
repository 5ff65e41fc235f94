"""Fine-tuning: the fused part of a model on one task, or on several at once; heads that are there stay as they are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, HasTokens, batch_norms
from fusionbench.finetune.adapters import settled
from fusionbench.finetune.balance import Routers, mean_balance
from fusionbench.finetune.claiming import claim, finished, release
from fusionbench.finetune.distillation import Teacher
from fusionbench.finetune.dividing import divided_loss, shared_statistics
from fusionbench.finetune.heads import TrainedHead, with_heads
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.finetune.start import Checkpoint, Start, Trained, keep_only
from fusionbench.tasks import evaluate
from fusionbench.tasks.base import Split, Task
from fusionbench.training import ALONE, Loop, Processes, Progress, Steps, Tracking, step_of, tensors_of
from fusionbench.weights.partial import written_to
from fusionbench.weights.sources import open_source


def finetune(
    base: str | Path,
    tasks: Mapping[str, Task],
    out: Path,
    recipe: FinetuneRecipe,
    *,
    tuning: Tuning = "full",
    device: str = "cpu",
    checkpoint_every: int = 0,
    progress: Progress | None = None,
    start: Start | None = None,
    teacher: str | Path | None = None,
    tracking: Tracking | None = None,
    processes: Processes = ALONE,
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
        device: "cpu", "auto" for the first accelerator, "cuda:1" …
        checkpoint_every: steps between checkpoints; 0 is never.
        progress: told after each step.
        start: the opened model of `base` where that is no plain checkpoint.
        teacher: a plain model whose logits are the target, in the labels' place.
        tracking: who is sent the curve besides.
        processes: that divide each batch; the main one writes.

    Returns:
        The record that is written as `fusionbench.json`: tasks, recipe, base, scores on validation and test.

    Raises:
        OutputError: where `out` is there and holds anything else.
        ConfigError: where no task is given, `<out>.training` belongs to another recipe, or the adapter that the recipe
            asks for does not fit the tuning or the model, or its tasks have no common best.
        MissingHead: where one of several tasks has no head.
        Interrupted: on Ctrl-C; the last checkpoint is kept.
    """
    recipe = _checked(tasks, recipe, tuning)
    family = next(iter(tasks.values())).family
    start = start or Checkpoint(base, open_source(base), family, tuning, recipe)
    taught = None if teacher is None else Teacher(teacher, family)
    record = _record(start, tuning, tasks, taught, recipe)
    work = out.with_name(out.name + ".training")
    if processes.from_main(out.exists):
        return processes.from_main(lambda: finished(out, work, record))
    keep_only(start.module, recipe.only)
    if processes.is_main:
        with written_to(work):
            claim(work, record)
    loop = Loop(
        work,
        device=device,
        precision=recipe.precision,
        checkpoint_every=checkpoint_every,
        progress=progress,
        tracking=tracking,
        processes=processes,
    )
    tasks, head = with_heads(tasks, recipe.seed, loop.place)
    start.module.to(loop.place)
    train(start, tasks, recipe, loop, out.name, head, taught)
    record["scores"] = {name: _both_scores(start, task, processes) for name, task in tasks.items()}
    if processes.is_main:
        start.write(out, record, work / out.name, head)
        release(work)
    processes.wait()
    return record


def _checked(tasks: Mapping[str, Task], recipe: FinetuneRecipe, tuning: Tuning) -> FinetuneRecipe:
    """Return the recipe as the tuning settles it; what cannot be trained is refused before anything is read."""
    if tuning not in get_args(Tuning):
        raise ConfigError(f"There is no tuning {tuning!r}. Choose {', '.join(get_args(Tuning))}.")
    if not tasks:
        raise ConfigError("There is no task to fine-tune on. Name at least one.")
    recipe = settled(recipe, tuning)
    _course(tasks, recipe)
    return recipe


def _record(
    start: Start, tuning: Tuning, tasks: Mapping[str, Task], teacher: Teacher | None, recipe: FinetuneRecipe
) -> dict[str, Any]:
    """Return what tells a training from others."""
    return {
        "schema": 1,
        "base": start.source.fingerprint(),
        "family": next(iter(tasks.values())).family.name,
        "tuning": tuning,
        "tasks": {name: task.version for name, task in tasks.items()},
        "teacher": None if teacher is None else teacher.source.fingerprint(),
        "recipe": recipe.model_dump(mode="json"),
    }


def train(
    start: Start,
    tasks: Mapping[str, Task],
    recipe: FinetuneRecipe,
    loop: Loop,
    name: str,
    head: TrainedHead | None = None,
    teacher: Teacher | None = None,
) -> None:
    """Train in place what asks for gradients, and a new head with it; both are left in eval mode.

    Args:
        start: the model.
        tasks: by name; each with a head.
        recipe: rates, steps, batch, seed.
        loop: where it runs and what it keeps.
        name: of the training.
        head: a new head, of the one task.
        teacher: whose logits are the target; None takes the tasks' losses.
    """
    trained = nn.ModuleDict({"tower": start.module, **({"head": head.module} if head else {})})
    loss = _loss_of(start, tasks, recipe.balance, teacher, loop.processes)

    def validate() -> dict[str, float]:
        trained.eval()
        scores = {name: _score(start, task, "validation", loop.processes) for name, task in tasks.items()}
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
    batches, learned = _batches(tasks, recipe), tensors_of(trained)
    with shared_statistics(trained, loop.processes, recipe.batch):
        loop.run(name, _course(tasks, recipe), step_of(loss), batches, learned, optimizer, validate=validate)
    trained.eval()


def _loss_of(
    start: Start, tasks: Mapping[str, Task], balance: float, teacher: Teacher | None, processes: Processes
) -> Callable[[Mapping[str, Batch]], Tensor]:
    """Return the sum of the tasks' losses of a batch each, and of their routers' balance losses where there are any.

    Of several processes each takes its part of every batch, weighed so that the sum over them is the loss of one.

    Raises:
        ConfigError: where routers are to be balanced, and there are none, or several processes.
    """
    predictors = {name: start.for_task(task) for name, task in tasks.items()}

    def loss_of(name: str, batch: Batch) -> Tensor:
        if teacher is not None:
            return teacher.loss(tasks[name], predictors[name], batch)
        return tasks[name].loss(predictors[name], batch)

    if balance and processes.count > 1:
        raise ConfigError(
            f"recipe.balance looks at a whole batch, which {processes.count} processes would divide. Leave it out, or "
            "start one process."
        )
    if processes.count > 1:
        place = next(start.module.parameters()).device
        return divided_loss(loss_of, tuple(tasks), processes, place, distilled=teacher is not None)
    if not balance:
        return lambda batches: torch.stack([loss_of(name, batches[name]) for name in tasks]).sum()
    family = next(iter(tasks.values())).family
    routers = Routers(start.module, family)

    def loss(batches: Mapping[str, Batch]) -> Tensor:
        losses = []
        for name in tasks:
            mask = family.token_mask(batches[name]) if isinstance(family, HasTokens) else None
            with routers.watched() as seen:
                losses.append(loss_of(name, batches[name]))
            losses.append(balance * mean_balance(seen, mask))
        return torch.stack(losses).sum()

    return loss


def _to_train_mode(trained: nn.Module, *, several: bool) -> None:
    """Put a module into train mode; of several tasks, BatchNorm layers keep the base's statistics.

    A batch of one task would be normalised by that task's statistics, while evaluation has one mean for all.
    """
    trained.train()
    for layer in batch_norms(trained) if several else ():
        layer.eval()


def _course(tasks: Mapping[str, Task], recipe: FinetuneRecipe) -> Steps:
    """Return the steps of a training, whose best validation is what the tasks' first metrics call better.

    Raises:
        ConfigError: where these disagree and the best is to be kept.
    """
    if recipe.keep != "best":
        return recipe.course()
    first = {name: task.metrics[0] for name, task in tasks.items()}
    if len(ways := {metric.better for metric in first.values()}) > 1:
        found = ", ".join(f"{metric.name} of {name} ({metric.better})" for name, metric in first.items())
        raise ConfigError(
            f"recipe.keep=best: the mean of first metrics of which some are better higher, some lower ({found}), has "
            "no best. Choose keep=last, or tasks of one kind."
        )
    return replace(recipe.course(), better=ways.pop())


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


def score(module: nn.Module, task: Task, split: Split) -> dict[str, float]:
    """Return a module's metrics on a split of a task, by name."""
    return _score(Trained(module), task, split)


def _score(model: Trained | Start, task: Task, split: Split, processes: Processes = ALONE) -> dict[str, float]:
    found = evaluate(model, task, split, processes=processes)
    return {name: score.value for name, score in found.scores.items()}


def _both_scores(model: Start, task: Task, processes: Processes) -> dict[str, dict[str, float]]:
    splits: tuple[Split, ...] = ("validation", "test")
    return {split: _score(model, task, split, processes) for split in splits}
