"""Write what a merge changes of its base as a LoRA that PEFT loads. No torch here beyond what the method needs."""

import tempfile
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, OutputError
from fusionbench.merge import Merged, Pool, Progress, merge
from fusionbench.merge_header import header
from fusionbench.registry import methods
from fusionbench.weights.adapters import extract_lora
from fusionbench.weights.card import write_card
from fusionbench.weights.lock import write_lock
from fusionbench.weights.partial import written_to
from fusionbench.weights.sources import open_source

RANK = 16
"""Where the recipe leaves it open."""
ADAPTER = "adapter_model.safetensors"


def merge_lora(
    recipe: Recipe, folder: Path, progress: Progress, pool: Pool, *, digest: bool = False, in_parts: bool = False
) -> Merged:
    """Write the LoRA of a recipe's merge to `folder`; the dense result is beside it, in float32, until that is done.

    Args:
        recipe: with `output.format=lora`.
        folder: must not exist.
        progress: told how many entries of the dense merge are done.
        pool: the recipe's opened models; with a base.
        digest: see `merge`.
        in_parts: see `merge`; of the dense merge.

    Raises:
        ConfigError: where there is no base, or the result has another shape than it.
        FusionBenchError: see `merge` and `extract_lora`.
    """
    base, entry = pool.base, methods[recipe.method.name]
    if base is None or pool.vocabulary is not None or recipe.slices is not None or recipe.space == "adapter":
        raise ConfigError(
            "output.format=lora writes the change from a base of the same shape: name one with base=REF, and leave "
            "vocabulary, slices and space=adapter out."
        )
    if folder.exists():
        raise OutputError(f"{folder} exists; nothing is written over. Choose another folder or remove it.")
    about = header(recipe, entry, pool.fingerprints())

    def finish(place: Path) -> None:
        models = [base, *pool.experts.values()]
        write_card(place, recipe.dump(), models, method=entry.name, paper=entry.paper, adapter=True)
        write_lock(place, about, pool.sources(), full=digest)

    output = recipe.output.model_copy(update={"format": "model", "dtype": "float32", "rank": None})
    with written_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    with scratch:
        dense = recipe.model_copy(update={"output": output})
        whole = merge(dense, Path(scratch.name) / "dense", progress, pool, in_parts=in_parts)
        rank = recipe.output.rank or RANK
        found = extract_lora(base, open_source(whole.folder), rank, folder, finish=finish)
    made = open_source(folder / ADAPTER).specs.values()
    note = f"a LoRA of rank {rank} holds {min(found.kept.values()):.1%} or more of each matrix's change"
    notes = (*whole.notes, note)
    return Merged(folder, sum(s.size for s in made), sum(s.nbytes for s in made), whole.passes, notes, whole.inputs)
