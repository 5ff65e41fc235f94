"""Sparse up-cycling: a dense model becomes a mixture of experts that answers as before, and can learn further."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fusionbench.families.sparse import mixtral_config
from fusionbench.methods._method import merge_method
from fusionbench.methods._sparse_blocks import Deviation, check_choice, dense_mlps, sparse_block
from fusionbench.mixing.sites import ModuleSite, Replacement
from fusionbench.parameters import Count


def upscaled_config(config: Mapping[str, Any], experts: int, *, copies: int, top_k: int) -> dict[str, Any]:
    """Return the configuration of the mixture; see `mixtral_config`."""
    del experts
    return mixtral_config(config, copies, top_k)


def check_upscaling(experts: Sequence[str], *, copies: int, top_k: int) -> None:
    """Refuse more experts a token than copies; see `check_choice`."""
    del experts
    check_choice(top_k, copies)


@merge_method(
    "moe_upscaling",
    paper="arXiv:2212.05055",
    kind="rebuild",
    category="mix",
    version=1,
    base="optional",
    needs=("training_after",),
    sites=dense_mlps,
    configure=upscaled_config,
    check=check_upscaling,
)
def moe_upscaling(
    site: ModuleSite, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], *,
    copies: Count = 4, top_k: Count = 2, router_deviation: Deviation = 0.02,
) -> Replacement:  # fmt: skip
    """Return a sparse block of copies of a dense MLP, Σ p̂ₑ·MLP(x) with Σ p̂ₑ = 1 (arXiv:2212.05055, §3).

    The copies being equal and their shares summing to 1, the model answers as the dense one whatever the router says.

    Args:
        site: an MLP of a Llama or Mistral.
        base: its tensors.
        experts: not looked at.
        copies: of the MLP in each layer.
        top_k: how many of them a token passes.
        router_deviation: of the router's weights, N(0, σ²); 0.02 is Mixtral's.

    Others: fusion_bench leaves attention and routers as uninitialised memory (0.2.33). The paper up-cycles every other
    layer and, in encoders, lets experts choose tokens.
    """
    del experts
    return sparse_block(site, [base] * copies, deviation=router_deviation)
