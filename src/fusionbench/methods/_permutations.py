"""Units that may change places: which tensors go together, other orders of them, and proof that all stays the same."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fusionbench.errors import ConfigError, IncompatibleModels, MissingPart
from fusionbench.families import Batch, Family, HasPermutations, Permutation, batch_norms, reestimate
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._statistics import CollectSplit, SharedModule
from fusionbench.tasks import Task
from fusionbench.weights.tensors import TORCH

Tensors = dict[str, Tensor]
Orders = Mapping[str, Tensor]
"""By group: `order[i]` is the unit that comes to place i."""
EQUAL = 1e-5
"""Largest change of an output, as a share of the largest output, that counts as none."""


def groups_of(pool: Pool, family: Family, shared: SharedModule, method: str) -> tuple[Permutation, ...]:
    """Return a family's groups with the tensors' canonical names, held against the models.

    Raises:
        MissingPart: where the family names none.
        IncompatibleModels: where a group names a tensor that is not fused, or an axis that its units do not divide.
    """
    if not isinstance(family, HasPermutations):
        raise MissingPart(family.name, "permutations of units", (method,))
    canonical = {own: name for name, own in shared.inside.items()}
    state = shared.module.state_dict()
    groups, problems = [], []
    for group in family.permutations(pool.reference.config):
        for name, axis in (*group.produced, *group.read):
            shape = state[name].shape if name in canonical else ()
            if axis >= len(shape) or shape[axis] % (group.units * group.runs.get(name, 1)):
                problems.append(f"  {group.name}: axis {axis} of {name} {list(shape)} holds no {group.units} units")
        if not problems:
            produced = tuple((canonical[name], axis) for name, axis in group.produced)
            runs = {canonical[name]: count for name, count in group.runs.items()}
            read = tuple((canonical[name], axis) for name, axis in group.read)
            groups.append(group._replace(produced=produced, read=read, runs=runs))
    if problems:
        raise IncompatibleModels("\n".join([f"The permutations of {family.name!r} do not fit:", *problems]))
    return tuple(groups)


def units_first(tensor: Tensor, axis: int, units: int, runs: int = 1) -> Tensor:
    """Return a tensor as `(units, entries a unit)`; an axis of several runs has each unit once in every run."""
    return tensor.movedim(axis, 0).reshape(runs, units, -1).movedim(1, 0).reshape(units, -1)


def mapped(tensor: Tensor, axis: int, matrix: Tensor, runs: int = 1) -> Tensor:
    """Return a tensor whose units along an axis are `matrix @ units`, `(new units, units)`; blocks stay blocks."""
    moved = tensor.movedim(axis, 0)
    flat = matrix.to(moved.dtype) @ moved.reshape(runs, matrix.shape[1], -1)
    return flat.reshape(-1, *moved.shape[1:]).movedim(0, axis)


def reordered(tensor: Tensor, axis: int, order: Tensor, runs: int = 1) -> Tensor:
    """Return a tensor with its units along an axis in another order, the same in every run."""
    moved = tensor.movedim(axis, 0)
    units = moved.reshape(runs, len(order), -1)[:, order]
    return units.reshape(moved.shape).movedim(0, axis)


def permuted(model: Tensors, groups: Sequence[Permutation], orders: Orders) -> Tensors:
    """Return a model whose units stand in other orders; groups without an order keep theirs."""
    result = dict(model)
    for group in groups:
        if group.name in orders:
            for name, axis in (*group.produced, *group.read):
                result[name] = reordered(result[name], axis, orders[group.name], group.runs.get(name, 1))
    return result


def read_model(shared: SharedModule, expert: str) -> Tensors:
    """Return an expert's fused tensors and statistics by canonical name, float32."""
    return {name: shared.read(expert, name) for name in shared.inside}


def check_groups(
    shared: SharedModule, family: Family, model: Tensors, groups: Sequence[Permutation], batch: Batch, seed: int
) -> None:
    """Shuffle every group at random and see that the outputs stay, in float64; see `check_unchanged`."""
    random = np.random.default_rng(seed)
    orders = {group.name: torch.from_numpy(random.permutation(group.units)) for group in groups}
    check_unchanged(shared, family, model, permuted(model, groups, orders), batch)


@torch.no_grad()
def check_unchanged(shared: SharedModule, family: Family, before: Tensors, after: Tensors, batch: Batch) -> None:
    """Run two models in float64 and refuse where their features differ.

    Raises:
        IncompatibleModels: where the largest difference is more than 10⁻⁵ of the largest output.
    """
    module = deepcopy(shared.module).double()
    state = module.state_dict()
    wide = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}
    outputs = []
    for model in (before, after):
        for name, tensor in model.items():
            state[shared.inside[name]].copy_(tensor)
        outputs.append(family.features(module, wide))
    gap, size = float((outputs[0] - outputs[1]).abs().max()), float(outputs[0].abs().max())
    if not gap <= EQUAL * max(size, 1e-30):
        raise IncompatibleModels(
            f"Other orders of the units change what the model computes: its outputs of up to {size:.3g} move by "
            f"{gap:.3g}. The permutations of the family {family.name!r} do not describe this model; nothing was merged."
        )


def unlabelled(
    tasks: Mapping[str, Task], context: Context, *, split: CollectSplit, examples: int, size: int = 32
) -> Iterator[Batch]:
    """Yield batches without labels of each task's first `examples` inputs, on the run's device."""
    for task in tasks.values():
        for batch in task.batches(split, size=min(size, examples), limit=examples, labels=False):
            yield {k: v.to(context.device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def first_batch(tasks: Mapping[str, Task], context: Context, split: CollectSplit, method: str) -> Batch:
    """Return a few inputs for the self-check.

    Raises:
        ConfigError: where there is no task to take them from.
    """
    if not tasks:
        raise ConfigError(
            f"{method} checks on a few inputs that other orders of the units change nothing: add a suite, or experts "
            "that name their tasks."
        )
    return next(unlabelled(dict(list(tasks.items())[:1]), context, split=split, examples=4))


def recalibrated(shared: SharedModule, family: Family, model: Tensors, batches: Iterator[Batch]) -> Tensors:
    """Return a model with statistics of batch normalisation that are the means over batches, as after REPAIR.

    A model without batch normalisation is returned as it is, and no batch is read.
    """
    if not batch_norms(shared.module):
        return model
    shared.put(model)
    reestimate(shared.module, family, batches)
    state = shared.module.state_dict()
    return {name: state[own].clone() for name, own in shared.inside.items()}


def count_of(tasks: Mapping[str, Task], split: CollectSplit, examples: int) -> int:
    """Return how many inputs `unlabelled` yields."""
    return sum(min(examples, task.size(split)) for task in tasks.values())


def as_stored(merged: Tensors, pool: Pool) -> Tensors:
    """Return tensors in the reference's kinds of number, on the CPU."""
    return {n: t.detach().cpu().to(TORCH[pool.reference.specs[n].dtype]) for n, t in merged.items()}


def unit_rows(values: Tensor, units: int, site: nn.Module) -> Tensor:
    """Return what a site reads as `(rows, units)`: examples, places and the entries of a block are rows alike."""
    if isinstance(site, nn.Conv1d | nn.Conv2d | nn.Conv3d | _BatchNorm):
        values = values.movedim(1, -1)
    blocks = values.reshape(-1, units, values.shape[-1] // units)
    return blocks.transpose(1, 2).reshape(-1, units)
