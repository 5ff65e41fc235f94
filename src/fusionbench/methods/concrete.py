"""Concrete subspace learning: a mask that all task vectors share, learned so that the merged model becomes sure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fusionbench.merge import Pool
from fusionbench.methods._adaptation import (
    Adaptation,
    AdaptSplit,
    clamped,
    learn_coefficients,
    read_coefficients,
    report_collapse,
    save_coefficients,
    spread,
)
from fusionbench.methods._concrete_mask import ConcreteMask, Rescale, Settled
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import Mask, MergedModule, Storage
from fusionbench.methods._drawing import Drawn
from fusionbench.methods._inner_step import Inner, InnerStep, MergePoint
from fusionbench.methods._method import merge_method
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, Positive, StepCount
from fusionbench.tasks import Task
from fusionbench.training import State


@merge_method(
    "concrete_task_arithmetic",
    paper="arXiv:2312.06173",
    kind="whole",
    category="merge",
    version=1,
    needs=("unlabelled", "gradients"),
    compat={"paper": {}, "official": {"mask": "sample"}, "fusion_bench": {"mask": "sample"}},
)
def concrete_task_arithmetic(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    scale: float = 0.3,
    learning_rate: Positive = 1e-3,
    steps: StepCount = 2000,
    batch: Count = 16,
    temperature: Positive = 0.5,
    rescale: Rescale = "tensor",
    mask: Settled = "mean",
    adapt_split: AdaptSplit = "test",
    together: Count | None = None,
    logits: str | None = None,
    checkpoint_every: Count = 100,
    evaluate_every: int = 0,
) -> Fused:
    """Return θ₀ + λ·m/mean(m) ⊙ Σ τᵢ with a mask m learned on unlabelled inputs (arXiv:2312.06173, Algorithms 1 and 2).

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        scale: λ; the paper's is 0.3.
        learning_rate: of Adam on the mask's logits, β; the paper's is 0.001 (CLIP), 0.0001 (Flan-T5).
        steps: the paper's is 2000; it stopped Flan-T5-large near 1200. 0 leaves the mask as it starts, even odds.
        batch: examples of each task a step; the paper's is 16 (CLIP), the authors' code takes 8 for Flan-T5.
        temperature: T of the relaxed mask; the paper does not print it, the authors' code has 0.5.
        rescale: divide masked entries by the mean of their tensor's mask, as both codes do, or of all masks together.
        mask: what the model is merged with: the expected mask σ(x), a relaxed draw as in training (both codes), or
            where x > 0, as the paper says.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        together: examples of a task that are held in memory at once; null is all of its batches. Changes nothing but
            rounding and memory.
        logits: a mask folder or file of an earlier run: nothing is learned, only merged.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve; 0 is never.

    Raises:
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where a saved mask belongs to other models.

    Others: both codes draw the mask that they evaluate, so that their numbers vary with the draw (`mask=sample`).
    """
    merged = MergedModule(pool, context.family, device=context.device, summed=True)
    adaptation = Adaptation(
        merged, tasks, context, adapt_split, batch, checkpoint_every=checkpoint_every, evaluate_every=evaluate_every,
        together=together,
    )  # fmt: skip
    factor = torch.full((1, 1), scale, device=context.device)
    shared = _mask_of(merged, context, temperature, rescale)
    settled = _settle_mask(adaptation, shared, mask, factor, logits, steps=steps, learning_rate=learning_rate)
    if steps and logits is None:
        context.used("adapted", split=adapt_split, tasks=tuple(tasks), count=steps * batch)
    merged.put(factor, settled)
    report_collapse(adaptation)
    return FusedWeights(merged.weights(), context.family, pool.reference)


@merge_method(
    "concrete_adamerging",
    paper="arXiv:2312.06173",
    kind="whole",
    category="merge",
    version=1,
    needs=("unlabelled", "gradients"),
    compat={
        "paper": {},
        "official": {"inner": "adam", "merge_point": "stale", "mask": "sample"},
        "fusion_bench": {"inner": "adam", "merge_point": "stale", "mask": "sample", "clamp": False},
    },
)
def concrete_adamerging(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    granularity: Literal["task", "layer"] = "layer",
    init: float = 0.3,
    inner: Inner = "sgd",
    inner_rate: Positive = 1.0,
    merge_point: MergePoint = "fresh",
    learning_rate: Positive = 1e-3,
    mask_steps: StepCount = 2000,
    steps: StepCount = 1000,
    batch: Count = 16,
    clamp: bool = True,
    temperature: Positive = 0.5,
    rescale: Rescale = "tensor",
    mask: Settled = "mean",
    adapt_split: AdaptSplit = "test",
    together: Count | None = None,
    deltas: Storage = "memory",
    logits: str | None = None,
    coefficients: str | None = None,
    checkpoint_every: Count = 100,
    evaluate_every: int = 0,
) -> Fused:
    """Return AdaMerging in the subspace of a learned mask that all task vectors share (arXiv:2312.06173, Algorithm 3).

    First the mask: each step, λ starts anew and takes one step on one batch, then the mask's logits take theirs on
    another at the λ found. Then the mask is frozen, and λ is learned as AdaMerging does.

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        granularity: one λ an expert, or one an expert and tensor (what the paper calls a layer).
        init: every λ at the start; the paper's is 0.3.
        inner: the step on λ while the mask is learned: plain descent, as Algorithm 1 has it, or Adam whose moments last
            from step to step (the paper's appendix and both codes).
        inner_rate: α, its rate; the paper's is 1 (CLIP), 0.1 (Flan-T5).
        merge_point: where that step takes its gradient: at the λ it starts from, or at the λ that the step before ended
            with (both codes).
        learning_rate: β, of Adam on the logits, and on λ once the mask is frozen; the paper's is 0.001 (CLIP), 0.0001.
        mask_steps: for the mask; the paper's is 2000.
        steps: for λ once the mask is frozen; the paper's is 1000. 0 leaves λ at init.
        batch: examples of each task in a batch; the paper's is 16 (CLIP), the authors' code takes 8 for Flan-T5.
        clamp: use λ clamped to [0, 1], with no gradient outside; fusion_bench does not clamp.
        temperature: T of the relaxed mask; the paper does not print it, the authors' code has 0.5.
        rescale: divide masked entries by the mean of their tensor's mask, as both codes do, or of all masks together.
        mask: what is frozen: the expected mask σ(x), a relaxed draw as in training (both codes), or where x > 0.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        together: examples of a task that are held in memory at once; null is all of its batches. Changes nothing but
            rounding and memory.
        deltas: where the task vectors lie: in memory, in memory as bfloat16, or in a mapped file.
        logits: a mask folder or file of an earlier run: no mask is learned.
        coefficients: a coefficients folder or file of an earlier run: no λ are learned.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve, in both phases; 0 is never.

    Raises:
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where a saved mask or saved coefficients belong to other models.

    Others: every number printed in the paper is of `compat=official`: Adam at rate 1 throws each λ to 0 or 1.
    """
    merged = MergedModule(pool, context.family, storage=deltas, device=context.device)
    adaptation = Adaptation(
        merged, tasks, context, adapt_split, batch, checkpoint_every=checkpoint_every, evaluate_every=evaluate_every,
        together=together,
    )  # fmt: skip
    shape = (len(merged.experts), len(merged.names) if granularity == "layer" else 1)
    start = torch.full(shape, init, device=context.device)
    learned = start.clone() if coefficients is None else read_coefficients(Path(coefficients), merged, shape)
    shared = _mask_of(merged, context, temperature, rescale)
    rule = InnerStep(start, inner, inner_rate, merge_point, clamp)
    frozen = _settle_mask(adaptation, shared, mask, start, logits, rule, steps=mask_steps, learning_rate=learning_rate)
    if coefficients is None:
        learn_coefficients(adaptation, learned, steps=steps, learning_rate=learning_rate, clamp=clamp, mask=frozen)
    looked = (0 if logits else 2 * mask_steps * batch) + (0 if coefficients else steps * batch)
    if looked:
        context.used("adapted", split=adapt_split, tasks=tuple(tasks), count=looked)
    used = clamped(learned, clamp)
    merged.put(used, frozen, exact=deltas == "bfloat16")
    save_coefficients(merged, context, used)
    report_collapse(adaptation)
    return FusedWeights(merged.weights(), context.family, pool.reference)


def _mask_of(merged: MergedModule, context: Context, temperature: float, rescale: Rescale) -> ConcreteMask:
    sizes = {name: merged.base[name].numel() for name in merged.names}
    return ConcreteMask(sizes, temperature=temperature, rescale=rescale, seed=context.seed, device=context.device)


def _settle_mask(
    adaptation: Adaptation, shared: ConcreteMask, kind: Settled, start: Tensor, logits: str | None,
    rule: InnerStep | None = None, *, steps: int, learning_rate: float,
) -> Mask:  # fmt: skip
    """Return the mask to merge with, of logits that are learned here or, where a path is given, were before.

    Raises:
        ConfigError: where the given logits belong to other models.
    """
    if logits is None:
        _learn_mask(adaptation, shared, kind, start, rule, steps=steps, learning_rate=learning_rate)
    else:
        shared.load(Path(logits), adaptation.merged)
    shared.save(adaptation.context, adaptation.merged)
    return shared.settled(kind, steps)


def _learn_mask(
    adaptation: Adaptation, shared: ConcreteMask, kind: Settled, start: Tensor, rule: InnerStep | None = None, *,
    steps: int, learning_rate: float,
) -> None:  # fmt: skip
    """Learn the logits in place (arXiv:2312.06173, Algorithm 1); without a rule the coefficients are not optimised.

    The gradient is first order: coefficients that the rule found count as constants.
    """
    merged, predictors = adaptation.merged, adaptation.predictors()
    columns = {name: column for column, name in enumerate(merged.names)}

    def slope(mask: Mask, coefficients: Tensor, drawn: Drawn) -> Tensor:
        merged.put(coefficients, mask)
        adaptation.descend(predictors, drawn)
        return adaptation.context.loop.processes.sum(merged.gradient(start.shape[1], mask))

    def product(name: str, coefficients: Tensor) -> Tensor | None:
        gradient = merged.take(name)
        if gradient is not None:
            for block, total in merged.totals(name, coefficients, columns[name]):
                gradient[block].mul_(total)
        return gradient

    def step(state: State, drawn: Any) -> dict[str, Tensor | float]:
        mask, coefficients = shared.draw(state.done), start
        if rule is not None:
            first, drawn = drawn
            coefficients = rule(state, lambda at: slope(mask, at, first))
        merged.put(coefficients, mask)
        loss = adaptation.descend(predictors, drawn)
        shared.backward(mask, lambda name: product(name, coefficients))
        return {
            "loss": loss,
            "kept": shared.kept({name: part.mean for name, part in mask.items()}),
            **spread(coefficients),
        }

    for logits in shared.logits.values():
        logits.requires_grad_(True)
    optimizer = torch.optim.Adam(list(shared.logits.values()), lr=learning_rate, fused=True)
    drawn = adaptation.batches if rule is None else adaptation.pairs
    adaptation.learn(
        "concrete", steps, step, drawn, shared.logits, optimizer, lambda: merged.put(start, shared.settled(kind, steps))
    )
    for logits in shared.logits.values():
        logits.requires_grad_(False)
