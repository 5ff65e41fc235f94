"""Merge by a file of several recipes: each result is a model on disk, which later recipes take and later runs reuse."""

import json
from collections.abc import Sequence
from pathlib import Path

from fusionbench.compat import Stage
from fusionbench.config import Recipe
from fusionbench.errors import OutputError
from fusionbench.merge import Merged, Pool, Progress, merge, open_pool, plan_of_recipe, silent
from fusionbench.merge_header import header
from fusionbench.registry import methods
from fusionbench.weights.arrays import check_models
from fusionbench.weights.checks import fit
from fusionbench.weights.sources import open_source


def merge_stages(
    stages: Sequence[Stage], folder: Path, progress: Progress = silent, *, digest: bool = False
) -> tuple[Merged, tuple[str, ...]]:
    """Write the result of the last stage to `folder`, those before it to `<folder>.stages/<name>`, in this order.

    A stage that is there already is used again where the same recipe on the same models made it.

    Args:
        stages: in the order of `load_stages`.
        folder: must not exist.
        progress: told how many entries of a stage are done.
        digest: see `fusionbench.merge.merge`.

    Returns:
        What the last merge did, and a note for each stage that was there already.

    Raises:
        OutputError: where `folder` exists, or a stage's folder holds something else.
        FusionBenchError: see `merge`; stages that are finished are kept.
    """
    *before, last = stages
    if before and folder.exists():
        raise OutputError(f"{folder} exists; nothing is written over. Choose another folder or remove it.")
    folders = {stage.name: folder.parent / f"{folder.name}.stages" / stage.name for stage in before}
    reused = []
    for stage in before:
        recipe, place = stage.placed(folders), folders[stage.name]
        pool = open_pool(recipe)
        if place.exists():
            _refuse_another(place, recipe, pool)
            reused.append(f"{place} is there already, made by this recipe of these models; it is used again.")
        else:
            _make(recipe, place, progress, pool, digest)
    recipe = last.placed(folders)
    return _make(recipe, folder, progress, open_pool(recipe), digest), tuple(reused)


def notes_of(recipe: Recipe) -> tuple[str, ...]:
    """Return what a user should know of a recipe before it is run; everything is checked, nothing is written.

    Raises:
        FusionBenchError: where it cannot be run.
    """
    pool = open_pool(recipe)
    if methods[recipe.method.name].kind == "rebuild":
        return fit(pool.reference, pool.experts, tower=pool.tower).notes
    plan = plan_of_recipe(recipe, pool)
    check_models(plan, methods[recipe.method.name])
    return plan.notes


def _make(recipe: Recipe, folder: Path, progress: Progress, pool: Pool, digest: bool) -> Merged:
    """Write one result: a tensor at a time without torch, or a module site at a time."""
    if methods[recipe.method.name].kind == "rebuild":
        from fusionbench.run.rebuild import rebuild_to

        return rebuild_to(recipe, folder, progress, pool)
    return merge(recipe, folder, progress, pool, digest=digest, in_parts=recipe.runtime.launcher is not None)


def _refuse_another(place: Path, recipe: Recipe, pool: Pool) -> None:
    """Refuse a folder that was not made by `recipe` of these models."""
    try:
        made = json.loads(getattr(open_source(place), "metadata", {}).get("fusionbench", "{}"))["identity"]
    except (ValueError, KeyError, TypeError):
        made = None
    if made != header(recipe, methods[recipe.method.name], pool.fingerprints())["identity"]:
        raise OutputError(
            f"{place} holds another result: its recipe or its models have changed since. Remove it to make it again, "
            "or choose another --out."
        )
