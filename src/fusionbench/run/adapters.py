"""Runs in adapter space: adapters are merged into an adapter, which is put on the base to be evaluated."""

from pathlib import Path

from fusionbench.merge import Pool, Progress, merge
from fusionbench.mixing import Fused
from fusionbench.mixing.build import fused_weights
from fusionbench.run.folder import MODEL
from fusionbench.run.setting import Setting
from fusionbench.run.whole import Left
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.collected import STATISTICS
from fusionbench.weights.devices import device_named
from fusionbench.weights.tensors import LazyWeights


def fuse_adapters(setting: Setting, adapters: Pool, folder: Path, progress: Progress) -> tuple[Fused, int | None, Left]:
    """Return base + merged adapter, how often the inputs were read, and what the report should say.

    The merged adapter is the run's model, a folder that PEFT loads. What a method would collect of linear maps is not
    collected: an adapter in its own space has none, so that RegMean averages.

    Args:
        setting: of the run.
        adapters: what is merged.
        folder: the run's.
        progress: told how many entries are done.

    Raises:
        FusionBenchError: where the adapters do not fit each other or the base.
    """
    place = folder / MODEL
    method = setting.recipe.method
    params = {key: value for key, value in method.params.items() if key != STATISTICS}
    recipe = setting.recipe.model_copy(update={"method": method.model_copy(update={"params": params})})
    passes = None if place.exists() else merge(recipe, place, progress, adapters).passes
    source = open_adapter(place, setting.pool.base, "dense")
    fused = fused_weights(LazyWeights(source), setting.pool, device_named(setting.recipe.runtime.device))
    return fused, passes, Left(notes=["the adapters were merged by themselves; the model is an adapter of the base"])
