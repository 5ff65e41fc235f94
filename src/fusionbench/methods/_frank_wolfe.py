"""Frank and Wolfe's walk through the hull of the experts, in the space of the merging coefficients."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import NotAdaptable
from fusionbench.families import Batch
from fusionbench.methods._adaptation import (
    COEFFICIENTS,
    Adaptation,
    spread,
)
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods._drawing import Drawn, check_adaptable, finite_loss, placed
from fusionbench.methods._statistics import CollectSplit
from fusionbench.tasks import Predictor, Task
from fusionbench.training import State

Granularity = Literal["task", "layer"]
Oracle = Literal["product", "cosine"]
Loss = Literal["labels", "entropy"]


@dataclass(frozen=True, slots=True)
class Looks:
    """Where the gradient of the whole model is taken: which loss, on how many examples of each task, of which split."""

    loss: Loss
    split: CollectSplit
    examples: int
    batch: int


class Walk:
    """The walk of one run, in the space of the coefficients; what it cannot look at is refused when it is made."""

    def __init__(
        self, adaptation: Adaptation, learned: Tensor, looks: Looks, oracle: Oracle, granularity: Granularity,
        step: float,
    ) -> None:  # fmt: skip
        self.adaptation, self.merged, self.learned = adaptation, adaptation.merged, learned
        self.looks, self.oracle, self.granularity, self.step = looks, oracle, granularity, step
        self.tasks = adaptation.tasks
        if not self.tasks:
            raise NotAdaptable("There are no tasks to take a gradient on: FW-Merging needs a suite, or experts' tasks.")
        self.predictors = {name: task.bind(self.merged.module) for name, task in self.tasks.items()}
        for task in self.tasks.values():
            task.size(looks.split)
        if looks.loss == "entropy":
            check_adaptable(self.tasks, self.predictors, looks.split, self.merged.device)

    def hard(self, iterations: int) -> None:
        """Move to one expert each iteration."""

        def step(state: State, _: int) -> dict[str, Tensor | float]:
            self.merged.put(self.learned.detach())
            self.merged.clear()
            total = sum(self._descend(name, state.done) for name in self.tasks)
            chosen = self._vertex()
            away = self.learned.detach() - chosen
            gap = (away * self.merged.gradient(away.shape[1])).sum()
            self.learned.grad = self.step * 2 / (state.done + 2) * away
            return {"loss": total, "gap": gap, **spread(self.learned.detach())}

        self.learned.requires_grad_(True)
        optimizer = torch.optim.SGD([self.learned], lr=1.0)
        self.adaptation.learn(
            "fw_merging", iterations, step, itertools.count, {COEFFICIENTS: self.learned}, optimizer, self._put
        )
        self.learned.requires_grad_(False)

    def soft(self, iterations: int, steps: int, learning_rate: float) -> None:
        """Move to a mixture of what each task's own gradient picks."""
        predictors = self.adaptation.predictors()
        for number in range(iterations):
            vertices = self._picked(number)
            rate = min(self.step * 2 / (number + 2), len(vertices) / (len(vertices) + 1))
            level = math.log(rate / len(vertices) / (1 - rate))
            groups = self.learned.shape[1] if self.granularity == "layer" else 1
            weights = torch.full((len(vertices), groups), level, device=self.learned.device)
            self._mix(f"fw_merging_{number}", vertices, weights, predictors, steps, learning_rate)
            self.learned.copy_(mixture(self.learned, vertices, weights)[0])

    def _put(self) -> None:
        self.merged.put(self.learned.detach())

    def _picked(self, number: int) -> Tensor:
        """Return the different vertices that the tasks' own gradients pick, `(picks, experts, names)`."""
        self.merged.put(self.learned)
        found: list[Tensor] = []
        for name in self.tasks:
            self.merged.clear()
            self._descend(name, number)
            vertex = self._vertex()
            if not any(torch.equal(vertex, other) for other in found):
                found.append(vertex)
        return torch.stack(found)

    def _mix(
        self, name: str, vertices: Tensor, weights: Tensor, predictors: Mapping[str, Predictor], steps: int, rate: float
    ) -> None:  # fmt: skip
        """Learn in place how far to move to each vertex."""

        def step(_: State, drawn: Drawn) -> dict[str, Tensor | float]:
            at, shares = mixture(self.learned, vertices, weights.detach())
            self.merged.put(at)
            loss = self.adaptation.descend(predictors, drawn)
            slopes = self.merged.gradient(at.shape[1])
            towards = ((vertices - self.learned) * slopes).sum(dim=1)
            if weights.shape[1] == 1:
                towards = towards.sum(dim=1, keepdim=True)
            weights.grad = shares * (towards - (shares * towards).sum(dim=0))
            return {"loss": loss, "moved": shares.sum(dim=0).mean(), **spread(at)}

        weights.requires_grad_(True)
        self.adaptation.learn(
            name, steps, step, self.adaptation.batches, {"weights": weights},
            torch.optim.Adam([weights], lr=rate), lambda: self.merged.put(mixture(self.learned, vertices, weights)[0]),
        )  # fmt: skip
        weights.requires_grad_(False)

    def _descend(self, name: str, number: int) -> Tensor:
        """Add the gradient of a task's mean loss over its examples of one iteration, and return that loss."""
        looks, task = self.looks, self.tasks[name]
        total = torch.zeros((), device=self.learned.device)
        for batch, share in self._examples(task, number):
            predict = self.predictors[name]
            value = task.loss(predict, batch) if looks.loss == "labels" else task.objective(predict, batch)
            finite_loss(value, f"FW-Merging's loss on the task {name}", "Check the experts.")
            (share * value).backward()  # type: ignore[no-untyped-call]
            total += share * value.detach()
        return total

    def _examples(self, task: Task, number: int) -> Iterator[tuple[Batch, float]]:
        """Yield the batches of an iteration, each with its share of the examples."""
        looks = self.looks
        count = min(looks.examples, task.size(looks.split))
        size = min(looks.batch, count)
        read = task.batches(
            looks.split, size=size, seed=self.adaptation.context.seed, start=number * count,
            labels=looks.loss == "labels",
        )  # fmt: skip
        for first in range(0, count, size):
            left = min(size, count - first)
            one = {key: value[:left] for key, value in next(read).items()}
            yield placed(one, self.learned.device), left / count

    @torch.no_grad()
    def _vertex(self) -> Tensor:
        """Return the coefficients of the expert that the oracle picks, `(experts, names)` of 0 and 1."""
        scores = self.merged.gradient(self.learned.shape[1]) if self.oracle == "product" else cosines(self.merged)
        if self.granularity == "task":
            scores = scores.sum(dim=1, keepdim=True).expand_as(scores)
        vertex = torch.zeros_like(scores)
        return vertex.scatter_(0, scores.argmin(dim=0, keepdim=True), 1.0)


@torch.no_grad()
def mixture(at: Tensor, vertices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return λ + Σ_p a_p·(e_p − λ), and a = softmax(0, w) without its first entry, which is the share that stays.

    Args:
        at: λ, `(experts, names)`.
        vertices: e_p, `(picks, experts, names)`.
        weights: w, `(picks, names)` or `(picks, 1)`.
    """
    shares = torch.cat([torch.zeros_like(weights[:1]), weights.detach()]).softmax(dim=0)[1:]
    return at.detach() + (shares.unsqueeze(1) * (vertices - at.detach())).sum(dim=0), shares


def cosines(merged: MergedModule) -> Tensor:
    """Return the cosine of the gradient and each expert's weights in each tensor, `(experts, names)`; 0 of nothing."""
    found = torch.zeros(len(merged.experts), len(merged.names), device=merged.device)
    for column, name in enumerate(merged.names):
        gradient = merged.parameters[name].grad
        if gradient is not None:
            experts = merged.base[name].reshape(1, -1) + merged.deltas[name].float()
            lengths = experts.norm(dim=1) * gradient.norm()
            found[:, column] = torch.where(lengths > 0, experts @ gradient.reshape(-1) / lengths, 0.0)
    return found
