"""Rank-one MoE: every expert's change of an MLP is cut into maps of rank one, each of which a router weighs."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._router_training import RouterTraining, with_learned_routers
from fusionbench.methods._routing import (
    ROUTING,
    TABLES,
    Routing,
    added,
    build_routed_model,
    part_settings,
    route_settings,
    router_tensors,
)
from fusionbench.mixing import Fused
from fusionbench.mixing.routed import Route
from fusionbench.mixing.sites import ModuleSite, Replacement, oriented
from fusionbench.parameters import Count, Range
from fusionbench.tasks import Task

Depth = Annotated[int, Range(1, 2)]
Choice = Annotated[int, Range(0)]
PEER = RouterTraining(learning_rate=1e-4, schedule="constant")


@merge_method(
    "rank_one_moe",
    paper="github.com/EnnengYang/RankOne-MoE",
    kind="whole",
    category="mix",
    version=1,
    parts=("mlps",),
    needs=("unlabelled", "gradients"),
    compat={"fusion_bench": {"route": "batch"}},
)
def rank_one_moe(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    rank_k: Count = 32,
    select_k: Choice = 0,
    depth: Depth = 1,
    routing: Routing = ROUTING,
    training: RouterTraining = PEER,
) -> Fused:
    """Return the model whose MLPs' maps are W₀ + Σₜ Σⱼ gₜⱼ(h)·sₜⱼ·uₜⱼ·vₜⱼᵀ, g learned by entropy.

    s, u, v are the leading singular triples of each expert's change; the maps of an MLP have the same g, the mean over
    an input's tokens of a router's outputs, not normalised. Biases are b₀ + λ·Σ Δbₜ; all else is task arithmetic.

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        rank_k: triples of each expert; fusion_bench has 32.
        select_k: how many of all triples count, softly: gⱼ·σ(100·(gⱼ − t)), t the k-th largest; 0 is all.
        depth: layers of the router; the hidden layer of two is twice as wide as there are triples.
        routing: how triples are weighed.
        training: how the routers learn; its defaults are fusion_bench's.

    Raises:
        MissingPart: where the family names no MLPs.
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where a map has fewer triples than are asked for, more are to count than there are, or saved
            routers belong to another model.

    Others: fusion_bench 0.2.33 averages g over the batch (`compat=fusion_bench`), holds every expert's Δb beside the
    bias that they make, and turns its experts into changes in place.
    """
    total = rank_k * len(pool.experts)
    if select_k > total:
        raise ConfigError(
            f"method.select_k={select_k}: {len(pool.experts)} experts of rank {rank_k} have {total} triples. Lower it, "
            "or leave it out."
        )
    values = {"rank_k": rank_k, "select_k": select_k, "depth": depth, **routing.values}
    model = build_routed_model(pool, context, "rank_one_moe", values, rank_one_mlp)
    return with_learned_routers(model, tasks, context, "rank_one_moe", routing, training)


def rank_one_mlp(
    site: ModuleSite,
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    *,
    rank_k: int,
    select_k: int = 0,
    depth: int = 1,
    init: float = 0.3,
    route: Route = "sample",
    shared_by: int = TABLES,
) -> Replacement:
    """Return an MLP with the leading triples of every expert's changes beside its maps, and a router that weighs them.

    Args:
        site: an MLP.
        base: its tensors.
        experts: the same of each expert.
        rank_k: triples of each expert.
        select_k: how many of all count; 0 is all.
        depth: of the router.
        init: of the router's last bias, and λ of biases and of what is no linear map.
        route: what has weights of its own.
        shared_by: how many samples of a batch share weights, where the batch does.

    Raises:
        ConfigError: where a map has fewer triples.
    """
    first = next(iter(site.linears))
    width = oriented(base[f"{first}.weight"], site.linears[first]).shape[1]
    triples = rank_k * len(experts)
    tensors = router_tensors(site, width, triples, depth=depth, init=init, hidden=2 * triples)
    weights = {f"{name}.weight": name for name in site.linears}
    for name, origin in base.items():
        changed = [expert[name] for expert in experts]
        if name not in weights:
            tensors[f"mlp.{name}"] = added(origin, changed, init=init)
            continue
        part = weights[name]
        deltas = [oriented(one - origin, site.linears[part]) for one in changed]
        tensors[f"mlp.{name}"] = origin
        left, right = leading_triples(deltas, rank_k, f"{site.name}.{part}")
        tensors |= {f"mlp.{part}.left": left, f"mlp.{part}.right": right}
    sizes = {"experts": len(experts), "rank": rank_k, "width": width, "depth": depth, "chosen": select_k}
    return Replacement(tensors, "rank_one_mlp", {**sizes, **route_settings(route, shared_by), **part_settings(site)})


def leading_triples(deltas: Sequence[Tensor], rank: int, name: str) -> tuple[Tensor, Tensor]:
    """Return s·u as columns, `(out, experts·rank)`, and vᵀ as rows, `(experts·rank, in)`, expert after expert.

    Args:
        deltas: changes of a map, `(out, in)`.
        rank: leading triples of each.
        name: of the map, for messages.

    Raises:
        ConfigError: where the map has fewer.
    """
    shape = tuple(deltas[0].shape)
    if rank > min(shape):
        raise ConfigError(
            f"method.rank_k={rank}: {name} is {shape[0]}×{shape[1]} and has {min(shape)} directions. "
            f"Choose at most {min(shape)}."
        )
    lefts, rights = [], []
    for delta in deltas:
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        lefts.append(left[:, :rank] * values[:rank])
        rights.append(right[:rank])
    return torch.cat(lefts, dim=1), torch.cat(rights)
