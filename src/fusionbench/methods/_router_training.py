"""How routers learn on unlabelled inputs, and how those that an earlier run learned are put in their place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._adaptation import AdaptSplit
from fusionbench.methods._context import Context
from fusionbench.methods._drawing import Drawn, check_adaptable, drawn_from, finite_loss, own_part
from fusionbench.methods._routing import Routing, routers_of
from fusionbench.mixing.mixed import MixedModel
from fusionbench.parameters import Count, Positive, StepCount
from fusionbench.tasks import Task
from fusionbench.training import State, Steps
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

ROUTERS, EXPERTS = "routers", "experts"


@dataclass(frozen=True, slots=True)
class RouterTraining:
    """How routers learn on unlabelled inputs; the defaults are WEMoE's (arXiv:2402.00433).

    Attributes:
        steps: of Adam; 0 leaves the routers as they start, which is task arithmetic but for their noise.
        batch: inputs of each task a step.
        learning_rate: of Adam (0.9, 0.999).
        schedule: of the rate.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve; 0 is never.
    """

    steps: StepCount = 1000
    batch: Count = 16
    learning_rate: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    adapt_split: AdaptSplit = "test"
    checkpoint_every: Count = 100
    evaluate_every: int = 0

    def run(self, model: MixedModel, tasks: Mapping[str, Task], context: Context, name: str) -> None:
        """Minimise Σ over tasks of the mean entropy of predictions, in the routers' tensors alone.

        Raises:
            NotAdaptable: where a task has no objective without labels, before anything long.
            NotFinite: naming the task whose loss is NaN or infinite.
            Interrupted: on Ctrl-C; the same command goes on from the last checkpoint.
        """
        predictors = {task: tasks[task].bind(model.module) for task in tasks}
        check_adaptable(tasks, predictors, self.adapt_split, context.device)
        masked = {task: model.for_task(tasks[task]) for task in tasks}
        trained = routers_of(model)
        model.module.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)

        def batches(start: int) -> Iterator[Drawn]:
            own = own_part(tasks, context.loop.processes)
            return drawn_from(own, self.adapt_split, size=self.batch, seed=context.seed, start=start, labels=False)

        def step(state: State, drawn: Drawn) -> dict[str, Tensor]:
            total = torch.zeros((), device=context.device)
            for place, name in enumerate(tasks):
                one, share = state.processes.part_of(drawn[name], place, len(tasks)) if name in drawn else ({}, 0.0)
                if share:
                    loss = share * finite_loss(
                        tasks[name].objective(masked[name], one),
                        f"The routers' loss on the task {name}",
                        "Check the experts, or lower method.learning_rate.",
                    )
                    state.backward(loss)
                    total += loss.detach()
            return {"loss": state.processes.sum(total)}

        def validate() -> dict[str, float]:
            scores = context.evaluate(model)
            return {"validation": sum(scores.values()) / len(scores), **scores}

        course = Steps(self.steps, schedule=self.schedule, seed=context.seed, validate_every=self.evaluate_every)
        optimizer = torch.optim.Adam(list(trained.values()), lr=self.learning_rate)
        loop = replace(context.loop, checkpoint_every=self.checkpoint_every)
        loop.run(
            name, course, step, batches, trained, optimizer, validate=validate if self.evaluate_every > 0 else None
        )
        for parameter in trained.values():
            parameter.requires_grad_(False)
        context.used("adapted", split=self.adapt_split, tasks=tuple(tasks), count=self.steps * self.batch)


def with_learned_routers(
    model: MixedModel, tasks: Mapping[str, Task], context: Context, method: str, routing: Routing,
    training: RouterTraining,
) -> MixedModel:  # fmt: skip
    """Return a model whose routers learned, or were given, and keep them for another run.

    Args:
        model: with the routers as they start.
        tasks: on whose inputs they learn.
        context: of the run.
        method: names the training.
        routing: the routers that are taken instead, where there are any, and what the report says of them.
        training: how they learn; of no steps they stay.

    Raises:
        NotAdaptable: where a task has no objective without labels.
        ConfigError: where the given routers are of another model.
    """
    if routing.routers is not None:
        put_routers(model, Path(routing.routers))
    elif training.steps > 0:
        if routing.route == "batch" and context.loop.processes.count > len(tasks):
            raise ConfigError(
                f"method.route=batch weighs by a whole batch, which {context.loop.processes.count} processes would "
                f"divide, of {len(tasks)} tasks. Start as many processes at most, or choose method.route=sample."
            )
        training.run(model, tasks, context, method)
    save_routers(model, context, ROUTERS)
    context.note(f"the experts are weighed by {routing.route}")
    return model


def save_routers(model: MixedModel, context: Context, artefact: str) -> None:
    """Keep a model's routers for another run, with the names of the experts that they weigh, in order."""
    tensors = {name: tensor.detach().cpu() for name, tensor in routers_of(model).items()}
    context.save(artefact, tensors, {EXPERTS: "\n".join(model.blueprint.experts)})


@torch.no_grad()
def put_routers(model: MixedModel, path: Path, parameter: str = ROUTERS) -> None:
    """Fill a model's routers with those that an earlier run saved; `parameter` is the method's that names the path.

    Raises:
        ConfigError: where they are missing, of another form, or weigh other experts.
    """
    source = open_source(path)
    found, own = LazyWeights(source), routers_of(model)
    anew = f"Leave method.{parameter} out to learn anew."
    if {name: tuple(found[name].shape) for name in found} != {name: tuple(own[name].shape) for name in own}:
        raise ConfigError(f"{path} holds {parameter} of another model. {anew}")
    # Files of earlier versions do not say it.
    said = getattr(source, "metadata", {}).get(EXPERTS)
    if said is not None and said.split("\n") != list(model.blueprint.experts):
        raise ConfigError(
            f"{path} holds {parameter} that weigh {', '.join(said.split())}; here the experts are "
            f"{', '.join(model.blueprint.experts)}, in this order. {anew}"
        )
    for name, router in own.items():
        router.copy_(found[name])
