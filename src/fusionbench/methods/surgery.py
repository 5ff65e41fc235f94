"""Representation surgery: a small adapter a task takes from the merged model's features what the merge put in."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torch.nn.functional import normalize as unit_length

from fusionbench.errors import ConfigError, NotFinite
from fusionbench.kernels.streams import stream_key
from fusionbench.merge import Pool
from fusionbench.methods._adaptation import AdaptSplit
from fusionbench.methods._context import Context
from fusionbench.methods._drawing import placed
from fusionbench.methods._inner_model import fuse_inner, inner_method
from fusionbench.methods._method import merge_method
from fusionbench.methods._operated import ARTEFACT, OperatedModel, named, operate, with_features
from fusionbench.methods._statistics import SharedModule, own_task
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, Inner, Positive
from fusionbench.tasks import Task
from fusionbench.tasks.order import index_batches
from fusionbench.training import State, Steps
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

MERGED: Inner = {"name": "task_arithmetic"}
READ = 64
"""Examples that are run together while features are read."""


@merge_method(
    "surgery",
    paper="arXiv:2402.02705",
    kind="whole",
    category="merge",
    version=1,
    needs=("unlabelled", "gradients"),
    compat={"paper": {}, "official": {}, "fusion_bench": {"normalize": True}},
)
def surgery(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    inner: Inner = MERGED,
    rank: Count = 16,
    learning_rate: Positive = 1e-3,
    steps: Count = 1000,
    batch: Count = 16,
    normalize: bool = False,
    adapt_split: AdaptSplit = "test",
    adapters: str | None = None,
    checkpoint_every: Count = 100,
) -> Fused:
    """Return merged weights with an adapter a task, ẑ = z − U·ReLU(D·z), near the expert's features (arXiv:2402.02705).

    The merged model stays as it is; D and U of each task minimise the mean of |ẑ − z of the task's expert|. Where an
    example has a map of features, z is the vector at each place.

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        inner: the method that merges; any that gives one set of weights.
        rank: rows of D; the paper's is 16.
        learning_rate: of Adam; the paper's is 0.001.
        steps: on one batch of each task; the authors' code takes 500 rounds of two.
        batch: examples of each task a step; the paper's is 16.
        normalize: let adapters see and match features of length 1, as fusion_bench does.
        adapt_split: where unlabelled inputs come from: test, as the paper does, or validation, disjoint from it.
        adapters: an adapters folder or file of an earlier run: none are learned, only the inner method runs.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.

    Raises:
        NotAdaptable: where a task has no features before its head, before anything long.
        MissingData: where a task lacks the split, before anything long.
        ConfigError: where an expert's task is not known, the inner method gives no single set of weights, or saved
            adapters belong to other tasks.

    Others: fusion_bench operates on features of length 1 after the projection.
    """
    method = inner_method(inner, "surgery")
    own = {expert: own_task(pool, tasks, expert) for expert in pool.experts}
    repeated = {task.name for task in own.values() if sum(other is task for other in own.values()) > 1}
    if repeated:
        raise ConfigError(f"Several experts share the task {', '.join(sorted(repeated))}; surgery needs one each.")
    for task in own.values():
        with_features(task, lambda z: z)
        if adapters is None:
            task.size(adapt_split)
    used: dict[str, Any] = {}
    watched = replace(context, used=lambda how, **what: used.update({how: what}))
    backbone = fuse_inner(method, pool, tasks, watched, "surgery")
    if adapters is not None:
        learned = _read_adapters(Path(adapters), [task.name for task in own.values()], rank)
        for how, what in used.items():
            context.used(how, **what)
        return OperatedModel(backbone, learned, context.family, normalize=normalize, device=context.device)
    pairs = _features(pool, own, backbone, context, adapt_split, normalize)
    learned = {name: _initial(context, name, rank, merged.shape[-1]) for name, (merged, _) in pairs.items()}
    _learn(pairs, learned, context, steps, learning_rate, batch, checkpoint_every)
    context.save(ARTEFACT, {name: tensor.cpu() for name, tensor in named(learned).items()}, {"rank": str(rank)})
    _report(context, used, adapt_split, tuple(pairs), steps * batch)
    return OperatedModel(backbone, learned, context.family, normalize=normalize, device=context.device)


def _read_adapters(path: Path, tasks: Sequence[str], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return adapters that an earlier run saved.

    Raises:
        ConfigError: where a task has none, or one of another rank, with what differs.
    """
    found = LazyWeights(open_source(path))
    problems = [f"{name} has none" for name in tasks if f"{name}.down" not in found or f"{name}.up" not in found]
    ranks = {name: found[f"{name}.down"].shape[0] for name in tasks if f"{name}.down" in found}
    problems += [f"that of {name} has rank {held}, not {rank}" for name, held in ranks.items() if held != rank]
    if problems:
        raise ConfigError(
            f"method.adapters={path} does not fit these tasks: {'; '.join(problems)}. "
            "Leave method.adapters out to learn them."
        )
    return {name: (found[f"{name}.down"], found[f"{name}.up"]) for name in tasks}


@torch.no_grad()
def _features(
    pool: Pool, own: Mapping[str, Task], backbone: FusedWeights, context: Context, split: AdaptSplit, normalize: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by task name, the features of all of a split, `(examples, …, width)`: the merged model's, the expert's.

    Neither model changes while adapters are learned, so each reads the split once, and one expert is held at a time.

    Raises:
        NotFinite: where a model's features are no numbers, saying whose.
    """
    shared = SharedModule(pool, context.family, context.device)
    for parameter in shared.module.parameters():
        parameter.requires_grad_(False)
    found = {}
    for done, (expert, task) in enumerate(own.items()):
        if context.loop.progress is not None:
            context.loop.progress(f"features of {task.name}", done, len(own))
        shared.load(expert)
        read: list[list[Tensor]] = [[], []]
        for given in task.batches(split, size=READ, labels=False):
            one = placed(given, context.device)
            for kept, module in zip(read, (backbone.module, shared.module), strict=True):
                kept.append(task.family.features(module, one))
        merged, expert_own = (torch.cat(part).float() for part in read)
        for of, features in (("the merged model's", merged), (f"those of the expert {expert}", expert_own)):
            if not bool(torch.isfinite(features).all()):
                raise NotFinite(f"{task.name}: features hold NaN or Inf, {of}. Its weights are broken.")
        found[task.name] = (
            (unit_length(merged, dim=-1), unit_length(expert_own, dim=-1)) if normalize else (merged, expert_own)
        )
    return found


def _initial(context: Context, task: str, rank: int, width: int) -> tuple[Tensor, Tensor]:
    """Return D uniform within ±1/√width, which is Kaiming's rule with a = √5, and U of zeros."""
    generator = torch.Generator().manual_seed(stream_key(context.seed, "surgery", task))
    down = (torch.rand(rank, width, generator=generator) * 2 - 1) / math.sqrt(width)
    return down.to(context.device), torch.zeros(width, rank, device=context.device)


def _learn(
    pairs: Mapping[str, tuple[Tensor, Tensor]], adapters: Mapping[str, tuple[Tensor, Tensor]], context: Context,
    steps: int, learning_rate: float, batch: int, checkpoint_every: int,
) -> None:  # fmt: skip
    """Learn all adapters in place; they share nothing, so one step on the sum is a step on each."""
    trained = named(adapters)
    for tensor in trained.values():
        tensor.requires_grad_(True)

    def batches(start: int) -> Iterator[dict[str, Tensor]]:
        orders = {
            name: index_batches(name, len(merged), size=batch, seed=context.seed, start=start * batch)
            for name, (merged, _) in pairs.items()
        }
        while True:
            yield {name: torch.from_numpy(next(order)) for name, order in orders.items()}

    def step(_: State, drawn: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
        losses = []
        for name, rows in drawn.items():
            merged, expert = (features[rows] for features in pairs[name])
            losses.append(l1_loss(operate(merged, *adapters[name]), expert))
        total = torch.stack(losses).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return {"loss": total.detach()}

    loop = replace(context.loop, checkpoint_every=checkpoint_every)
    optimizer = torch.optim.Adam(list(trained.values()), lr=learning_rate)
    loop.run("surgery", Steps(steps, seed=context.seed), step, batches, trained, optimizer)
    for tensor in trained.values():
        tensor.requires_grad_(False)


def _report(context: Context, used: dict[str, Any], split: str, names: tuple[str, ...], count: int) -> None:
    """Tell the report what the adapters and the inner method looked at, both."""
    adapted = used.pop("adapted", None)
    for how, what in used.items():
        context.used(how, **what)
    if adapted is not None:
        count += adapted.get("count") or 0
        split = split if adapted["split"] == split else f"{split}, {adapted['split']}"
        names = tuple(dict.fromkeys((*names, *adapted["tasks"])))
    context.used("adapted", split=split, tasks=names, count=count)
