"""How a run's routers weigh the experts, by task and block: what a weight-ensembling mixture does with its inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from fusionbench.config import Recipe
from fusionbench.errors import MissingData
from fusionbench.merge import Progress, silent
from fusionbench.mixing import Fused
from fusionbench.mixing.assemble import opened
from fusionbench.mixing.mixed import MixedModel
from fusionbench.mixing.routed import RoutedMlp
from fusionbench.mixing.routed_linear import RoutedLinear
from fusionbench.records import Run
from fusionbench.report.analysis.square import Square
from fusionbench.run import resolve
from fusionbench.run.evaluation import build_tasks
from fusionbench.run.folder import MODEL
from fusionbench.tasks import Task, evaluate
from fusionbench.tasks.base import Split
from fusionbench.weights.sources import open_source

EXAMPLES = 256
"""Inputs of each task that are looked at, where nothing else is asked for."""


def routing(folder: Path, *, examples: int = EXAMPLES, progress: Progress = silent) -> dict[str, Square]:
    """Return the mean routing weight of each expert (columns) on each task's inputs (rows); arXiv:2402.00433, figure 6.

    Args:
        folder: of a finished run of `wemoe` or `efficient_wemoe` that kept its model.
        examples: of each task's split, from its start.
        progress: told which task is being read.

    Returns:
        "routing": the mean over all routed MLPs; "routing-<block>": of each.

    Raises:
        MissingData: where the run kept no model, or its model has no routers.
    """
    model = _model_of(folder)
    setting = resolve(Recipe.read(yaml.safe_load(Run.load(folder).recipe), str(folder / "recipe.yaml")), progress)
    fused = opened(open_source(model), setting.pool)
    routed = _routed(fused, folder)
    tasks = build_tasks(setting)
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in routed}
    for number, task in enumerate(tasks):
        progress(f"routing of {task.name}", number, len(tasks))
        for name, weights in _of_task(fused, task, routed, setting.recipe.tasks.split, examples).items():
            found[name].append(weights)
    rows, experts = [task.name for task in tasks], list(setting.pool.experts)
    matrices = {name: np.stack(weights) for name, weights in found.items()}
    whole = np.mean(list(matrices.values()), axis=0)
    title = "Mean routing weight of each expert (columns) on each task's inputs (rows)"
    squares = {"routing": Square(f"{title}, over {len(routed)} routed MLPs", rows, experts, whole)}
    for number, (name, matrix) in enumerate(matrices.items()):
        squares[f"routing-{number}"] = Square(f"{title}, {name}", rows, experts, matrix)
    return squares


def _model_of(folder: Path) -> Path:
    if not (folder / MODEL).is_dir():
        raise MissingData(f"{folder} holds no model. Give the folder of a finished run with output.model=true.")
    return folder / MODEL


def _routed(fused: Fused, folder: Path) -> dict[str, RoutedMlp]:
    module = fused.module if isinstance(fused, MixedModel) else nn.Module()
    routed = {name: part for name, part in module.named_modules() if isinstance(part, RoutedMlp)}
    if not routed:
        raise MissingData(f"The model of {folder} has no routed MLPs. Give a run of wemoe or efficient_wemoe.")
    return routed


def _of_task(
    fused: Fused, task: Task, routed: dict[str, RoutedMlp], split: Split, examples: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mean weights of one task's inputs by routed MLP, `(experts,)`."""
    seen: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in routed}
    with _watched(routed, seen):
        evaluate(fused, task, split, limit=examples)
    means = {}
    for name, parts in seen.items():
        total = sum(count for count, _ in parts)
        means[name] = np.asarray(sum(count * mean for count, mean in parts) / total, np.float64)
    return means


@contextmanager
def _watched(routed: dict[str, RoutedMlp], seen: dict[str, list[tuple[int, Tensor]]]) -> Iterator[None]:
    """Collect, at each call of each routed MLP, how many inputs it saw and the mean of their weights."""

    def watch(name: str) -> object:
        def called(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:  # noqa: ARG001
            part = next(part for part in module.modules() if isinstance(part, RoutedLinear))
            seen[name].append((len(inputs[0]), _mean(part.weights.detach(), routed[name].mask)))

        # The MLP inside is called once for each group of samples that share weights.
        return routed[name].mlp.register_forward_hook(called)

    handles = [watch(name) for name in routed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]


def _mean(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean weights of a batch, `(experts,)`: over inputs, and over real tokens where each has its own."""
    if weights.ndim == 3:
        real = torch.ones_like(weights[..., :1]) if mask is None else mask.to(weights.dtype)[..., None]
        weights = (weights * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return (weights.mean(dim=0) if weights.ndim == 2 else weights).double().cpu()
