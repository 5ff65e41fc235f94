"""WEMoE: each block's MLP is merged anew for every input, by weights that a small router reads off it."""

from collections.abc import Mapping

from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._routing import (
    TABLES,
    Depth,
    RouterTraining,
    build_routed_model,
    with_learned_routers,
)
from fusionbench.mixing import Fused
from fusionbench.mixing.routed import Route
from fusionbench.parameters import Count
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
    init: float = 0.3,
    route: Route = "sample",
    shared_by: Count = TABLES,
    routers: str | None = None,
    training: RouterTraining = PAPER,
) -> Fused:
    """Return the model whose MLPs are φ₀ + Σ wᵢ(h)·Δφᵢ, with w learned by entropy (arXiv:2402.00433, eq. 3 to 7).

    w is the mean over an input's tokens of a router's outputs, not normalised; all else is task arithmetic.

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        depth: layers of the router; 0 is a free vector, the same for every input. The paper's is 2.
        init: λ of task arithmetic outside the MLPs, and every weight at the start; the paper's is 0.3.
        route: what has weights of its own: each sample, as in the paper; each token, for models that write text; or
            the batch, whose answers then depend on what is in it.
        shared_by: with route=batch how many samples share weights, in the order of the data: 128 in the papers' tables.
            Evaluation runs 256 at a time, so take a divisor of that.
        routers: artefacts/routers of an earlier run: no adaptation, only the model.
        training: how the routers learn; its defaults are the paper's.

    Raises:
        MissingPart: where the family names no MLPs.
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where saved routers belong to another model.

    Others: fusion_bench weighs the experts by the batch's mean, in evaluation too, so that its answers depend on the
    batch, which in its tables holds one task only: `compat=fusion_bench`.
    """
    values = {"depth": depth, "init": init, "route": route, "shared_by": shared_by}
    model = build_routed_model(pool, context, "wemoe", values)
    return with_learned_routers(model, tasks, context, "wemoe", training, routers, route)
