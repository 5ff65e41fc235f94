"""Tables of the documentation that come from code: methods, migration, command line, public names."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import click
import typer

from fusionbench.compat.fusion_bench.algorithms import ALGORITHMS, KNOWN_AS, WITHOUT_EQUAL
from fusionbench.compat.fusion_bench.keys import TOP
from fusionbench.compat.mergekit.words import METHODS, REQUIRED
from fusionbench.registry import families, methods, suites

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (
    "fusionbench", "fusionbench.methods", "fusionbench.suites", "fusionbench.tasks", "fusionbench.families",
    "fusionbench.mixing", "fusionbench.records", "fusionbench.report", "fusionbench.report.analysis",
    "fusionbench.sweep", "fusionbench.training",
)  # fmt: skip
"""Packages whose `__all__`, or re-exported names, are what users are meant to import."""


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def typeset(text: str) -> str:
    """Return text with indices and exponents (`x_t`, `Σ_{j ≤ k}`, `R^{n}`) as such; what is in backticks stays."""
    parts = re.split(r"(`[^`]*`)", text)
    for place in range(0, len(parts), 2):
        part = re.sub(r"_\{([^}]*)\}", r"<sub>\1</sub>", parts[place])
        part = re.sub(r"\^\{([^}]*)\}", r"<sup>\1</sup>", part)
        parts[place] = re.sub(
            r"(?<![A-Za-z_])([ΔA-Za-z∇]?[A-Za-zΣΔ∇τθπ])_([A-Za-zλθ]|uni|expert)(?![A-Za-z_])", r"\1<sub>\2</sub>", part
        )
    return "".join(parts)


def page_of(name: str) -> str:
    return name if (ROOT / "docs" / "methods" / f"{name}.md").is_file() else "references"


def paper_link(paper: str) -> str:
    """Return a source as a link: an arXiv id under its number, another address under its host's name."""
    if match := re.fullmatch(r"arXiv:(\S+)", paper):
        return f"[{match[1]}](https://arxiv.org/abs/{match[1]})"
    if match := re.fullmatch(r"(.*?)doi:(10\.\S+)", paper):
        return f"{match[1]}[doi](https://doi.org/{match[2]})"
    if match := re.fullmatch(r"(\w+\.(?:com|co|org))/\S+", paper):
        return f"[{match[1]}](https://{paper})"
    return paper


def own_methods() -> list[str]:
    return [name for name in methods if methods[name].location.startswith("fusionbench.")]


def methods_table(prefix: str) -> str:
    """Return all methods; `prefix` leads from the page to the methods' pages."""
    lines = ["| method | category | paper | what it returns |", "|---|---|---|---|"]
    for name in own_methods():
        entry = methods[name]
        link = f"[`{name}`]({prefix}{page_of(name)}.md)"
        result = typeset(escaped(entry.summary.removeprefix("Return ")))
        lines.append(f"| {link} | {entry.category} | {paper_link(entry.paper)} | {result} |")
    return "\n".join(lines)


def needs_table() -> str:
    """Return what each method needs beside the experts, as the papers' table of methods has it."""
    words = {"required": "base", "optional": "base, or none", "unused": "–"}
    lines = ["| method | category | base | looks at | kind |", "|---|---|---|---|---|"]
    for name in own_methods():
        entry = methods[name]
        looks = ", ".join(entry.needs) or "weights only"
        row = (f"[`{name}`]({page_of(name)}.md)", entry.category, words[entry.base], looks, entry.kind)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def families_table() -> str:
    lines = ["| family | serves `model_type` | fused part | what it is |", "|---|---|---|---|"]
    for name in families:
        data: dict[str, Any] = dict(families[name].data or {})
        tower = f"`{data.get('tower')}`" if data.get("tower") else "everything"
        kinds = ", ".join(f"`{kind}`" for kind in data.get("model_types", ()))
        lines.append(f"| `{name}` | {kinds} | {tower} | {escaped(families[name].summary)} |")
    return "\n".join(lines)


def suite_page(name: str) -> str:
    """Return the page of a suite: its own, else the offline suites' one that tells of it, else that of the papers'."""
    docs = ROOT / "docs"
    own = docs / f"suites-{name.replace('/', '-')}.md"
    telling = [own, *sorted(docs.glob("suites-mini-*.md"))] if name.startswith("mini/") else []
    found = (page.name for page in telling if page.is_file() and re.search(rf"{name}(?!\w)", page.read_text()))
    return next(found, "suites-papers.md")


def suites_table(prefix: str) -> str:
    rows = (f"| [`{name}`]({prefix}{suite_page(name)}) | {escaped(suites[name].summary)} |" for name in suites)
    return "\n".join(["| suite | what it is |", "|---|---|", *rows])


def mergekit_methods() -> str:
    lines = ["| mergekit | here | their parameter → ours (their default) |", "|---|---|---|"]
    for theirs, target in METHODS.items():
        fixed = "".join(f", `{key}: {value}`" for key, value in target.sets.items())
        keys = []
        for name, parameter in target.parameters.items():
            default = "required" if parameter.default is REQUIRED else f"{parameter.default}"
            if parameter.inert:
                keys.append(f"`{name}`: changes no number in mergekit")
            else:
                keys.append(f"`{name}` → `{parameter.ours or name}` ({default})")
        lines.append(
            f"| `{theirs}` | [`{target.method}`](../methods/{page_of(target.method)}.md){fixed} | {'; '.join(keys)} |"
        )
    return "\n".join(lines)


def fusion_bench_methods() -> str:
    lines = ["| fusion-bench | here | their key → ours |", "|---|---|---|"]
    for theirs, algorithm in ALGORITHMS.items():
        fixed = "".join(f", `{key}: {value}`" for key, value in algorithm.sets.items())
        keys = [f"`{name}` → `{key.ours}`" for name, key in algorithm.keys.items() if key.ours]
        page = page_of(algorithm.method)
        lines.append(f"| `{theirs}` | [`{algorithm.method}`](../methods/{page}.md){fixed} | {'; '.join(keys) or '–'} |")
    for theirs, name in KNOWN_AS.items():
        shown = f"[`{name}`](../methods/{page_of(name)}.md)" if name in methods else f"`{name}` (not there yet)"
        lines.append(f"| `{theirs}` | {shown} | its settings are refused by key: write ours |")
    for theirs, instead in WITHOUT_EQUAL.items():
        lines.append(f"| `{theirs}` | {instead} | – |")
    return "\n".join(lines)


def fusion_bench_keys() -> str:
    lines = ["| fusion-bench | here | otherwise |", "|---|---|---|"]
    for theirs, key in TOP.items():
        ours = f"`{key.ours}`" if key.ours else "–"
        nothing = f"left out where it is {', '.join(key.nothing)}" if key.nothing else ""
        says = "; ".join(part for part in (nothing, key.else_say) if part) or "–"
        lines.append(f"| `{theirs}` | {ours} | {escaped(says)} |")
    return "\n".join(lines)


def abbreviations_table() -> str:
    """Return the abbreviations, which the site also explains wherever they stand."""
    found = re.findall(r"^\*\[(.+?)\]: (.+)$", (ROOT / "docs" / "abbreviations.txt").read_text(), re.MULTILINE)
    rows = sorted((f"| {short} | {escaped(meaning)} |" for short, meaning in found), key=str.casefold)
    return "\n".join(["| abbreviation | means |", "|---|---|", *rows])


def command_line() -> str:
    """Return every verb with its arguments and options, as `--help` says them."""
    from fusionbench.cli.application import application

    group = typer.main.get_command(application)
    parts = []
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        parts.append(f"## {name}\n\n{(command.help or '').strip()}\n\n| argument | meaning |\n|---|---|")
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = isinstance(parameter, click.Option) or parameter.param_type_name == "option"
            shown = ", ".join(f"`{text}`" for text in parameter.opts) if option else f"`{parameter.name.upper()}`"
            parts[-1] += f"\n| {shown} | {escaped(getattr(parameter, 'help', None) or '')} |"
        if command.epilog:
            parts[-1] += f"\n\n{command.epilog.replace('Example: ', 'Example: `', 1)}`"
    return "\n\n".join(parts)


def public_names() -> str:
    """Return the public names of the packages with the first line of their docstrings."""
    parts = []
    for package in PUBLIC:
        module = importlib.import_module(package)
        names = [name for name in getattr(module, "__all__", vars(module)) if not name.startswith("_")]
        found = [(name, getattr(module, name)) for name in sorted(names)]
        rows = [
            f"| `{name}` | {escaped((inspect.getdoc(value) or '').partition(chr(10))[0])} |"
            for name, value in found
            if inspect.isfunction(value) or (inspect.isclass(value) and value.__module__.startswith("fusionbench"))
        ]
        head = (inspect.getdoc(module) or "").partition("\n")[0]
        parts.append("\n".join([f"## {package}\n", head, "", "| name | what it is |", "|---|---|", *rows]))
    return "\n\n".join(parts)
