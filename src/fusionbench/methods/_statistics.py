"""Statistics of the experts' data: each expert is run on its own task, and what it left is kept by canonical name."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, Family, load_module
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.parameters import PerExpert, per_expert
from fusionbench.tasks import Task
from fusionbench.weights.checks import fit
from fusionbench.weights.roles import is_statistic, role
from fusionbench.weights.tensors import LazyWeights

Collect = Callable[..., Mapping[str, Tensor]]
CollectSplit = Literal["train", "validation", "test"]
ARTEFACT = "statistics"
SHOWN = 6
"""Names that a note spells out."""


class SharedModule:
    """One module that holds the weights of one expert after another.

    Attributes:
        module: in eval mode, float32; only its fused float parameters ask for gradients.
        inside: module's name of each fused parameter and statistic, by canonical name.
        names: canonical names of the fused parameters.
    """

    def __init__(self, pool: Pool, family: Family, device: torch.device | None = None) -> None:
        """Load the reference; experts are read a tensor at a time when they are loaded.

        Raises:
            IncompatibleModels: with every difference between the models.
        """
        reference = pool.reference
        found = fit(reference, pool.experts, tower=pool.tower)
        self.device = device or torch.device("cpu")
        self.module = load_module(family, reference).float().to(self.device).eval()
        inside = family.names(reference.specs)
        scope = [name for name in found.scope if reference.specs[name].is_float and name in inside]
        self.inside = {name: inside[name] for name in scope}
        self.names = tuple(name for name in scope if not is_statistic(name))
        self._state = self.module.state_dict(keep_vars=True)
        self._experts = {
            name: (LazyWeights(source), own)
            for (name, source), own in zip(pool.experts.items(), found.names, strict=True)
        }
        fused = {inside[name] for name in self.names}
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in fused)

    def read(self, expert: str, name: str) -> Tensor:
        """Return an expert's tensor by canonical name, float32."""
        weights, own = self._experts[expert]
        return weights[own[name]].to(self.device, torch.float32)

    def load(self, expert: str, within: str = "") -> None:
        """Overwrite the fused tensors, or those whose names in the module start with `within`, with an expert's."""
        self.put({name: self.read(expert, name) for name, own in self.inside.items() if own.startswith(within)})

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite tensors of the module in place, by canonical name."""
        for name, tensor in tensors.items():
            self._state[self.inside[name]].copy_(tensor)


def own_task(pool: Pool, tasks: Mapping[str, Task], expert: str) -> Task:
    """Return the task that an expert was trained on.

    Raises:
        ConfigError: where none is known.
    """
    name = pool.tasks.get(expert)
    if name is None or name not in tasks:
        raise ConfigError(
            f"The statistics of the expert {expert!r} need data of the task it was trained on, and none is known. "
            f"Name it: experts.{expert}.task=NAME; there are: {', '.join(tasks) or 'none'}."
        )
    return tasks[name]


def collect_all(
    pool: Pool, tasks: Mapping[str, Task], context: Context, collect: Collect, *, method: str, values: Mapping[str, Any]
) -> None:
    """Collect every expert's statistics and save each as the artefact `statistics/<expert>`; those there are kept.

    Args:
        pool: base and experts, and each expert's task.
        tasks: by name.
        context: of the run.
        collect: the method's, see `merge_method`.
        method: its name.
        values: its parameters.

    Raises:
        ConfigError: where an expert's task is not known, before anything is run.
    """
    own = {expert: own_task(pool, tasks, expert) for expert in pool.experts}
    wanted_values = inspect.signature(collect).parameters
    values = {name: value for name, value in values.items() if name in wanted_values}
    split = values["split"]
    counts = {expert: min(values["examples"], task.size(split)) for expert, task in own.items()}
    wanted = [name for name in pool.experts if context.load(f"{ARTEFACT}/{name}") is None]
    if wanted:
        shared = SharedModule(pool, context.family, context.device)
        canonical = {inside: name for name, inside in shared.inside.items()}
        for done, expert in enumerate(wanted):
            if context.loop.progress is not None:
                context.loop.progress(f"statistics of {expert}", done, len(wanted))
            shared.load(expert)
            found = collect(own[expert], shared.module, context, **values)
            named = {canonical[name]: tensor for name, tensor in found.items() if name in canonical}
            text = {
                "method": method, "model": pool.experts[expert].fingerprint(), "task": own[expert].name,
                "split": split, "count": str(counts[expert]), "parameters": json.dumps(dict(values), sort_keys=True),
            }  # fmt: skip
            context.save(f"{ARTEFACT}/{expert}", named, text)
    context.used(
        "adapted", split=split, tasks=tuple(dict.fromkeys(t.name for t in own.values())), count=sum(counts.values())
    )


def report_stored(pool: Pool, context: Context) -> None:
    """Tell the report of which data stored statistics were collected."""
    texts = [getattr(source, "metadata", {}) for source in pool.statistics.values()]
    splits = {text.get("split", "unknown") for text in texts}
    names = dict.fromkeys(text.get("task", "unknown") for text in texts)
    context.used(
        "adapted", split=", ".join(sorted(splits)), tasks=tuple(names), count=sum(int(t.get("count", 0)) for t in texts)
    )
    settings = sorted({text.get("parameters", "unknown") for text in texts})
    context.note(f"the statistics were collected before, with {' and '.join(settings)}")


def report_missing(pool: Pool, context: Context) -> None:
    """Note the matrices and kernels of the fused part for which not every expert has a statistic."""
    specs = pool.reference.specs
    kinds = {name: role(spec) for name, spec in specs.items() if name.startswith(pool.tower) and spec.is_float}
    held = [name for name in kinds if all(name in source.specs for source in pool.statistics.values())]
    without = [n for n, kind in kinds.items() if n not in held and kind in ("matrix", "conv", "embedding", "head")]
    if without:
        more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
        context.note(
            f"{len(held)} of {len(kinds)} tensors have statistics, the others are averaged. Among these are "
            f"matrices and kernels, with which no linear map was run: {', '.join(without[:SHOWN])}{more}"
        )


def drawn(
    task: Task, split: CollectSplit, context: Context, *, examples: int, batch: int, labels: bool = False,
    shuffle: bool = True,
) -> Iterator[Batch]:  # fmt: skip
    """Yield exactly `examples` of a split, or all where there are fewer, in an order of the seed, on the device.

    Args:
        task: whose data.
        split: which.
        context: with seed and device.
        examples: how many in all.
        batch: how many at a time; the last batch is what is left.
        labels: whether batches bring them.
        shuffle: take the order of the seed; else the data's own.

    Raises:
        MissingData: where the task has no such split.
    """
    left = min(examples, task.size(split))
    seed = context.seed if shuffle else None
    for one in task.batches(split, size=min(batch, left), seed=seed, labels=labels):
        count = min(left, len(next(iter(one.values()))))
        yield {key: (v[:count].to(context.device) if isinstance(v, Tensor) else v[:count]) for key, v in one.items()}
        left -= count
        if left <= 0:
            return


def shares_of(weights: PerExpert[float], count: int) -> list[float]:
    """Return the experts' factors in an average, divided by their sum.

    Raises:
        ConfigError: where one is negative or all are 0.
    """
    given = per_expert(weights, count)
    if min(given) < 0 or sum(given) <= 0:
        raise ConfigError(f"method.weights={list(given)}: they are factors in an average, at least 0 and not all 0.")
    return [weight / sum(given) for weight in given]


class InputGrams:
    """Σ x·xᵀ of the inputs of linear maps, taken by hooks while the module runs.

    Maps that are given one and the same tensor, such as query, key and value, share the products.
    """

    def __init__(self, module: nn.Module, family: Any, within: str = "") -> None:
        """Find the linear maps of the family's fused part whose names start with `within`.

        Raises:
            MissingPart: where the family names no linear maps.
        """
        self.sites = [site for site in family.linears(module) if site.name.startswith(within)]
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self._last: tuple[Tensor, Tensor, int] | None = None
        self._mask: Tensor | None = None

    def watch(self, run: Callable[[], Any], mask: Tensor | None = None) -> None:
        """Call `run` and add what the maps were given; `mask` `(examples, tokens)` is true where a token counts."""
        self._mask = mask
        handles = [site.module.register_forward_pre_hook(self._hook(site.name)) for site in self.sites]
        try:
            with torch.no_grad():
                run()
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given = inputs[0]
            if self._last is None or self._last[0] is not given:
                rows = self._rows(given)
                self._last = (given, upper_gram(rows), len(rows))
            product, count = self._last[1:]
            if name not in self.sums:
                self.sums[name], self.tokens[name] = product.clone(), count
            else:
                self.sums[name].add_(product)
                self.tokens[name] += count

        return hook

    def _rows(self, given: Tensor) -> Tensor:
        """Return the inputs that count, `(tokens, in)`, float32."""
        mask = self._mask
        if mask is not None and given.shape[:-1] == mask.shape:
            given = given[mask.to(given.device, torch.bool)]
        return given.detach().reshape(-1, given.shape[-1]).float()

    def means(self) -> dict[str, Tensor]:
        """Return Σ x·xᵀ / tokens, `(in, in)` float32, by the name of each map's weight; unused maps are absent."""
        whole = {name: total.triu() + total.triu(1).T for name, total in self.sums.items()}
        return {f"{name}.weight": total / max(self.tokens[name], 1) for name, total in whole.items()}


def upper_gram(rows: Tensor, block: int = 256) -> Tensor:
    """Return xᵀ·x of `(tokens, in)` on and above the diagonal; of the rest, only what shares a block with it."""
    width = rows.shape[1]
    if width <= block:
        return rows.T @ rows
    found = rows.new_zeros(width, width)
    for first in range(0, width, block):
        found[first : first + block, first:] = rows[:, first : first + block].T @ rows[:, first:]
    return found
