"""Models that a preference weighs: how they are built of a pool, how their gates learn, and the front they span."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.families import Batch, Family
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._drawing import drawn_from, finite_loss, own_part
from fusionbench.methods._pareto import Array, exact_pareto_weights, on_simplex
from fusionbench.methods._routing import (
    Tensors,
    build_mixture,
    part_settings,
    router_tensors,
    routers_of,
    weighed_tensors,
)
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.mixing.build import family_of
from fusionbench.mixing.fused import Device
from fusionbench.mixing.mixed import MixedModel
from fusionbench.mixing.preferred import merged_for, preferred_parts
from fusionbench.mixing.sites import ModuleSite, Replacement, mlp_and_attention_sites, mlp_sites
from fusionbench.parameters import Count, Positive, StepCount
from fusionbench.tasks import Predictor, Task
from fusionbench.tasks.terms import part_and_share
from fusionbench.training import Processes, State, Steps
from fusionbench.weights.checks import is_buffer

Objective = Literal["linear", "exact"]
Parts = Literal["mlp", "mlp_attention"]
FLOOR = 0.1
"""Share of the learning rate that is left at the end."""
EQUAL = "equal"
"""Label of the model in which all experts are preferred alike."""
Ray = tuple[float, ...]
Drawn = tuple[Ray, Mapping[str, Batch]]


def preferred_module(
    site: ModuleSite, base: Tensors, experts: Sequence[Tensors], *, depth: int, init: float
) -> Replacement:
    """Return a module with every expert's differences beside it, and a gate that weighs each by `init` at first.

    Args:
        site: an MLP, or another module with linear maps.
        base: its tensors.
        experts: the same of each expert.
        depth: of the gate: 1 or 2.
        init: of the gate's last bias, and λ of what is no linear map.
    """
    count = len(experts)
    tensors = router_tensors(site, count, count, depth=depth, init=init, hidden=2 * count)
    tensors |= weighed_tensors(site, base, experts, init=init, inside="inner")
    return Replacement(tensors, "preferred", {"experts": count, "depth": depth, **part_settings(site)})


def build_preferred_model(pool: Pool, context: Context, method: str, values: Mapping[str, Any]) -> MixedModel:
    """Return the pool's model with modules that a preference weighs; everything else is task arithmetic.

    Raises:
        MissingPart: where the family names no MLPs.
        ConfigError: where there is no base.
    """
    sites = {"mlp": mlp_sites, "mlp_attention": mlp_and_attention_sites}[values["parts"]]
    return build_mixture(pool, context, method, values, preferred_module, sites)


def tasks_by_expert(pool: Pool, tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return each expert's task.

    Raises:
        ConfigError: where an expert has none to learn on.
        MissingData: where a task has no training data.
    """
    found: dict[str, Task] = {}
    for expert in pool.experts:
        task = tasks.get(pool.tasks.get(expert) or "")
        if task is None:
            raise ConfigError(
                f"pwe_moe learns on the training data of every expert's task, and {expert} has none here. Add a suite "
                "or experts' tasks; or use gates that were learned before: method.gates=RUN/artefacts/gates."
            )
        task.size("train")
        found[expert] = task
    return found


@dataclass(frozen=True, slots=True)
class GateTraining:
    """How gates learn on labelled data; the defaults are the paper's (arXiv:2406.09770).

    Attributes:
        objective: what a preference r minimises: linear, Σ rᵢ·Lᵢ; or exact, the point of the Pareto front where all
            rᵢ·Lᵢ are equal (EPO), by a linear programme a step.
        concentration: of the Dirichlet distribution that a step's preference is drawn from; 1 is uniform, the paper's.
        steps: the paper's is 4000; 0 leaves the gates as they start.
        batch: examples of each task a step; the paper's is 16.
        learning_rate: of Adam (0.9, 0.999), falling to a tenth along a cosine; the paper's is 0.01.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores at equal preferences on validation data in the curve; 0 is never.
    """

    objective: Objective = "linear"
    concentration: Positive = 1.0
    steps: StepCount = 4000
    batch: Count = 16
    learning_rate: Positive = 1e-2
    checkpoint_every: Count = 100
    evaluate_every: int = 0

    def run(self, model: MixedModel, tasks: Mapping[str, Task], context: Context, name: str) -> None:
        """Descend the weighed losses at preferences that are drawn anew for each step, in the gates alone.

        Args:
            model: is trained in place.
            tasks: by expert, in the experts' order.
            context: of the run.
            name: of the training.

        Raises:
            NotFinite: naming the task whose loss is NaN or infinite.
            Interrupted: on Ctrl-C; the same command goes on from the last checkpoint.
        """
        trained = routers_of(model)
        model.module.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        predictors = {expert: model.for_task(task) for expert, task in tasks.items()}

        def step(state: State, drawn: Drawn) -> dict[str, Tensor | float]:
            return self._step(state.processes, model, list(trained.values()), tasks, predictors, drawn)

        def validate() -> dict[str, float]:
            scores = context.evaluate(model)
            return {"validation": sum(scores.values()) / len(scores), **scores}

        course = Steps(
            self.steps, schedule="cosine", floor=FLOOR, seed=context.seed, validate_every=self.evaluate_every
        )
        optimizer = torch.optim.Adam(list(trained.values()), lr=self.learning_rate)
        loop = replace(context.loop, checkpoint_every=self.checkpoint_every)
        batches = self._batches(own_part(tasks, loop.processes), len(tasks), context.seed)
        loop.run(
            name, course, step, batches, trained, optimizer,
            validate=validate if self.evaluate_every > 0 else None,
        )  # fmt: skip
        for parameter in trained.values():
            parameter.requires_grad_(False)
        names = tuple(dict.fromkeys(task.name for task in tasks.values()))
        context.used("adapted", split="train", tasks=names, count=self.steps * self.batch)

    def _batches(self, own: Mapping[str, Task], experts: int, seed: int) -> Callable[[int], Iterator[Drawn]]:
        def batches(start: int) -> Iterator[Drawn]:
            drawn = drawn_from(own, "train", size=self.batch, seed=seed, start=start, labels=True)
            for number in count(start):
                ray = np.random.default_rng([seed, number]).dirichlet([self.concentration] * experts)
                yield tuple(ray.tolist()), next(drawn)

        return batches

    def _step(
        self, processes: Processes, model: MixedModel, gates: Sequence[Tensor], tasks: Mapping[str, Task],
        predictors: Mapping[str, Predictor], drawn: Drawn,
    ) -> dict[str, Tensor | float]:  # fmt: skip
        """Leave this process's part of the gradient of the weighed losses in the gates, and return the losses."""
        ray, batches = drawn
        own = torch.zeros(len(tasks), sum(gate.numel() for gate in gates)).to(gates[0])
        losses = own.new_zeros(len(tasks))
        with merged_for(model.module, ray):
            for place, expert in enumerate(tasks):
                if expert not in batches:
                    continue
                batch, share = part_and_share(processes, batches[expert], place, len(tasks))
                if not share:
                    continue
                loss = share * finite_loss(
                    tasks[expert].loss(predictors[expert], batch),
                    f"The training loss of {expert}",
                    "Check the experts, or lower method.learning_rate.",
                )
                gradients = torch.autograd.grad(loss, gates, retain_graph=True)
                own[place] = torch.cat([gradient.flatten() for gradient in gradients])
                losses[place] = loss.detach()
        losses = processes.sum(losses)
        whole = processes.sum(own) if self.objective == "exact" else own
        weights = self._weights(np.array(ray), losses.double().cpu().numpy(), whole)
        total = torch.as_tensor(weights, dtype=own.dtype, device=own.device) @ own
        for gate, part in zip(gates, torch.split(total, [gate.numel() for gate in gates]), strict=True):
            gate.grad = part.view_as(gate).clone()
        weighed = sum(share * loss for share, loss in zip(ray, losses, strict=True))
        return {"loss": weighed, **{f"loss {expert}": loss for expert, loss in zip(tasks, losses, strict=True)}}

    def _weights(self, ray: Array, losses: Array, jacobian: Tensor) -> Array:
        """Return the factor of each task's gradient: r, or T·α of exact Pareto optimal search."""
        if self.objective == "linear":
            return ray
        wide = jacobian.double().cpu().numpy()
        return len(ray) * exact_pareto_weights(ray, losses, wide @ wide.T)


class Front(Mapping[str, FusedWeights | MixedModel]):
    """The models of many preferences, each merged when it is asked for, and the mixture itself for equal ones."""

    def __init__(self, model: MixedModel, pool: Pool, context: Context, preferences: Sequence[Ray]) -> None:
        """Remember what to merge.

        Args:
            model: whose modules a preference weighs.
            pool: names and kinds of number are the reference's.
            context: of the run.
            preferences: points of the simplex.
        """
        self._model, self._pool, self._context = model, pool, context
        self._preferences = {",".join(f"{entry:.4g}" for entry in ray): ray for ray in preferences}

    def __getitem__(self, label: str) -> FusedWeights | MixedModel:
        if label == EQUAL:
            return self._model
        family, device = self._context.family, self._context.device
        return merged_at(self._model, self._preferences[label], self._pool, family, device).cast("base")

    def __iter__(self) -> Iterator[str]:
        return iter((EQUAL, *self._preferences))

    def __len__(self) -> int:
        return 1 + len(self._preferences)


@torch.no_grad()
def merged_at(
    model: MixedModel, preference: Sequence[float], pool: Pool, family: Family, device: Device
) -> FusedWeights:
    """Return the plain model of a preference: every weighed module as φ₀ + Σ g(r)ᵢ·Δφᵢ.

    Args:
        model: whose modules a preference weighs.
        preference: r, on the simplex.
        pool: names are the reference's.
        family: that runs its models.
        device: where the model runs.
    """
    module = model.module
    plain = dict(module.state_dict())
    with merged_for(module, preference):
        for site, part in preferred_parts(module):
            plain |= {f"{site}.{name}": tensor for name, tensor in part.inner.state_dict().items()}
            for name, (weight, bias) in part.held_parts():
                plain[f"{site}.{name}.weight"] = weight
                plain |= {} if bias is None else {f"{site}.{name}.bias": bias}
    names = family.names(pool.reference.specs)
    weights = {name: plain[own] for name, own in names.items() if own in plain}
    return FusedWeights(weights, family, pool.reference, device=device)


def at_preference(model: Fused, preference: Sequence[float], pool: Pool, device: Device) -> FusedWeights:
    """Return the plain model that a saved one becomes for a preference over its experts, as a front's points are.

    Args:
        model: that a preference weighs.
        preference: one weight an expert, in the order of the model's experts.
        pool: whose reference has the names and the kinds of number.
        device: where it runs.

    Raises:
        ConfigError: where the preference is off the simplex, or the model is none that a preference weighs, or of
            another family than the pool.
        IncompatibleModels: where it is of another form than the pool's reference.
    """
    family = family_of(pool)
    if not isinstance(model, MixedModel) or not preferred_parts(model.module):
        raise ConfigError("A preference weighs the models of pwe_moe, and this is none. Leave it out.")
    if model.blueprint.family != family.name:
        raise ConfigError(
            f"The model is of the family {model.blueprint.family!r}, the tasks are for {family.name!r}. Choose its own "
            "suite."
        )
    ray = on_simplex(preference, model.blueprint.experts, "preference")
    merged = merged_at(model, ray, pool, family, device)
    wanted = (s for name, s in pool.reference.specs.items() if name.startswith(family.tower) and not is_buffer(s))
    if lacking := [spec.name for spec in wanted if spec.name not in merged.weights]:
        raise IncompatibleModels(
            f"The model lacks {len(lacking)} tensors of {pool.reference.label}, {lacking[0]} first: it was fused over "
            "another base. Choose its own suite."
        )
    return merged.cast("base")
