"""Efficient WEMoE: one router for all blocks, and of each expert's changes the largest only."""

from collections.abc import Mapping

from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._pruned import pruned_mlp
from fusionbench.methods._router_training import RouterTraining, with_learned_routers
from fusionbench.methods._routing import ROUTING, Depth, Routing, build_routed_model
from fusionbench.mixing import Fused
from fusionbench.parameters import Share
from fusionbench.tasks import Task

EFFICIENT = RouterTraining(learning_rate=1e-4, schedule="constant")


@merge_method(
    "efficient_wemoe",
    paper="arXiv:2410.21804",
    kind="whole",
    category="mix",
    version=1,
    parts=("mlps",),
    needs=("unlabelled", "gradients"),
    compat={"official": {}, "fusion_bench": {"route": "batch"}},
)
def efficient_wemoe(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    prune: Share = 0.9,
    depth: Depth = 2,
    routing: Routing = ROUTING,
    training: RouterTraining = EFFICIENT,
) -> Fused:
    """Return WEMoE with one router for all blocks and Δφᵢ without their smallest entries (arXiv:2410.21804, §4).

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        prune: share of each expert's change in each tensor that is left out; the paper's is 0.9.
        depth: layers of the router; 0 is a free vector, the same for every input. The paper's is 2.
        routing: how experts are weighed.
        training: how the routers learn; its defaults are the paper's.

    Raises:
        MissingPart: where the family names no MLPs.
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where saved routers belong to another model.

    Others: fusion_bench stores the pruned changes with their zeros; its code of the layer, which may be put before a
    router's input, is off by default and not offered here.
    """
    values = {"depth": depth, "prune": prune, **routing.values}
    model = build_routed_model(pool, context, "efficient_wemoe", values, pruned_mlp)
    return with_learned_routers(model, tasks, context, "efficient_wemoe", routing, training)
