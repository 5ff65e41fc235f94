"""WEMoE: each block's MLP is merged anew for every input, by weights that a small router reads off it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fusionbench.merge import Pool
from fusionbench.methods._adaptation import AdaptSplit
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._routing import (
    ROUTERS,
    Depth,
    RouterTraining,
    StepCount,
    build_routed_model,
    put_routers,
    routers_of,
)
from fusionbench.mixing import Fused
from fusionbench.mixing.routed import Route
from fusionbench.parameters import Count, Positive
from fusionbench.tasks import Task


@merge_method(
    "wemoe",
    paper="arXiv:2402.00433",
    kind="whole",
    category="mix",
    version=1,
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
    learning_rate: Positive = 1e-3,
    schedule: Literal["constant", "cosine"] = "cosine",
    steps: StepCount = 1000,
    batch: Count = 16,
    adapt_split: AdaptSplit = "test",
    routers: str | None = None,
    checkpoint_every: Count = 100,
    evaluate_every: int = 0,
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
        learning_rate: of Adam (0.9, 0.999); the paper's is 0.001.
        schedule: of the rate; the paper's is cosine.
        steps: the paper's is 1000; 0 leaves the routers as they start, which is task arithmetic but for their noise.
        batch: inputs of each task a step; the paper's is 16.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        routers: artefacts/routers of an earlier run: no adaptation, only the model.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve; 0 is never.

    Raises:
        MissingPart: where the family names no MLPs.
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where saved routers belong to another model.

    Others: fusion_bench weighs the experts by the batch's mean, in evaluation too, so that its answers depend on the
    batch, which in its tables holds one task only: `compat=fusion_bench`.
    """
    model = build_routed_model(pool, context, "wemoe", {"depth": depth, "init": init, "route": route})
    if routers is not None:
        put_routers(model, Path(routers))
    elif steps > 0:
        training = RouterTraining(
            steps, batch, learning_rate, schedule, adapt_split, checkpoint_every, evaluate_every
        )  # fmt: skip
        training.run(model, tasks, context, "wemoe")
    context.save(ROUTERS, {name: tensor.detach().cpu() for name, tensor in routers_of(model).items()}, {})
    context.note(f"the experts are weighed by {route}")
    return model
