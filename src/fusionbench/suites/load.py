"""From a suite's name, file or description to what a run works with. No torch here until something is built."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionbench.config import SuiteConfig, read_document
from fusionbench.errors import ConfigError
from fusionbench.registry import suites
from fusionbench.suites.content import digest_of_tasks
from fusionbench.suites.model import ResolvedSuite, Suite
from fusionbench.suites.registration import Progress

logger = logging.getLogger(__name__)


def load_suite(
    which: str | Path | Mapping[str, Any] | SuiteConfig | Suite,
    *,
    size: str = "small",
    seed: int = 0,
    experts: tuple[str, ...] | None = None,
    unseen: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> ResolvedSuite:
    """Return a suite with its models at hand; one that is built here is built if it is not in the cache.

    Args:
        which: a registered name; the path of a suite's YAML; a suite, or its description as plain data; or the
            `suite` part of a recipe, whose own size, seed, experts and unseen tasks then count instead of those below.
        size: of a suite that is built here: tiny, small or large.
        seed: of a suite that is built here.
        experts: which experts, and so which seen tasks; None is all.
        unseen: tasks without an expert to evaluate on; None is the suite's own.
        progress: told how a build goes on.

    Raises:
        ConfigError: where the name, the file, an expert, a task or the size is not known.
        Interrupted: on Ctrl-C during a build; what was finished is kept.
    """
    if isinstance(which, SuiteConfig):
        return load_suite(
            which.name, size=which.size, seed=which.seed, experts=which.experts, unseen=which.unseen, progress=progress
        )
    resolved = _resolve(which, size, seed, progress)
    chosen = resolved.suite.restricted(experts, unseen)
    return replace(resolved, suite=chosen)


def _resolve(
    which: str | Path | Mapping[str, Any] | Suite, size: str, seed: int, progress: Progress | None
) -> ResolvedSuite:
    if isinstance(which, Suite):
        return _described(which)
    if isinstance(which, Mapping):
        return _described(Suite.read(which, "The suite"))
    if str(which).endswith((".yaml", ".yml")):
        path = Path(which).expanduser()
        return _described(_anchored(Suite.read(read_document(path), str(which)), path.parent))
    if not isinstance(which, str):
        raise ConfigError(
            f"{which!r} is no suite: give a registered name, the path of a YAML (.yaml or .yml), a Suite, or a mapping."
        )
    entry = suites[which]
    # One function opens all suites that are only described: it has to be told which.
    named = {"name": preset} if (preset := (entry.data or {}).get("preset")) else {}
    resolved: ResolvedSuite = entry.load()(**named, size=size, seed=seed, progress=progress)
    return resolved


def _described(suite: Suite) -> ResolvedSuite:
    """Return a suite of the user's own; what its tasks are made of stands in the place of a build."""
    return ResolvedSuite(suite, build=digest_of_tasks(suite))


def _anchored(suite: Suite, folder: Path) -> Suite:
    """Return the suite with paths that are relative to its file made absolute; hub ids stay as they are."""

    def anchor(reference: str | None) -> str | None:
        if reference is None or not (reference.startswith(("./", "../")) or (folder / reference).exists()):
            return reference
        return str((folder / reference).resolve())

    document = suite.model_dump()
    pool = document["pool"]
    for key in ("base", "mtl"):
        pool[key] = anchor(pool[key])
    for expert in pool["experts"].values():
        for key in ("model", "adapter", "head"):
            expert[key] = anchor(expert[key])
    for task in document["tasks"]["tasks"].values():
        for key in ("dataset", "head"):
            if isinstance(task.get(key), str):
                task[key] = anchor(task[key])
    return Suite.read(document, f"The suite {suite.name}")
