"""One run in full, as a part of the page that opens: numbers, inputs, time, machine and recipe."""

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import yaml

from fusionbench.records import DataUse, Report, Run, RunInfo

Pair = tuple[str, str]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def details(run: Run, label: str, anchor: str) -> str:
    """Return a closed `<details>` element with the id `anchor` and everything known about `run`."""
    facts = [*_of_report(run.report), *_of_info(run.info), ("folder", str(run.folder))]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    listed += "".join(f"<dt>{escape(name)}</dt><dd>{link}</dd>" for name, link in _parents(run.recipe))
    notes = "".join(f"<li>{escape(note)}</li>" for note in run.report.notes)
    return "\n".join(
        [
            f'<details id="{anchor}">',
            f"<summary>{escape(label)}{_short_average(run.report)}</summary>",
            f"<dl>{listed}</dl>",
            f"<h4>Notes</h4><ul>{notes}</ul>" if notes else "",
            _recipe(run.recipe),
            "</details>",
        ]
    )


def duration(seconds: float) -> str:
    """Return seconds as people say them: "0.42 s", "12.5 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def parameters(count: int) -> str:
    """Return a number of parameters in three digits or a little more: "512", "147.6 K", "113.4 M", "7.24 B"."""
    for size, unit, digits in ((10**9, "B", 2), (10**6, "M", 1), (10**3, "K", 1)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return str(count)


def _size(count: int) -> str:
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count} bytes"


def _of_report(report: Report) -> Iterator[Pair]:
    suite, method = report.suite, report.method
    if suite:
        said = [suite.name, suite.size or "", f"seed {suite.seed}" if suite.seed is not None else "", suite.build or ""]
        yield "suite", ", ".join(word for word in said if word)
    yield "method", f"{method.name}, version {method.version}" + (f", compat {method.compat}" if method.compat else "")
    yield "seed", str(report.seed)
    yield "identity", report.identity
    if model := report.variants[0].model:
        learned = f", {parameters(model.trainable)} of them learned after fusion" if model.trainable else ""
        yield "model", f"{model.kind}, {parameters(model.parameters)} parameters{learned}, {_size(model.bytes)}"
    yield "adapted on", _data(report.adapted_on)
    yield "selected on", _data(report.selected_on)
    yield from ((f"skipped {task}", reason) for task, reason in report.skipped.items())
    yield from ((f"input {name}", fingerprint) for name, fingerprint in report.inputs.items())


def _of_info(info: RunInfo | None) -> Iterator[Pair]:
    if info is None:
        return
    phases = ", ".join(f"{name} {duration(seconds)}" for name, seconds in info.phases.items())
    yield "time", duration(info.seconds) + (f" ({phases})" if phases else "")
    if info.peak_memory is not None:
        yield "peak memory", _size(info.peak_memory)
    if info.passes is not None:
        yield "passes over the inputs", str(info.passes)
    yield "started", info.date
    yield "host", info.host
    machine = info.environment
    cores = f", {machine.cores} cores" if machine.cores else ""
    threads = f", {machine.threads} threads" if machine.threads else ""
    yield "machine", f"{machine.platform}{cores}, {machine.device}{threads}"
    yield "versions", ", ".join([f"Python {machine.python}", *(f"{p} {v}" for p, v in machine.versions.items())])
    if info.command:
        yield "command", " ".join(info.command)


def _data(use: DataUse | None) -> str:
    if use is None:
        return "nothing"
    count = f"{use.count} examples of " if use.count is not None else ""
    tasks = f", {len(use.tasks)} tasks: {', '.join(use.tasks)}" if use.tasks else ""
    corruption = f", corrupted by {use.corruption}" if use.corruption else ""
    fingerprint = f", {use.hash}" if use.hash else ""
    return f"{count}the {use.split} split{corruption}{tasks}{fingerprint}"


def _short_average(report: Report) -> str:
    found = report.primary_average
    return f" <small>average {escape(found.metric)} {100 * found.value:.1f} %</small>" if found else ""


def _parents(recipe: str) -> Iterator[Pair]:
    """Yield the models that a recipe names, base first, each as HTML: a link where it is a hub id or a folder."""
    try:
        document = yaml.load(recipe, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except yaml.YAMLError:
        return
    if not isinstance(document, Mapping):
        return
    experts = document.get("experts")
    named = {"base": document.get("base"), **(experts if isinstance(experts, Mapping) else {})}
    for name, value in named.items():
        model = value.get("model") if isinstance(value, Mapping) else value
        if isinstance(model, str):
            yield f"parent {name}", _link(model)


def _link(model: str) -> str:
    place = Path(model).expanduser()
    if place.is_absolute():
        return f'<a href="{escape(place.as_uri())}">{escape(model)}</a>'
    if HUB_ID.fullmatch(model):
        return f'<a href="https://huggingface.co/{escape(model)}" rel="noreferrer">{escape(model)}</a>'
    return escape(model)


def _recipe(text: str) -> str:
    if not text:
        return ""
    button = '<button type="button" data-copy hidden>Copy</button>'
    return f'<div class="recipe"><h4>Recipe {button}</h4><pre tabindex="0"><code>{escape(text)}</code></pre></div>'
