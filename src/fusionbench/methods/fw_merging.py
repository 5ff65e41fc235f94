"""FW-Merging: walk within the hull of the experts, each step towards the one that the loss's gradient points at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._adaptation import (
    Adaptation,
    AdaptSplit,
    read_coefficients,
    report_collapse,
    save_coefficients,
)
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import MergedModule, Storage
from fusionbench.methods._frank_wolfe import Granularity, Looks, Loss, Oracle, Walk
from fusionbench.methods._method import merge_method
from fusionbench.methods._statistics import CollectSplit
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, Positive
from fusionbench.tasks import Task


@merge_method(
    "fw_merging",
    paper="arXiv:2503.12649",
    kind="whole",
    category="merge",
    version=1,
    needs=("labelled", "gradients"),
    compat={"paper": {}, "fusion_bench": {"oracle": "cosine"}},
)
def fw_merging(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    variant: Literal["hard", "soft"] = "hard",
    granularity: Granularity = "task",
    oracle: Oracle = "product",
    loss: Loss = "labels",
    split: CollectSplit = "train",
    start: float = 0.3,
    iterations: Count = 10,
    step: Positive = 1.0,
    examples: Count = 100,
    batch: Count = 16,
    soft_steps: Count = 500,
    learning_rate: Positive = 1e-2,
    adapt_split: AdaptSplit = "test",
    deltas: Storage = "memory",
    coefficients: str | None = None,
    checkpoint_every: Count = 100,
) -> Fused:
    """Return θ₀ + Σ λᵢ·τᵢ with λ found by Frank–Wolfe steps on the tasks' loss within the hull (arXiv:2503.12649).

    Each iteration takes the gradient g of the loss and the expert with the least ⟨g, θᵢ⟩, and moves there by
    γ = 2/(t + 2): θ ← θ + γ·(s − θ). Every point on the way is θ₀ + Σ λᵢ·τᵢ, so only the λ are kept.

    Args:
        pool: base and experts.
        tasks: those that experts were trained on.
        context: of the run.
        variant: hard moves to one expert; soft picks one for each task's own gradient, and learns how far to move to
            each of them by the entropy of predictions, within the simplex.
        granularity: pick one expert for the whole model, or one for each tensor.
        oracle: what is least: ⟨g, τᵢ⟩, from which ⟨g, θᵢ⟩ differs by a constant, or the sum over tensors of the cosine
            of g and θᵢ (fusion_bench).
        loss: the cross-entropy of labelled examples, or the entropy of predictions.
        split: where the examples of the gradient come from; labels of the test split are never read.
        start: every λ at first; fusion_bench starts from task arithmetic with 0.3; 0 is the base.
        iterations: of the walk; fusion_bench's is 10.
        step: factor on γ; fusion_bench's is 0.1, and 0.3 on what is added.
        examples: of each task for a gradient, others in each iteration; fusion_bench's is 100.
        batch: examples of each task that are run together.
        soft_steps: of Adam in each iteration of the soft variant; fusion_bench's is 500.
        learning_rate: of these; of weights within a simplex, so no peer's is comparable.
        adapt_split: where the unlabelled inputs of these steps come from.
        deltas: where the task vectors lie: in memory, in memory as bfloat16, or in a mapped file.
        coefficients: a coefficients folder or file of an earlier run: no walk, only the merge.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.

    Raises:
        ConfigError: where labels of the test split are asked for, or saved coefficients belong to other models.
        NotAdaptable: where a task has no objective without labels and one is needed.
        MissingData: where a task lacks a split, before anything long.

    Others: fusion_bench compares cosines of whole weights, which hardly differ between experts, adds s − θ with two
    more factors, and counts the model it started from among the experts.
    """
    if loss == "labels" and split == "test":
        raise ConfigError(
            "method.split=test: labels of the test split decide nothing. Use split=train or loss=entropy."
        )
    merged = MergedModule(pool, context.family, storage=deltas, device=context.device)
    adaptation = Adaptation(merged, tasks, context, adapt_split, batch, checkpoint_every=checkpoint_every)
    shape = (len(merged.experts), len(merged.names))
    if coefficients is not None:
        learned = read_coefficients(Path(coefficients), merged, shape)
    else:
        learned = torch.full(shape, start, device=context.device)
        walk = Walk(adaptation, learned, Looks(loss, split, examples, batch), oracle, granularity, step)
        if variant == "hard":
            walk.hard(iterations)
        else:
            walk.soft(iterations, soft_steps, learning_rate)
        _report(context, tasks, variant, walk.looks, iterations, adapt_split, soft_steps * batch)
    merged.put(learned, exact=deltas == "bfloat16")
    save_coefficients(merged, context, learned)
    report_collapse(adaptation)
    return FusedWeights(merged.weights(), context.family, pool.reference)


def _report(
    context: Context, tasks: Mapping[str, Task], variant: str, looks: Looks, iterations: int, adapt_split: str,
    soft: int,
) -> None:  # fmt: skip
    splits: list[str] = [looks.split]
    count = iterations * looks.examples
    if variant == "soft":
        splits.append(adapt_split)
        count += iterations * soft
    context.used("adapted", split=", ".join(dict.fromkeys(splits)), tasks=tuple(tasks), count=count)
    if looks.loss == "labels":
        context.note(f"the gradient's loss is that of labelled examples of the {looks.split} split")
