"""Efficient WEMoE: one router for all blocks, and of each expert's changes the largest only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fusionbench.merge import Pool
from fusionbench.methods._adaptation import AdaptSplit
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._pruned import pruned_mlp
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
from fusionbench.parameters import Count, Positive, Share
from fusionbench.tasks import Task


@merge_method(
    "efficient_wemoe",
    paper="arXiv:2410.21804",
    kind="whole",
    category="mix",
    version=1,
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
    init: float = 0.3,
    route: Route = "sample",
    learning_rate: Positive = 1e-4,
    schedule: Literal["constant", "cosine"] = "constant",
    steps: StepCount = 1000,
    batch: Count = 16,
    adapt_split: AdaptSplit = "test",
    routers: str | None = None,
    checkpoint_every: Count = 100,
    evaluate_every: int = 0,
) -> Fused:
    """Return WEMoE with one router for all blocks and Δφᵢ without their smallest entries (arXiv:2410.21804, §4).

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        prune: share of each expert's change in each tensor that is left out; the paper's is 0.9.
        depth: layers of the router; 0 is a free vector, the same for every input. The paper's is 2.
        init: λ of task arithmetic outside the MLPs, and every weight at the start; the paper's is 0.3.
        route: what has weights of its own: each sample; each token; or the batch, as in the paper's tables.
        learning_rate: of Adam (0.9, 0.999); the paper's is 0.0001.
        schedule: of the rate; the paper's is constant.
        steps: the paper's is 1000; 0 leaves the router as it starts.
        batch: inputs of each task a step; the paper's is 16.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        routers: artefacts/routers of an earlier run: no adaptation, only the model.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve; 0 is never.

    Raises:
        MissingPart: where the family names no MLPs.
        NotAdaptable: where a task has no objective without labels, before anything long.
        ConfigError: where saved routers belong to another model.

    Others: fusion_bench stores the pruned changes with their zeros; its code of the layer, which may be put before a
    router's input, is off by default and not offered here.
    """
    values = {"depth": depth, "init": init, "route": route, "prune": prune}
    model = build_routed_model(pool, context, "efficient_wemoe", values, pruned_mlp)
    if routers is not None:
        put_routers(model, Path(routers))
    elif steps > 0:
        training = RouterTraining(steps, batch, learning_rate, schedule, adapt_split, checkpoint_every, evaluate_every)
        training.run(model, tasks, context, "efficient_wemoe")
    context.save(ROUTERS, {name: tensor.detach().cpu() for name, tensor in routers_of(model).items()}, {})
    context.note(f"the experts are weighed by {route}")
    return model
