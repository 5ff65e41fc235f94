"""`list`, `show` and `schema`: what there is to choose from. No torch here."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from fusionbench.cli.console import say, say_json
from fusionbench.cli.pages import essence, page_of, page_of_suite
from fusionbench.registry import Entry, Registry, experiments, families, methods, suites, tasks

KINDS: dict[str, Registry] = {
    "methods": methods,
    "suites": suites,
    "families": families,
    "tasks": tasks,
    "experiments": experiments,
}


EXPERIMENT = "experiment"


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    suites = "suites"
    families = "families"
    tasks = "tasks"
    experiments = "experiments"


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command("list", epilog="Example: fusionbench list methods")(list_registered)
    application.command(epilog="Example: fusionbench show ties")(show)
    application.command(epilog="Example: fusionbench schema > recipe.schema.json")(schema)


def list_registered(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: Json = False) -> None:
    """List everything of a kind, other packages' included."""
    registry = KINDS[kind.value]
    entries = [registry[name] for name in registry]
    if as_json:
        say_json(
            [{"name": e.name, "summary": e.summary, "kind": e.kind, "paper": e.paper, **_file_of(e)} for e in entries]
        )
        return
    if not entries:
        say(f"There are no {kind.value} yet.")
        return
    from rich.table import Table

    which = "category" if kind is Kind.methods else "kind"
    table = Table("name", which, "paper", "summary", box=None, pad_edge=False, header_style="bold")
    for entry in entries:
        table.add_row(entry.name, entry.category or entry.kind, entry.paper.removeprefix("arXiv:"), entry.summary)
    say(table)


def show(
    name: Annotated[str, typer.Argument(help="A method, suite, family, task or experiment.")], as_json: Json = False
) -> None:
    """Show what one registered thing does, needs and takes."""
    entry = find(name)
    if as_json:
        say_json({**described(entry), **_file_of(entry)})
        return
    say(f"{entry.name}: {entry.summary}")
    facts = {
        "kind": entry.kind,
        "category": entry.category,
        "paper": entry.paper,
        "base": entry.base if entry.kind == "stream" else "",
        "needs": ", ".join(entry.needs),
        "compat": ", ".join(entry.compat or {}),
        "laws": ", ".join(entry.laws),
        **_own_facts(entry),
    }
    shown = {key: value for key, value in facts.items() if value}
    width = max(8, *map(len, shown))
    say("\n".join(f"  {key:{width}} {value}" for key, value in shown.items()))
    page = page_of(entry.name) if entry.category else page_of_suite(entry.name) if entry.kind == "suite" else None
    if page and entry.category:
        say("\n".join(["", *(f"{part}\n" for part in essence(page))]))
    if entry.parameters:
        from rich.table import Table

        table = Table("parameter", "default", "values", "meaning", box=None, pad_edge=False, header_style="bold")
        for p in entry.parameters:
            span = f" {p.range}" if p.type in ("number", "integer") else ""
            values = " | ".join(p.choices) or f"{p.type}{span}"
            each = ", one an expert" if p.per_expert else ""
            table.add_row(p.name, "required" if p.required else _as_typed(p.default), values + each, p.doc)
        say(table)
    if page:
        say(f"\nThe whole page: {page}")
    if entry.kind == EXPERIMENT:
        from fusionbench.cli.reproducing import show_experiment

        show_experiment(entry.name)


def _own_facts(entry: Entry) -> dict[str, str]:
    """Return what a family serves and fuses, and what a suite sets for methods that are run on it."""
    data: dict[str, Any] = dict(entry.data or {})
    facts: dict[str, str] = {}
    if entry.kind == "family":
        facts = {"serves": ", ".join(data.get("model_types", ())), "fuses": data.get("tower") or "everything"}
    for name, values in data.get("method_defaults", {}).items():
        facts[f"{name}:"] = " ".join(f"method.{key}={value}" for key, value in values.items())
    return facts


def _as_typed(value: object) -> str:
    """Return a value as a user writes it on the command line: `true`, not `True`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _file_of(entry: Entry) -> dict[str, Any]:
    """Return what an experiment's file holds: suites, rows with every parameter, what varies, published files."""
    if entry.kind != EXPERIMENT:
        return {}
    from fusionbench.experiments.model import load_experiment

    return {"experiment": load_experiment(entry.name).model_dump(mode="json")}


def find(name: str) -> Entry:
    """Return the entry of a name of any kind.

    Raises:
        ConfigError: with the nearest names of all kinds.
    """
    from fusionbench.errors import ConfigError
    from fusionbench.registry import suggestion

    for registry in KINDS.values():
        if name in registry:
            return registry[name]
    every = [known for registry in KINDS.values() for known in registry]
    raise ConfigError(f"There is nothing named {name!r}. {suggestion(name, every)}")


def described(entry: Entry) -> dict[str, Any]:
    """Return an entry as plain data."""
    import dataclasses

    return dataclasses.asdict(entry)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from fusionbench.config import recipe_schema

    say_json(recipe_schema())
