"""The tokenizer of a mergekit recipe: whose it is, single tokens' rows, and the chat template."""

from collections.abc import Mapping
from typing import Any

from fusionbench.compat.mergekit.models import Model, read_reference
from fusionbench.compat.mergekit.templates import TEMPLATES
from fusionbench.config.wording import unknown_key

JSON = Any
KNOWN = ("source", "tokens", "pad_to_multiple_of")
SHORTEST = 20
"""Characters from which mergekit takes a text for a template."""


def read_vocabulary(
    document: Mapping[str, JSON], base: str | None, experts: Mapping[str, Model], problems: list[str], notes: list[str]
) -> dict[str, JSON]:
    """Return the recipe's key `vocabulary`, or none where models are merged row by row.

    Args:
        document: mergekit's.
        base: its base model.
        experts: the models by the names that they have here.
        problems: what is wrong is added.
        notes: what was translated is added.
    """
    given, source = document.get("tokenizer"), document.get("tokenizer_source")
    if given is None and source is None:
        return {}
    if given is not None and source is not None:
        problems.append("tokenizer: a recipe has tokenizer or tokenizer_source, not both.")
        return {}
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"tokenizer: expected a mapping such as {{source: base}}, got {given!r}.")
        return {}
    given = given or {"source": source}
    path = "tokenizer_source" if source is not None else "tokenizer.source"
    problems += [unknown_key(f"tokenizer.{key}", "tokenizer", KNOWN) for key in given if key not in KNOWN]
    wanted = given.get("source", "union")
    if wanted == "base" and base is None:
        problems.append(f"{path}: there is no base_model whose tokenizer could be taken.")
        return {}
    name = str(wanted) if wanted in ("union", "base") else _name(wanted, path, base, experts, problems)
    tokens = given.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        problems.append(f"tokenizer.tokens should map tokens to rules, it is {tokens!r}.")
        return {}
    rules = {str(t): _rule(rule, f"tokenizer.tokens.{t}", base, experts, problems) for t, rule in tokens.items()}
    notes.append(f"{path}: {name} → vocabulary: rows of embeddings are brought together by token, one row a token.")
    found: dict[str, JSON] = {"source": name, "padding": "drop"}
    if rules:
        found["tokens"] = rules
    if given.get("pad_to_multiple_of") is not None:
        found["pad_to_multiple_of"] = given["pad_to_multiple_of"]
    return {"vocabulary": found}


def read_template(document: Mapping[str, JSON], problems: list[str], notes: list[str]) -> dict[str, JSON]:
    """Return the output's key `chat_template`, a text or "auto", or none."""
    template = document.get("chat_template")
    if template is None or template == "auto":
        return {} if template is None else {"chat_template": template}
    text = str(template)
    if text in TEMPLATES:
        notes.append(f"chat_template: {text} → a text that says the same as mergekit's of that name.")
        return {"chat_template": TEMPLATES[text]}
    if len(text) < SHORTEST or "{" not in text:
        known = ", ".join(TEMPLATES)
        problems.append(f"chat_template: expected auto, one of {known}, or the text of a Jinja template; got {text!r}.")
    return {"chat_template": text}


def _rule(
    rule: JSON, path: str, base: str | None, experts: Mapping[str, Model], problems: list[str]
) -> dict[str, JSON]:
    if not isinstance(rule, Mapping):
        problems.append(f"{path}: expected a mapping such as {{source: REF}}, got {rule!r}.")
        return {}
    known = ("source", "force")
    problems += [unknown_key(f"{path}.{key}", path, known) for key in rule if key not in known]
    found: dict[str, JSON] = {"force": rule["force"]} if "force" in rule else {}
    source = rule.get("source")
    if source is None:
        return found
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind == "zero":
        return {**found, "source": "zero"}
    if kind != "model_token":
        return {**found, "source": _name(source, f"{path}.source", base, experts, problems)}
    row = {"model": _name(source.get("model"), f"{path}.source.model", base, experts, problems)}
    row |= {ours: source[theirs] for theirs, ours in (("token", "token"), ("token_id", "id")) if theirs in source}
    return {**found, "source": row}


def _name(given: JSON, path: str, base: str | None, experts: Mapping[str, Model], problems: list[str]) -> str:
    """Return what a model is called here."""
    key = read_reference(given, path, problems)
    if key == (base, None):
        return "base"
    for name, model in experts.items():
        if model.key == key:
            return name
    problems.append(f"{path}: {given} is none of the recipe's models.")
    return ""
