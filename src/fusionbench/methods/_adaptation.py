"""Adaptation on unlabelled inputs: where it looks, the loss it descends, and the coefficients that it learns."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import Mask, MergedModule
from fusionbench.methods._drawing import (
    Drawn,
    check_adaptable,
    drawn_from,
    finite_loss,
    own_part,
    parts_of,
    placed,
)
from fusionbench.methods._selection import alike
from fusionbench.mixing import FusedWeights
from fusionbench.tasks import Predictor, Task
from fusionbench.training import Metrics, State, Step, Steps
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

AdaptSplit = Literal["test", "validation"]
COEFFICIENTS, BEFORE = "coefficients", "before"
COLLAPSED = 0.95
"""Share of one class among a task's predictions from which a collapse is reported."""
LOOKED, AT_ONCE = 256, 32
"""Inputs of each task that are looked at for a collapse, and how many of them together."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A merged module, its tasks, and how their inputs are drawn.

    Attributes:
        merged: the working module.
        tasks: by name.
        context: of the run.
        split: where inputs come from.
        batch: inputs of each task that are run together.
        weight: factor of each task's loss; several batches that are run as one count as several.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between scores on validation data; 0 is never.
        together: inputs of a task that are held at once, in the forward and backward pass; None is all of its batch.
        before: by task, the largest share of one class among the predictions where the adaptation began.
    """

    merged: MergedModule
    tasks: Mapping[str, Task]
    context: Context
    split: AdaptSplit
    batch: int
    weight: int = 1
    checkpoint_every: int = 100
    evaluate_every: int = 0
    together: int | None = None
    before: dict[str, float] = field(default_factory=dict)

    def predictors(self) -> dict[str, Predictor]:
        """Return each task's head over the module, once every task was asked for its objective.

        Raises:
            NotAdaptable: with the reason of a task that has none, before anything long.
            MissingData: where a task lacks the split.
        """
        bound = {name: task.bind(self.merged.module) for name, task in self.tasks.items()}
        check_adaptable(self.tasks, bound, self.split, self.merged.device)
        return bound

    def batches(self, start: int) -> Iterator[Drawn]:
        """Yield steps' worth of batches for ever, each task's in an order of its own, as if `start` had been taken."""
        own = own_part(self.tasks, self.context.loop.processes)
        return drawn_from(own, self.split, size=self.batch, seed=self.context.seed, start=start, labels=False)

    def pairs(self, start: int) -> Iterator[tuple[Drawn, Drawn]]:
        """Yield two such batches a step."""
        drawn = self.batches(2 * start)
        while True:
            yield next(drawn), next(drawn)

    def descend(self, predictors: Mapping[str, Predictor], drawn: Drawn) -> Tensor:
        """Leave the gradient of Σ over tasks of the mean entropy in the module, and return that sum.

        Of several processes each leaves the gradient of its part of the sum, and returns all of it.

        Raises:
            NotFinite: naming the task whose loss is NaN or infinite.
        """
        self.merged.clear()
        total = torch.zeros((), device=self.context.device)
        processes, places = self.context.loop.processes, {name: place for place, name in enumerate(self.tasks)}
        for name, one in drawn.items():
            mine, portion = processes.part_of(one, places[name], len(places))
            for part, within in parts_of(mine, self.together) if portion else ():
                share = portion * within
                loss = finite_loss(
                    self.tasks[name].objective(predictors[name], part),
                    f"The adaptation's loss on the task {name}",
                    "Check the experts, lower method.learning_rate, or leave clamp=true.",
                )
                (self.weight * share * loss).backward()  # type: ignore[no-untyped-call]
                total += share * loss.detach()
        return processes.sum(total)

    def learn(
        self, name: str, steps: int, step: Step, batches: Callable[[int], Iterator[Any]],
        trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, put: Callable[[], None],
    ) -> None:  # fmt: skip
        """Run the one training loop over these tasks.

        The curve has a point each step; the progress says the last step's loss.

        Args:
            name: of the training, and so of its folder of checkpoints.
            steps: how many.
            step: leaves the gradients of one step and returns its metrics, "loss" among them.
            batches: from a step's number to the batches from there on.
            trained: tensors that the optimizer changes in place, by name.
            optimizer: of these.
            put: puts the weights of the present state into the module, before it is scored on the way.

        Raises:
            Interrupted: on Ctrl-C; the same command goes on from the last checkpoint.
        """
        merged, context = self.merged, self.context

        def validate() -> dict[str, float]:
            put()
            scores = context.evaluate(FusedWeights(merged.weights(), context.family, merged.reference))
            mean = {"validation": sum(scores.values()) / len(scores)} if alike(self.tasks) else {}
            return {**mean, **scores}

        lost = 0.0

        def watched(state: State, drawn: Any) -> Metrics:
            nonlocal lost
            metrics = step(state, drawn)
            lost = float(metrics["loss"])
            self._remember(state)
            return metrics

        def told(what: str, done: int, total: int) -> None:
            if context.loop.progress is not None:
                context.loop.progress(f"{what}, loss {lost:.4g}", done, total)

        loop = replace(context.loop, checkpoint_every=self.checkpoint_every, log_every=1, progress=told)
        course = Steps(steps, seed=context.seed, validate_every=self.evaluate_every)
        validating = validate if self.evaluate_every > 0 else None
        ended = loop.run(name, course, watched, batches, trained, optimizer, validate=validating)
        # Where the last checkpoint was of the last step, no step has been watched.
        self._recall(ended.extra)
        merged.clear()

    def shares_of_one_class(self) -> dict[str, float]:
        """Return, by task that predicts classes, the largest share of one class among `LOOKED` predictions.

        Each process looks at some of the tasks.
        """
        processes = self.context.loop.processes
        own = {n: t for place, (n, t) in enumerate(self.tasks.items()) if place % processes.count == processes.rank}
        parts = processes.gather(shares_of_one_class(self.merged, own, self.split))
        found = {name: share for part in parts for name, share in part.items()}
        return {name: found[name] for name in self.tasks if name in found}

    def _remember(self, state: State) -> None:
        """Keep, from the first step on, what the predictions were like then."""
        if BEFORE not in state.extra:
            shares = self.shares_of_one_class()
            state.extra[BEFORE] = torch.tensor([shares.get(name, 0.0) for name in self.tasks])

    def _recall(self, extra: Mapping[str, Tensor]) -> None:
        if BEFORE in extra:
            self.before.update(zip(self.tasks, extra[BEFORE].tolist(), strict=True))


def learn_coefficients(
    adaptation: Adaptation, learned: Tensor, *, steps: int, learning_rate: float, clamp: bool, mask: Mask | None = None
) -> None:
    """Learn coefficients `(experts, groups)` in place, by Adam on the entropy (arXiv:2310.02575, §3.2).

    Args:
        adaptation: the module and its tasks.
        learned: the coefficients at the start.
        steps: of Adam.
        learning_rate: of Adam (0.9, 0.999).
        clamp: use coefficients clamped to [0, 1], with no gradient outside.
        mask: what the sum of task vectors is multiplied by, and stays.

    Raises:
        NotAdaptable: where a task has no objective without labels.
        NotFinite: where a loss is NaN or infinite.
    """
    merged = adaptation.merged
    predictors = adaptation.predictors()
    learned.requires_grad_(True)

    # Each process sets its part of the gradient, and the loop adds these: the coefficients', not the module's.
    def used() -> Tensor:
        return clamped(learned.detach(), clamp)

    def step(_: State, drawn: Drawn) -> dict[str, Tensor | float]:
        factors = used()
        merged.put(factors, mask)
        total = adaptation.descend(predictors, drawn)
        learned.grad = merged.gradient(learned.shape[1], mask) * inside(learned.detach(), clamp)
        return {"loss": total, **spread(factors)}

    optimizer = torch.optim.Adam([learned], lr=learning_rate)
    adaptation.learn(
        "adamerging",
        steps,
        step,
        adaptation.batches,
        {COEFFICIENTS: learned},
        optimizer,
        lambda: merged.put(used(), mask),
    )
    learned.requires_grad_(False)


def clamped(coefficients: Tensor, clamp: bool) -> Tensor:
    """Return coefficients as they are used: within [0, 1] where that is asked for."""
    return coefficients.clamp(0, 1) if clamp else coefficients


def inside(coefficients: Tensor, clamp: bool) -> Tensor | float:
    """Return where a coefficient that is clamped at use has a gradient."""
    return (coefficients >= 0) & (coefficients <= 1) if clamp else 1.0


def spread(coefficients: Tensor) -> dict[str, Tensor | float]:
    """Return least, mean and largest coefficient, for the curve."""
    return {"min": coefficients.min(), "mean": coefficients.mean(), "max": coefficients.max()}


def save_coefficients(merged: MergedModule, context: Context, used: Tensor) -> None:
    """Keep coefficients with the names that their rows and columns belong to."""
    text = {"experts": "\n".join(merged.experts), "names": "\n".join(merged.names)}
    context.save(COEFFICIENTS, {COEFFICIENTS: used.cpu()}, text)


def read_coefficients(path: Path, merged: MergedModule, shape: tuple[int, int]) -> Tensor:
    """Return coefficients that an earlier run saved.

    Raises:
        ConfigError: where they are missing, or belong to other experts or tensors.
    """
    source = open_source(path)
    found = LazyWeights(source)
    if COEFFICIENTS not in found or tuple(found[COEFFICIENTS].shape) != shape:
        held = f"; they are {tuple(found[COEFFICIENTS].shape)}" if COEFFICIENTS in found else ""
        raise ConfigError(
            f"{path} holds no {COEFFICIENTS} of {shape[0]} experts × {shape[1]} groups{held}. "
            "Give a run of the same experts and granularity, or leave method.coefficients out to adapt anew."
        )
    metadata = getattr(source, "metadata", {})
    for key, expected in (("experts", merged.experts), ("names", merged.names)):
        if tuple(metadata.get(key, "").split("\n")) != expected:
            raise ConfigError(
                f"{path} was made for other {key}, or in another order. Leave method.coefficients out to adapt anew."
            )
    return found[COEFFICIENTS].to(merged.device)


@torch.no_grad()
def shares_of_one_class(merged: MergedModule, tasks: Mapping[str, Task], split: AdaptSplit) -> dict[str, float]:
    """Return, by task that predicts classes, the largest share of one class among `LOOKED` predictions."""
    found = {}
    for name, task in tasks.items():
        predict = task.bind(merged.module)
        read = islice(task.batches(split, size=AT_ONCE, limit=LOOKED, labels=False), LOOKED // AT_ONCE)
        outputs = [predict(placed(one, merged.device)) for one in read]
        if all(isinstance(one, Tensor) and one.ndim == 2 and one.shape[1] > 1 for one in outputs):
            predicted = torch.cat([one.argmax(dim=1) for one in outputs])
            found[name] = float(predicted.bincount().max()) / len(predicted)
    return found


def report_collapse(adaptation: Adaptation) -> None:
    """Note every task for which the model predicts almost only one class: what entropy rewards, and nobody wants."""
    for name, share in adaptation.shares_of_one_class().items():
        before = adaptation.before.get(name, 0.0)
        if share > COLLAPSED:
            why = f"as {before:.0%} were at the start" if before > COLLAPSED else "the entropy has collapsed"
            adaptation.context.note(f"{name}: {share:.0%} of the predictions are one class; {why}")
