"""PWE-MoE: gates turn what the user prefers into weights of the experts, so that one training spans a Pareto front."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._pareto import on_simplex, simplex_grid
from fusionbench.methods._preference import (
    Front,
    GateTraining,
    Parts,
    build_preferred_model,
    merged_at,
    tasks_by_expert,
)
from fusionbench.methods._router_training import put_routers, save_routers
from fusionbench.mixing import Fused
from fusionbench.mixing.variants import Variants
from fusionbench.parameters import Range
from fusionbench.tasks import Task

GATES = "gates"
PAPER = GateTraining()


@merge_method(
    "pwe_moe",
    paper="arXiv:2406.09770",
    kind="whole",
    category="mix",
    version=1,
    needs=("labelled", "gradients"),
    parts=("mlps",),
)
def pwe_moe(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    parts: Parts = "mlp",
    depth: Annotated[int, Range(1, 2)] = 2,
    init: float = 0.3,
    preference: Sequence[float] | None = None,
    grid: Annotated[int, Range(2)] = 2,
    gates: str | None = None,
    training: GateTraining = PAPER,
) -> Fused:
    """Return modules φ₀ + Σ g(r)ᵢ·Δφᵢ whose gates g read a preference r over the experts (arXiv:2406.09770, §3).

    Args:
        pool: base and experts.
        tasks: those that experts were trained on; their training split is read, with labels.
        context: of the run.
        parts: what a gate each weighs: the blocks' MLPs, or those and the modules of their other linear maps.
        depth: layers of a gate; the paper's is 2.
        init: λ of task arithmetic outside these modules, and every weight at the start; the paper's is 0.3.
        preference: one weight an expert, none negative, that sum to 1: the result is the plain model merged for it.
        grid: points of each edge of the simplex at which the front is evaluated, without a preference: 2 are its
            corners, 11 steps of a tenth. Equal weights come first.
        gates: artefacts/gates of an earlier run: no training, only the model.
        training: how the gates learn.

    Raises:
        MissingPart: where the family names no MLPs.
        ConfigError: where the preference is off the simplex, an expert has no task, or gates belong to another model.
        MissingData: where a task has no training data.
    """
    experts = tuple(pool.experts)
    wanted = None if preference is None else on_simplex(preference, experts)
    points = simplex_grid(len(experts), grid)
    own = tasks_by_expert(pool, tasks) if gates is None and training.steps > 0 else {}
    model = build_preferred_model(pool, context, "pwe_moe", {"depth": depth, "init": init, "parts": parts})
    if gates is not None:
        put_routers(model, Path(gates), GATES)
    elif training.steps > 0:
        training.run(model, own, context, "pwe_moe")
    save_routers(model, context, GATES)
    if wanted is not None:
        said = ", ".join(f"{expert} {weight:.4g}" for expert, weight in zip(experts, wanted, strict=True))
        context.note(f"merged for the preference {said}")
        return merged_at(model, wanted, pool, context.family, context.device)
    context.note(f"preferences are over {', '.join(experts)}, in this order")
    return Variants(Front(model, pool, context, points), source=model)
