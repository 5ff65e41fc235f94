"""The README.md of a merged model: metadata that the hub reads, and the recipe that makes it again. No torch here."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fusionbench.weights.headers import Source

CARD = "README.md"
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


def write_card(
    folder: Path,
    recipe: Mapping[str, Any],
    sources: Sequence[Source],
    *,
    method: str,
    paper: str,
    adapter: bool = False,
) -> None:
    """Write a model's card, unless the folder has one already.

    Args:
        folder: of the model.
        recipe: its whole recipe as plain data; what says where and how it was run is left out.
        sources: the models that were merged, the base first where there is one.
        method: its name.
        paper: where it is described.
        adapter: whether the folder holds an adapter for PEFT.
    """
    if not (folder / CARD).exists():
        (folder / CARD).write_text(_card(recipe, sources, method, paper, adapter), encoding="utf-8")


def _card(recipe: Mapping[str, Any], sources: Sequence[Source], method: str, paper: str, adapter: bool) -> str:
    kept = {key: value for key, value in recipe.items() if key != "runtime"}
    kept["output"] = {key: value for key, value in recipe["output"].items() if key != "folder"}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    front = yaml.safe_dump(_metadata(kept, sources, method, adapter), sort_keys=False, allow_unicode=True)
    merged = "\n".join(f"- `{label}`" for label in _references(kept))
    return (
        f"---\n{front}---\n# {'A LoRA of a merge' if adapter else 'A merge'} by {method}\n\n"
        f"Made with FusionBench by the method `{method}` ({paper}) of\n\n"
        f"{merged}\n\n## Recipe\n\n```yaml\n{text}```\n\nSave it as `recipe.yaml`; this makes it again:\n\n"
        f"```bash\nfusionbench merge -r recipe.yaml --out DIR\n```\n"
    )


def _metadata(recipe: Mapping[str, Any], sources: Sequence[Source], method: str, adapter: bool) -> dict[str, Any]:
    """Return what stands in the card's front matter; what is not known is left out."""
    hub = [name.partition("@")[0] for name in _references(recipe) if _HUB.fullmatch(name) and not Path(name).exists()]
    found: dict[str, Any] = {}
    if hub:
        found = {"base_model": hub[:1] if adapter else hub, "base_model_relation": "adapter" if adapter else "merge"}
    licences = {_licence(source) for source in sources}
    if len(licences) == 1 and (licence := licences.pop()) is not None:
        found["license"] = licence
    found["library_name"] = "peft" if adapter else "transformers"
    return {**found, "tags": ["merge", "fusionbench", method]}


def _references(recipe: Mapping[str, Any]) -> list[str]:
    """Return the models as the recipe names them, each once, the base first."""
    named = [recipe.get("base")]
    for expert in recipe["experts"].values():
        named += [expert] if isinstance(expert, str) else [expert["model"], expert.get("adapter")]
    return list(dict.fromkeys(str(name) for name in named if name is not None))


def _licence(source: Source) -> str | None:
    """Return the licence that a model's own card names."""
    card = source.folder / CARD if source.folder is not None else None
    if card is None or not card.is_file():
        return None
    front = _FRONT.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        found = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return None
    licence = found.get("license") if isinstance(found, dict) else None
    return licence if isinstance(licence, str) else None
