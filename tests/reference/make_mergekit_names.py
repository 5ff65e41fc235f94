"""Write what mergekit's recipes may hold, and what its chat templates say: ``golden/mergekit_names.json``.

Run by an interpreter that has mergekit 0.1.5: ``python make_mergekit_names.py``. The file has every method with its
parameters (default, and whether each model may have its own), every key of a recipe by the place where it stands, the
modules of architectures with several, and each named chat template's text of some conversations.
"""

# ruff: noqa: T201

from __future__ import annotations

import importlib.resources
import json
from importlib.metadata import version
from typing import Any

from golden_inputs import GOLDEN
from mergekit import config
from mergekit._data import architectures, chat_templates
from mergekit.merge_methods.registry import registered_methods
from mergekit.tokenizer.config import ModelTokenEmbedding, TokenEmbeddingConfig, TokenizerConfig
from transformers.utils.chat_template_utils import render_jinja_template

CONVERSATIONS = {
    "question": [{"role": "user", "content": " What is it? "}],
    "system": [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "What?"}],
    "answered": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?\nAnd why?"},
        {"role": "assistant", "content": " It."},
        {"role": "user", "content": "Why?"},
    ],
    "closed": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "It."}],
    "context": [
        {"role": "user", "content": "Sum up."},
        {"role": "user_context", "content": " A text. "},
        {"role": "assistant", "content": "T."},
    ],
}
PLACES = {
    "a recipe": config.MergeConfiguration,
    "models[]": config.InputModelDefinition,
    "slices[]": config.OutputSliceDefinition,
    "slices[].sources[]": config.InputSliceDefinition,
    "modules.NAME": config.OutputModuleDefinition,
    "a value": config.ConditionalParameter,
    "tokenizer": TokenizerConfig,
    "tokenizer.tokens.TOKEN": TokenEmbeddingConfig,
    "tokenizer.tokens.TOKEN.source": ModelTokenEmbedding,
}


def methods() -> dict[str, Any]:
    """Every method's parameters."""
    found: dict[str, Any] = {}
    for method in registered_methods():
        parameters = method.spec.parameters
        found[method.spec.name] = {
            p.name: {"default": None if p.required else repr(p.default), "each": p.scope.name != "SHARED"}
            for p in parameters
        }
    return found


def modules() -> dict[str, list[str]]:
    """The modules of each architecture that has several."""
    found = {}
    for path in importlib.resources.files(architectures).iterdir():
        content = json.loads(path.read_text()) if path.name.endswith(".json") else {}
        if "modules" in content:
            found[content["model_type"]] = sorted(content["modules"])
    return dict(sorted(found.items()))


def rendered() -> dict[str, Any]:
    """What each named template makes of the conversations, with and without the start of an answer; null: refused."""
    found: dict[str, Any] = {}
    for path in sorted(importlib.resources.files(chat_templates).iterdir(), key=lambda p: p.name):
        if not path.name.endswith(".jinja"):
            continue
        name = path.name.removesuffix(".jinja")
        for conversation, messages in CONVERSATIONS.items():
            for start in (False, True):
                try:
                    texts, _ = render_jinja_template(
                        [messages], chat_template=path.read_text(), add_generation_prompt=start,
                        bos_token="<s>", eos_token="</s>",
                    )  # fmt: skip
                    text = texts[0]
                except Exception:  # a template refuses what its format does not have
                    text = None
                found.setdefault(name, {})[f"{conversation}/{'start' if start else 'end'}"] = text
    return found


def main() -> None:
    """Write the file."""
    content = {
        "version": version("mergekit"),
        "methods": methods(),
        "keys": {place: list(model.model_fields) for place, model in PLACES.items()},
        "modules": modules(),
        "conversations": CONVERSATIONS,
        "templates": rendered(),
    }
    path = GOLDEN / "mergekit_names.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
