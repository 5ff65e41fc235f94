"""AdaMerging: learn the merging coefficients on unlabelled inputs, by making the merged model sure of itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from fusionbench.merge import Pool
from fusionbench.methods._adaptation import (
    Adaptation,
    AdaptSplit,
    clamped,
    learn_coefficients,
    read_coefficients,
    report_collapse,
    save_coefficients,
)
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import MergedModule, Storage
from fusionbench.methods._method import merge_method
from fusionbench.methods._survivors import keep_survivors
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, Density, Positive, StepCount
from fusionbench.tasks import Task


@merge_method(
    "adamerging",
    paper="arXiv:2310.02575",
    kind="whole",
    category="merge",
    version=2,
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
    steps: StepCount = 500,
    batch: Count = 16,
    batches: Count = 2,
    clamp: bool = True,
    adapt_split: AdaptSplit = "test",
    together: Count | None = None,
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
        steps: the paper's is 500; the benchmark's tables took 1000 with one batch. 0 is task arithmetic with λ = init.
        batch: examples of each task in a batch; the paper's is 16.
        batches: batches of each task a step; the authors' code takes 2.
        clamp: use λ clamped to [0, 1], with no gradient outside; fusion_bench does not clamp.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        together: examples of a task that are held in memory at once; null is all of its batches. Changes nothing but
            rounding and memory.
        deltas: where the task vectors lie: in memory, in memory as bfloat16, or in a mapped file.
        coefficients: a coefficients folder or file of an earlier run: no adaptation, only the merge.
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
    # Several batches are run as one: the sum of their means is so many times the mean of all.
    adaptation = Adaptation(
        merged, tasks, context, adapt_split, batch * batches, batches, checkpoint_every, evaluate_every, together
    )
    if coefficients is not None:
        learned = read_coefficients(Path(coefficients), merged, shape)
    else:
        learned = torch.full(shape, init, device=context.device)
        learn_coefficients(adaptation, learned, steps=steps, learning_rate=learning_rate, clamp=clamp)
        if steps:
            context.used("adapted", split=adapt_split, tasks=tuple(tasks), count=steps * batch * batches)
    used = clamped(learned, clamp)
    merged.put(used, exact=deltas == "bfloat16" and not plus_plus)
    save_coefficients(merged, context, used)
    report_collapse(adaptation)
    return FusedWeights(merged.weights(), context.family, pool.reference)
