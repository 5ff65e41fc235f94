"""WEMoE: each block's MLP is merged anew for every input, by weights that a small router reads off it."""

from collections.abc import Mapping

from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._router_training import RouterTraining, with_learned_routers
from fusionbench.methods._routing import ROUTING, Depth, Routing, build_routed_model
from fusionbench.mixing import Fused
from fusionbench.tasks import Task

PAPER = RouterTraining()


@merge_method(
    "wemoe",
    paper="arXiv:2402.00433",
    kind="whole",
    category="mix",
    version=1,
    parts=("mlps",),
    needs=("unlabelled", "gradients"),
    compat={"official": {}, "fusion_bench": {"route": "batch"}},
)
def wemoe(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    depth: Depth = 2,
    routing: Routing = ROUTING,
    training: RouterTraining = PAPER,
) -> Fused:
    """Return the model whose MLPs are φ₀ + Σ wᵢ(h)·Δφᵢ, with w learned by entropy (arXiv:2402.00433, eq. 3 to 7).

    w is the mean over an input's tokens of a router's outputs, not normalised; all else is task arithmetic.

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        depth: layers of the router; 0 is a free vector, the same for every input. The paper's is 2.
        routing: how experts are weighed.
        training: how the routers learn; its defaults are the paper's.

    Raises:
        MissingPart: where the family names no MLPs.
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where saved routers belong to another model.

    Others: fusion_bench weighs the experts by the batch's mean, in evaluation too, so that its answers depend on the
    batch, which in its tables holds one task only: `compat=fusion_bench`.
    """
    model = build_routed_model(pool, context, "wemoe", {"depth": depth, **routing.values})
    return with_learned_routers(model, tasks, context, "wemoe", routing, training)
