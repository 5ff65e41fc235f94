"""The papers' own suites, data in `presets/suite`: models on the hub, local files, or to be trained. No torch here."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from fusionbench.cache import cache_folder
from fusionbench.config import Config, read_document
from fusionbench.config.fields import Names, Text
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.registry import Entry, suggestion
from fusionbench.suites.model import ModelPool, Origin, ResolvedSuite, Suite
from fusionbench.suites.registration import Progress

PRESETS = Path(__file__).resolve().parents[1] / "presets"
LOCAL = "local:"
"""Before a path under `$FUSIONBENCH_CACHE/models`: a model or data that cannot be fetched."""
HEADS = "heads/"
"""Before a task's name, in a suite's origins: the file of its head."""


class PaperSuite(Config):
    """A suite as `presets/suite` describes it; its name is the file's."""

    summary: Text
    paper: Text
    pool: ModelPool
    task_set: Text | None = Field(
        default=None, description="a file of `presets/tasks`, of which the experts' are taken"
    )
    tasks: dict[Text, dict[str, Any]] = Field(default={}, description="tasks of its own, by name")
    heads: dict[Text, Text] = Field(default={}, description="files of frozen heads, by task")
    unseen: Names = ()
    method_defaults: dict[Text, dict[str, Any]] = {}  # noqa: RUF012
    origins: dict[Text, Origin] = Field(default={}, description="of models that are local files, by model")
    notes: tuple[Text, ...] = Field(default=(), description="what a report should say of it")
    unavailable: Text | None = Field(default=None, description="why it cannot be run yet")


def names() -> tuple[str, ...]:
    """Return the names of the suites that are described by models, not built here."""
    folder = PRESETS / "suite"
    found = (path for path in folder.rglob("*.yaml") if "pool" in read_document(path))
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in found))


def describe(name: str) -> PaperSuite:
    """Return the description of a suite.

    Raises:
        ConfigError: where it is wrong, naming every wrong key.
    """
    document = read_document(PRESETS / "suite" / f"{name}.yaml")
    return PaperSuite.read(document, f"The suite {name}")


def entries() -> Iterator[Entry]:
    """Yield what the index says of each suite."""
    for name in names():
        found = describe(name)
        data = {"method_defaults": found.method_defaults, "preset": name}
        location = f"{__name__}:{open_paper_suite.__name__}"
        yield Entry(name, found.summary, location, kind="suite", paper=found.paper, data=data)


def open_paper_suite(name: str, *, size: str, seed: int, progress: Progress | None = None) -> ResolvedSuite:
    """Return a suite whose models are had, not made; nothing is fetched before a model is opened.

    Args:
        name: a registered one.
        size: "small", which stands for none: there is only one.
        seed: 0, likewise.
        progress: not told anything.

    Raises:
        ConfigError: where a size or a seed is asked for, or the suite cannot be run.
    """
    del progress
    if size != "small" or seed != 0:
        raise ConfigError(f"The suite {name} is not built here and has one size: leave suite.size and suite.seed out.")
    found = describe(name)
    if found.unavailable is not None:
        raise ConfigError(f"The suite {name} cannot be run: {found.unavailable}")
    return ResolvedSuite(suite_of(name, found), notes=found.notes)


def suite_of(name: str, described: PaperSuite) -> Suite:
    """Return a description as a suite, its tasks filled in and local paths made absolute."""
    shared = {} if described.task_set is None else _task_set(described.task_set)
    absent = [
        task for task in (*described.pool.experts, *described.unseen) if task not in {**shared, **described.tasks}
    ]
    if absent and shared:
        raise ConfigError(f"The suite {name}: there is no task {absent[0]!r}. {suggestion(absent[0], list(shared))}")
    wanted = {task: shared[task] for task in (*described.pool.experts, *described.unseen) if task in shared}
    tasks = {**wanted, **described.tasks}
    tasks |= {task: {**tasks[task], "head": head} for task, head in described.heads.items()}
    document = {
        "name": name,
        "pool": described.pool.model_dump(),
        "tasks": {"tasks": tasks},
        "unseen": described.unseen,
        "method_defaults": described.method_defaults,
        "origins": {model: origin.model_dump() for model, origin in described.origins.items()},
    }
    return Suite.read(_with_places(document), f"The suite {name}")


def _task_set(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_document(PRESETS / "tasks" / f"{name}.yaml")["tasks"]
    return found


def _with_places(item: Any) -> Any:
    """Return plain data with every `local:` path made absolute."""
    if isinstance(item, Mapping):
        return {key: _with_places(value) for key, value in item.items()}
    if isinstance(item, str) and item.startswith(LOCAL):
        return str(cache_folder("models") / item.removeprefix(LOCAL))
    return item


def check_origins(suite: Suite) -> None:
    """Refuse a suite of which a local model is not there, or is another file.

    Raises:
        CheckpointError: with the place, and how the model is had.
    """
    models = {"base": suite.pool.base, "mtl": suite.pool.mtl}
    models |= {name: expert.adapter or expert.model for name, expert in suite.pool.experts.items()}
    models |= {f"{HEADS}{task}": suite.tasks.tasks[task].get("head") for task in suite.seen}
    for name, reference in models.items():
        if reference is not None and (problem := origin_problem(suite, name, reference)) is not None:
            raise problem


def origin_problem(suite: Suite, name: str, reference: str) -> CheckpointError | None:
    """Return what is wrong with a local model of a suite; None where nothing is, or it is no local one.

    Args:
        suite: which says how its local files are had.
        name: base, mtl, an expert, or heads/TASK.
        reference: what the suite has there.
    """
    origin, place = suite.origins.get(name), Path(reference).expanduser()
    if origin is None:
        return None
    if not place.exists():
        make = f" Make it by: {origin.make}; then move it there." if origin.make else " Fetch it, and put it there."
        return CheckpointError(
            f"The suite {suite.name} has no model {name}: {place} is not there. Its source: {origin.source}.{make}"
        )
    if origin.sha256 is not None and (digest := _digest(place)) != origin.sha256:
        return CheckpointError(
            f"{place} is not the file that the suite {suite.name} means by {name}: its SHA-256 is {digest}, "
            f"expected {origin.sha256}. Its source: {origin.source}."
        )
    return None


def _digest(place: Path) -> str:
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
