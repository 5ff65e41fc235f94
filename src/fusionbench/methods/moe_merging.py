"""MoE merging: the MLPs of several dense models become the experts of one sparse model."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fusionbench.families.sparse import mixtral_config
from fusionbench.methods._method import merge_method
from fusionbench.methods._outside import base_or_average
from fusionbench.methods._prompted import GateMode, Prompts, check_prompts, prompted_gates
from fusionbench.methods._sparse_blocks import Deviation, check_choice, dense_mlps, sparse_block
from fusionbench.mixing.sites import ModuleSite, Replacement
from fusionbench.parameters import Count


def merged_config(config: Mapping[str, Any], experts: int, *, top_k: int) -> dict[str, Any]:
    """Return the configuration of the mixture; see `mixtral_config`."""
    return mixtral_config(config, experts, top_k)


def check_merging(
    experts: Sequence[str],
    *,
    top_k: int,
    gate_mode: GateMode,
    positive_prompts: Mapping[str, Any] | None,
    negative_prompts: Mapping[str, Any] | None,
) -> None:
    """Refuse more experts a token than there are, and prompts that do not fit; see `check_choice`, `check_prompts`."""
    check_choice(top_k, len(experts))
    check_prompts(experts, gate_mode, positive_prompts, negative_prompts)


@merge_method(
    "moe_merging",
    paper="arXiv:2212.05055",
    kind="rebuild",
    category="mix",
    version=1,
    needs=("training_after",),
    sites=dense_mlps,
    prepare=prompted_gates,
    rest=base_or_average,
    configure=merged_config,
    check=check_merging,
)
def moe_merging(
    site: ModuleSite, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], *,
    top_k: Count = 2, router_deviation: Deviation = 0.02, gate_mode: GateMode = "random",
    positive_prompts: Prompts | None = None, negative_prompts: Prompts | None = None,
    prepared: Tensor | None = None,
) -> Replacement:  # fmt: skip
    """Return a sparse block whose experts are the MLPs of the pool's models, Σ p̂ₑ·MLPₑ(x) over the chosen.

    Attention, norms, embeddings and head are the base's; the router is new, so that the model must be trained. By
    prompts, an expert's row of it is g / ‖g‖, g the mean over the expert's prompts of what goes into the layer in the
    base, less the same mean over prompts that are not for it.

    Args:
        site: an MLP of a Llama or Mistral.
        base: its tensors in the base, not looked at.
        experts: its tensors in each model.
        top_k: how many of them a token passes.
        router_deviation: of the router's weights, N(0, σ²); 0 gives all experts the same share until it is trained.
        gate_mode: random; hidden, by the last token of prompts; or hidden_avg, by the average over their tokens.
        positive_prompts: texts that an expert is to be chosen for, a list of them by its name; of gate_mode=hidden.
        negative_prompts: texts that it is not for.
        prepared: the routers that prompts gave, `(layers, experts, width)`.

    Others: what fusion_bench 0.2.33 registers under this name cannot be run. mergekit-moe (0.1.5) has the same gates
    by prompts, in bfloat16, and averages, or takes as last token, the padding of all but the longest prompt too.
    """
    del base, gate_mode, positive_prompts, negative_prompts
    gate = None if prepared is None else prepared[site.depth]
    return sparse_block(site, experts, deviation=router_deviation, gate=gate)
