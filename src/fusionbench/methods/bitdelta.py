"""BitDelta: what fine-tuning changed in a matrix, as a bit an entry and one number."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.methods._one_expert import check_expert
from fusionbench.methods.singular_projection import of_expert
from fusionbench.mixing.bits import packed
from fusionbench.mixing.sites import ModuleSite, Replacement, block_linear_sites, oriented
from fusionbench.weights.stacking import index_of


@merge_method(
    "bitdelta",
    paper="arXiv:2402.10193",
    kind="rebuild",
    category="mix",
    version=1,
    parts=("linears", "blocks"),
    sites=block_linear_sites,
    rest=of_expert,
    check=check_expert,
)
def bitdelta(
    site: ModuleSite, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], *, expert: str | None = None
) -> Replacement:  # fmt: skip
    """Return W₀ + α·sgn(W − W₀), α the mean of |W − W₀|, which is nearest in squares (arXiv:2402.10193, eq. 1 to 4).

    A change of zero counts as +1. Biases, and all that is no linear map of a block, are the expert's.

    Args:
        site: a linear map.
        base: "weight" and, where there is one, "bias".
        experts: the same of each expert.
        expert: the fine-tuned model, by name; the only one need not be named.

    Others: the paper then trains α on C4, which is a training of its own here (`finetune init=RUN teacher=EXPERT
    recipe.only=[scale]`); its code trains all parameters. fusion_bench drops the biases of the maps that it compresses.
    """
    chosen, inputs_last = experts[index_of(expert, site.experts)], site.linears[""]
    delta = oriented(chosen["weight"], inputs_last) - oriented(base["weight"], inputs_last)
    scale = delta.double().abs().mean().to(torch.float32).reshape(1)
    tensors = {**chosen, "weight": base["weight"], "scale": scale, "words": packed(delta >= 0)}
    return Replacement(tensors, "bits", {"inputs_last": inputs_last}, exact=frozenset({"scale"}))
