"""Run a method of the kind `rebuild`: a module site at a time, from the pool's files to a folder."""

import json
from pathlib import Path

from torch import Tensor

from fusionbench.config import Recipe
from fusionbench.merge import Merged, Pool, Progress, open_pool, silent
from fusionbench.merge_header import header
from fusionbench.mixing import Fused
from fusionbench.mixing.assemble import in_memory, opened
from fusionbench.mixing.rebuild import Rebuilding, checked, rebuild, rebuilder_of
from fusionbench.mixing.shards import ShardWriter
from fusionbench.registry import methods
from fusionbench.run.folder import MODEL
from fusionbench.run.setting import Setting
from fusionbench.run.whole import Left
from fusionbench.weights.companions import CONFIG, copy_companions
from fusionbench.weights.devices import device_named
from fusionbench.weights.headers import WORDS
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TORCH

PASSES = 1
HELD_BYTES = 1_000_000_000
"""Most bytes of a shard: as many are in memory beside what a site needs."""


def rebuild_to(recipe: Recipe, folder: Path, progress: Progress = silent, pool: Pool | None = None) -> Merged:
    """Write the rebuilt model of a recipe to `folder`, whole or not at all.

    It is plain Hugging Face where the result is of a known architecture; else `fusion_config.json` says which modules
    were replaced.

    Args:
        recipe: base, experts and a method of the kind `rebuild`.
        folder: must not exist.
        progress: told how many sites are done.
        pool: the recipe's models where they are opened already.

    Raises:
        FusionBenchError: for every mistake of the user; nothing is left behind.
    """
    pool = pool or open_pool(recipe)
    entry, inputs = methods[recipe.method.name], pool.fingerprints()
    made = Rebuilding()

    def finish(place: Path) -> None:
        copy_companions(pool.reference, place, dtype=recipe.output.dtype)
        if made.config:
            kinds = {} if recipe.output.dtype == "base" else {"dtype": recipe.output.dtype}
            (place / CONFIG).write_text(json.dumps({**made.config, **kinds}, indent=2, sort_keys=True) + "\n")
        blueprint = made.blueprint(entry, recipe.method.params, pool)
        if blueprint is not None:
            blueprint.write(place)

    text = {"fusionbench": json.dumps(header(recipe, entry, inputs), ensure_ascii=False)}
    kind = None if recipe.output.dtype == "base" else TORCH[WORDS[recipe.output.dtype]]
    shard = min(recipe.output.shard_bytes, HELD_BYTES)
    with ShardWriter(folder, metadata=text, shard_bytes=shard, finish=finish) as writer:

        def write(name: str, tensor: Tensor) -> None:
            cast = kind is not None and tensor.is_floating_point()
            writer.add(name, checked(name, tensor, kind or tensor.dtype) if cast else tensor)

        made = rebuild(pool, rebuilder_of(entry), recipe.method.params, write, seed=recipe.seed, progress=progress)
    return Merged(folder, writer.parameters, writer.bytes, PASSES, made.notes, inputs)


def fuse_rebuilt(setting: Setting, folder: Path, progress: Progress) -> tuple[Fused, int | None, Left]:
    """Return the rebuilt model of a run, how often the inputs were read, and nothing that was left.

    Raises:
        FusionBenchError: where the method cannot run on this setting.
    """
    recipe, place = setting.recipe, folder / MODEL
    device = device_named(recipe.runtime.device)
    if not recipe.output.model and not place.exists():
        entry = methods[recipe.method.name]
        return in_memory(setting.pool, entry, recipe.method.params, seed=recipe.seed, device=device), PASSES, Left()
    passes = None
    if not place.exists():
        passes = rebuild_to(recipe, place, progress, setting.pool).passes
    return opened(open_source(place), setting.pool, device), passes, Left()
