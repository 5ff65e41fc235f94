"""Peers' words: mergekit's recipes and fusion-bench's keys, translated where they have an equal, else refused by name.

A translation sets every parameter that changes a number (the peers' defaults are not ours) and carries the peer's
`compat` where a method's arithmetic differs. It says what it did in notes; nothing is left out in silence.
"""

from collections.abc import Sequence
from pathlib import Path

from fusionbench.compat.fusion_bench import from_fusion_bench
from fusionbench.compat.mergekit import from_mergekit
from fusionbench.config import Recipe, read_document
from fusionbench.errors import ConfigError
from fusionbench.overrides import apply

__all__ = ["from_fusion_bench", "from_mergekit", "load_recipe"]


def load_recipe(file: str | Path | None = None, overrides: Sequence[str] = ()) -> tuple[Recipe, tuple[str, ...]]:
    """Read a recipe as `Recipe.load` does, in our words or in a peer's.

    Args:
        file: a recipe of ours or of mergekit (one with `merge_method`); None for overrides only.
        overrides: `key=value`, none sweeping; fusion-bench's keys among them are translated.

    Returns:
        The recipe, and a note for each thing that was translated.

    Raises:
        ConfigError: naming every wrong key, and every key that has no equal.
    """
    where = "The recipe" if file is None else str(file)
    document = {} if file is None else read_document(file)
    notes: tuple[str, ...] = ()
    if "merge_method" in document:
        try:
            document, notes = from_mergekit(document)
        except ConfigError as error:
            problems = "\n".join(f"  {line}" for line in str(error).split("\n"))
            raise ConfigError(f"{where} is a mergekit recipe that cannot be followed:\n{problems}") from None
    elif "_target_" in document:
        raise ConfigError(f"{where} is a configuration of fusion-bench: nothing is built from a class path here.")
    method = document.get("method")
    named = method.get("name") if isinstance(method, dict) else method
    ours, more = from_fusion_bench(overrides, method=named if isinstance(named, str) else None)
    return Recipe.read(apply(document, ours), where), (*notes, *more)
