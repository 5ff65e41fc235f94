"""Hold a built `mini/clip` against the properties that were stated before it was built.

Run: python benchmarks/suite_check.py --size small --seed 0 [--threads 2]. It builds the suite where it is not in the
cache, prints each property, and writes docs/results/suite-mini-clip-<size>-<seed>.json. No property names a winning
method: a suite is accepted on what fusion starts from, never on how a method fares. Everything is computed here with
plain tensors.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from record import write_record
from scipy.stats import spearmanr
from torch import Tensor, nn

from fusionbench.families import Family, load_module
from fusionbench.finetune.tune import score
from fusionbench.suites import ResolvedSuite, load_suite
from fusionbench.suites.tasks import family_of, open_tasks
from fusionbench.tasks import Task
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PRETRAINED = (0.45, 0.60)
INDIVIDUAL = {"tiny": 0.0, "small": 0.85, "large": 0.90}
COSINE = 0.2
MLP_SHARE, MLP_AIM = 0.90, 0.95
SPEARMAN_WISH = 0.8
SCALE = 0.3
VECTORS, LARGEST, IMAGES = 50, 0.6, 250
"""Random coefficients: how many vectors, drawn from [0, LARGEST], and on how many test images of each task."""


class Models(NamedTuple):
    """The suite, opened: a module that is overwritten, the base's tower, and the deltas by tensor, (experts, …)."""

    module: nn.Module
    family: Family
    tasks: dict[str, Task]
    base: dict[str, Tensor]
    deltas: dict[str, Tensor]


def open_models(resolved: ResolvedSuite) -> Models:
    suite = resolved.suite
    source = open_source(str(suite.pool.base))
    family = family_of(suite, source)
    names = {n: own for n, own in family.names(source.specs).items() if own.startswith(family.tower)}
    base = {own: LazyWeights(source)[n] for n, own in names.items()}
    experts = [LazyWeights(open_source(expert.model)) for expert in suite.pool.experts.values()]
    deltas = {own: torch.stack([expert[n] for expert in experts]) - base[own] for n, own in names.items()}
    return Models(load_module(family, source), family, open_tasks(suite, base=source), base, deltas)


@torch.no_grad()
def put(models: Models, weights: Mapping[str, Tensor]) -> nn.Module:
    """Overwrite the module's tower and return the module."""
    state = models.module.state_dict()
    for name, tensor in weights.items():
        state[name].copy_(tensor)
    return models.module


def merged(models: Models, coefficients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return base + Σ coefficient · delta, the coefficients by tensor, each (experts,)."""
    return {n: w + torch.tensordot(coefficients[n], models.deltas[n], 1) for n, w in models.base.items()}


def accuracies(models: Models, weights: Mapping[str, Tensor], tasks: Mapping[str, Task]) -> dict[str, float]:
    module = put(models, weights)
    return {name: next(iter(score(module, task, "test").values())) for name, task in tasks.items()}


def transfer(models: Models) -> dict[str, dict[str, float]]:
    """Return the accuracy of each expert on each task."""
    return {
        name: accuracies(models, {n: w + models.deltas[n][i] for n, w in models.base.items()}, models.tasks)
        for i, name in enumerate(models.tasks)
    }


def cosines(models: Models) -> list[list[float]]:
    flat = torch.cat([delta.flatten(1) for delta in models.deltas.values()], 1).double()
    unit = torch.nn.functional.normalize(flat, dim=1)
    return [[round(value, 4) for value in row] for row in (unit @ unit.T).tolist()]


def mlp_mixture(models: Models) -> dict[str, float]:
    """Return each task's accuracy with its own expert's MLPs, everything else merged by task arithmetic."""
    rest = merged(models, {n: torch.full((len(models.tasks),), SCALE) for n in models.base})
    mlps = tuple(f"{mlp}." for mlp in models.family.mlps(models.module))  # type: ignore[attr-defined]
    found = {}
    for i, (name, task) in enumerate(models.tasks.items()):
        own = {n: models.base[n] + models.deltas[n][i] for n in rest if n.startswith(mlps)}
        found |= accuracies(models, {**rest, **own}, {name: task})
    return found


def entropy_and_loss(models: Models, layers: bool, seed: int) -> dict[str, Any]:
    """Return how entropy and loss rank random merges, with one coefficient a task, or one a task and tensor.

    "by_task" is Spearman's correlation over the merges for each task alone, "tasks" the mean of these, "sum" that of
    the two quantities averaged over all tasks first, which is what AdaMerging minimises.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = {name: next(task.batches("test", size=IMAGES, seed=0)) for name, task in models.tasks.items()}
    entropies, losses = torch.zeros(2, VECTORS, len(models.tasks))
    for at in range(VECTORS):
        shared = torch.rand(len(models.tasks), generator=generator)
        drawn = {
            name: LARGEST * (torch.rand(shared.shape, generator=generator) if layers else shared)
            for name in models.base
        }
        module = put(models, merged(models, drawn))
        with torch.inference_mode():
            for column, (name, task) in enumerate(models.tasks.items()):
                predict = task.bind(module)
                entropies[at, column] = task.objective(predict, batches[name])
                losses[at, column] = task.loss(predict, batches[name])
    by_task = {name: float(spearmanr(entropies[:, i], losses[:, i]).statistic) for i, name in enumerate(models.tasks)}
    together = spearmanr(entropies.mean(1), losses.mean(1)).statistic
    return {"by_task": by_task, "tasks": mean(by_task), "sum": float(together)}


def mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def check(resolved: ResolvedSuite) -> dict[str, Any]:
    """Return all measured values."""
    models = open_models(resolved)
    matrix = transfer(models)
    individual = {name: matrix[name][name] for name in matrix}
    others = {a: sum(v for b, v in row.items() if b != a) / (len(row) - 1) for a, row in matrix.items()}
    pretrained = accuracies(models, models.base, models.tasks)
    mixture = mlp_mixture(models)
    together = open_source(str(resolved.suite.pool.mtl))
    mtl = accuracies(models, {n: LazyWeights(together)[n] for n in models.base}, models.tasks)
    arithmetic = accuracies(
        models, merged(models, {n: torch.full((len(models.tasks),), SCALE) for n in models.base}), models.tasks
    )
    return {
        "build": resolved.build,
        "pretrained": {"average": mean(pretrained), **pretrained},
        "chance": {name: 1 / len(spec["class_names"]) for name, spec in resolved.suite.tasks.tasks.items()},
        "individual": {"average": mean(individual), **individual},
        "experts_on_other_tasks": {"average": mean(others), **others},
        "traditional_mtl": {"average": mean(mtl), **mtl},
        "transfer": matrix,
        "cosines": cosines(models),
        "task_arithmetic": {"scale": SCALE, "average": mean(arithmetic), **arithmetic},
        "mlp_mixture": {"average": mean(mixture), "share_of_individual": mean(mixture) / mean(individual), **mixture},
        "entropy_and_loss": entropy_and_loss(models, layers=False, seed=0),
        "entropy_and_loss_by_tensor": entropy_and_loss(models, layers=True, seed=0),
    }


def verdicts(size: str, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each property with its bound, its value, and whether it holds."""
    chance = values["chance"]
    off = [value for i, row in enumerate(values["cosines"]) for j, value in enumerate(row) if i != j]
    start, share = values["pretrained"]["average"], values["mlp_mixture"]["share_of_individual"]
    least = min(values["pretrained"][name] / chance[name] for name in chance)
    rho = values["entropy_and_loss"]
    found = {
        "pretrained average": (f"in {list(PRETRAINED)}", start, PRETRAINED[0] <= start <= PRETRAINED[1]),
        "pretrained / chance, least task": ("> 1", least, least > 1),
        "individual average": (f">= {INDIVIDUAL[size]}", values["individual"]["average"],
                               values["individual"]["average"] >= INDIVIDUAL[size]),
        "experts on other tasks": ("< pretrained", values["experts_on_other_tasks"]["average"],
                                   values["experts_on_other_tasks"]["average"] < start),
        "largest cosine of two deltas": (f"< {COSINE}", max(map(abs, off)), max(map(abs, off)) < COSINE),
        "MLP mixture / individual": (f">= {MLP_SHARE}, aim {MLP_AIM}", share, share >= MLP_SHARE),
        "entropy ranks merges, a task": (f">= {SPEARMAN_WISH} wished", rho["tasks"], rho["tasks"] >= SPEARMAN_WISH),
        "entropy ranks merges, all tasks": (f">= {SPEARMAN_WISH} wished", rho["sum"], rho["sum"] >= SPEARMAN_WISH),
    }  # fmt: skip
    return {
        name: {"bound": bound, "value": value, "holds": bool(holds)} for name, (bound, value, holds) in found.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", default="small", choices=tuple(INDIVIDUAL))
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    started = time.perf_counter()
    resolved = load_suite("mini/clip", size=given.size, seed=given.seed)
    built = time.perf_counter() - started
    values = check(resolved)
    properties = verdicts(given.size, values)
    for name, row in properties.items():
        print(f"{name:32} {row['value']:8.3f}  {row['bound']:22} {'holds' if row['holds'] else 'DOES NOT HOLD'}")
    print(f"suite at hand after {built:.1f} s")
    values = {"seconds_to_load_or_build": round(built, 1), "properties": properties, **values}
    write_record(RESULTS / f"suite-mini-clip-{given.size}-{given.seed}.json", values)


if __name__ == "__main__":
    main()
