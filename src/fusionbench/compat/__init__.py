"""Peers' words: mergekit's recipes and fusion-bench's keys, translated where they have an equal, else refused by name.

A translation sets every parameter that changes a number (the peers' defaults are not ours) and carries the peer's
`compat` where a method's arithmetic differs. It says what it did in notes; nothing is left out in silence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusionbench.compat.fusion_bench import from_fusion_bench
from fusionbench.compat.mergekit import from_mergekit
from fusionbench.compat.names import under_our_name
from fusionbench.compat.stages import Stage, in_order, take_name, to_yaml
from fusionbench.config import Recipe, read_document, read_documents
from fusionbench.errors import ConfigError
from fusionbench.overrides import apply

__all__ = ["Stage", "from_fusion_bench", "from_mergekit", "load_recipe", "load_stages", "to_yaml", "under_our_name"]


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
    return _read({} if file is None else read_document(file), where, overrides)


def load_stages(file: str | Path | None = None, overrides: Sequence[str] = ()) -> tuple[Stage, ...]:
    """Read a file of one or several recipes (YAML documents divided by `---`, each with a `name`), ours or mergekit's.

    Args:
        file: see `load_recipe`.
        overrides: for the output's recipe; those of `runtime` are for all.

    Returns:
        The recipes in the order in which they can be run; the output comes last.

    Raises:
        ConfigError: see `load_recipe`, and where the recipes do not fit together.
    """
    documents = [{}] if file is None else read_documents(file)
    where = "The recipe" if file is None else str(file)
    if len(documents) == 1:
        name = take_name(documents[0], where) if "merge_method" in documents[0] else ""
        return (Stage(name, *_read(documents[0], where, overrides)),)
    names = [take_name(document, where) for document in documents]
    output = names.index("") if "" in names else len(names) - 1
    stages = []
    for number, (name, document) in enumerate(zip(names, documents, strict=True)):
        own = [text for text in overrides if number == output or text.lstrip("+~").startswith("runtime")]
        stages.append(Stage(name, *_read(document, f"{where}, {name or 'the recipe without a name'}", own)))
    return in_order(stages, where)


def _read(document: dict[str, Any], where: str, overrides: Sequence[str]) -> tuple[Recipe, tuple[str, ...]]:
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
    document = apply(document, ours)
    renamed: tuple[str, ...] = ()
    if "method" in document:
        document["method"], renamed = under_our_name(document["method"])
    return Recipe.read(document, where), (*notes, *more, *renamed)
