"""Which unit of one model is which of another: by the weights around it, or by what it answers to the same inputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fusionbench.families import Batch, Family, Permutation
from fusionbench.methods._permutations import Orders, Tensors, reordered, unit_rows, units_first
from fusionbench.methods._statistics import SharedModule

GAIN = 1e-12
"""Least gain, as a share of the similarity, for which a group takes another order."""


@dataclass(slots=True)
class Moments:
    """Second and first moments of the units of several models, joined one after the other.

    Attributes:
        products: `(models·units, models·units)` float64, Σ z·zᵀ.
        sums: `(models·units,)` float64, Σ z.
        rows: how many z were seen.
    """

    products: Tensor
    sums: Tensor
    rows: int = 0

    def correlation(self) -> Tensor:
        """Return the matrix of correlations; units that never vary correlate with none."""
        centred = self.products / self.rows - torch.outer(self.sums, self.sums) / self.rows**2
        spread = centred.diagonal().clamp_min(0).sqrt()
        return centred / torch.outer(spread, spread).clamp_min(1e-7)


def assigned(similarity: Tensor) -> Tensor:
    """Return, for each row, the column of the assignment with the largest total (Hungarian method)."""
    _, columns = linear_sum_assignment(similarity.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(np.asarray(columns, np.int64))


def match_weights(
    one: Tensors, other: Tensors, groups: Sequence[Permutation], *, random: np.random.Generator, sweeps: int
) -> dict[str, Tensor]:
    """Return orders of `other`'s units for which no group alone can raise Σ⟨A, π(B)⟩ (arXiv:2209.04836, Algorithm 1).

    A local optimum: one group at a time, in random order, takes the best order given all others. A map whose rows and
    columns are of one group is taken with one of them as it is, and what is found only where the whole gains: taken
    together they are no assignment.

    Args:
        one: what is aligned to, by canonical name.
        other: what is reordered.
        groups: of units.
        random: of the order in which groups are visited.
        sweeps: over all groups, at most.
    """
    touched: dict[str, list[tuple[str, int, int]]] = {}
    for group in groups:
        for name, axis in (*group.produced, *group.read):
            touched.setdefault(name, []).append((group.name, axis, group.runs.get(name, 1)))
    orders = {group.name: torch.arange(group.units) for group in groups}
    for _ in range(sweeps):
        moved = False
        for number in random.permutation(len(groups)):
            group = groups[number]
            found = {**orders, group.name: assigned(_similarity(one, other, group, touched, orders))}
            before, after = (_reached(one, other, group, touched, tried) for tried in (orders, found))
            if after - before > GAIN * max(1.0, abs(before)):
                orders, moved = found, True
        if not moved:
            break
    return orders


def _similarity(
    one: Tensors, other: Tensors, group: Permutation, touched: Mapping[str, Sequence[tuple[str, int, int]]],
    orders: Orders,
) -> Tensor:  # fmt: skip
    """Return Σ over the group's axes of Aᵢ·Bⱼ, `(units, units)` float64, B in the present order of all other axes."""
    total = torch.zeros(group.units, group.units, dtype=torch.float64)
    for name, axis in (*group.produced, *group.read):
        turned = other[name]
        for its, at, count in touched[name]:
            if (its, at) != (group.name, axis):
                turned = reordered(turned, at, orders[its], count)
        runs = group.runs.get(name, 1)
        rows = units_first(one[name], axis, group.units, runs).double()
        total += (rows @ units_first(turned, axis, group.units, runs).double().T).cpu()
    return total


def _reached(
    one: Tensors, other: Tensors, group: Permutation, touched: Mapping[str, Sequence[tuple[str, int, int]]],
    orders: Orders,
) -> float:  # fmt: skip
    """Return Σ⟨A, π(B)⟩ over the tensors of a group."""
    total = 0.0
    for name in dict.fromkeys(name for name, _ in (*group.produced, *group.read)):
        turned = other[name]
        for its, at, count in touched[name]:
            turned = reordered(turned, at, orders[its], count)
        total += float((one[name].double() * turned.double()).sum())
    return total


def total_similarity(one: Tensors, other: Tensors, groups: Sequence[Permutation]) -> float:
    """Return Σ⟨A, B⟩ over all tensors that some group touches."""
    names = dict.fromkeys(name for group in groups for name, _ in (*group.produced, *group.read))
    return float(sum((one[name].double() * other[name].double()).sum() for name in names))


@torch.no_grad()
def collect_moments(
    shared: SharedModule,
    family: Family,
    models: Sequence[Tensors],
    groups: Sequence[Permutation],
    batches: Iterator[Batch],
) -> dict[str, Moments]:
    """Run all models on the same inputs and return the joint moments of each group's units."""
    modules = [_module_with(shared, model) for model in models]
    count = len(models)
    found: dict[str, Moments] = {}
    for group in groups:
        size = count * group.units
        zeros = torch.zeros(size, dtype=torch.float64)
        found[group.name] = Moments(torch.zeros(size, size, dtype=torch.float64), zeros)
    for batch in batches:
        seen = [_units(module, family, groups, batch) for module in modules]
        for group in groups:
            joined = torch.cat([units[group.name] for units in seen], dim=1).double().cpu()
            moments = found[group.name]
            moments.products += joined.T @ joined
            moments.sums += joined.sum(0)
            moments.rows += len(joined)
    return found


def match_activations(moments: Mapping[str, Moments], groups: Sequence[Permutation], model: int) -> dict[str, Tensor]:
    """Return the orders of a model's units that maximise Σ z_A·z_B with those of the first (arXiv:2209.04836, §3.1)."""
    return {
        group.name: assigned(
            moments[group.name].products[: group.units, model * group.units : (model + 1) * group.units]
        )
        for group in groups
    }


def _module_with(shared: SharedModule, model: Tensors) -> nn.Module:
    module = deepcopy(shared.module)
    state = module.state_dict()
    for name, tensor in model.items():
        state[shared.inside[name]].copy_(tensor)
    return module


def _units(module: nn.Module, family: Family, groups: Sequence[Permutation], batch: Batch) -> Tensors:
    """Return `(rows, units)` of what each group's site reads on a batch."""
    seen: Tensors = {}
    with ExitStack() as hooks:
        for group in groups:
            site = module.get_submodule(group.site)

            def keep(site: nn.Module, inputs: tuple[Any, ...], group: Permutation = group) -> None:
                seen[group.name] = unit_rows(inputs[0], group.units, site)

            hooks.callback(site.register_forward_pre_hook(keep).remove)
        family.features(module, batch)
    return seen
