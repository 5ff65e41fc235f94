"""From the MLPs of a dense model to sparse blocks of experts, by the names that the family gives their tensors."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families.sparse import DENSE_MLP, PARTS
from fusionbench.merge import Pool
from fusionbench.mixing.sites import ModuleSite, Replacement
from fusionbench.parameters import Range
from fusionbench.weights.plan import seed_of

Tensors = Mapping[str, Tensor]
Deviation = Annotated[float, Range(0)]


def dense_mlps(pool: Pool, *, method: str, seed: int = 0) -> list[ModuleSite]:
    """Return the MLP of each layer, found by its tensors' names.

    Raises:
        MissingPart: where the model has none of this form.
    """
    held: dict[int, dict[str, str]] = {}
    places = {}
    for name in pool.reference.specs:
        if match := DENSE_MLP.match(name):
            number = int(match[2])
            held.setdefault(number, {})[match[3]] = name
            places[number] = match[1]
    whole = {number for number, names in held.items() if set(names) == set(PARTS)}
    if not held or whole != set(held):
        raise MissingPart(str(pool.reference.config.get("model_type")), "MLPs with gate, up and down maps", (method,))
    linears = {part.removesuffix(".weight"): True for part in PARTS}
    names = tuple(pool.experts)
    return [
        ModuleSite(places[number] + "mlp", held[number], linears, depth, len(held), names, seed_of(seed, method))
        for depth, number in enumerate(sorted(held))
    ]


def sparse_block(
    site: ModuleSite, mlps: Sequence[Tensors], *, deviation: float, gate: Tensor | None = None
) -> Replacement:
    """Return a sparse block of several MLPs, with the given router, or one of weights N(0, deviation²).

    Args:
        site: a dense MLP.
        mlps: the tensors of each expert of the block.
        deviation: of the router's weights; Mixtral's `initializer_range` is 0.02.
        gate: the router's weights, `(experts, width)`; None draws them.
    """
    if gate is None:
        width = mlps[0]["gate_proj.weight"].shape[1]
        generator = torch.Generator().manual_seed((site.seed + site.depth) % 2**63)
        gate = deviation * torch.randn(len(mlps), width, generator=generator)
    tensors = {"gate.weight": gate}
    for number, mlp in enumerate(mlps):
        tensors |= {f"experts.{number}.{theirs}": mlp[ours] for ours, theirs in PARTS.items()}
    return Replacement(tensors, place=site.name.removesuffix("mlp") + "block_sparse_moe")


def check_choice(top_k: int, experts: int) -> None:
    """Refuse more experts a token than a layer has.

    Raises:
        ConfigError: with both numbers.
    """
    if top_k > experts:
        raise ConfigError(f"method.top_k={top_k} experts a token cannot be chosen of {experts}. Lower it.")
