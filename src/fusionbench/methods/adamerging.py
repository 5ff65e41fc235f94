"""AdaMerging: learn the merging coefficients on unlabelled inputs, by making the merged model sure of itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError, NotAdaptable
from fusionbench.families import Batch
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import MergedModule, Storage
from fusionbench.methods._method import merge_method
from fusionbench.methods._survivors import keep_survivors
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, Density, Positive
from fusionbench.tasks import Task
from fusionbench.training import State, Steps
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

AdaptSplit = Literal["test", "validation"]
ARTEFACT = "coefficients"
COLLAPSED = 0.95
"""Share of one class among a task's predictions from which a collapse is reported."""


@merge_method(
    "adamerging",
    paper="arXiv:2310.02575",
    kind="whole",
    category="merge",
    version=1,
    needs=("unlabelled", "gradients"),
    compat={"official": {}, "fusion_bench": {"clamp": False}},
)
def adamerging(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    granularity: Literal["task", "layer"] = "layer",
    plus_plus: bool = False,
    density: Density = 0.2,
    init: float = 0.3,
    learning_rate: Positive = 1e-3,
    steps: Count = 500,
    batch: Count = 16,
    batches: Count = 2,
    clamp: bool = True,
    adapt_split: AdaptSplit = "test",
    deltas: Storage = "memory",
    coefficients: str | None = None,
    checkpoint_every: Count = 100,
    evaluate_every: int = 0,
) -> Fused:
    """Return θ₀ + Σ λᵢˡ·τᵢˡ with the λ that minimise the entropy of predictions (arXiv:2310.02575, eq. 4 and 6).

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        granularity: one λ an expert, or one an expert and tensor (what the paper calls a layer).
        plus_plus: adapt on task vectors that TIES has trimmed and freed of minority signs (AdaMerging++).
        density: share kept by that trimming.
        init: every λ at the start; the paper's is 0.3.
        learning_rate: of Adam (0.9, 0.999); the paper's is 0.001.
        steps: the paper's is 500; the benchmark's tables took 1000 with one batch.
        batch: examples of each task in a batch; the paper's is 16.
        batches: batches of each task a step; the authors' code takes 2.
        clamp: use λ clamped to [0, 1], with no gradient outside; fusion_bench does not clamp.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        deltas: where the task vectors lie: in memory, in memory as bfloat16, or in a mapped file.
        coefficients: a coefficients.safetensors of an earlier run: no adaptation, only the merge.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve; 0 is never.

    Raises:
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where saved coefficients belong to other models.

    Others: the entropy is taken from log-softmax; fusion_bench adds 1e-8 inside the logarithm, adapts in train mode
    and, for GPT-2 and T5, minimises the entropy of the batch's mean prediction, which rewards predicting one class.
    """
    merged = MergedModule(pool, context.family, storage=deltas, device=context.device)
    if plus_plus:
        keep_survivors(merged, density)
    shape = (len(merged.experts), len(merged.names) if granularity == "layer" else 1)
    if coefficients is not None:
        learned = read_coefficients(Path(coefficients), merged, shape)
    else:
        learned = torch.full(shape, init, device=context.device)
        settings = Steps(steps, seed=context.seed, validate_every=evaluate_every)
        _adapt(
            merged,
            tasks,
            context,
            learned,
            settings,
            learning_rate,
            batch,
            batches,
            clamp,
            adapt_split,
            checkpoint_every,
        )
    used = learned.clamp(0, 1) if clamp else learned
    merged.put(used)
    context.save(
        ARTEFACT, {ARTEFACT: used.cpu()}, {"experts": "\n".join(merged.experts), "names": "\n".join(merged.names)}
    )
    report_collapse(merged, tasks, context, adapt_split)
    return FusedWeights(merged.weights(), context.family, pool.reference)


def _adapt(
    merged: MergedModule, tasks: Mapping[str, Task], context: Context, learned: Tensor, settings: Steps, rate: float,
    batch: int, batches: int, clamp: bool, split: AdaptSplit, checkpoint_every: int,
) -> None:  # fmt: skip
    """Learn the coefficients in place."""
    predictors = {name: task.bind(merged.module) for name, task in tasks.items()}
    check_adaptable(tasks, predictors, split)
    learned.requires_grad_(True)

    def step(state: State, drawn: Mapping[str, Batch]) -> dict[str, Tensor | float]:
        used = learned.detach().clamp(0, 1) if clamp else learned.detach()
        merged.put(used)
        merged.clear()
        total = torch.zeros((), device=context.device)
        for name, one in drawn.items():
            loss = tasks[name].objective(predictors[name], one)
            # Several batches are run as one: the sum of their means is so many times the mean of all.
            (batches * loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        gradient = merged.gradient(learned.shape[1])
        if clamp:
            gradient = gradient * ((learned.detach() >= 0) & (learned.detach() <= 1))
        learned.grad = gradient
        return {"loss": total, "min": used.min(), "mean": used.mean(), "max": used.max()}

    def validate() -> dict[str, float]:
        merged.put(learned.detach().clamp(0, 1) if clamp else learned.detach())
        scores = context.evaluate(FusedWeights(merged.weights(), context.family, merged.reference))
        return {"validation": sum(scores.values()) / len(scores), **scores}

    loop = replace(context.loop, checkpoint_every=checkpoint_every)
    optimizer = torch.optim.Adam([learned], lr=rate)
    drawn = unlabelled(tasks, split, batch * batches, context.seed)
    validating = validate if settings.validate_every > 0 else None
    loop.run("adamerging", settings, step, drawn, {ARTEFACT: learned}, optimizer, validate=validating)
    learned.requires_grad_(False)
    context.used("adapted", split=split, tasks=tuple(tasks), count=settings.count * batch * batches)


def check_adaptable(tasks: Mapping[str, Task], predictors: Mapping[str, Callable[..., Any]], split: AdaptSplit) -> None:
    """Ask every task for its objective once, so that what cannot be adapted is refused before anything long.

    Raises:
        NotAdaptable: with the task's reason.
        MissingData: where a task lacks the split.
    """
    if not tasks:
        raise NotAdaptable(
            "There are no tasks to adapt on. Adaptation needs a suite, or experts that name their tasks."
        )
    for name, task in tasks.items():
        first = next(task.batches(split, size=2, limit=2, labels=False))
        with torch.no_grad():
            task.objective(predictors[name], first)


def unlabelled(
    tasks: Mapping[str, Task], split: AdaptSplit, size: int, seed: int
) -> Callable[[int], Iterator[dict[str, Batch]]]:
    """Return endless steps' worth of batches without labels, one of each task, each task in an order of its own."""

    def batches(start: int) -> Iterator[dict[str, Batch]]:
        drawn = {
            name: task.batches(split, size=size, seed=seed, start=start * size, labels=False)
            for name, task in tasks.items()
        }
        while True:
            yield {name: next(of_task) for name, of_task in drawn.items()}

    return batches


def read_coefficients(path: Path, merged: MergedModule, shape: tuple[int, int]) -> Tensor:
    """Return coefficients that an earlier run saved.

    Raises:
        ConfigError: where they are missing, or belong to other experts or tensors.
    """
    source = open_source(path)
    metadata = getattr(source, "metadata", {})
    found = LazyWeights(source)
    if ARTEFACT not in found or tuple(found[ARTEFACT].shape) != shape:
        raise ConfigError(f"{path} holds no {ARTEFACT} of {shape[0]} experts × {shape[1]} groups.")
    for key, expected in (("experts", merged.experts), ("names", merged.names)):
        if tuple(metadata.get(key, "").split("\n")) != expected:
            raise ConfigError(f"{path} was made for other {key}. Leave method.coefficients out to adapt anew.")
    return found[ARTEFACT].to(merged.device)


@torch.no_grad()
def report_collapse(merged: MergedModule, tasks: Mapping[str, Task], context: Context, split: AdaptSplit) -> None:
    """Note every task for which the model predicts almost only one class: what entropy rewards, and nobody wants."""
    for name, task in tasks.items():
        outputs = task.bind(merged.module)(next(task.batches(split, size=256, limit=256, labels=False)))
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1:
            share = float(outputs.argmax(dim=1).bincount().max()) / len(outputs)
            if share > COLLAPSED:
                context.note(f"{name}: {share:.0%} of the predictions are one class; the entropy has collapsed")
