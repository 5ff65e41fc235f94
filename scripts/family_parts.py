"""The table family × part × what needs it: asked of each family on every architecture that it serves, not declared."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from fusionbench.errors import MissingPart
from fusionbench.families import (
    Family,
    HasHead,
    HasImages,
    HasParts,
    HasPermutations,
    HasText,
    HasTextInput,
    HasTextToText,
    HasTokens,
    family_named,
)  # fmt: skip
from fusionbench.registry import families, load_attribute, methods, methods_that_need


class Part(NamedTuple):
    """A part, how it is asked for, and who asks for it besides methods."""

    name: str
    what: str
    protocol: type
    others: str = ""
    ask: Callable[[Any, Any], Iterable[Any]] | None = None
    of_config: bool = False


PARTS = (
    Part("processor", "images in", HasImages, "tasks of images and scenes"),
    Part("token_processor", "texts in", HasTextInput, "tasks of texts and pairs"),
    Part("text_codec", "texts out", HasTextToText, "tasks that are written, choices, perplexity"),
    Part("token_mask", "which tokens are real", HasTokens, "statistics and routers, which pass padding over"),
    Part("text_features", "heads made of class names", HasText, "open-vocabulary tasks"),
    Part("head_module", "trained heads", HasHead, "classification and scene tasks"),
    Part("linears", "linear maps", HasParts, "LoRA, L-LoRA, (IA)³", lambda f, m: list(f.linears(m))),
    Part("blocks", "residual blocks", HasParts, ask=lambda f, m: f.blocks(m)),
    Part("mlps", "MLPs as modules", HasParts, ask=lambda f, m: (*f.mlps(m), f.mlp_parts(m))),
    Part(
        "permutations",
        "units that may change places",
        HasPermutations,
        ask=lambda f, c: f.permutations(c),
        of_config=True,
    ),
)


OWN = {
    "dilated_resnet": "fusionbench.families.scene_encoder:SceneConfig",
    "open_clip": "fusionbench.families.open_clip_encoder:OpenClipConfig",
}
"""Architectures that Transformers does not have."""


def configuration(kind: str) -> dict[str, Any]:
    """Return the architecture's usual `config.json`, with two layers where it says how many; no weights are made."""
    if kind in OWN:
        return dict(load_attribute(OWN[kind])().to_dict())
    from transformers import AutoConfig

    return dict(AutoConfig.for_model(kind, num_hidden_layers=2).to_dict())


def holds(part: Part, family: Family, module: torch.nn.Module, config: dict[str, Any]) -> bool:
    """Tell whether a family has a part for one of its architectures."""
    if not isinstance(family, part.protocol):
        return False
    if part.ask is None:
        return True
    try:
        return bool(part.ask(family, config if part.of_config else module))
    except MissingPart:
        return False


def held_by(name: str) -> dict[str, list[str]]:
    """Return, by part, the model types of a family that have it."""
    family = family_named(name)
    found: dict[str, list[str]] = {part.name: [] for part in PARTS}
    for kind in family.model_types:
        config = configuration(kind)
        module = family.skeleton(config)
        for part in PARTS:
            if holds(part, family, module, config):
                found[part.name].append(kind)
    return found


def cell(kinds: list[str], every: tuple[str, ...]) -> str:
    return "yes" if len(kinds) == len(every) else ", ".join(kinds) or "–"


def parts_table(prefix: str = "methods/") -> str:
    """Return which family has which part, and which methods and tasks need it."""
    names = [name for name in families if families[name].location.startswith("fusionbench.")]
    held = {name: held_by(name) for name in names}
    head = "| part | " + " | ".join(f"`{name}`" for name in names) + " | needed by |"
    lines = [head, "|---" * (len(names) + 2) + "|"]
    for part in PARTS:
        cells = [cell(held[name][part.name], family_named(name).model_types) for name in names]
        users = ", ".join(f"[`{name}`]({prefix}{name}.md)" for name in methods_that_need(part.name))
        needed = "; ".join(filter(None, (users, part.others)))
        lines.append(f"| {part.what} (`{part.name}`) | " + " | ".join(cells) + f" | {needed} |")
    free = [name for name in methods if not (methods[name].data or {}).get("parts")]
    assert free, "no method does without parts: the sentence below the table is wrong"
    note = (
        "A method that finds no such part says so by the family's and the part's name. RegMean averages all that is no "
        "linear map, so everything where there is none. Every other method needs only that the family runs."
    )
    return re.sub(r" +\|", " |", "\n".join(lines)) + f"\n\n{note}"
